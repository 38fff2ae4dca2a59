// Numbers, places and heads in words.

import { page } from "./decode.js";
import { abs, ceil, floor, round } from "./numbers.js";

export const LEAST = "\u2264 " + page.floor.toFixed(5);

// Three significant digits, two where it is not exact.
export function formatWeight({ weight, forbidden, left, exact }) {
  if (forbidden) return "may not attend";
  if (left) return left === "key" ? "left out" : "nothing left";
  if (weight <= page.floor) return LEAST;
  return exact ? weight.toPrecision(3) : "\u2248 " + weight.toPrecision(2);
}

// A signed difference, A - B.
export function formatDifference(a, b) {
  if (a.forbidden || b.forbidden || a.left || b.left) return "\u2013";
  const difference = a.weight - b.weight;
  const size = abs(difference);
  const text = size <= page.floor ? "0" : (difference < 0 ? "\u2212" : "+") + size.toPrecision(3);
  return (a.exact && b.exact ? "" : "\u2248 ") + text;
}

// Three digits.
export function short(value) {
  if (value >= 100) return round(value).toLocaleString("en");
  return value >= 10 ? value.toFixed(1) : value >= 1 ? value.toFixed(2) : String(Number(value.toPrecision(2)));
}

export const grouped = (number) => number.toLocaleString("en");

// "1 token", "2 tokens"
export const counted = (number, one, many = one + "s") => grouped(number) + " " + (number === 1 ? one : many);

// "4,711", or "4,680\u20134,719" for more than one.
export const spanText = (from, to = from + 1) =>
  to - from <= 1 ? grouped(from) : grouped(from) + "\u2013" + grouped(to - 1);

// "1 cell = 128 x 128 tokens" of a grid over queries x keys.
export function cellName(grid, queries, keys) {
  const side = (length, cells) => spanText(floor(length / cells), ceil(length / cells) + 1);
  const size = side(queries, grid.rows) + " \u00d7 " + side(keys, grid.cols);
  return "1 cell = " + (size === "1 \u00d7 1" ? "1 pair" : size + " tokens");
}

// "Layer 3, head 5", with the tab where there are several.
export function headName(groupIndex, headIndex, short = false) {
  const { heads, layers, name } = page.groups[groupIndex];
  const { layer, head } = heads[headIndex];
  const text = layers[layer] + ", head " + head;
  return (!short && name && page.groups[1] ? name + ": " : "") + text.replace(/^layer/, "Layer");
}

// Why two tabs cannot be compared, or "".
export function whyNotComparable(a, b) {
  const shape = ({ query_len, key_len }) => grouped(query_len) + " \u00d7 " + grouped(key_len);
  if (shape(a) !== shape(b)) return "its map is " + shape(b) + " tokens, this one " + shape(a);
  return a.rows === b.rows && a.cols === b.cols && a.max[0] === b.max[0] ? "" : "its map has other cells";
}

export const groupName = (index) => page.groups[index].name || "heads";
