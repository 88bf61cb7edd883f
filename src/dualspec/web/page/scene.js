// A scene: several sounds on a timeline and around the listener. What is written here is the scene file itself.
import { draw, face, listener, place, point, slider, wrap } from "./dial.js";
import { query, suffix } from "./files.js";
import { ask, download, end, follow, isBack, json } from "./server.js";
import { Player, drawEars, readWav } from "./sound.js";
import { at, endOf, lengthOf, model, moves, points, tenth, turn, where } from "./way.js";

const $ = (id) => document.getElementById(id);
const LONGEST_S = 120;
const FIRST = { title: "", seed: 0, events: [
  { text: "rain", azimuth_deg: 180, onset_s: 0, length_s: 9, level_db: -9, fade_in_s: 0.5, fade_out_s: 1.5 },
  { text: "church bells", azimuth_deg: 60, onset_s: 0.5 },
  { text: "helicopter", azimuth_deg: 90, end_azimuth_deg: -90, onset_s: 3, length_s: 5 },
] };
let info, says, scene, made = null, chosen = 0, dragged = null, span = 10, marks, live, checking;
let wrong = null, before = null; // the row of the last error; the scene that Undo brings back
const clockStep = () => 360 / info.directions.length; // between two places that words of the clock have

// --- changing it -----------------------------------------------------------------------------------------------------

function changed() {
  for (const one of scene.events) {
    if (lengthOf(one) > info.duration_s + 1e-6) one.repeat ??= "same";
    if (moves(one)) delete one.location_style;
  }
  chosen = Math.max(0, Math.min(chosen, scene.events.length - 1));
  localStorage.setItem("dualspec.scene", JSON.stringify(scene));
  show();
  clearTimeout(checking);
  checking = setTimeout(check, 250);
}

// Ask the server what is wrong with it; nothing is made.
async function check() {
  const asked = JSON.stringify(scene);
  const error = await post("/api/scenes/plan").then(() => null, (refusal) => refusal);
  if (asked === JSON.stringify(scene)) showError(error); // else a later check tells
}

const post = (path) => ask(path, { method: "POST", body: JSON.stringify(scene), headers: { "content-type": "application/json" } });

function showError(error) {
  $("scene-error").hidden = !error;
  $("scene-error").textContent = error?.message ?? "";
  if (error?.isSilent) isBack().then(() => $("scene-error").textContent === error.message && check());
  document.querySelectorAll("#editor [aria-invalid]").forEach((field) => field.removeAttribute("aria-invalid"));
  const [, index, name] = /^events\[(\d+)\]\.(\w+)/.exec(error?.field ?? "") ?? [];
  const field = { azimuth_deg: "start", end_azimuth_deg: "end", path: "end" }[name] ?? name;
  wrong = index === undefined ? null : Number(index);
  redraw($("lanes"), showLanes);
  if (wrong === chosen) $(`event-${field}`)?.setAttribute("aria-invalid", "true");
}

function add(one) {
  scene.events.push(one);
  chosen = scene.events.length - 1;
  changed();
}

// Keep the scene as it is now, so that it can be had back.
function remember(what) {
  before = JSON.stringify(scene);
  $("undo").hidden = false;
  $("undo").textContent = `Undo: ${what}`;
}

function undo() {
  if (!before) return;
  scene = JSON.parse(before);
  before = null;
  $("undo").hidden = true;
  changed();
}

function remove(index) {
  remember(`remove “${scene.events[index].text}”`);
  scene.events.splice(index, 1);
  if (!scene.events.length) add({ text: "rain", azimuth_deg: 180, onset_s: 0 });
  else changed();
}

const select = (index) => ((chosen = index), show());

// --- showing it ------------------------------------------------------------------------------------------------------

function describe(one, index) {
  const from = says(wrap(where(one, false)));
  if (!moves(one)) return `${index + 1} ${one.text}: ${from}, the model’s own two ears.`;
  const degrees = where(one, true) - where(one, false), side = degrees < 0 ? "right" : "left";
  return `${index + 1} ${one.text}: from ${from} to ${says(wrap(where(one, true)))}, ${Math.abs(Math.round(degrees))}° turning ${side}; the model’s sound, rendered through the head “${info.moving_head}”.`;
}

// Draw the inside of a place anew and leave the focus where it was.
function redraw(host, make) {
  const key = host.contains(document.activeElement) ? document.activeElement.dataset.key : null;
  make();
  if (key) host.querySelector(`[data-key="${key}"]`)?.focus({ preventScroll: true });
}

function show() {
  if (!dragged) span = Math.max(6, Math.ceil(Math.max(...scene.events.map(endOf)) + 0.5));
  redraw($("above"), showAbove);
  redraw($("lanes"), showLanes);
  const one = scene.events[chosen], isMoving = moves(one);
  $("above-words").textContent = describe(one, chosen);
  $("scene-title").value = scene.title ?? "";
  $("scene-seed").value = scene.seed ?? 0;
  const fields = { text: one.text, onset_s: one.onset_s ?? 0, length_s: lengthOf(one), level_db: one.level_db ?? 0, repeat: one.repeat ?? "same" };
  Object.assign(fields, { start: Math.round(where(one, false)), end: Math.round(where(one, true)) });
  for (const [name, value] of Object.entries(fields)) if ($(`event-${name}`) !== document.activeElement) $(`event-${name}`).value = value;
  $("event-number").textContent = `${chosen + 1}`;
  $("event-number").setAttribute("aria-label", `Sound ${chosen + 1}`);
  $("event-moves").checked = isMoving;
  $("event-moves").disabled = Boolean(one.path);
  $("start-word").textContent = isMoving ? "From" : "At";
  $("event-start").step = isMoving ? 1 : clockStep();
  $("end-label").hidden = !isMoving;
  $("repeat-label").hidden = lengthOf(one) <= info.duration_s + 1e-6;
  const isOld = made && made.scene !== JSON.stringify(scene);
  $("scene-made").textContent = made ? `${made.words}${isOld ? "; made before your last change" : ""}` : "";
}

// Each sound has a circle of its own, the first one outside.
const radiusOf = (index) => 150 - index * Math.min(26, 100 / Math.max(1, scene.events.length - 1));

function showAbove() {
  marks.replaceChildren();
  const order = [...scene.events.keys()].sort((a, b) => (a === chosen) - (b === chosen)); // the chosen one on top
  for (const index of order) {
    const one = scene.events[index], radius = radiusOf(index);
    const group = draw(marks, "g", { class: index === chosen ? "track chosen" : "track" });
    if (moves(one)) {
      const way = points(one), last = way.at(-1).time_s;
      const line = Array.from({ length: 121 }, (_, i) => point(at(one, way[0].time_s + ((last - way[0].time_s) * i) / 120), radius));
      draw(group, "path", { class: "way", d: `M${line.map((xy) => xy.map((v) => v.toFixed(1)).join(" ")).join("L")}` });
      handle(group, one, index, true, radius);
    }
    handle(group, one, index, false, radius);
  }
}

function handle(group, one, index, isEnd, radius) {
  const degrees = Math.round(where(one, isEnd)), end = moves(one) ? (isEnd ? "End" : "Start") : "Place";
  const node = draw(group, "g", { class: isEnd ? "handle end" : "handle" });
  slider(node, `${isEnd ? "end" : "start"}-${index}`, `${end} of ${index + 1} ${one.text}`, degrees, says(wrap(degrees)), [-3600, 3600]);
  draw(node, "circle", { class: "reach", r: 22, ...place(degrees, radius) });
  draw(node, "circle", { class: "knob", r: isEnd ? 9 : 13, ...place(degrees, radius) });
  const [x, y] = point(degrees, radius);
  if (!isEnd) draw(node, "text", { x, y, class: "number" }, String(index + 1));
}

function showLanes() {
  $("lanes").replaceChildren(...scene.events.map((one, index) => {
    const lane = Object.assign(document.createElement("div"), { className: `lane${index === chosen ? " chosen" : ""}${index === wrong ? " wrong" : ""}` });
    const bar = Object.assign(document.createElement("div"), { className: "bar" });
    const begin = one.onset_s ?? 0, times = `${tenth(begin)} to ${tenth(endOf(one))} seconds`;
    slider(bar, `bar-${index}`, `Beginning of ${index + 1} ${one.text}`, begin, times, [0, LONGEST_S]);
    if (index === wrong) bar.setAttribute("aria-invalid", "true");
    Object.assign(bar.style, { left: `${(100 * begin) / span}%`, width: `${(100 * lengthOf(one)) / span}%` });
    bar.append(Object.assign(document.createElement("span"), { textContent: `${index + 1} ${one.text.trim() || "…"}${moves(one) ? " ↷" : ""}` }));
    bar.append(Object.assign(document.createElement("i"), { className: "edge" }));
    lane.append(bar);
    return lane;
  }), Object.assign(document.createElement("i"), { className: "head", hidden: true }));
  const every = [1, 2, 5, 10, 20, 30].find((seconds) => span / seconds <= 8);
  $("ruler").replaceChildren(...Array.from({ length: Math.floor(span / every) + 1 }, (_, i) => {
    const tick = Object.assign(document.createElement("span"), { textContent: i ? `${i * every}` : "0 s" });
    tick.style.left = `${(100 * i * every) / span}%`;
    return tick;
  }));
  if (made) $("scene-picture").style.width = `${(100 * made.duration) / span}%`;
}

// --- hands and keys --------------------------------------------------------------------------------------------------

const indexOf = (key) => Number(key.split("-")[1]);

function grabAbove(event) {
  let key = event.target.closest("[data-key]")?.dataset.key;
  if (!key) {
    const one = scene.events[chosen], angle = angleOf(event);
    const isEnd = moves(one) && Math.abs(shortest(angle - where(one, true))) < Math.abs(shortest(angle - where(one, false)));
    key = `${isEnd ? "end" : "start"}-${chosen}`;
  }
  dragged = { key, index: indexOf(key) };
  select(dragged.index);
  $("above").setPointerCapture(event.pointerId);
  $("above").querySelector(`[data-key="${key}"]`).focus({ preventScroll: true });
  event.preventDefault();
  if (!event.target.closest("[data-key]")) moveAbove(event);
}

function angleOf(event) {
  const box = $("above").getBoundingClientRect();
  return (Math.atan2(box.left + box.width / 2 - event.clientX, box.top + box.height / 2 - event.clientY) * 180) / Math.PI;
}

const shortest = (degrees) => wrap(degrees + 180) - 180;

// The hand goes on turning from where it was, so that whole turns can be drawn.
function moveAbove(event) {
  if (!dragged) return;
  const one = scene.events[dragged.index], isEnd = dragged.key.startsWith("end"), step = moves(one) ? 5 : clockStep();
  const now = where(one, isEnd), turned = Math.round((now + shortest(angleOf(event) - now)) / step) * step;
  if (turned === now || Math.abs(turned) > 3600) return;
  turn(one, isEnd, turned);
  changed();
}

function keyAbove(event) {
  const key = event.target.dataset?.key;
  if (!key) return;
  const one = scene.events[indexOf(key)], isEnd = key.startsWith("end"), step = moves(one) ? (event.shiftKey ? 1 : 15) : clockStep();
  const to = { ArrowLeft: step, ArrowUp: step, ArrowRight: -step, ArrowDown: -step }[event.key];
  if (event.key === "Delete") remove(indexOf(key));
  else if (to !== undefined) turn(one, isEnd, Math.max(-3600, Math.min(3600, where(one, isEnd) + to)));
  else return;
  event.preventDefault();
  chosen = indexOf(key);
  changed();
}

function grabLane(event) {
  const bar = event.target.closest(".bar");
  if (!bar) return;
  const index = indexOf(bar.dataset.key), one = scene.events[index], isEdge = event.target.matches(".edge");
  dragged = { index, isEdge, x: event.clientX, from: isEdge ? lengthOf(one) : one.onset_s ?? 0 };
  select(index);
  $("lanes").setPointerCapture(event.pointerId);
  $("lanes").querySelector(`[data-key="bar-${index}"]`).focus({ preventScroll: true });
  event.preventDefault();
}

function moveLane(event) {
  if (!dragged || !$("lanes").hasPointerCapture(event.pointerId)) return;
  const one = scene.events[dragged.index], seconds = dragged.from + ((event.clientX - dragged.x) / $("lanes").clientWidth) * span;
  if (dragged.isEdge) one.length_s = tenth(Math.max(0.1, Math.min(LONGEST_S, seconds)));
  else one.onset_s = tenth(Math.max(0, Math.min(LONGEST_S, seconds)));
  changed();
}

function letGo() {
  if (!dragged) return;
  dragged = null;
  show();
}

function keyLane(event) {
  const key = event.target.dataset?.key;
  if (!key) return;
  const index = indexOf(key), one = scene.events[index], step = event.shiftKey ? 1 : 0.1;
  const by = { ArrowRight: step, ArrowUp: step, ArrowLeft: -step, ArrowDown: -step, PageUp: 5, PageDown: -5, Home: -LONGEST_S }[event.key];
  if (event.key === "Delete") remove(index);
  else if (by !== undefined) one.onset_s = tenth(Math.max(0, Math.min(LONGEST_S, (one.onset_s ?? 0) + by)));
  else return;
  event.preventDefault();
  chosen = index;
  changed();
}

function edit(name, value) {
  const one = scene.events[chosen];
  if (name === "start" || name === "end") turn(one, name === "end", Number(value));
  else if (name === "moves") {
    one.end_azimuth_deg = value ? where(one, false) - 90 : null;
    if (!value) turn(one, false, Math.round(where(one, false) / 30) * 30);
  }
  else one[name] = ["text", "repeat"].includes(name) ? value : Number(value);
  changed();
}

// --- making and hearing it -------------------------------------------------------------------------------------------

const player = new Player(() => {
  $("scene-play").setAttribute("aria-label", player.position(made?.path) === null ? "Play" : "Stop");
  requestAnimationFrame(tick);
});

function tick() {
  const share = player.position(made?.path), head = $("lanes").querySelector(".head");
  if (!head) return;
  head.hidden = share === null;
  live.replaceChildren();
  if (share === null) return;
  const now = share * made.duration;
  head.style.left = `${(100 * now) / span}%`;
  made.events.forEach((one, index) => {
    const since = now - (one.onset_s ?? 0);
    if (since >= 0 && since <= lengthOf(one)) draw(live, "circle", { class: "sounding", r: 19, ...place(at(one, since), radiusOf(index)) });
  });
  requestAnimationFrame(tick);
}

async function make() {
  showError(null);
  clearTimeout(checking);
  try {
    const asked = JSON.stringify(scene), path = (await post("/api/scenes")).headers.get("location");
    sessionStorage.setItem("dualspec.sceneJob", JSON.stringify([path, asked]));
    await attend(path, asked);
  } catch (error) {
    showError(error);
    if (wrong !== null && wrong !== chosen) (select(wrong), showError(error));
  }
}

async function attend(path, asked) {
  const stop = new AbortController();
  $("scene-go").hidden = true;
  $("scene-progress").hidden = false;
  $("scene-cancel").onclick = () => (stop.abort(), end(path));
  const onSilence = () => ($("scene-progress-text").textContent = "The service does not answer; waiting for it");
  try {
    const last = await follow(path, ({ step, num_steps: all, queue_position: line }) => {
      $("scene-progress-text").textContent = line ? `Waiting: number ${line} in line` : !step ? "Starting" : step < all ? `Step ${step} of ${all}` : "Mixing";
    }, { signal: stop.signal, onSilence });
    if (last.state === "failed" || (last.state === "cancelled" && last.error && !stop.signal.aborted)) throw new Error(last.error);
    if (last.state === "done") await receive(`${path}/clips/0`, asked);
  } finally {
    sessionStorage.removeItem("dualspec.sceneJob");
    $("scene-go").hidden = false;
    $("scene-progress").hidden = true;
  }
}

async function receive(path, asked) {
  const [answer, record] = await Promise.all([ask(`${path}/audio`), json(`${path}/record`)]);
  const bytes = await answer.arrayBuffer(), wav = readWav(bytes), duration = wav.ears[0].length / wav.rate;
  const lowered = record.gain_db < 0 ? `, turned down by ${(-record.gain_db).toFixed(1)} dB to stay within full scale` : "";
  player.stop();
  const { seed, events } = JSON.parse(asked);
  made = { path, bytes, duration, scene: asked, events, words: `${duration.toFixed(1)} s, seed ${seed ?? 0}${lowered}` };
  $("scene-picture").hidden = $("scene-actions").hidden = false;
  show();
  drawMade();
  $("scene-picture").classList.add("ready");
  $("scene-verdict").replaceChildren(...record.events.map((one, index) => {
    const heard = one.sounds.map(({ direction }) => direction?.heard_deg).filter((degrees) => degrees !== undefined);
    const words = one.rendered ? "its way is the head’s work, not the model’s" : `asked ${says(one.asked_deg)}, heard ${heard.map((degrees) => (degrees === null ? "nowhere" : says(degrees))).join(", ") || "by nobody"}`;
    return Object.assign(document.createElement("li"), { textContent: `${index + 1} ${one.text}: ${words}` });
  }));
  if (document.activeElement === document.body || document.activeElement.id === "scene-cancel") $("scene-play").focus({ preventScroll: true });
}

const drawMade = () => drawEars($("scene-picture").querySelector("canvas"), readWav(made.bytes));
const fileName = () => (scene.title || "scene").replace(/[^\w-]+/g, "-");

async function save(kind) {
  const name = fileName();
  try {
    if (kind === "audio") download(query() ? await (await ask(`${made.path}/audio${query()}`)).blob() : made.bytes, `${name}.${suffix()}`);
    else download(await (await ask(`${made.path}/${kind}`)).blob(), kind === "record" ? `${name}-record.json` : `${name}.png`);
  } catch (error) {
    showError(error);
  }
}

async function load(file) {
  const old = scene;
  try {
    scene = JSON.parse(await file.text());
    await post("/api/scenes/plan");
    const opened = scene;
    scene = old;
    remember(`open ${file.name}`);
    scene = opened;
    chosen = 0;
    changed();
  } catch (error) {
    scene = old;
    showError(error instanceof SyntaxError ? new Error(`${file.name} must be JSON, got something else`) : error);
  }
}

// --- beginning -------------------------------------------------------------------------------------------------------

function listen() {
  const above = $("above"), lanes = $("lanes");
  above.addEventListener("pointerdown", grabAbove);
  above.addEventListener("pointermove", (event) => above.hasPointerCapture(event.pointerId) && moveAbove(event));
  above.addEventListener("keydown", keyAbove);
  lanes.addEventListener("pointerdown", grabLane);
  lanes.addEventListener("pointermove", moveLane);
  lanes.addEventListener("keydown", keyLane);
  for (const host of [above, lanes]) {
    for (const kind of ["pointerup", "pointercancel"]) host.addEventListener(kind, letGo);
    host.addEventListener("focusin", ({ target }) => !dragged && target.dataset.key && indexOf(target.dataset.key) !== chosen && select(indexOf(target.dataset.key)));
  }
  $("event-text").oninput = ({ target }) => edit("text", target.value); // an empty one is an error at its row
  for (const name of ["onset_s", "length_s", "level_db", "start", "end"]) $(`event-${name}`).oninput = ({ target }) => target.value.trim() && target.validity.badInput === false && edit(name, target.value);
  $("event-repeat").onchange = ({ target }) => edit("repeat", target.value);
  $("event-moves").onchange = ({ target }) => edit("moves", target.checked);
  $("scene-title").oninput = ({ target }) => ((scene.title = target.value), changed());
  $("scene-seed").oninput = ({ target }) => ((scene.seed = Number(target.value)), changed());
  $("add").onclick = () => (add({ text: "dog bark", azimuth_deg: 270, onset_s: tenth(Math.min(span / 2, LONGEST_S - info.duration_s)) }), $("event-text").select());
  $("copy").onclick = () => add({ ...structuredClone(scene.events[chosen]), onset_s: tenth((scene.events[chosen].onset_s ?? 0) + 1) });
  $("remove").onclick = () => remove(chosen);
  $("undo").onclick = undo;
  document.addEventListener("keydown", (event) => {
    if (event.key !== "z" || !(event.ctrlKey || event.metaKey) || event.target.matches("input") || $("scene").hidden) return;
    event.preventDefault();
    undo();
  });
  $("scene-go").onclick = make;
  $("scene-play").onclick = () => (player.position(made.path) === null ? player.play([[made.path, made.bytes]], made.path).catch(showError) : player.stop());
  $("scene-save").onclick = () => download(JSON.stringify(scene, null, 2), `${fileName()}.json`);
  $("scene-load").onclick = () => $("scene-file").click();
  $("scene-file").onchange = ({ target }) => target.files[0] && load(target.files[0]).then(() => (target.value = ""));
  document.querySelectorAll("[data-scene-file]").forEach((button) => (button.onclick = () => save(button.dataset.sceneFile)));
  document.addEventListener("keydown", ({ key }) => key === "Escape" && player.stop());
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => made && drawMade());
}

export function beginScene(about, words) {
  [info, says, model.duration_s] = [about, words, about.duration_s];
  scene = JSON.parse(localStorage.getItem("dualspec.scene") ?? JSON.stringify(FIRST));
  const svg = face($("above"));
  svg.removeAttribute("aria-hidden");
  listener(svg, 0.5);
  [live, marks] = [draw(svg, "g"), draw(svg, "g")];
  listen();
  const left = sessionStorage.getItem("dualspec.sceneJob");
  if (left) attend(...JSON.parse(left)).catch(showError);
}

export const showScene = () => scene && changed();
export const hushScene = () => player.stop();
