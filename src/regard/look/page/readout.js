// What stands below the pointer or the cursor, in words.

import { element, tokenElement } from "./tokens.js";
import { drawn, entropyOf, entry, formatDifference, formatWeight, isOne, receivedOf, spanText } from "./values.js";

const EXCERPT = 8; // tokens of a cell that are spelled out

// "query 4,680\u20134,719 <token>"
function placeOf(name, [from, to], tokens) {
  const excerpt = tokens && tokens.slice(from, Math.min(to, from + EXCERPT)).join("");
  return [name + " " + spanText(from, to), ...(tokens ? [" ", tokenElement(excerpt, 24)] : [])];
}

// What the pair's key receives and how spread its query's weights are.
function margins(data, query, key) {
  const [received, entropy] = [receivedOf(data, key), entropyOf(data, query)];
  const mean = ({ span }, what) => (isOne(span) ? "" : " (mean over " + what + " " + spanText(...span) + ")");
  const most = isOne(received.span) ? "" : ", the most " + received.peak;
  return [
    "the key receives " + received.text + mean(received, "keys") + most,
    "the query\u2019s entropy is " + entropy.value.toFixed(2) + " nats" + mean(entropy, "queries"),
  ];
}

export function say(holder, state) {
  const { data, otherData, pointed, hideFirst, queryTokens, keyTokens } = state;
  const muted = (parts) => element("span", "muted details", " " + parts.filter(Boolean).join(" \u00b7 "));
  if (!pointed) {
    const { value, span } = entropyOf(data, state.query);
    const left = hideFirst && "the first key is left out, weights are renormalised";
    holder.replaceChildren(
      "pinned: ",
      ...placeOf("query", span, queryTokens),
      muted(["entropy " + value.toFixed(2) + " nats", left]),
    );
    return;
  }
  const { query, key } = pointed;
  const shown = drawn(state, data, query, key);
  const exact = entry(state, data, query, key);
  const other = otherData && drawn(state, otherData, query, key);
  const difference = other && [" = A " + formatWeight(shown) + " \u2212 B " + formatWeight(other)];
  const kind = shown.how
    .replace("pooled mean", "summed over the keys, mean of the queries")
    .replace("pooled max", "the largest of the cell");
  const isFiner = !other && !(isOne(shown.queries) && isOne(shown.keys)) && isOne(exact.queries) && isOne(exact.keys);
  const pair = "of these, query " + spanText(query) + " \u2192 key " + spanText(key) + ": ";
  holder.replaceChildren(
    element("b", "", other ? formatDifference(shown, other) : formatWeight(shown)),
    ...(difference || []),
    "  ",
    ...placeOf("query", shown.queries, queryTokens),
    " \u2192 ",
    ...placeOf("key", shown.keys, keyTokens),
    muted([
      !shown.forbidden && kind,
      isFiner && pair + formatWeight(exact) + " (" + exact.how + ")",
      ...margins(data, query, key),
    ]),
  );
}
