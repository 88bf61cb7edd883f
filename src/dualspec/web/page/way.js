// One sound of a scene file: when it is heard, and where it is at any time.
import { wrap } from "./dial.js";

export const model = { duration_s: 5.12 }; // of its own clips, as the server says

export const tenth = (seconds) => Math.round(seconds * 10) / 10;
export const lengthOf = (one) => one.length_s ?? model.duration_s;
export const endOf = (one) => (one.onset_s ?? 0) + lengthOf(one);
export const moves = (one) => Boolean(one.path) || (one.end_azimuth_deg ?? null) !== null;
export const points = (one) => one.path ?? [{ time_s: 0, azimuth_deg: one.azimuth_deg }, ...(moves(one) ? [{ time_s: lengthOf(one), azimuth_deg: one.end_azimuth_deg }] : [])];
export const where = (one, isEnd) => points(one).at(isEnd ? -1 : 0).azimuth_deg;

export function turn(one, isEnd, degrees) {
  if (one.path) one.path.at(isEnd ? -1 : 0).azimuth_deg = degrees;
  else if (isEnd) one.end_azimuth_deg = degrees;
  else one.azimuth_deg = moves(one) ? degrees : wrap(degrees);
}

// The direction after some seconds of a sound.
export function at(one, seconds) {
  const way = points(one), next = way.findIndex((stop) => stop.time_s > seconds);
  if (next <= 0) return way.at(next).azimuth_deg;
  const from = way[next - 1], to = way[next];
  return from.azimuth_deg + ((to.azimuth_deg - from.azimuth_deg) * (seconds - from.time_s)) / (to.time_s - from.time_s);
}
