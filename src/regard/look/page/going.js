// Going somewhere: pinning a query, pointing at a pair.

import { groupOf } from "./decode.js";
import { clamp, holding } from "./viewport.js";

// Pins a query; the map moves no more than it must to show it.
export function pin(store, query) {
  const state = store.get();
  const group = groupOf(state);
  const at = clamp(Math.round(query), 0, group.query_len - 1);
  store.set({ query: at, view: holding(state.view, group, at, (state.view.k0 + state.view.k1) >> 1) });
}

// Moves the map's cursor to a pair.
export function pointAt(store, query, key) {
  const state = store.get();
  store.set({ pointed: { query, key }, view: holding(state.view, groupOf(state), query, key) });
}

// The query that a token of the keys is, or -1: a key only.
export function queryOf(group, key) {
  if (group.shift === null) return -1;
  const query = key - group.shift;
  return query >= 0 && query < group.query_len ? query : -1;
}

// The key that a query is, or null where they are other tokens.
export function keyOf(group, query) {
  return group.shift === null ? null : query + group.shift;
}
