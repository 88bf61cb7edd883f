// The page: an order is written, followed, and heard. All sound work is done by the server's API.
import { Dial, apart, proofDial, wrap } from "./dial.js";
import { beginScene, hushScene, showScene } from "./scene.js";
import { ask, download, follow, json } from "./server.js";
import { Player, drawEars, readWav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const MAX_HISTORY = 60;
const CHIPS = 7;
const sounds = new Map(); // id → WAV bytes
const entries = new Map(); // id → {entry, card}
const slots = { A: null, B: null };
let info, running = null, isSameSeed = false;

// --- words -------------------------------------------------------------------------------------------------------

const style = () => document.querySelector("[name=style]:checked").value;
const nearest = (degrees) => info.directions.reduce((a, b) => (apart(a.azimuth_deg, degrees) <= apart(b.azimuth_deg, degrees) ? a : b));
const clock = (degrees) => `${apart(nearest(degrees).azimuth_deg, degrees) ? "about " : ""}${nearest(degrees).clock.replace("'", "’")}`;
const says = (degrees) => `${clock(degrees)} (${Math.round(degrees)}°)`;

function showDirection(degrees) {
  const isOwn = style() === "own", words = nearest(degrees).general;
  $("where").textContent = isOwn ? `${$("location").value.trim() || "…"}.`
    : { clock: `at ${clock(degrees)}.`, doa: `at ${degrees}°.`, general: `${words}.` }[style()];
  $("clock").textContent = clock(degrees);
  $("degrees").textContent = `${degrees}° · ${words}`;
  $("dial").setAttribute("aria-valuetext", `${clock(degrees)}, ${degrees} degrees, ${words}`);
}

function showSettings() {
  for (const name of ["steps", "guidance", "variants"]) $(`${name}-out`).textContent = $(name).value;
  const count = Number($("variants").value);
  $("summary").textContent = `${$("fresh").checked ? "New seed" : `Seed ${$("seed").value}`}, ${$("steps").value} steps, ` +
    `guidance ${$("guidance").value}, ${count} variant${count > 1 ? "s" : ""}`;
  $("go").textContent = $("fresh").checked ? "Generate" : `Generate with seed ${$("seed").value}`;
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
  document.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  const field = error && $({ prompt: "event", num_inference_steps: "steps", guidance_scale: "guidance", num_clips: "variants" }[error.field] ?? error.field ?? "");
  field?.setAttribute("aria-invalid", "true");
}

// --- ordering ----------------------------------------------------------------------------------------------------

function written() {
  const order = { event: $("event").value.trim(), seed: Number($("seed").value), num_clips: Number($("variants").value),
    num_inference_steps: Number($("steps").value), guidance_scale: Number($("guidance").value) };
  if (style() === "own") return { ...order, location: $("location").value.trim() };
  return { ...order, azimuth_deg: dial.azimuth, location_style: style() };
}

async function generate(event) {
  event?.preventDefault();
  if (running) return;
  showError(null);
  if ($("fresh").checked) $("seed").value = Math.floor(Math.random() * 10000);
  showSettings();
  try {
    const body = JSON.stringify(written());
    const answer = await ask("/api/jobs", { method: "POST", body, headers: { "content-type": "application/json" } });
    sessionStorage.setItem("dualspec.job", answer.headers.get("location"));
    await attend(answer.headers.get("location"));
  } catch (error) {
    showError(error);
  }
}

// Follow a job on the page until it is over; each clip gets its card as soon as it is done.
async function attend(path) {
  running = path;
  $("go").hidden = true;
  $("progress").hidden = false;
  $("cancel").disabled = false;
  const began = performance.now();
  let shown = 0, first = null;
  try {
    const end = await follow(path, async (job) => {
      for (; shown < job.clips.length; shown++) {
        const entry = remember(job, shown);
        const item = entries.get(entry.id) ?? addCard(entry); // after a reload some cards stand already
        first ??= item;
      }
      showProgress(job, began);
    });
    if (end.state === "failed") throw new Error(end.error);
    if (first && slots.A && isSameSeed) fill("B", first);
    first?.card.querySelector(".card").focus({ preventScroll: innerWidth > 900 });
    isSameSeed = false;
  } finally {
    running = null;
    sessionStorage.removeItem("dualspec.job");
    dial.share = null;
    $("go").hidden = false;
    $("progress").hidden = true;
  }
}

function showProgress(job, began) {
  const { step, num_steps: all, queue_position: place } = job;
  dial.share = all ? Math.max(0.01, step / all) : 0;
  let words = place ? `Waiting: number ${place} in line` : "Starting";
  if (step) {
    const left = ((performance.now() - began) / 1000 / step) * (all - step);
    words = step < all ? `Step ${step} of ${all}, about ${Math.ceil(left)} s left` : "Listening to it";
  }
  $("progress-text").textContent = words;
}

async function cancel() {
  $("cancel").disabled = true;
  await ask(running, { method: "DELETE" }).catch(showError);
}

// --- results -----------------------------------------------------------------------------------------------------

const stored = () => JSON.parse(localStorage.getItem("dualspec.history") ?? "[]");
const store = (list) => localStorage.setItem("dualspec.history", JSON.stringify(list.slice(0, MAX_HISTORY)));

function remember(job, index) {
  const { name, seed, azimuth, direction, prompt, read_as: text } = job.clips[index];
  const order = { ...job.order, seed, num_clips: 1 };
  const entry = { id: `${job.id}/clips/${index}`, name, order, asked: azimuth.azimuth_deg, direction, read: text && text !== prompt ? text.split("LOCATION: ").at(-1) : null, expires: Date.now() + info.keep_s * 1000 };
  store([entry, ...stored().filter((old) => old.id !== entry.id)]);
  return entry;
}

function verdict({ asked, direction }) {
  const { heard_deg: heard, confidence, itd_us: itd, ild_db: ild, no_answer: silent } = direction;
  if (heard === null) return [`Asked ${says(asked)}, heard nowhere`, `It is ${silent}.`];
  const first = itd === null || Math.abs(itd) < 30 ? "" : `${Math.abs(Math.round(itd))} µs earlier`;
  const loud = ild === null || Math.abs(ild) < 0.5 ? "" : `${Math.abs(ild).toFixed(1)} dB louder`;
  const ear = (value, isLeft) => (value && isLeft ? "left" : "right");
  const each = [first && `${first} at the ${ear(itd, itd < 0)} ear`, loud && `${loud} at the ${ear(ild, ild > 0)} ear`].filter(Boolean);
  const cues = each.length === 2 && itd < 0 === ild > 0 ? `${first} and ${each[1]}` : each.join(", ") || "the same at both ears";
  return [`Asked ${says(asked)}, heard ${apart(asked, heard) < 0.5 ? "there" : says(heard)}`,
    `${Math.round(100 * confidence)} % sure; ${cues}${direction.front_back_confused ? "; front and back are confused" : ""}.`];
}

function addCard(entry, bytes = null) {
  const card = $("card").content.cloneNode(true).firstElementChild;
  const part = (selector) => card.querySelector(selector);
  const { order, direction } = entry, words = entry.rendered ? [entry.rendered, ""] : verdict(entry);
  part("h3").append(order.event, Object.assign(document.createElement("em"), { textContent: `, ${clock(entry.asked)}` }));
  part(".meta").textContent = entry.rendered ? "rendered, not generated" : `seed ${order.seed}, ${order.num_inference_steps ?? info.num_inference_steps} steps${entry.read ? `, read as ${entry.read}` : ""}`;
  part(".verdict").append(Object.assign(document.createElement("b"), { textContent: words[0] }), ` ${words[1]}`);
  part("canvas").setAttribute("aria-label", `Spectrograms of ${order.event}: left ear above, right ear below`);
  proofDial(part(".proof"), entry.asked, direction?.heard_deg ?? null, words.join(" "));
  part(".play").onclick = () => (player.position(entry.id) === null ? play(entry) : player.stop());
  part(".picture").onclick = ({ clientX, currentTarget }) => {
    const { left, width } = currentTarget.getBoundingClientRect();
    if (sounds.has(entry.id)) play(entry, (clientX - left) / width);
  };
  part(".again").onclick = () => again(entry);
  card.querySelectorAll("[data-slot]").forEach((button) => (button.onclick = () => fill(button.dataset.slot, slots[button.dataset.slot]?.entry.id === entry.id ? null : entries.get(entry.id))));
  card.querySelectorAll("[data-file]").forEach((button) => (button.onclick = () => save(entry, button.dataset.file)));
  if (entry.rendered) card.querySelectorAll(".again, [data-file=record], [data-file=picture]").forEach((button) => button.remove());
  else part(".again").textContent = "Same seed, other direction";
  $("cards").prepend(card);
  entries.set(entry.id, { entry, card });
  $("empty").hidden = true;
  $("forget").hidden = false;
  if (bytes) sounds.set(entry.id, bytes);
  new IntersectionObserver((seen, observer) => {
    if (!seen.some((one) => one.isIntersecting)) return;
    observer.disconnect();
    reveal(entry, card);
  }, { rootMargin: "300px" }).observe(card);
  return entries.get(entry.id);
}

// Fetch a sound when its card comes into view, and draw it; what has expired says so.
async function reveal(entry, card) {
  try {
    if (!sounds.has(entry.id)) {
      if (Date.now() > entry.expires) throw new Error("expired");
      sounds.set(entry.id, await (await ask(`/api/jobs/${entry.id}/audio`)).arrayBuffer());
    }
    drawEars(card.querySelector("canvas"), readWav(sounds.get(entry.id)));
    card.classList.add("ready");
  } catch {
    card.classList.add("expired");
    card.querySelector(".gone").hidden = false;
    card.querySelector(".gone").textContent = "The server has deleted this sound; its words and seed are kept here.";
    card.querySelectorAll(".play, .slot, [data-file]").forEach((button) => (button.disabled = true));
    card.querySelector(".again").textContent = "Make it again";
  }
}

async function save(entry, kind) {
  const suffix = { audio: "wav", record: "json", picture: "png" }[kind];
  try {
    const content = kind === "audio" ? sounds.get(entry.id) : await (await ask(`/api/jobs/${entry.id}/${kind}`)).blob();
    download(content, `${entry.name}.${suffix}`);
  } catch (error) {
    showError(error);
  }
}

// Put a result's settings back: as they were if its sound is gone, else mirrored and ready to be turned.
function again(entry) {
  const { order } = entry, isGone = entries.get(entry.id).card.classList.contains("expired");
  $("event").value = order.event;
  $("seed").value = order.seed;
  $("fresh").checked = false;
  $("variants").value = 1;
  $("steps").value = order.num_inference_steps ?? info.num_inference_steps;
  $("guidance").value = order.guidance_scale ?? info.guidance_scale;
  const chosen = order.location && isGone ? "own" : order.location ? "clock" : order.location_style;
  document.querySelector(`[name=style][value=${chosen}]`).checked = true;
  $("location").value = order.location ?? "";
  changeStyle();
  dial.turn(isGone ? entry.asked : wrap(entry.asked % 180 ? 360 - entry.asked : entry.asked + 180));
  showSettings();
  if (isGone) return generate();
  isSameSeed = true;
  fill("A", entries.get(entry.id));
  dial.mark(entry.asked, entry.direction.heard_deg);
  $("order").scrollIntoView({ behavior: "smooth", block: "start" });
  $("dial").focus({ preventScroll: true });
}

// --- hearing -----------------------------------------------------------------------------------------------------

const player = new Player(() => {
  for (const { entry, card } of entries.values()) {
    const isOn = player.position(entry.id) !== null;
    card.classList.toggle("playing", isOn && player.heard === entry.id);
    card.querySelector(".play").setAttribute("aria-label", isOn ? "Stop" : "Play");
  }
  $("compare").classList.toggle("playing", player.isComparing);
  for (const slot of ["A", "B"]) $(`hear-${slot.toLowerCase()}`).setAttribute("aria-pressed", player.isComparing && player.heard === slots[slot]?.entry.id);
  requestAnimationFrame(tick);
});

function tick() {
  let isOn = false;
  for (const { entry, card } of entries.values()) {
    const share = player.position(entry.id), head = card.querySelector(".picture .head");
    head.hidden = share === null;
    if (share !== null) head.style.left = `${100 * share}%`;
    isOn ||= share !== null;
  }
  if (isOn) requestAnimationFrame(tick);
}

async function play(entry, share = 0) {
  const duration = readWav(sounds.get(entry.id)).ears[0].length / readWav(sounds.get(entry.id)).rate;
  dial.mark(entry.asked, entry.direction?.heard_deg ?? null);
  await player.play([[entry.id, sounds.get(entry.id)]], entry.id, share * duration).catch(showError);
}

function fill(slot, item) {
  player.stop();
  const other = slot === "A" ? "B" : "A";
  if (item && slots[other]?.entry.id === item.entry.id) slots[other] = null;
  slots[slot] = item;
  for (const { entry, card } of entries.values()) for (const button of card.querySelectorAll("[data-slot]")) button.setAttribute("aria-pressed", slots[button.dataset.slot]?.entry.id === entry.id);
  $("compare").hidden = !slots.A || !slots.B;
  if ($("compare").hidden) return;
  const [a, b] = ["A", "B"].map((name) => slots[name].entry), isOne = a.order.event === b.order.event;
  for (const [name, one] of [["a", a], ["b", b]]) $(`hear-${name}`).querySelector("span").textContent = isOne ? clock(one.asked) : one.order.event;
}

async function compare(slot) {
  if (!slots.A || !slots.B) return;
  const { entry } = slots[slot];
  dial.mark(entry.asked, entry.direction?.heard_deg ?? null);
  if (player.isComparing) return player.hear(entry.id);
  await player.play(["A", "B"].map((name) => [slots[name].entry.id, sounds.get(slots[name].entry.id)]), entry.id).catch(showError);
}

// --- recordings of one's own ---------------------------------------------------------------------------------------

async function upload(path, use) {
  const file = $("file").files[0];
  $("heard").textContent = file ? "Working …" : "Choose a recording first.";
  if (!file) return;
  try {
    await use(await ask(path, { method: "POST", body: file, headers: { "content-type": "application/octet-stream" } }), file);
  } catch (error) {
    $("heard").textContent = error.message;
  }
}

async function showHeard(answer) {
  const { azimuth_deg: heard, confidence, probabilities } = await answer.json();
  const words = `Heard at ${says(heard)}, ${nearest(heard).general}; ${Math.round(100 * confidence)} % sure.`;
  dial.mark(null, heard, probabilities);
  const figure = document.createElement("figure");
  proofDial(figure, null, heard, words, probabilities);
  $("heard").replaceChildren(figure, words);
}

async function showPlaced(answer, file) {
  const words = `Rendered at ${says(dial.azimuth)} through the head “${$("head").value}”, without the model.`;
  const name = `${file.name.replace(/\.[^.]*$/, "")}-azimuth${dial.azimuth}`;
  addCard({ id: `upload-${performance.now()}`, name, order: { event: file.name }, asked: dial.azimuth, rendered: words }, await answer.arrayBuffer());
  $("heard").textContent = "Placed; it stands at the top of the list.";
}

// --- beginning -----------------------------------------------------------------------------------------------------

const dial = new Dial($("dial"), (degrees) => info && showDirection(degrees));

function changeStyle() {
  dial.step = { doa: 1, general: 30 }[style()] ?? 360 / (info?.directions.length ?? 12);
  $("own").hidden = style() !== "own";
  $("dial").classList.toggle("idle", style() === "own");
  dial.turn(dial.azimuth);
}

function showChips(events) {
  const start = Math.floor(Math.random() * 20);
  const some = Array.from({ length: CHIPS }, (_, i) => events[(start + 7 * i) % Math.min(events.length, 60)]).filter(Boolean);
  $("chips").replaceChildren(...[...new Set(some)].map((name) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    chip.onclick = () => (($("event").value = name), showError(null));
    return chip;
  }));
  $("starters").replaceChildren(...[["rain", 180], ["helicopter", 60], ["church bells", 270]].map(([event, azimuth]) => {
    const starter = Object.assign(document.createElement("button"), { type: "button", textContent: `${event}, ${clock(azimuth)}` });
    starter.onclick = () => (($("event").value = event), dial.turn(azimuth), generate());
    return starter;
  }));
  $("events").replaceChildren(...events.map((name) => Object.assign(document.createElement("option"), { value: name })));
}

// One sound, or a scene of several.
function showView(view) {
  document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === view));
  $("one").hidden = view !== "one";
  $("scene").hidden = view !== "scene";
  document.body.classList.toggle("scenic", view === "scene");
  sessionStorage.setItem("dualspec.view", view);
  player.stop();
  hushScene();
  if (view === "scene") showScene();
}

function listenToThePage() {
  document.querySelectorAll("[data-view]").forEach((button) => (button.onclick = () => showView(button.dataset.view)));
  $("order").onsubmit = generate;
  $("order").oninput = showSettings;
  document.querySelectorAll("[name=style]").forEach((radio) => (radio.onchange = changeStyle));
  $("location").oninput = () => showDirection(dial.azimuth);
  $("seed").onchange = () => (($("fresh").checked = false), showSettings());
  $("cancel").onclick = cancel;
  $("forget").onclick = () => confirm("Forget all results? The list lives only in this browser.") && (store([]), location.reload());
  $("listen").onclick = () => upload("/api/localize", showHeard);
  $("place").onclick = () => upload(`/api/spatialize?azimuth_deg=${dial.azimuth}&head=${encodeURIComponent($("head").value)}`, showPlaced);
  $("hear-a").onclick = () => compare("A");
  $("hear-b").onclick = () => compare("B");
  $("compare-play").onclick = () => (player.isComparing ? player.stop() : compare("A"));
  $("compare-end").onclick = () => (fill("A", null), fill("B", null));
  $("ear-test").onclick = () => player.testEars((pan) => {
    $("ear-left").classList.toggle("on", pan < 0);
    $("ear-right").classList.toggle("on", pan > 0);
  });
  document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey }) => {
    if (ctrlKey || metaKey || target.matches("input, select") || $("one").hidden) return;
    if (["a", "b"].includes(key)) compare(key.toUpperCase());
    if (key === "Escape") player.stop();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => entries.forEach(({ entry, card }) => reveal(entry, card)));
}

async function begin() {
  listenToThePage();
  const [about, events, heads] = await Promise.all(["/api/info", "/api/events", "/api/heads"].map((path) => json(path)));
  info = about;
  $("steps").value = info.num_inference_steps;
  $("guidance").value = info.guidance_scale;
  $("variants").max = Math.min(8, info.max_clips);
  $("head").replaceChildren(...heads.map(({ name }) => new Option(name)));
  $("head-label").hidden = heads.length < 2;
  $("footer").textContent = `Model ${info.variant}, ${info.duration_s} s a clip; ${info.num_azimuths} directions, ${360 / info.num_azimuths}° apart, are what it has learned. ` +
    `The direction is heard by the localizer “${info.judge.name}”. Sounds are deleted from the server after ${Math.round(info.keep_s / 60)} minutes; this list stays in your browser. API: `;
  $("footer").append(Object.assign(document.createElement("a"), { href: "openapi.json", textContent: "openapi.json" }));
  showChips(events);
  beginScene(info, says);
  showSettings();
  changeStyle();
  stored().reverse().forEach((entry) => addCard(entry));
  showView(sessionStorage.getItem("dualspec.view") ?? "one");
  const left = sessionStorage.getItem("dualspec.job");
  if (left) attend(left).catch(() => {});
}

begin().catch(showError);
