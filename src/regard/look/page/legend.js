// The scale of the map: always there, with its ticks and what they count.

import { barOf } from "./canvas.js";
import { scaleOf } from "./cells.js";
import { cssOf, isDark, leftColour, scaleColour, shareOf } from "./colours.js";
import { page } from "./decode.js";
import { attributes, fill, span } from "./dom.js";
import { state } from "./store.js";
import { cellName, gridOf, headName, holds, ofPairs, partsInView, reduceOf } from "./values.js";
import { isWhole } from "./viewport.js";

// [share of the bar, label] of the scale's ticks.
export function ticksNow() {
  const { scaling, rival, data } = state;
  const range = scaleOf(data);
  const isLog = scaling === "log";
  const label = (value) => String(Number(value.toPrecision(2)));
  const values = isLog ? [] : [0, range.highest / 2, range.highest];
  for (let value = range.logFloor; isLog && value < 2; value *= 10) values.push(value);
  const shares = values.map((value) => shareOf(value, scaling, range));
  if (!rival) return values.map((value, at) => [shares[at], (isLog && !at ? "\u2264 " : "") + label(value)]);
  const side = (sign, name) =>
    values.flatMap((value, at) => (shares[at] > 0.6 ? [[0.5 + (sign * shares[at]) / 2, name + label(value)]] : []));
  return [...side(-1, "\u2212").reverse(), [0.5, "0"], ...side(1, "+")];
}

// What the colours count, in words.
export function scaleTitle() {
  const { rival, data, scaling, hideFirst } = state;
  const largest =
    reduceOf(data) === "max" ? "largest in a cell" : "summed over a cell\u2019s keys, mean of its queries";
  return (
    (rival ? "A \u2212 B, difference of " : "") +
    "attention weight" +
    (ofPairs(gridInView()) ? "" : ", " + largest) +
    ` (${scaling} scale${hideFirst ? "; first key left out, renormalised" : ""})`
  );
}

// The grid of the cells that are drawn, where they are all of one.
function gridInView() {
  const { view, data } = state;
  const part = partsInView(data).findLast(
    (one) => holds(one, view.q0, view.k0) && holds(one, view.q1 - 1, view.k1 - 1),
  );
  return gridOf(data, part);
}

// What a cell is and how well its number is known; finer: what to say where finer parts are drawn over the cells.
export function cellsInView(finer) {
  const { data, rival, view } = state;
  const grid = gridInView();
  const own = grid === gridOf(data);
  const what = rival
    ? ", A and B each within 2.3 %"
    : ofPairs(grid)
      ? ", within 2.3 %"
      : ", pooled values within 2.3 %";
  const isPast = own && !page.live && !ofPairs(grid) && !isWhole(view, data.group);
  return (
    cellName(grid, grid.queries, grid.keys) +
    (grid.depth === 8 ? what : "") +
    (own && partsInView(data).length ? finer : "") +
    (isPast ? `; kept to ${grid.rows} \u00d7 ${grid.cols} here; open with --serve for single entries` : "")
  );
}

// The heads that are shown, by name.
export function headsNow() {
  const { group, head, other } = state;
  const name = headName(group, head);
  return other ? ["A " + name, "B " + headName(other.group, other.head)] : [name];
}

export const swatch = (name, label) => span("muted", span("square " + name), label);

export function drawLegend() {
  const { data, rival, hideFirst } = state;
  const { masked } = data.group;
  const ticks = ticksNow();
  const marks = ticks.map(([share, label]) => {
    const mark = span("tick", label);
    mark.style.left = 100 * share + "%";
    return mark;
  });
  const scale = span("scale", barOf(scaleColour(rival)), ...marks);
  attributes(scale, { role: "img", "aria-label": "colour scale from " + ticks[0][1] + " to " + ticks.at(-1)[1] });
  const left = swatch("", "left out, or nothing left");
  left.firstChild.style.background = cssOf(leftColour(isDark()));
  fill(
    "legend",
    span("legend-name", scaleTitle()),
    scale,
    masked ? swatch("hatched", "may not attend") : "",
    hideFirst ? left : "",
    ...(rival ? headsNow().map((name, at) => swatch(at ? "minus" : "plus", name)) : []),
    span("muted", cellsInView("; finer inside the dashed lines")),
  );
}
