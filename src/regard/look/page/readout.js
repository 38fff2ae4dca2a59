// What stands below the pointer or the cursor, in words.

import { element, fill, span } from "./dom.js";
import { state } from "./store.js";
import { excerpt } from "./tokens.js";
import { drawn, entropyOf, entry, formatDifference, formatWeight, isOne, receivedOf, spanText } from "./values.js";

const EXCERPT = 8; // tokens of a cell that are spelled out

// "query 4,680\u20134,719 <token>"
const placeOf = (name, range, tokens) => [name + " " + spanText(...range) + " ", excerpt(tokens, range, EXCERPT, 24)];

const mean = (range, what) => (isOne(range) ? "" : " (mean over " + what + " " + spanText(...range) + ")");

// What the pair's key receives and how spread its query's weights are.
function margins(data, query, key) {
  const [received, entropy] = [receivedOf(data, key), entropyOf(data, query)];
  const most = isOne(received.span) ? "" : ", the most " + received.most;
  return [
    "the key receives " + received.text + mean(received.span, "keys") + most,
    "the query\u2019s entropy is " + entropy.value.toFixed(2) + " nats" + mean(entropy.span, "queries"),
  ];
}

export function say() {
  const { data, rival, pointed, hideFirst, queryTokens, keyTokens } = state;
  const muted = (...parts) => span("muted", " " + parts.filter(Boolean).join(" \u00b7 "));
  if (!pointed) {
    const { value, span: range } = entropyOf(data, state.query);
    const left = hideFirst && "the first key is left out, weights are renormalised";
    const entropy = "entropy " + value.toFixed(2) + " nats";
    return fill("readout", "pinned: ", ...placeOf("query", range, queryTokens), muted(entropy, left));
  }
  const { query, key } = pointed;
  const shown = drawn(data, query, key);
  const exact = entry(data, query, key);
  const other = rival && drawn(rival, query, key);
  const kind = shown.how
    .replace("pooled mean", "summed over the keys, mean of the queries")
    .replace("pooled max", "the largest of the cell");
  const isFiner = !other && exact.exact && !(isOne(shown.queries) && isOne(shown.keys));
  const pair = "of these, query " + spanText(query) + " \u2192 key " + spanText(key) + ": ";
  fill(
    "readout",
    element("b", "", other ? formatDifference(shown, other) : formatWeight(shown)),
    (other ? " = A " + formatWeight(shown) + " \u2212 B " + formatWeight(other) : "") + "  ",
    ...placeOf("query", shown.queries, queryTokens),
    " \u2192 ",
    ...placeOf("key", shown.keys, keyTokens),
    muted(
      !shown.forbidden && kind,
      isFiner && pair + formatWeight(exact) + " (" + exact.how + ")",
      ...margins(data, query, key),
    ),
  );
}
