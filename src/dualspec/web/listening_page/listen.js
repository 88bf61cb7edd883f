// A blind listening test: check the headphones, hear, point, answer. What was asked for is not known here before the end.
import { Dial, draw, face, listener, place, point } from "./dial.js";
import { ask, json } from "./server.js";
import { Player } from "./sound.js";

const $ = (id) => document.getElementById(id);
const CHECKS = 4;
const memory = sessionStorage; // of this tab: a reload goes on
let standing, sound = null, pointed = null, numPlays = 0, began = 0, isBusy = false;

const clip = () => `${standing?.listener} ${standing?.trial}`;
const home = (listener) => `/api/listeners/${encodeURIComponent(listener)}`;
const clock = (degrees) => `${degrees % 30 ? "about " : ""}${(Math.round(12 - degrees / 30) + 11) % 12 + 1} o’clock`;

function show(name) {
  for (const part of ["welcome", "check", "trial", "end"]) $(part).hidden = part !== name;
  $("progress").textContent = name === "trial" ? `Sound ${standing.trial} of ${standing.num_trials}` : "";
}

function showError(error) {
  $("error").hidden = !error;
  $("error").textContent = error ? error.message : "";
}

// Do one thing at a time; what goes wrong is told.
const carefully = (work) => async (event) => {
  event?.preventDefault?.();
  if (isBusy) return;
  isBusy = true;
  showError(null);
  try {
    await work(event);
  } catch (error) {
    if (error.status !== 409) return showError(error);
    standing = await json(home(standing.listener)); // answered in another tab
    await next().catch(showError);
  } finally {
    isBusy = false;
  }
};

// --- headphones --------------------------------------------------------------------------------------------------

let side = 0, numRight = 0, numChecks = 0;

async function rush() {
  side ||= Math.random() < 0.5 ? -1 : 1; // once more is the same side
  await player.burst(side);
}

function sayCheck() {
  $("check-count").textContent = numChecks ? `${numChecks} of ${CHECKS}` : "Press play.";
}

async function checked(said) {
  if (!side) return rush();
  numChecks += 1;
  numRight += said === side;
  side = 0;
  sayCheck();
  if (numChecks < CHECKS) return rush();
  if (numRight === CHECKS || memory.getItem("dualspec.headphones") === "failed") return proceed(numRight === CHECKS ? "passed" : "failed");
  memory.setItem("dualspec.headphones", "failed");
  $("check-words").textContent = `${CHECKS - numRight} of ${CHECKS} were at the other ear. Turn the headphones round, or see that both sides sound, and try again.`;
  numChecks = numRight = 0;
  sayCheck();
}

async function proceed(result) {
  memory.setItem("dualspec.headphones", result);
  memory.setItem("dualspec.listener", standing.listener);
  await next();
}

// --- trials ------------------------------------------------------------------------------------------------------

const player = new Player(() => {
  const isOn = player.position(clip()) !== null;
  $("play").setAttribute("aria-label", isOn ? "Stop" : "Play");
});

const dial = new Dial($("dial"), (degrees) => {
  pointed = degrees;
  $("dial").classList.remove("blank");
  $("dial").setAttribute("aria-valuetext", `${clock(degrees)}, ${degrees} degrees`);
  $("clock").textContent = clock(degrees);
  $("degrees").textContent = `${degrees}°`;
  allowAnswer();
});
dial.step = 1;

function blank() {
  dial.turn(0);
  pointed = null;
  $("dial").classList.add("blank");
  $("dial").setAttribute("aria-valuetext", "nowhere yet");
  $("clock").textContent = "Point to the sound";
  $("degrees").textContent = "";
  allowAnswer();
}

const allowAnswer = () => ($("answer").disabled = pointed === null || numPlays === 0);

// The next sound begins by itself, but not on a page that has just been opened.
async function next(isOpening = false) {
  if (standing.trial > standing.num_trials) return finish();
  numPlays = 0;
  blank();
  show("trial");
  sound = await (await ask(`${home(standing.listener)}/trials/${standing.trial}/audio`)).arrayBuffer();
  $("dial").focus({ preventScroll: true });
  if (!isOpening) await play();
}

async function play() {
  if (player.position(clip()) !== null) return player.stop();
  await player.play([[clip(), sound]], clip());
  numPlays += 1;
  if (numPlays === 1) began = performance.now();
  allowAnswer();
}

async function answer() {
  if ($("answer").disabled) return;
  const body = JSON.stringify({ azimuth_deg: pointed, num_plays: numPlays, response_s: (performance.now() - began) / 1000,
    headphones: memory.getItem("dualspec.headphones") ?? "skipped" });
  player.stop();
  standing = await json(`${home(standing.listener)}/trials/${standing.trial}`, { method: "POST", body, headers: { "content-type": "application/json" } });
  await next();
}

// From where each sound was, outside, to where it was heard, inside.
function drawAnswers(points, words) {
  const svg = face($("answers"));
  for (const [name, value] of [["role", "img"], ["aria-label", words], ["aria-hidden", "false"]]) svg.setAttribute(name, value);
  listener(svg, 1);
  for (const [asked, answered] of points) {
    draw(svg, "path", { class: "miss", d: `M${point(asked, 170)}L${point(answered, 112)}` });
    draw(svg, "circle", { class: "asked-mark", r: 6, ...place(asked, 170) });
    draw(svg, "circle", { class: "heard-mark", r: 6, ...place(answered, 112) });
  }
}

function finish() {
  const { result, points } = standing, percent = (share) => `${Math.round(100 * share)} %`;
  const mirrored = "front_back_rate" in result ? ` Front and back changed places in ${percent(result.front_back_rate)}.` : "";
  $("verdict").textContent = `You heard ${result.num_answers} sounds, ${percent(result.azimuth_accuracy)} of them in the right twelfth of the circle; ` +
    `on average ${result.azimuth_mae_deg.toFixed(0)}° off.${mirrored}`;
  drawAnswers(points, $("verdict").textContent);
  memory.removeItem("dualspec.listener");
  memory.removeItem("dualspec.headphones");
  show("end");
}

// --- beginning ---------------------------------------------------------------------------------------------------

async function start() {
  standing = await json(home($("name").value.trim().normalize("NFC")));
  if (standing.trial > standing.num_trials) return finish();
  sayCheck();
  show("check");
}

async function begin() {
  const listener = memory.getItem("dualspec.listener");
  if (!listener) return show("welcome");
  standing = await json(home(listener));
  await next(true);
}

$("start").onsubmit = carefully(start);
$("check-play").onclick = carefully(rush);
$("check-left").onclick = carefully(() => checked(-1));
$("check-right").onclick = carefully(() => checked(1));
$("check-skip").onclick = carefully(() => proceed("skipped"));
$("play").onclick = carefully(play);
$("answer").onclick = carefully(answer);
$("dial").addEventListener("keydown", (event) => {
  if (event.key === " ") carefully(play)(event);
  if (event.key === "Enter") carefully(answer)(event);
});
carefully(begin)();
