// Finding a token by its text, or a position by its number.

import { attributes, byId, on } from "./dom.js";
import { groupOf } from "./decode.js";
import { pin, pointAt, queryOf } from "./going.js";
import { button } from "./grid.js";
import { element, tokenElement } from "./tokens.js";
import { grouped } from "./values.js";

const LISTED = 50;

export function makeFind(store) {
  const input = byId("find");
  const results = byId("find-results");
  const says = element("span", "muted");
  const list = element("ol", "matches");
  const steps = [button("\u2039", () => step(-1), "Previous match"), button("\u203a", () => step(1), "Next match")];
  attributes(says, { role: "status" });
  results.replaceChildren(element("div", "bar", says, ...steps), list);

  function search() {
    const text = input.value.toLowerCase();
    const { keyTokens } = store.get();
    // "#4711" and "4,711" are positions.
    const [, sign, digits] = /^\s*(#?)\s*([\d,]+)\s*$/.exec(text) || [];
    const at = digits ? Number(digits.replaceAll(",", "")) : NaN;
    const keys = at < groupOf(store.get()).key_len ? [at] : [];
    if (text && !sign && keyTokens) {
      keyTokens.forEach((token, key) => key !== at && token.toLowerCase().includes(text) && keys.push(key));
    }
    store.set({ found: { text, keys, at: -1 } });
  }

  function step(by) {
    const { keys, at } = store.get().found;
    if (keys.length > 0) go(at < 0 && by < 0 ? keys.length - 1 : (at + by + keys.length) % keys.length);
  }

  function go(at) {
    const state = store.get();
    const key = state.found.keys[at];
    const query = queryOf(groupOf(state), key);
    store.set({ found: { ...state.found, at } });
    if (query >= 0) pin(store, query);
    pointAt(store, query >= 0 ? query : state.query, key);
  }

  function draw(state) {
    const { text, keys, at } = state.found;
    const count = keys.length;
    const first = Math.max(0, Math.min(at - LISTED / 2, count - LISTED));
    const number = count ? grouped(count) + (count > 1 ? " matches" : " match") : "no such token or position";
    const kind =
      at >= 0 && (queryOf(groupOf(state), keys[at]) < 0 ? "; this token is a key only" : "; pinned as the query");
    results.hidden = !text;
    says.textContent =
      (at >= 0 ? grouped(at + 1) + " of " : "") +
      number +
      (count > LISTED ? ", " + LISTED + " listed" : "") +
      (kind || "");
    for (const one of steps) one.disabled = count === 0;
    list.replaceChildren(
      ...keys.slice(first, first + LISTED).map((key, place) => {
        const token = state.keyTokens ? tokenElement(state.keyTokens[key], 24) : "";
        const pick = button([element("span", "muted", grouped(key)), token], () => go(first + place));
        pick.ariaCurrent = String(first + place === at);
        return element("li", "", pick);
      }),
    );
  }

  on(input, "input", search);
  on(input, "keydown", (event) => {
    if (event.key === "Enter") step(event.shiftKey ? -1 : 1);
    else if (event.key === "Escape") {
      input.value = "";
      search();
    } else return;
    event.preventDefault();
  });
  store.on(["group"], () => (input.value = ""));
  store.on(["found", "data"], draw);
}
