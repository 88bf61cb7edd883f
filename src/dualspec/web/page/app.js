// The page: an order is written, followed, and heard. All sound work is done by the server's API.
import { Dial, apart, proofDial, wrap } from "./dial.js";
import { beginFiles, draggable, query, suffix } from "./files.js";
import { beginLabels } from "./labels.js";
import { beginScene, hushScene, showScene } from "./scene.js";
import { ask, download, end, follow, isBack, json } from "./server.js";
import { Player, drawEars, readWav } from "./sound.js";

const $ = (id) => document.getElementById(id);
const MAX_HISTORY = 60;
const CHIPS = 7;
const sounds = new Map(); // id → WAV bytes
const entries = new Map(); // id → {entry, card}
const groups = new Map(); // job → the card of its variants
const slots = { A: null, B: null };
const RIGHT_WITHIN_DEG = 15; // half a sector
let info, running = null, isSameSeed = false, pinned = null; // the seed of the next sound alone

// --- words -------------------------------------------------------------------------------------------------------

const style = () => document.querySelector("[name=style]:checked").value;
const nearest = (degrees) => info.directions.reduce((a, b) => (apart(a.azimuth_deg, degrees) <= apart(b.azimuth_deg, degrees) ? a : b));
const clock = (degrees) => `${apart(nearest(degrees).azimuth_deg, degrees) ? "about " : ""}${nearest(degrees).clock.replace("'", "’")}`;
const taken = (degrees) => wrap(Math.floor((degrees * info.num_azimuths) / 360 + 0.5) * (360 / info.num_azimuths)); // what the model has learned
const says = (degrees) => `${clock(degrees)} (${Math.round(degrees)}°)`;

function showDirection(degrees) {
  const isOwn = style() === "own", words = nearest(degrees).general;
  $("where").textContent = isOwn ? `${$("location").value.trim() || "…"}.`
    : { clock: `at ${clock(degrees)}.`, doa: `at ${degrees}°.`, general: `${words}.` }[style()];
  $("clock").textContent = clock(degrees);
  const isOther = style() === "doa" && taken(degrees) !== degrees;
  $("degrees").textContent = isOther ? `${degrees}° · the model takes ${taken(degrees)}°` : `${degrees}° · ${words}`;
  $("dial").setAttribute("aria-valuetext", `${clock(degrees)}, ${degrees} degrees, ${words}`);
}

function showSettings() {
  for (const name of ["steps", "guidance", "variants"]) $(`${name}-out`).textContent = $(name).value;
  const count = Number($("variants").value);
  const isNew = $("fresh").checked && pinned === null, seed = pinned ?? $("seed").value;
  $("summary").textContent = `${isNew ? "New seed" : `Seed ${seed}`}, ${$("steps").value} steps, ` +
    `guidance ${$("guidance").value}, ${count} variant${count > 1 ? "s" : ""}`;
  $("go").textContent = isNew ? "Generate" : `Generate with seed ${seed}`;
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
  document.querySelectorAll("[aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  const field = error && $({ prompt: "event", num_inference_steps: "steps", guidance_scale: "guidance", num_clips: "variants" }[error.field] ?? error.field ?? "");
  field?.setAttribute("aria-invalid", "true");
  if (error?.isSilent) isBack().then(() => $("error").textContent === error.message && showError(null));
}

// What is written survives a reload.
const SENTENCE = ["event", "location"];
const keep = () => sessionStorage.setItem("dualspec.sentence", JSON.stringify({ ...Object.fromEntries(SENTENCE.map((id) => [id, $(id).value])), azimuth: dial.azimuth, style: style() }));

function recall() {
  const kept = JSON.parse(sessionStorage.getItem("dualspec.sentence") ?? "null");
  if (!kept) return false;
  for (const id of SENTENCE) $(id).value = kept[id];
  document.querySelector(`[name=style][value=${kept.style}]`).checked = true;
  dial.azimuth = kept.azimuth;
  changeStyle();
  return true;
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
  running = "/api/jobs"; // until the job has an address of its own
  showError(null);
  if (pinned !== null) $("seed").value = pinned;
  else if ($("fresh").checked) $("seed").value = Math.floor(Math.random() * 10000);
  pinned = null;
  showSettings();
  keep();
  try {
    const body = JSON.stringify(written());
    const answer = await ask("/api/jobs", { method: "POST", body, headers: { "content-type": "application/json" } });
    sessionStorage.setItem("dualspec.job", answer.headers.get("location"));
    await attend(answer.headers.get("location"));
  } catch (error) {
    running = null;
    showError(error);
  }
}

// Follow a job on the page until it is over; each clip gets its card as soon as it is done.
async function attend(path) {
  running = path;
  $("go").hidden = true;
  $("progress").hidden = false;
  const began = performance.now(), stop = new AbortController();
  $("cancel").onclick = () => (stop.abort(), end(path)); // ends here at once, and there as soon as it can
  let shown = 0, first = null;
  const onSilence = () => ($("progress-text").textContent = "The service does not answer; waiting for it");
  try {
    const last = await follow(path, async (job) => {
      for (; shown < job.clips.length; shown++) {
        const entry = remember(job, shown);
        const item = entries.get(entry.id) ?? addCard(entry); // after a reload some cards stand already
        first ??= item;
      }
      showProgress(job, began);
    }, { signal: stop.signal, onSilence });
    if (last.state === "failed" || (last.state === "cancelled" && last.error && !stop.signal.aborted)) throw new Error(last.error);
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

// --- results -----------------------------------------------------------------------------------------------------

const stored = () => JSON.parse(localStorage.getItem("dualspec.history") ?? "[]");
const store = (list) => localStorage.setItem("dualspec.history", JSON.stringify(list.slice(0, MAX_HISTORY)));

function remember(job, index) {
  const { name, seed, azimuth, direction, prompt, read_as: text, loudness, passed_full_scale_db: passed } = job.clips[index];
  const order = { ...job.order, seed, num_clips: 1 };
  const entry = { id: `${job.id}/clips/${index}`, name, order, of: job.order.num_clips, loudness, passed, asked: azimuth.azimuth_deg, direction, read: text && text !== prompt ? text.split("LOCATION: ").at(-1) : null, expires: Date.now() + info.keep_s * 1000 };
  store([entry, ...stored().filter((old) => old.id !== entry.id)]);
  return entry;
}

// The proof in one line, and what is behind it.
function heardLine({ asked, direction: { heard_deg: heard } }) {
  if (heard === null) return "Heard nowhere";
  const miss = apart(asked, heard);
  return `Heard at ${clock(heard)}${miss <= RIGHT_WITHIN_DEG ? " ✓" : `, ${Math.round(miss)}° off`}`;
}

function levels({ loudness, passed }) {
  const lowered = passed ? ` It passed full scale by ${passed.toFixed(1)} dB and was lowered by as much, both ears alike.` : "";
  if (!loudness || loudness.lufs === null) return lowered;
  return `${lowered} ${loudness.lufs} LUFS${loudness.held_by_peak ? `, for its peak allows no more` : ""}.`.replace("-", "−");
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
  const read = entry.read ? `, read as ${entry.read}` : "", steps = `${order.num_inference_steps ?? info.num_inference_steps} steps`;
  const loud = entry.passed ? `, passed full scale by ${entry.passed.toFixed(1)} dB` : "";
  part("h3").append(order.event, Object.assign(document.createElement("em"), { textContent: `, ${clock(entry.asked)}` }));
  part(".meta").textContent = entry.rendered ? "rendered, not generated" : `seed ${order.seed}, ${steps}${read}${loud}`;
  part("summary").textContent = entry.rendered ? "Rendered, without the model; kept until you leave this page" : heardLine(entry);
  part(".verdict p").append(Object.assign(document.createElement("b"), { textContent: words[0] }), ` ${words[1]}${levels(entry)}`);
  part("canvas").setAttribute("aria-label", `Spectrograms of ${order.event}: left ear above, right ear below`);
  proofDial(part(".proof"), entry.asked, direction?.heard_deg ?? null, words.join(" "));
  part(".play").onclick = () => (player.position(entry.id) === null ? play(entry) : player.stop());
  part(".picture").onclick = ({ clientX, currentTarget }) => {
    const { left, width } = currentTarget.getBoundingClientRect();
    if (sounds.has(entry.id)) play(entry, (clientX - left) / width);
  };
  for (const node of [part(".picture"), part("[data-file=audio]")]) draggable(node, () => sounds.get(entry.id), entry.name);
  part(".again").onclick = () => again(entry);
  card.querySelectorAll("[data-slot]").forEach((button) => (button.onclick = () => fill(button.dataset.slot, slots[button.dataset.slot]?.entry.id === entry.id ? null : entries.get(entry.id))));
  card.querySelectorAll("[data-file]").forEach((button) => (button.onclick = () => save(entry, button.dataset.file)));
  if (entry.rendered) {
    card.querySelectorAll(".again, [data-file=record], [data-file=picture]").forEach((button) => button.remove());
    part("[data-file]").dataset.fixed = "";
  } else {
    part(".again").textContent = entry.of > 1 ? "Turn" : "Same seed, other direction";
    part(".again").title = "Same seed, other direction";
  }
  if (entry.of > 1) {
    part("summary").textContent += ` · seed ${order.seed}${loud}`;
    groupOf(entry, `${steps}${read}`).append(card);
  } else $("cards").prepend(card);
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

// The list of the variants of one order.
function groupOf({ id, order, asked, of, name }, steps) {
  const job = id.split("/")[0];
  if (!groups.has(job)) {
    const group = $("group").content.cloneNode(true).firstElementChild;
    group.querySelector("h3").append(order.event, Object.assign(document.createElement("em"), { textContent: `, ${clock(asked)}` }));
    group.querySelector(".meta").textContent = `${of} variants, ${steps}`;
    group.querySelector("[data-zip]").onclick = () => ask(`/api/jobs/${job}/zip${query()}`).then(async (answer) => download(await answer.blob(), `${name}.zip`)).catch(showError);
    $("cards").prepend(group);
    groups.set(job, group.querySelector("ol"));
  }
  return groups.get(job);
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
  const isSound = kind === "audio", asMade = isSound && (entry.rendered || !query());
  const type = asMade ? "wav" : { audio: suffix(), record: "json", picture: "png" }[kind];
  try {
    const content = asMade ? sounds.get(entry.id) : await (await ask(`/api/jobs/${entry.id}/${kind}${isSound ? query() : ""}`)).blob();
    download(content, `${entry.name}.${type}`);
  } catch (error) {
    showError(error);
  }
}

// Put a result's settings back: as they were if its sound is gone, else mirrored and ready to be turned.
function again(entry) {
  const { order } = entry, isGone = entries.get(entry.id).card.classList.contains("expired");
  $("event").value = order.event;
  $("seed").value = pinned = order.seed;
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

// A recording that was dropped on the page.
function receive(files) {
  if (!$("one").hidden) {
    $("file").files = files;
    document.querySelector(".yours").open = true;
    $("listen").scrollIntoView({ block: "center" });
    $("heard").textContent = `${files[0].name}: ask where it is heard, or place it.`;
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

const dial = new Dial($("dial"), (degrees) => info && (showDirection(degrees), keep()));

function changeStyle() {
  dial.step = { doa: 1, general: 30 }[style()] ?? 360 / (info?.directions.length ?? 12);
  $("own").hidden = style() !== "own";
  $("dial").classList.toggle("idle", style() === "own");
  dial.turn(dial.azimuth);
}

function choose(name) {
  if (name !== $("event").value) pinned = null;
  $("event").value = name;
  showError(null);
  keep();
  showSettings();
}

function showChips(events) {
  const start = Math.floor(Math.random() * 20);
  const some = Array.from({ length: CHIPS }, (_, i) => events[(start + 7 * i) % Math.min(events.length, 60)]).filter(Boolean);
  $("chips").replaceChildren(...[...new Set(some)].map((name) => {
    const chip = Object.assign(document.createElement("button"), { type: "button", textContent: name });
    chip.onclick = () => choose(name);
    return chip;
  }));
  $("starters").replaceChildren(...[["rain", 180], ["helicopter", 60], ["church bells", 270]].map(([event, azimuth]) => {
    const starter = Object.assign(document.createElement("button"), { type: "button", textContent: `${event}, ${clock(azimuth)}` });
    starter.onclick = () => (choose(event), dial.turn(azimuth), generate());
    return starter;
  }));
  $("events").replaceChildren(...events.map((name) => Object.assign(document.createElement("option"), { value: name })));
}

// One sound, or a scene of several; the browser's Back goes back.
const viewOfAddress = () => (location.hash === "#scene" ? "scene" : "one");

function turnTo(view) {
  if (view !== viewOfAddress()) history.pushState(null, "", view === "scene" ? "#scene" : location.pathname);
  showView(view);
}

function showView(view) {
  document.querySelectorAll("[data-view]").forEach((button) => button.setAttribute("aria-pressed", button.dataset.view === view));
  $("one").hidden = view !== "one";
  $("scene").hidden = view !== "scene";
  document.body.classList.toggle("scenic", view === "scene");
  player.stop();
  hushScene();
  if (view === "scene") showScene();
}

function listenToThePage() {
  document.querySelectorAll("[data-view]").forEach((button) => (button.onclick = () => turnTo(button.dataset.view)));
  window.addEventListener("popstate", () => showView(viewOfAddress()));
  $("order").onsubmit = generate;
  $("order").oninput = () => (keep(), showSettings());
  $("event").oninput = () => (pinned = null); // the seed was for that sound
  document.querySelectorAll("[name=style]").forEach((radio) => (radio.onchange = changeStyle));
  $("location").oninput = () => showDirection(dial.azimuth);
  $("seed").onchange = () => (($("fresh").checked = false), (pinned = null), showSettings());
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
    `The direction is heard by the localizer “${info.judge.name}”. Sounds are deleted from the server after ${Math.round(info.keep_s / 60)} minutes; ` +
    "the list of what was generated stays in your browser, a rendered recording until you leave the page. API: ";
  $("footer").append(Object.assign(document.createElement("a"), { href: "openapi.json", textContent: "openapi.json" }));
  showChips(events);
  beginLabels(events, choose);
  beginFiles(info, receive);
  beginScene(info, says);
  showSettings();
  if (!recall()) changeStyle();
  stored().reverse().forEach((entry) => addCard(entry));
  showView(viewOfAddress());
  const left = sessionStorage.getItem("dualspec.job");
  if (left) attend(left).catch(showError);
}

begin().catch(showError);
