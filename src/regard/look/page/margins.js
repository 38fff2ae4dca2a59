// The margins of the map: what each key receives, above it, and each query's entropy, at its right.

import { write } from "./canvas.js";
import { cssColour, shareOf } from "./colours.js";
import { isPooled } from "./decode.js";
import { floor, max, min, round } from "./numbers.js";
import { state } from "./store.js";
import { short } from "./naming.js";
import { cellOf } from "./viewport.js";

const DECADES = 1000; // the log scale of what keys receive ends so far below its most

// One value a pixel: that of the cell below it, or the highest of the cells below it.
export function alongPixels(values, length, low, high, pixels) {
  return Float64Array.from({ length: pixels }, (_, at) => {
    const edge = (place) => low + floor((place * (high - low)) / pixels);
    const to = min(length, max(edge(at) + 1, edge(at + 1)));
    let cell = cellOf(edge(at), values.length, length);
    let most = values[cell];
    for (const last = cellOf(to - 1, values.length, length); cell <= last; cell++) most = max(most, values[cell]);
    return most;
  });
}

// A profile of steps on one scale, filled from its base line or as a line; place turns (along, share) into a point.
export function profile(pen, values, range, colour, place, filled) {
  if (!(range.highest > 0)) return;
  pen.fillStyle = pen.strokeStyle = cssColour(colour);
  pen.beginPath();
  if (filled) pen.moveTo(...place(0, 0));
  values.forEach((value, at) => {
    const share = range.logFloor ? shareOf(value / range.highest, "log", range) : shareOf(value, "linear", range);
    pen.lineTo(...place(at, share));
    pen.lineTo(...place(at + 1, share));
  });
  if (!filled) return pen.stroke();
  pen.lineTo(...place(values.length, 0));
  pen.fill();
}

// Two profiles on one scale: the first filled, the second, where there is one, a line. Gives the highest value.
function pair(pen, [values, others], logFloor, place) {
  const highest = [...values, ...(others || [])].reduce((most, value) => max(most, value), 0);
  const colours = state.rival ? ["--plus", "--minus"] : ["--profile", "--profile-edge"];
  const range = { highest, logFloor };
  profile(pen, values, range, colours[0], place, true);
  if (others) profile(pen, others, range, colours[1], place, false);
  return highest;
}

export function drawMargins(pen, { left, top, width, height, right, narrow }) {
  const { data, rival, hideFirst, scaling, view } = state;
  const { key_len, query_len } = data.group;
  const isCoarse = data.peak.length < key_len;
  const isLog = scaling === "log";
  // Without the first key nothing of its cell is drawn; what the others receive is not renormalised.
  const across = (values) => {
    const shown = hideFirst ? values.map((value, at) => (at ? value : 0)) : values;
    return alongPixels(shown, key_len, view.k0, view.k1, round(width));
  };
  const down = ({ entropy, entropyLeft }) =>
    alongPixels(hideFirst ? entropyLeft : entropy, query_len, view.q0, view.q1, round(height));
  const received = [data.received, rival ? rival.received : isCoarse && data.peak].filter(Boolean);
  const most = pair(pen, received.map(across), isLog ? 1 / DECADES : 0, (at, share) => [
    left + at,
    top - 4 - share * (top - 24),
  ]);
  const entropy = pair(pen, [data, rival].filter(Boolean).map(down), 0, (at, share) => [
    left + width + 4 + share * (right - 26),
    top + at,
  ]);
  const what = rival ? " (A filled, B line)" : isCoarse ? " (mean filled, most line)" : "";
  const name =
    narrow || width < 300 ? "received" : "weight received by a key" + what + (hideFirst ? ", without the first" : "");
  const low = isLog ? "\u2264 " + short(most / DECADES) : "0";
  write(pen, name + ": " + low + " to " + short(most) + (isLog ? ", log" : ""), left, 12, { room: width + right - 60 });
  const of = narrow ? "entropy" : isPooled(data.group) ? "entropy, mean of cell" : "entropy of a query";
  const about = of + (hideFirst ? ", first left out" : "") + ": 0 to " + entropy.toFixed(2) + " nats";
  write(pen, about, left + width + right - 11, top, { turn: 1, room: height });
}
