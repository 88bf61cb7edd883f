// Directions on circles: the dial that is turned, and the small one that proves.
// Degrees counter-clockwise seen from above: 0 front, 90 left, 180 behind, 270 right.

export const wrap = (degrees) => ((degrees % 360) + 360) % 360;
export const apart = (a, b) => 180 - Math.abs(180 - wrap(a - b));
export const point = (degrees, radius) => {
  const angle = (degrees * Math.PI) / 180;
  return [-radius * Math.sin(angle), -radius * Math.cos(angle)];
};

export function draw(parent, tag, attributes = {}, text = "") {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.textContent = text;
  return parent.appendChild(node);
}

// From one direction counter-clockwise to another.
function arc(from, to, radius) {
  const [x, y] = point(from, radius), [u, v] = point(to, radius);
  return `M${x} ${y}A${radius} ${radius} 0 ${wrap(to - from) > 180 ? 1 : 0} 0 ${u} ${v}`;
}

export function listener(svg, size) {
  const group = draw(svg, "g", { class: "listener", transform: `scale(${size})` });
  const ears = [-1, 1].map((side) => draw(group, "ellipse", { class: "ear", cx: side * 33, cy: 2, rx: 7, ry: 12 }));
  draw(group, "path", { class: "skull", d: "M-9 -37 L0 -51 L9 -37" });
  draw(group, "ellipse", { class: "skull", rx: 31, ry: 38 });
  return ears;
}

// Make something a slider that the keyboard reaches and a reader can name.
export function slider(node, key, label, now, text, [low, high]) {
  node.dataset.key = key;
  const said = { role: "slider", tabindex: 0, "aria-label": label, "aria-valuemin": low, "aria-valuemax": high, "aria-valuenow": now, "aria-valuetext": text };
  for (const [name, value] of Object.entries(said)) node.setAttribute(name, value);
  return node;
}

// The room from above with the hours of the clock around it.
export function face(host) {
  const svg = draw(host, "svg", { viewBox: "-210 -210 420 420", "aria-hidden": "true" });
  draw(svg, "circle", { class: "room", r: 170 });
  for (let hour = 1; hour <= 12; hour++) {
    const [x, y] = point(-30 * hour, 190), [a, b] = point(-30 * hour, 170), [c, d] = point(-30 * hour, 162);
    draw(svg, "path", { class: "tick", d: `M${a} ${b}L${c} ${d}` });
    draw(svg, "text", { x, y, class: hour % 3 ? "hour" : "hour main" }, String(hour));
  }
  return svg;
}

export class Dial {
  constructor(host, onTurn) {
    this.host = host;
    this.onTurn = onTurn;
    this.step = 30;
    this.azimuth = this.shown = 270;
    const svg = face(host);
    draw(svg, "circle", { class: "ring", r: 118 });
    this.wedge = draw(svg, "path", { class: "wedge" });
    this.progress = draw(svg, "circle", { class: "progress-ring", r: 170, pathLength: 100, transform: "rotate(-90)" });
    this.marks = draw(svg, "g");
    this.ears = listener(svg, 1);
    this.source = draw(svg, "g", { class: "source" });
    for (const radius of [34, 58, 82]) {
      const x = radius * 0.5, y = -142 + radius * 0.866;
      draw(this.source, "path", { class: "wave", d: `M${-x} ${y}A${radius} ${radius} 0 0 0 ${x} ${y}` });
    }
    draw(this.source, "circle", { class: "halo", cy: -142, r: 24 });
    draw(this.source, "circle", { class: "grip", cy: -142, r: 13 });
    Object.assign(host, { tabIndex: 0, role: "slider" });
    for (const [name, value] of [["label", "Direction of the sound"], ["valuemin", 0], ["valuemax", 359]]) host.setAttribute(`aria-${name}`, value);
    host.addEventListener("pointerdown", (event) => this.#grab(event));
    host.addEventListener("pointermove", (event) => host.hasPointerCapture(event.pointerId) && this.#point(event));
    host.addEventListener("keydown", (event) => this.#key(event));
  }

  turn(degrees) {
    this.azimuth = wrap(Math.round(degrees / this.step) * this.step);
    this.shown += wrap(this.azimuth - this.shown + 180) - 180; // from where it stands, the short way round
    this.source.setAttribute("transform", `rotate(${-this.shown})`);
    const half = this.step > 1 ? this.step / 2 : 2;
    this.wedge.setAttribute("d", `${arc(this.azimuth - half, this.azimuth + half, 170)}L0 0Z`);
    const lean = Math.sin((this.azimuth * Math.PI) / 180);
    this.ears.forEach((ear, right) => ear.style.setProperty("--level", (0.5 + (right ? -lean : lean) / 2).toFixed(2)));
    this.host.setAttribute("aria-valuenow", this.azimuth);
    this.onTurn(this.azimuth);
  }

  set share(value) {
    this.progress.style.strokeDashoffset = value === null ? 100 : 100 - 100 * value;
    this.host.classList.toggle("busy", value !== null);
  }

  // Show where something was asked for and heard, with the probability of each sector if it is known.
  mark(asked, heard, probabilities = []) {
    this.marks.replaceChildren();
    drawProof(this.marks, asked, heard, probabilities, 118);
  }

  #grab(event) {
    this.host.setPointerCapture(event.pointerId);
    this.host.focus({ preventScroll: true });
    this.#point(event);
  }

  #point(event) {
    const box = this.host.getBoundingClientRect();
    const x = event.clientX - box.left - box.width / 2, y = event.clientY - box.top - box.height / 2;
    if (Math.hypot(x, y) > 8) this.turn((Math.atan2(-x, -y) * 180) / Math.PI);
  }

  #key(event) {
    const fine = this.step > 1 ? this.step : event.shiftKey ? 1 : 5;
    const moves = { ArrowLeft: fine, ArrowUp: fine, ArrowRight: -fine, ArrowDown: -fine, PageUp: 90, PageDown: -90 };
    const places = { Home: 0, End: 180 };
    if (event.key in moves) this.turn(this.azimuth + moves[event.key]);
    else if (event.key in places) this.turn(places[event.key]);
    else return;
    event.preventDefault();
  }
}

function drawProof(parent, asked, heard, probabilities, radius) {
  probabilities.forEach((share, sector) => {
    const length = radius * Math.sqrt(share);
    const [x, y] = point(30 * sector + 13, length), [u, v] = point(30 * sector - 13, length);
    draw(parent, "path", { class: "petal", d: `M0 0L${x} ${y}A${length} ${length} 0 0 1 ${u} ${v}Z` });
  });
  if (asked !== null && heard !== null && apart(asked, heard) > 0.5) {
    const [from, to] = wrap(heard - asked) <= 180 ? [asked, heard] : [heard, asked];
    draw(parent, "path", { class: "miss", d: arc(from, to, radius) });
  }
  const size = radius / 9;
  if (heard !== null) draw(parent, "circle", { class: "heard-mark", r: size * 0.62, ...place(heard, radius) });
  if (asked !== null) draw(parent, "circle", { class: "asked-mark", r: size * 1.15, ...place(asked, radius) });
}

export const place = (degrees, radius) => {
  const [cx, cy] = point(degrees, radius);
  return { cx, cy };
};

// A small dial: a ring for what was asked, a dot for what is heard, the arc of the error between them.
export function proofDial(host, asked, heard, words, probabilities = []) {
  host.replaceChildren();
  const svg = draw(host, "svg", { viewBox: "-66 -66 132 132", role: "img", "aria-label": words });
  draw(svg, "circle", { class: "room", r: 52 });
  listener(svg, 0.36);
  drawProof(svg, asked, heard, probabilities, 52);
}
