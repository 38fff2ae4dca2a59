// Going somewhere: pinning a query, pointing at a pair.

import { groupNow } from "./decode.js";
import { max, round } from "./numbers.js";
import { set, state } from "./store.js";
import { clamp, holding } from "./viewport.js";

// Pins a query; the map moves no more than it must to show it.
export function pin(query) {
  const { view } = state;
  const at = clamp(round(query), 0, groupNow().query_len - 1);
  set({ query: at, pointed: null, view: holding(view, groupNow(), at, (view.k0 + view.k1) >> 1) });
}

// Moves the map's cursor to a pair.
export function pointAt(query, key) {
  set({ pointed: { query, key }, view: holding(state.view, groupNow(), query, key) });
}

// The query that a token of the keys is, or -1: a key only.
export function queryOf(key) {
  const { shift, query_len } = groupNow();
  const query = shift === null ? -1 : key - shift;
  return query < query_len ? max(-1, query) : -1;
}

// The key that a query is, or null where they are other tokens.
export const keyOf = (query) => (groupNow().shift === null ? null : query + groupNow().shift);
