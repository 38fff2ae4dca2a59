// Every number of the page: what it is, of which pairs, and how exact.
//
// found = {weight, forbidden, left, exact, how, queries: [q0, q1], keys: [k0, k1]}
//   left   "" | "key" (the first key, left out) | "query" (gives all its weight to the first key: nothing is left)

import { page, weightTable } from "./decode.js";
import { log, max, min } from "./numbers.js";
import { state } from "./store.js";
import { cellOf, cellSpan } from "./viewport.js";

import { short } from "./naming.js";

export * from "./naming.js";

// The scores of a head, without the first key where that is left out; none where there is no other.
export const scoresOf = ({ scores, without_first: without }) =>
  state.hideFirst ? (without ? without.scores : {}) : scores;

const NOTHING = 1e-6; // a query that keeps less than this beside the first key has nothing to renormalise
const DETAIL = 768; // a finer part is drawn where the view holds at most so many of its cells on a side
const RENORMALISED = ", renormalised";

export const isOne = ([from, to]) => to - from === 1;
export const ofPairs = (grid) => grid.rows === grid.queries && grid.cols === grid.keys;
const isExact = (grid) => grid.depth === 16 && ofPairs(grid);

// What is kept exactly of a query, from the document or from the live server, or null.
function keptRow(data, query) {
  const slot = data.slotOf(query);
  if (slot < 0 || data.rows.has(query)) return data.rows.get(query) || null;
  const { top } = data.group;
  const some = (values) => values.subarray(slot * top, (slot + 1) * top);
  return {
    ...{ keys: some(data.topKeys), weights: some(data.topWeights), total: data.totalAt[slot], rest: data.restAt[slot] },
    ...{ entropy: data.entropyAt[slot], entropyLeft: data.entropyLeftAt[slot], first: data.firstAt[slot], codes: null },
  };
}

// The weight on the first key, of one query where it is kept exactly, else the mean over its cell.
function firstWeight(data, query) {
  const row = keptRow(data, query);
  const { mean } = data;
  return row
    ? { weight: row.first, exact: true }
    : { weight: mean.first[cellOf(query, mean.rows, mean.queries)], exact: mean.rows === mean.queries };
}

// The weights on the first key of a grid's rows.
export function firstOfRow(data, grid, row) {
  const [query, next] = cellSpan(row, grid.rows, grid.queries);
  return grid.first && next - query > 1 ? grid.first[row] : firstWeight(data, grid.query + query).weight;
}

// (w - share) / (1 - first); share is the part of the weight that the first key holds in it. NaN: nothing is left.
export function renormalise(weight, first, share = 0) {
  return 1 - first < NOTHING ? NaN : max(0, weight - share) / (1 - first);
}

function foundOf(weight, how, queries, keys) {
  return { weight: weight || 0, forbidden: isNaN(weight), left: "", exact: how === "exact", how, queries, keys };
}

export const holds = (grid, query, key) =>
  query >= grid.query && query < grid.query + grid.queries && key >= grid.key && key < grid.key + grid.keys;

const codeAt = (grid, query, key) => grid.codes[(query - grid.query) * grid.cols + key - grid.key];

// One pair out of what is kept exactly, or null.
function exactPair(data, query, key) {
  const row = keptRow(data, query);
  const place = row ? row.keys.indexOf(key) : -1;
  const table = weightTable(16);
  const found = (weight) => foundOf(weight, "exact", [query, query + 1], [key, key + 1]);
  if (place >= 0) return found(row.weights[place]);
  if (row && row.codes) return found(table[row.codes[key]]);
  const grid = [data.mean, ...data.windows, ...data.tiles].find((one) => isExact(one) && holds(one, query, key));
  return grid ? found(table[codeAt(grid, query, key)]) : null;
}

// The same part of another head: only what both have can be compared.
export function twinOf(part, other) {
  return [other.mean, ...other.tiles, ...other.windows].find(({ place }) => place === part.place);
}

// The finer parts that the map draws at a view, the finest last.
export function partsInView(data, { q0, q1, k0, k1 } = state.view) {
  const { mean } = data;
  if (isExact(mean)) return [];
  const fineness = (part) => part.queries / part.rows + part.keys / part.cols;
  const against = state.rival && (data === state.rival ? state.data : state.rival);
  return [...data.tiles, ...data.windows]
    .filter(
      (part) =>
        (!against || twinOf(part, against)) &&
        part.query < q1 &&
        part.query + part.queries > q0 &&
        part.key < k1 &&
        part.key + part.keys > k0 &&
        (fineness(part) < fineness(mean) || ofPairs(mean)) &&
        ((q1 - q0) * part.rows) / part.queries <= DETAIL &&
        ((k1 - k0) * part.cols) / part.keys <= DETAIL,
    )
    .sort((a, b) => fineness(b) - fineness(a));
}

function cellIn(grid, query, key) {
  const row = cellOf(query - grid.query, grid.rows, grid.queries);
  const col = cellOf(key - grid.key, grid.cols, grid.keys);
  return {
    ...{ grid, row, col },
    queries: cellSpan(row, grid.rows, grid.queries).map((at) => at + grid.query),
    keys: cellSpan(col, grid.cols, grid.keys).map((at) => at + grid.key),
  };
}

// The cell that the map draws at a pair: of the finest part there, or of the whole map.
export function drawnCell(data, query, key, view = state.view) {
  const part = partsInView(data, view).findLast((one) => holds(one, query, key));
  return cellIn(gridOf(data, part), query, key);
}

// Which of the two maps is shown. Of the largest weights it is not known what is left without the first key.
export function reduceOf(data) {
  const both = data && data.max && (!state.rival || (state.rival.max && state.data.max));
  return state.pooling === "max" && !state.hideFirst && both ? "max" : "mean";
}

// The grid that is drawn: of the whole map, or of a part.
export function gridOf(data, part = null) {
  const isMax = reduceOf(data) === "max";
  if (!part) return isMax ? data.max : data.mean;
  return isMax && part.max ? { ...part, codes: part.max } : part;
}

// What the map draws at a pair.
export function drawn(data, query, key) {
  const { grid, row, col, queries, keys } = drawnCell(data, query, key);
  const single = isOne(queries) && isOne(keys);
  const exact = single && grid.depth === 8 && exactPair(data, query, key);
  const how = !single ? "pooled " + reduceOf(data) : grid.depth === 16 ? "exact" : "within 2.3 %";
  const found = exact || foundOf(weightTable(grid.depth)[grid.codes[row * grid.cols + col]], how, queries, keys);
  const ofRow = { weight: firstOfRow(data, grid, row), exact: false };
  return withoutFirst(found, single ? firstWeight(data, query) : ofRow);
}

// The best that is known of a pair: itself if it is kept exactly, else the cell that the map draws there.
export function entry(data, query, key) {
  const exact = exactPair(data, query, key);
  return exact ? withoutFirst(exact, firstWeight(data, query)) : drawn(data, query, key);
}

function withoutFirst(found, first) {
  if (!state.hideFirst || found.forbidden) return found;
  const exact = found.exact && first.exact;
  const how = found.how + (found.exact && !exact ? ", over a pooled first key" : "") + RENORMALISED;
  const isFirst = found.keys[0] === 0;
  const weight = renormalise(found.weight, first.weight, isFirst ? first.weight : 0);
  const left = isFirst && isOne(found.keys) ? "key" : isNaN(weight) ? "query" : "";
  return { ...found, weight: left ? 0 : weight, left, how, exact };
}

const sumOf = (weights) => weights.reduce((sum, weight) => sum + weight, 0);

const weightsOf = (codes, depth) => Array.from(codes, (code) => weightTable(depth)[code] || 0);

// What a query gives most to, and what is left over for all other keys.
export function strongest(data, query, count) {
  const { mean } = data;
  const row = keptRow(data, query);
  const cell = cellIn(mean, query, 0);
  const exact = Boolean(row) || isExact(mean);
  const queries = row ? [query, query + 1] : cell.queries;
  const known = row
    ? Array.from(row.weights)
    : weightsOf(mean.codes.subarray(cell.row * mean.cols, (cell.row + 1) * mean.cols), mean.depth);
  const first = state.hideFirst ? firstWeight(data, query).weight : 0;
  // What lies beyond the items; the first key is told apart.
  let rest = 0;
  if (row) {
    const isBeyond = (_, key) => key > 0 && !row.keys.includes(key);
    rest = row.codes ? sumOf(weightsOf(row.codes, 16).filter(isBeyond)) : row.rest;
    if (!state.hideFirst && !row.keys.includes(0)) rest += row.first;
  }
  let items = known.map((weight, at) => {
    const [from, to] = row ? [row.keys[at], row.keys[at] + 1] : cellSpan(at, mean.cols, mean.keys);
    return state.hideFirst && from === 0
      ? { keys: [1, to], weight: max(0, weight - first) }
      : { keys: [from, to], weight };
  });
  items = items.filter(({ keys, weight }) => weight > 0 && keys[1] > keys[0]).sort((a, b) => b.weight - a.weight);
  const sum = (some) => sumOf(some.map(({ weight }) => weight));
  // Rounded codes may add up to a little more than all.
  const total = row ? row.total : min(1, sumOf(known));
  const left = 1 - first < NOTHING ? "query" : "";
  // A difference of two numbers near 1 is known less well than the sum of what is left, where that is all.
  const c = first > 0.999 && total > 0.9999 ? sum(items) + rest : 1 - first;
  rest = (rest + sum(items.splice(count))) / c;
  return {
    ...{ items: items.map(({ keys, weight }) => ({ keys, weight: weight / c })), rest, left, queries, exact },
    // Of a cell's weight what is below the floor is not known.
    ...{
      loose: exact ? 0 : (mean.cols * page.floor) / c,
      total: (total - first) / c,
      entropy: entropyOf(data, query).value,
    },
    how: (exact ? "exact" : isOne(queries) ? "within 2.3 %" : "pooled mean") + (state.hideFirst ? RENORMALISED : ""),
  };
}

// What a query gives to each key of k0 .. k1; a cell's weight is spread evenly over its keys.
export function perKey(data, query, k0, k1) {
  const { mean } = data;
  const row = keptRow(data, query);
  const live = row && row.codes;
  const at = cellOf(query, mean.rows, mean.queries) * mean.cols;
  const first = firstWeight(data, query).weight;
  const weights = new Float64Array(k1 - k0);
  const forbidden = new Uint8Array(k1 - k0);
  for (let key = k0; key < k1; key++) {
    const col = cellOf(key, mean.cols, mean.keys);
    const [from, to] = cellSpan(col, mean.cols, mean.keys);
    const exact = !live && mean.depth === 8 ? exactPair(data, query, key) : null;
    let weight = live ? weightTable(16)[live[key]] : weightTable(mean.depth)[mean.codes[at + col]] / (to - from);
    if (exact) weight = exact.forbidden ? NaN : exact.weight;
    if (state.hideFirst && !isNaN(weight)) {
      const share = from === 0 && !live && !exact ? first / (to - from) : 0;
      weight = key ? renormalise(weight, first, share) || 0 : 0;
    }
    forbidden[key - k0] = isNaN(weight);
    weights[key - k0] = weight || 0;
  }
  const how = live || isExact(mean) ? "exact" : ofPairs(mean) ? "within 2.3 %" : "pooled mean";
  return { weights, forbidden, how: how + (state.hideFirst ? RENORMALISED : "") };
}

// A margin's value at a token, with the tokens of its cell.
function marginAt(values, token, length) {
  const cell = cellOf(token, values.length, length);
  const span = cellSpan(cell, values.length, length);
  return { value: values[cell], span, exact: isOne(span) };
}

// The entropy of a query, of what is left where the first key is left out: its own where it is kept, else the mean over its cell.
export function entropyOf(data, query) {
  const row = keptRow(data, query);
  const { hideFirst } = state;
  if (!row) return marginAt(hideFirst ? data.entropyLeft : data.entropy, query, data.group.query_len);
  const own = !hideFirst
    ? row.entropy
    : row.codes
      ? entropyOfWeights(weightsOf(row.codes.subarray(1), 16))
      : row.entropyLeft;
  return { value: own, span: [query, query + 1], exact: true };
}

function entropyOfWeights(weights) {
  const total = sumOf(weights);
  return sumOf(weights.map((weight) => (weight > 0 ? -(weight / total) * log(weight / total) : 0)));
}

// What a key receives, summed over all queries, in words: itself where it is known, else the mean over its cell and the
// most of one key in it.
export function receivedOf(data, key) {
  const { mostRead, group } = data;
  const place = mostRead.keys.indexOf(key);
  if (place >= 0) return { text: short(mostRead.weights[place]), span: [key, key + 1] };
  const at = (values) => marginAt(values, key, group.key_len);
  const { value, span } = at(data.received);
  return { text: short(value), span, most: short(at(data.peak).value) };
}
