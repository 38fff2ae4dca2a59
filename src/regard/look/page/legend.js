// The scale of the map: always there, with its ticks and what they count.

import { scaleOf } from "./cells.js";
import { cssOf, isDark, leftColour, rampColour, shareOf, signedColour, signedShare } from "./colours.js";
import { isPooled } from "./decode.js";
import { attributes } from "./dom.js";
import { fillBar } from "./overview.js";
import { element } from "./tokens.js";
import { cellName, gridOf, headName, partsInView, reduceOf } from "./values.js";

// [share of the bar, label] of the scale's ticks.
export function ticksOf({ scale, otherData }, range) {
  const isLog = scale === "log";
  const label = (value) => String(Number(value.toPrecision(2)));
  const values = isLog ? [] : [0, range.highest / 2, range.highest];
  for (let value = range.logFloor; isLog && value < 2; value *= 10) values.push(value);
  if (!otherData) {
    return values.map((value, at) => [shareOf(value, scale, range), (isLog && !at ? "\u2264 " : "") + label(value)]);
  }
  const far = values.filter((value) => signedShare(value, scale, range) > 0.3);
  const side = (sign, name) =>
    far.map((value) => [0.5 + (sign * signedShare(value, scale, range)) / 2, name + label(value)]);
  return [...side(-1, "\u2212").reverse(), [0.5, "0"], ...side(1, "+")];
}

// What the colours count, in words.
export function scaleTitle(state, data) {
  const what = (state.otherData ? "A \u2212 B, difference of " : "") + "attention weight";
  const isMax = reduceOf(state, data) === "max";
  const of = !isPooled(data.group)
    ? ""
    : isMax
      ? ", largest in a cell"
      : ", summed over a cell's keys, mean of its queries";
  return (
    what + of + " (" + state.scale + " scale" + (state.hideFirst ? "; first key left out, renormalised" : "") + ")"
  );
}

export function drawLegend(holder, state, data) {
  const { otherData, other, group, head, hideFirst } = state;
  const { query_len, key_len, masked, depth } = data.group;
  const bar = element("canvas", "ramp");
  fillBar(bar, otherData ? (share, dark) => signedColour(2 * share - 1, dark) : rampColour);
  const ticks = ticksOf(state, scaleOf(state, data));
  const marks = ticks.map(([share, label]) => {
    const mark = element("span", "tick", label);
    mark.style.left = 100 * share + "%";
    return mark;
  });
  const scale = element("span", "scale", bar, ...marks);
  attributes(scale, { role: "img", "aria-label": "colour scale from " + ticks[0][1] + " to " + ticks.at(-1)[1] });
  const swatch = (name, label) => element("span", "swatch", element("span", "square " + name), label);
  const items = [element("span", "legend-name", scaleTitle(state, data)), scale];
  if (masked) items.push(swatch("hatched", "may not attend"));
  if (hideFirst) {
    items.push(swatch("", "left out, or nothing left"));
    items.at(-1).firstChild.style.background = cssOf(leftColour(isDark()));
  }
  if (otherData) {
    items.push(swatch("plus", "A " + headName(group, head)), swatch("minus", "B " + headName(other.group, other.head)));
  }
  const finer = partsInView(state, data).length ? "; finer inside the dashed lines" : "";
  const rounded = depth === 8 && !isPooled(data.group) ? ", within 2.3 %" : "";
  items.push(element("span", "muted", cellName(gridOf(state, data), query_len, key_len) + rounded + finer));
  holder.replaceChildren(...items);
}
