// Cells and stretches of tokens: which tokens a cell covers, and what part of the map is in view.

import { ceil, floor, max, min, round } from "./numbers.js";

// The tokens that a cell covers, as [first, past the last].
export const cellSpan = (cell, cells, length) => [cell, cell + 1].map((edge) => floor((edge * length) / cells));

// The cell that covers a token: the inverse of cellSpan.
export const cellOf = (token, cells, length) => floor(((token + 1) * cells - 1) / length);

export const clamp = (value, low, high) => max(low, min(high, value));

export const wholeView = ({ query_len, key_len }) => ({ q0: 0, q1: query_len, k0: 0, k1: key_len });

export const isWhole = ({ q0, q1, k0, k1 }, { query_len, key_len }) => q1 - q0 >= query_len && k1 - k0 >= key_len;

const LEAST = 4; // tokens in view

// A view of so many queries and keys, whole tokens inside the map; the pair stays at its share of the view.
export function viewOf({ query_len, key_len }, query, queries, key, keys, down = 0.5, across = 0.5) {
  const stretch = (at, size, length, share) => {
    const count = round(clamp(size, min(LEAST, length), length));
    const first = round(clamp(at - share * count, 0, length - count));
    return [first, first + count];
  };
  const [q0, q1] = stretch(query, queries, query_len, down);
  const [k0, k1] = stretch(key, keys, key_len, across);
  return { q0, q1, k0, k1 };
}

// Zooms by a factor (below 1: closer) so that the pair stays where it is seen.
export function zoomed({ q0, q1, k0, k1 }, group, factor, query, key) {
  const size = (count) => (factor < 1 ? min(count - 1, count * factor) : count * factor);
  const shares = [(query + 0.5 - q0) / (q1 - q0), (key + 0.5 - k0) / (k1 - k0)];
  return viewOf(group, query + 0.5, size(q1 - q0), key + 0.5, size(k1 - k0), ...shares);
}

export function moved({ q0, q1, k0, k1 }, group, queries, keys) {
  return viewOf(group, q0 + queries, q1 - q0, k0 + keys, k1 - k0, 0, 0);
}

// The view, moved as little as is needed to hold a pair.
export function holding(view, group, query, key) {
  const by = (low, high, at) => min(0, at - low) + max(0, at - high + 1);
  return moved(view, group, by(view.q0, view.q1, query), by(view.k0, view.k1, key));
}

// Round numbers within low .. high, about count of them.
export function niceSteps(low, high, count) {
  const rough = max(1, (high - low) / count);
  const power = Math.pow(10, floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  const steps = [];
  for (let at = ceil(low / step) * step; at < high; at += step) steps.push(at);
  return steps;
}
