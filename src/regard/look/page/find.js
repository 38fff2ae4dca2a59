// Finding a token by its text, or a position by its number.

import { byId, fill, on } from "./dom.js";
import { groupNow } from "./decode.js";
import { pin, pointAt, queryOf } from "./going.js";
import { set, state, when } from "./store.js";
import { counted, grouped } from "./values.js";

// The tokens in which a match begins; it may go on in the next ones.
function matchesOf(text) {
  const tokens = state.keyTokens.map((token) => token.toLowerCase());
  const joined = tokens.join("");
  const keys = [];
  let [start, next] = [0, -1];
  tokens.forEach(({ length }, key) => {
    if (next < start) next = joined.indexOf(text, start);
    if (next < 0) next = Infinity;
    if (next < start + length) keys.push(key);
    start += length;
  });
  return keys;
}

export function makeFind() {
  const input = byId("find");

  function search() {
    const text = input.value.toLowerCase();
    // "#4711" and "4,711" are positions.
    const [, sign, digits] = /^\s*(#?)\s*([\d,]+)\s*$/.exec(text) || [];
    const at = digits ? Number(digits.replaceAll(",", "")) : NaN;
    const keys = at < groupNow().key_len ? [at] : [];
    if (text && !sign && state.keyTokens) keys.push(...matchesOf(text).filter((key) => key !== at));
    set({ found: { text, keys, at: -1 } });
  }

  // The next match, or the last: it is pinned where it is a query too.
  function step(by) {
    const { keys, at } = state.found;
    const next = at < 0 && by < 0 ? keys.length - 1 : (at + by + keys.length) % keys.length;
    const key = keys[next];
    const query = queryOf(key);
    set({ found: { ...state.found, at: next } });
    if (query >= 0) pin(query);
    pointAt(query >= 0 ? query : state.query, key);
  }

  function draw() {
    const { text, keys, at } = state.found;
    const count = keys.length;
    const number = count ? counted(count, "match", "matches") : "no such token or position";
    const more = at < 0 ? (count ? ": Enter shows the next" : "") : queryOf(keys[at]) < 0 ? "; a key only" : "; pinned";
    fill("find-results", text && (at < 0 ? "" : grouped(at + 1) + " of ") + number + more);
  }

  on(input, "input", search);
  on(input, "keydown", ({ key, shiftKey }) => {
    if (key === "Enter" && state.found.keys.length) step(shiftKey ? -1 : 1);
  });
  when(
    (now) => [now.group],
    () => (input.value = ""),
  );
  when((now) => [now.found, now.data], draw);
}
