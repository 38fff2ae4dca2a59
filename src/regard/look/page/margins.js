// The margins of the map: what each key receives, above it, and each query's entropy, at its right.

import { write } from "./axes.js";
import { cssColour, shareOf } from "./colours.js";
import { isPooled } from "./decode.js";
import { cellOf } from "./viewport.js";

const DECADES = 1000; // the log scale of what keys receive ends so far below its most

// One value a pixel: that of the cell below it, or the highest of the cells below it.
export function alongPixels(values, length, low, high, pixels) {
  return Float64Array.from({ length: pixels }, (_, at) => {
    const edge = (place) => low + Math.floor((place * (high - low)) / pixels);
    const to = Math.min(length, Math.max(edge(at) + 1, edge(at + 1)));
    let cell = cellOf(edge(at), values.length, length);
    let most = values[cell];
    for (const last = cellOf(to - 1, values.length, length); cell <= last; cell++) most = Math.max(most, values[cell]);
    return most;
  });
}

export function short(value) {
  if (value >= 100) return Math.round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(1) : value >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(2)));
}

// A profile of steps, filled from its base line or as a line; place turns (along, share) into a point.
function profile(pen, values, range, colour, place, filled) {
  if (!(range.highest > 0)) return;
  pen.fillStyle = pen.strokeStyle = cssColour(colour);
  pen.lineWidth = 1;
  pen.beginPath();
  if (filled) pen.moveTo(...place(0, 0));
  values.forEach((value, at) => {
    const share = shareOf(range.logFloor ? value / range.highest : value, range.logFloor ? "log" : "linear", range);
    pen.lineTo(...place(at, share));
    pen.lineTo(...place(at + 1, share));
  });
  if (filled) pen.lineTo(...place(values.length, 0));
  if (filled) pen.fill();
  else pen.stroke();
}

// Two profiles on one scale: the first filled, the second a line. Gives the scale.
function pair(pen, values, others, isLog, colours, place) {
  const highest = [...values, ...(others || [])].reduce((most, value) => Math.max(most, value), 0);
  const range = { highest, logFloor: isLog ? 1 / DECADES : 0 };
  profile(pen, values, range, colours[0], place, true);
  if (others) profile(pen, others, range, colours[1], place, false);
  return highest;
}

export function drawMargins(pen, { left, top, width, height, marginTop, marginRight, narrow }, state, data) {
  const { otherData, hideFirst, scale, view } = state;
  const { key_len, query_len } = data.group;
  // Without the first key nothing of its cell is drawn; what the others receive is not renormalised.
  const across = (values) =>
    alongPixels(
      hideFirst ? values.map((value, at) => (at ? value : 0)) : values,
      key_len,
      view.k0,
      view.k1,
      Math.round(width),
    );
  const down = ({ entropy }) => alongPixels(entropy, query_len, view.q0, view.q1, Math.round(height));
  const isCoarse = data.peak.length < key_len;
  const isLog = scale === "log";
  const second = otherData ? otherData.received : isCoarse ? data.peak : null;
  const colours = otherData ? ["--plus", "--minus"] : ["--profile", "--profile-edge"];
  const most = pair(pen, across(data.received), second && across(second), isLog, colours, (at, share) => [
    left + at,
    top - 4 - share * (marginTop - 22),
  ]);
  const entropy = pair(pen, down(data), otherData && down(otherData), false, colours, (at, share) => [
    left + width + 4 + share * (marginRight - 24),
    top + at,
  ]);
  const what =
    (otherData ? " (A filled, B line)" : isCoarse ? " (mean filled, most line)" : "") +
    (hideFirst ? ", without the first" : "");
  const name = narrow || width < 300 ? "received: " : "weight received by a key" + what + ": ";
  const low = isLog ? "\u2264 " + short(most / DECADES) : "0";
  const says = name + low + " to " + short(most) + (isLog ? ", log" : "");
  write(pen, says, left, top - marginTop + 11, { room: width + marginRight - 60 });
  const of = narrow ? "entropy" : isPooled(data.group) ? "entropy, mean of cell" : "entropy of a query";
  const about = of + ": 0 to " + entropy.toFixed(2) + " nats";
  write(pen, about, left + width + marginRight - 9, top, { turn: 1, room: height });
}
