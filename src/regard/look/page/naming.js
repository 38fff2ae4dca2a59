// Numbers, places and heads in words.

import { page } from "./decode.js";

const digitsOf = (weight) => (weight >= 0.1 ? 3 : weight >= 0.01 ? 4 : 5);

export function formatWeight({ weight, forbidden, left, exact }) {
  if (forbidden) return "may not attend";
  if (left) return left === "key" ? "left out" : "nothing left";
  if (weight <= page.floor) return "\u2264 " + page.floor.toFixed(5);
  const digits = digitsOf(weight);
  return exact ? weight.toFixed(digits) : "\u2248 " + weight.toFixed(digits - (weight >= 0.01 ? 1 : 0));
}

// A signed difference, A - B.
export function formatDifference(a, b) {
  if (a.forbidden || b.forbidden || a.left || b.left) return "\u2013";
  const difference = a.weight - b.weight;
  const text = Math.abs(difference).toFixed(digitsOf(Math.abs(difference)));
  return (a.exact && b.exact ? "" : "\u2248 ") + (Number(text) === 0 ? "" : difference < 0 ? "\u2212" : "+") + text;
}

export const grouped = (number) => number.toLocaleString("en");

// "4,711", or "4,680\u20134,719" for more than one.
export const spanText = (from, to = from + 1) =>
  to - from <= 1 ? grouped(from) : grouped(from) + "\u2013" + grouped(to - 1);

// "1 cell = 128 x 128 tokens" of a grid over queries x keys.
export function cellName(grid, queries, keys) {
  const side = (length, cells) => spanText(Math.floor(length / cells), Math.ceil(length / cells) + 1);
  const size = side(queries, grid.rows) + " \u00d7 " + side(keys, grid.cols);
  return "1 cell = " + (size === "1 \u00d7 1" ? "1 pair" : size + " tokens");
}

// "Layer 3, head 5", with the tab where there are several.
export function headName(groupIndex, headIndex, short = false) {
  const { heads, layers, name } = page.groups[groupIndex];
  const { layer, head } = heads[headIndex];
  const text = layers[layer] + ", head " + head;
  return (!short && name && page.groups[1] ? name + ": " : "") + text.charAt(0).toUpperCase() + text.slice(1);
}

// Why two tabs cannot be compared, or "".
export function whyNotComparable(a, b) {
  const shape = ({ query_len, key_len }) => grouped(query_len) + " \u00d7 " + grouped(key_len);
  if (shape(a) !== shape(b)) return "its map is " + shape(b) + " tokens, this one " + shape(a);
  return a.rows === b.rows && a.cols === b.cols && a.max[0] === b.max[0] ? "" : "its map has other cells";
}

export const groupName = (index) => page.groups[index].name || "heads";
