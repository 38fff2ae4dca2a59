// The row inspector: what the pinned query reads, exactly where that is kept, and which keys are read most of all.

import { groupNow, isPooled, page } from "./decode.js";
import { attributes, button, byId, element, fill, on, span } from "./dom.js";
import { keyOf, pin, pointAt } from "./going.js";
import { abs, exp, min, round } from "./numbers.js";
import { state, whenThere } from "./store.js";
import { excerpt } from "./tokens.js";
import { counted, formatWeight, grouped, headName, isOne, spanText, strongest } from "./values.js";

const SHOWN = 8;
const EXCERPT = 6; // tokens told of a cell's keys
const NO_KEY = 5e-5; // weight below this would read as 0.0000

export function makeInspector() {
  const input = byId("query");
  // One column a head: its name, the strongest keys, what is left, how exact that is, the most read keys.
  const columns = [["top", "rest", "most-read"], []].map((ids) => {
    const parts = ["ol", "p", "div"].map((name, at) => {
      const part = element(name, at ? "" : "top");
      if (ids[at]) part.id = ids[at];
      if (!at) part.role = "list";
      return part;
    });
    const [list, rest, most] = parts;
    const [name, how] = [element("h3", ""), element("p", "muted how")];
    byId("rows").append(element("div", "one", name, list, rest, how, most));
    return [name, list, rest, how, most];
  });

  function draw() {
    const { data, group, head, other, rival, query, queryTokens } = state;
    input.max = groupNow().query_len - 1;
    input.value = query;
    fill("top-name", "What query " + grouped(query) + " ", excerpt(queryTokens, [query, query + 1], 1, 30), " reads");
    byId("rows").classList.toggle("comparing", Boolean(rival));
    column(data, columns[0], headName(group, head));
    if (rival && other) column(rival, columns[1], headName(other.group, other.head));
  }

  function column(data, [name, list, rest, how, most], title) {
    const found = strongest(data, state.query, SHOWN);
    fill(name, title);
    list.ariaLabel = byId("top-name").textContent + ", " + title;
    fill(list, ...found.items.map((item) => itemOf(found, item)));
    fill(rest, ...restOf(data, found));
    fill(how, ...(found.left ? [] : howOf(data.queries, found)));
    fill(most, ...mostRead(data.mostRead));
  }

  on(input, "change", () => {
    if (input.value !== "") pin(Number(input.value));
    input.value = state.query;
  });
  whenThere((now) => [now.data, now.rival, now.query, now.hideFirst, now.tick], draw);
}

// A line of a list; it shows its key in the map.
function lineOf([from, to], weight, behind, more) {
  const place = span("place", (to - from > 1 ? "keys " : "key ") + spanText(from, to));
  const token = excerpt(state.keyTokens, [from, to], EXCERPT, 40);
  const line = [behind, element("b", "", weight), place, token, span("distance muted", more)];
  const go = () => pointAt(state.query, (from + to - 1) >> 1);
  return element("li", "", button(line, go, "Show in the map"));
}

function itemOf(found, { keys, weight }) {
  const bar = span("weight-bar");
  const own = keyOf(state.query);
  bar.style.width = min(100, (100 * weight) / found.items[0].weight) + "%";
  const away = own === null ? "" : distance(((keys[0] + keys[1] - 1) >> 1) - own, found.exact && isOne(keys));
  return lineOf(keys, formatWeight({ ...found, weight, left: "" }), bar, away);
}

function distance(by, exact) {
  if (exact && by === 0) return "itself";
  return (exact ? "" : "\u2248 ") + (by < 0 ? "\u2212" : by > 0 ? "+" : "") + grouped(abs(by));
}

function mostRead({ keys, weights }) {
  const { query_len } = groupNow();
  const lines = Array.from(keys).flatMap((key, at) => {
    if (weights[at] <= page.floor || (state.hideFirst && !key)) return [];
    const received = weights[at].toLocaleString("en", { maximumSignificantDigits: 4 });
    return lineOf([key, key + 1], ((100 * weights[at]) / query_len).toPrecision(3) + " %", "", received);
  });
  const note = `mean weight over ${query_len > 1 ? "all " : ""}${counted(query_len, "query", "queries")}, and the sum; exact`;
  const name = "Most read keys";
  const list = element("ol", "top", ...lines);
  attributes(list, { role: "list", "aria-label": name });
  return [
    element("h3", "", name),
    element("p", "muted", note + (state.hideFirst ? "; as it is, not renormalised" : "")),
    list,
  ];
}

// "mean over queries 4,680-4,719", and the way to the nearest exact query.
function howOf(exactQueries, { how, queries }) {
  const told = how.replace("pooled mean", "Mean over queries " + spanText(...queries));
  if (isOne(queries) || exactQueries.length === 0) return [told];
  const away = (one) => abs(one - state.query);
  const near = exactQueries.reduce((best, one) => (away(one) < away(best) ? one : best));
  return [told + ". ", button("Nearest exact query: " + grouped(near), () => pin(near))];
}

function restOf(data, found) {
  const { exact, total, rest, left, items, loose } = found;
  if (left) return ["Nothing is left: this query gives all its weight to the first key."];
  if (exact && total === 0) return ["This query may read no key."];
  const bold = (weight, sure) => element("b", "", formatWeight({ ...found, weight, exact: sure, left: "" }));
  const others = readable(data) - items.reduce((sum, { keys }) => sum + keys[1] - keys[0], 0);
  const nodes = [];
  if (others > 0) {
    nodes.push(
      isPooled(data.group)
        ? "All others together: "
        : others === 1
          ? "The other key: "
          : `The other ${grouped(others)} keys together: `,
      rest < 5 * loose ? element("b", "", "\u2264 " + (1.03 * rest + loose).toPrecision(2)) : bold(rest, exact),
      "; ",
    );
  }
  // Only an exact total tells: rounded codes do not add up to 1.
  const none = 1 - total;
  if (exact && none > NO_KEY && !state.hideFirst) nodes.push(bold(none, none > 0.01), " on no key (the sink); ");
  const value = found.entropy;
  const keys = exp(value);
  const asIf = keys < 10 ? keys.toFixed(1) : grouped(round(keys));
  const mean = exact || isOne(found.queries) ? "" : "mean ";
  const says = `${mean}entropy ${value.toFixed(2)} nats, as if ${asIf} ${asIf === "1.0" ? "key" : "keys"}`;
  return [...nodes, span("muted", says)];
}

// How many keys there are to read: without those that the map says are forbidden, where it has a cell a pair.
function readable({ group, mean }) {
  const first = state.hideFirst ? 1 : 0;
  if (isPooled(group)) return Infinity;
  const row = mean.codes.subarray(state.query * group.cols, (state.query + 1) * group.cols);
  return row.reduce((sum, code, key) => sum + (code !== 0 && key >= first), 0);
}
