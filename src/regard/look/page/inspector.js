// The row inspector: what the pinned query reads, exactly where that is kept, and which keys are read most of all.

import { attributes, byId, on } from "./dom.js";
import { groupOf } from "./decode.js";
import { keyOf, pin, pointAt } from "./going.js";
import { button } from "./grid.js";
import { element, tokenElement, visible } from "./tokens.js";
import { entropyOf, formatWeight, grouped, headName, spanText, strongest } from "./values.js";

const SHOWN = 8;
const EXCERPT = 6; // tokens told of a cell's keys, and on either side of the query
const NO_KEY = 5e-5; // weight below this would read as 0.0000
const LOOSE = 2e-4; // what is left of 1 after rounded codes is no better known than this,
const COARSE = 0.025; // and than this where the codes are the coarse ones

export function makeInspector(store) {
  const drawControls = makeControls(store);
  const context = element("p", "context");
  context.dir = "auto";
  const pair = element("div", "pair");
  const ours = partsOf(byId("top"), byId("rest"), byId("most-read"));
  const theirs = partsOf(element("ol"), element("p"), element("div"));
  byId("top-name").after(context, pair);

  function partsOf(list, rest, most) {
    const parts = [element("h3"), list, rest, element("p", "muted how"), most];
    list.classList.add("top");
    pair.append(element("div", "one", ...parts));
    return parts;
  }

  function draw() {
    const state = store.get();
    const { data, other, otherData, query, queryTokens: tokens } = state;
    if (!data) return;
    drawControls(state);
    byId("top-name").replaceChildren(
      "What query " + grouped(query) + " ",
      tokens ? tokenElement(tokens[query], 30) : "",
      " reads",
    );
    context.replaceChildren(...(tokens ? around(tokens, query) : []));
    pair.classList.toggle("comparing", Boolean(otherData));
    column(state, data, ours, headName(state.group, state.head));
    if (otherData && other) column(state, otherData, theirs, headName(other.group, other.head));
  }

  function column(state, data, [name, list, rest, how, most], title) {
    const found = strongest(state, data, state.query, SHOWN);
    name.textContent = title;
    list.replaceChildren(...found.items.map((item) => itemOf(state, data, found, item)));
    rest.replaceChildren(...restOf(state, data, found));
    how.replaceChildren(...howOf(data, state.query, found));
    most.replaceChildren(...mostRead(state, data));
  }

  // A line of a list; it shows its key in the map.
  function lineOf({ keyTokens }, [from, to], weight, behind, ...more) {
    const go = () => pointAt(store, store.get().query, (from + to - 1) >> 1);
    const token = keyTokens ? tokenElement(keyTokens.slice(from, Math.min(to, from + EXCERPT)).join(""), 40) : "";
    const place = element("span", "place", (to - from > 1 ? "keys " : "key ") + spanText(from, to));
    return element(
      "li",
      "",
      button(
        [behind, element("b", "", weight), place, token, element("span", "distance muted", ...more)],
        go,
        "Show in the map",
      ),
    );
  }

  function itemOf(state, data, found, { keys, weight }) {
    const bar = element("span", "weight-bar");
    const own = keyOf(data.group, state.query);
    const single = found.exact && keys[1] - keys[0] === 1;
    bar.style.width = Math.min(100, (100 * weight) / found.items[0].weight).toFixed(1) + "%";
    return lineOf(
      state,
      keys,
      formatWeight({ ...found, weight, left: "" }),
      bar,
      own === null ? "" : distance(((keys[0] + keys[1] - 1) >> 1) - own, single),
    );
  }

  function mostRead(state, data) {
    const queries = data.group.query_len;
    const lines = Array.from(data.mostRead.keys, (key, at) => {
      const weight = data.mostRead.weights[at];
      const received = "receives " + weight.toLocaleString("en", { maximumSignificantDigits: 4 });
      return lineOf(state, [key, key + 1], ((100 * weight) / queries).toPrecision(3) + " %", "", received);
    });
    const note =
      "share of the weight of all " +
      grouped(queries) +
      " queries; exact" +
      (state.hideFirst ? "; with the first key" : "");
    return [element("h3", "", "Most read keys"), element("p", "muted", note), element("ol", "top", ...lines)];
  }

  // "mean over queries 4,680-4,719", and the way to the nearest exact query.
  function howOf({ queries }, query, { how, queries: [from, to] }) {
    const told = how.replace("pooled mean", "Mean over queries " + spanText(from, to));
    if (to - from <= 1 || queries.length === 0) return [told];
    const near = queries.reduce((best, one) => (Math.abs(one - query) < Math.abs(best - query) ? one : best));
    return [told + ". ", button("Nearest exact query: " + grouped(near), () => pin(store, near))];
  }

  store.on(["data", "otherData", "query", "hideFirst", "tick"], draw);
}

function around(tokens, query) {
  const words = (from, to) => visible(tokens.slice(Math.max(0, from), to).join(""), 120);
  const before = (query > EXCERPT ? "\u2026" : "") + words(query - EXCERPT, query);
  return [before, element("mark", "", words(query, query + 1)), words(query + 1, query + 1 + EXCERPT) + "\u2026"];
}

function restOf(state, data, found) {
  const { exact, total, rest, left, items } = found;
  if (left === "query") return ["Nothing is left: this query gives all its weight to the first key."];
  if (exact && total === 0) return ["This query may read no key."];
  const told = (weight, sure) => element("b", "", formatWeight({ ...found, weight, exact: sure, left: "" }));
  const others = readable(state, data) - items.reduce((sum, { keys }) => sum + keys[1] - keys[0], 0);
  const nodes = [];
  if (others > 0) {
    const loose = found.restExact ? 0 : exact ? LOOSE : COARSE;
    nodes.push(
      others === 1 ? "The other key: " : "The other " + grouped(others) + " keys together: ",
      rest < loose ? element("b", "", "\u2264 " + loose) : told(rest, exact && rest > 100 * loose),
      "; ",
    );
  }
  // Only an exact total tells: rounded codes do not add up to 1.
  const none = 1 - total;
  if (exact && none > NO_KEY && !state.hideFirst) nodes.push(told(none, true), " on no key (the sink); ");
  const entropy = entropyOf(data, state.query);
  const value = Number.isFinite(found.entropy) ? found.entropy : entropy.value;
  const keys = Math.exp(value);
  const asIf = keys < 10 ? keys.toFixed(1) : grouped(Math.round(keys));
  const mean = exact || entropy.exact ? "entropy " : "mean entropy ";
  return [
    ...nodes,
    element("span", "muted", mean + value.toFixed(2) + " nats, as if " + asIf + (asIf === "1.0" ? " key" : " keys")),
  ];
}

// How many keys there are to read: without those that the map says are forbidden, where it has a cell a pair.
function readable(state, data) {
  const { group, mean } = data;
  const first = state.hideFirst ? 1 : 0;
  if (group.rows !== group.query_len || group.cols !== group.key_len) return group.key_len - first;
  const row = mean.codes.subarray(state.query * group.cols, (state.query + 1) * group.cols);
  return row.reduce((sum, code, key) => sum + (code !== 0 && key >= first), 0);
}

function distance(by, exact) {
  if (exact && by === 0) return "itself";
  return (exact ? "" : "\u2248 ") + (by < 0 ? "\u2212" : by > 0 ? "+" : "") + grouped(Math.abs(by));
}

// The query's number, and steps to its neighbours and to the next that is kept exactly.
function makeControls(store) {
  const input = Object.assign(element("input", "number"), { type: "number", id: "query", min: "0" });
  const range = element("span", "muted");
  const step = (id, label, about, next) => {
    const made = button(
      label,
      () => {
        const { data, query } = store.get();
        const to = next(data.queries, query);
        if (to !== undefined) pin(store, to);
      },
      about,
    );
    made.id = id;
    attributes(made, { "aria-label": about });
    return made;
  };
  const exact = [
    step("exact-previous", "\u2039 exact", "Previous exact query", (all, query) => all.findLast((one) => one < query)),
    step("exact-next", "exact \u203a", "Next exact query", (all, query) => all.find((one) => one > query)),
  ];
  byId("inspector").replaceChildren(
    element("label", "", "query ", input),
    range,
    step("query-previous", "\u2039", "Previous query", (_, query) => query - 1),
    step("query-next", "\u203a", "Next query", (_, query) => query + 1),
    ...exact,
  );
  on(input, "change", () => {
    if (input.value !== "") pin(store, Number(input.value));
    input.value = store.get().query;
  });

  return (state) => {
    const last = groupOf(state).query_len - 1;
    input.max = last;
    input.value = state.query;
    range.textContent = "of 0\u2013" + grouped(last);
    for (const one of exact) one.hidden = state.data.queries.length > last;
  };
}
