// Sound in the browser: reading WAV, drawing both ears, playing one or two sounds in step.

// Samples of a WAV of 16 or 24 bits as it comes from the server: [left, right], sample rate.
export function readWav(bytes) {
  const view = new DataView(bytes);
  let at = 12, rate = 0, channels = 2, width = 2;
  while (at + 8 <= bytes.byteLength) {
    const name = view.getUint32(at), size = view.getUint32(at + 4, true);
    if (name === 0x666d7420) [channels, rate, width] = [view.getUint16(at + 10, true), view.getUint32(at + 12, true), view.getUint16(at + 22, true) / 8];
    if (name === 0x64617461) {
      const length = Math.floor(Math.min(size, bytes.byteLength - at - 8) / (width * channels));
      const sample = (place) => (width === 2 ? view.getInt16(place, true) / 32768 : (view.getInt16(place + 1, true) * 256 + view.getUint8(place)) / 8388608);
      return { rate, ears: [0, 1].map((ear) => Float32Array.from({ length }, (_, i) => sample(at + 8 + width * (i * channels + (ear % channels))))) };
    }
    at += 8 + size + (size % 2);
  }
  throw new Error("the sound is no WAV file");
}

function transform(re, im) {
  const n = re.length;
  for (let i = 1, j = 0; i < n; i++) {
    let bit = n >> 1;
    for (; j & bit; bit >>= 1) j ^= bit;
    j ^= bit;
    if (i < j) [re[i], re[j], im[i], im[j]] = [re[j], re[i], im[j], im[i]];
  }
  for (let size = 2; size <= n; size *= 2) {
    for (let k = 0; k < size / 2; k++) {
      const angle = (-2 * Math.PI * k) / size, c = Math.cos(angle), s = Math.sin(angle);
      for (let i = k; i < n; i += size) {
        const j = i + size / 2, x = re[j] * c - im[j] * s, y = re[j] * s + im[j] * c;
        [re[j], im[j], re[i], im[i]] = [re[i] - x, im[i] - y, re[i] + x, im[i] + y];
      }
    }
  }
}

// Magnitudes of both ears, frame by frame: one complex transform holds left as its real and right as its imaginary part.
function magnitudes([left, right], columns, size) {
  const window = Float32Array.from({ length: size }, (_, i) => 0.5 - 0.5 * Math.cos((2 * Math.PI * i) / size));
  const hop = Math.max(1, (left.length - size) / (columns - 1));
  return Array.from({ length: columns }, (_, column) => {
    const start = Math.round(column * hop);
    const re = window.map((w, i) => w * (left[start + i] || 0)), im = window.map((w, i) => w * (right[start + i] || 0));
    transform(re, im);
    const frame = [new Float32Array(size / 2), new Float32Array(size / 2)];
    for (let k = 1; k < size / 2; k++) {
      const m = size - k;
      frame[0][k] = Math.hypot(re[k] + re[m], im[k] - im[m]);
      frame[1][k] = Math.hypot(im[k] + im[m], re[m] - re[k]);
    }
    return frame;
  });
}

// Left ear above the middle line, right ear below, low tones next to it; one scale of levels for both.
export function drawEars(canvas, { ears }) {
  const { width, height } = canvas, rows = height / 2 - 1, rangeDb = 66;
  const frames = magnitudes(ears, width, 512);
  const loudest = Math.max(1e-6, ...frames.map(([l, r]) => Math.max(...l, ...r)));
  const style = getComputedStyle(canvas);
  const stops = [0, 1, 2, 3].map((i) => style.getPropertyValue(`--level-${i}`).trim().match(/[0-9a-f]{2}/gi).map((h) => parseInt(h, 16)));
  const context = canvas.getContext("2d"), image = context.createImageData(width, height);
  image.data.fill(0);
  frames.forEach((frame, column) => frame.forEach((levels, ear) => {
    for (let row = 0; row < rows; row++) {
      const bin = Math.min(255, 1 + Math.floor(254 * (row / rows) ** 1.5));
      const level = Math.max(0, 1 + (20 * Math.log10(levels[bin] / loudest + 1e-9)) / rangeDb);
      const scaled = Math.min(2.999, level * 3), low = Math.floor(scaled);
      const y = ear ? height / 2 + 1 + row : height / 2 - 2 - row;
      stops[low].forEach((from, i) => (image.data[4 * (y * width + column) + i] = from + (stops[low + 1][i] - from) * (scaled - low)));
      image.data[4 * (y * width + column) + 3] = 255;
    }
  }));
  context.putImageData(image, 0, 0);
}

// Plays one sound, or two in step of which one is heard.
export class Player {
  #context = null;
  #voices = [];
  #started = 0;
  #buffers = new Map();
  constructor(onChange) {
    this.onChange = onChange;
    this.heard = null;
  }

  #wake() {
    this.#context ??= new AudioContext({ latencyHint: "interactive" });
    return this.#context.resume().then(() => this.#context);
  }

  async #buffer(id, bytes) {
    const buffer = this.#buffers.get(id) ?? (await this.#context.decodeAudioData(bytes.slice(0)));
    this.#buffers.delete(id);
    this.#buffers.set(id, buffer); // the last one used stands last
    if (this.#buffers.size > 6) this.#buffers.delete(this.#buffers.keys().next().value);
    return buffer;
  }

  // tracks: [[id, WAV bytes], …]; heard: the id to begin with; from: seconds.
  async play(tracks, heard, from = 0) {
    const context = await this.#wake();
    const buffers = await Promise.all(tracks.map(([id, bytes]) => this.#buffer(id, bytes)));
    this.stop();
    this.heard = heard;
    const when = context.currentTime + 0.03;
    this.#started = when - from;
    this.#voices = tracks.map(([id], index) => {
      const source = new AudioBufferSourceNode(context, { buffer: buffers[index], loop: tracks.length > 1 });
      const gain = new GainNode(context, { gain: id === heard ? 1 : 0 });
      source.connect(gain).connect(context.destination);
      source.start(when, from % buffers[index].duration);
      return { id, source, gain, duration: buffers[index].duration };
    });
    this.#voices[0].source.onended = () => this.stop();
    this.onChange();
  }

  hear(id) {
    this.heard = id;
    for (const voice of this.#voices) voice.gain.gain.setTargetAtTime(voice.id === id ? 1 : 0, this.#context.currentTime, 0.008);
    this.onChange();
  }

  stop() {
    for (const { source } of this.#voices) {
      source.onended = null;
      source.stop();
    }
    this.#voices = [];
    this.onChange();
  }

  get isComparing() {
    return this.#voices.length > 1;
  }

  // Share of a sound that has been played, or null.
  position(id) {
    const voice = this.#voices.find((one) => one.id === id);
    if (!voice) return null;
    return (Math.max(0, this.#context.currentTime - this.#started) % voice.duration) / voice.duration;
  }

  // A short rush at one ear: -1 left, 1 right.
  async burst(pan) {
    const context = await this.#wake();
    const buffer = new AudioBuffer({ length: context.sampleRate * 0.5, numberOfChannels: 1, sampleRate: context.sampleRate });
    const samples = buffer.getChannelData(0), decay = context.sampleRate * 0.05;
    for (let i = 0; i < samples.length; i++) samples[i] = 0.25 * (Math.random() * 2 - 1) * Math.exp(-(i % (2.4 * decay)) / decay);
    const source = new AudioBufferSourceNode(context, { buffer });
    source.connect(new StereoPannerNode(context, { pan })).connect(context.destination);
    source.start(context.currentTime + 0.05);
  }

  // First at the left ear, then at the right.
  testEars(onEar) {
    [-1, 1].forEach((pan, index) => setTimeout(() => (this.burst(pan), onEar(pan)), index * 800));
    setTimeout(() => onEar(0), 1600);
  }
}
