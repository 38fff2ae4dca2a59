// The data of the page as typed arrays; look/data.py says what they are.

import { byId } from "./dom.js";
import { state } from "./store.js";

export const page = JSON.parse(byId("data").textContent);

// The document's names stand in quotes where the page has a name of its own for the same thing: build.mjs spells that short.
for (const group of page.groups || []) {
  const [rows, cols, depth] = [group["rows"], group["cols"], group["depth"]];
  Object.assign(group, { query_len: group["query_len"], key_len: group["key_len"], rows, cols, depth });
}

const KEPT = 48; // heads kept unpacked: some 0.8 MB each at most
const heads = new Map();
const texts = [];

export function bytesOf(base64) {
  const text = atob(base64);
  const bytes = new Uint8Array(text.length);
  for (let at = 0; at < text.length; at++) bytes[at] = text.charCodeAt(at);
  return bytes;
}

export async function inflate(base64) {
  const stream = new Blob([bytesOf(base64)]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Response(stream).arrayBuffer();
}

export const groupNow = () => page.groups[state.group];

// The tokens of one list; null asks for none.
export function tokensOf(index) {
  const packed = page.texts[index];
  if (packed && !texts[index]) {
    texts[index] = inflate(packed).then((buffer) => JSON.parse(new TextDecoder().decode(buffer)));
  }
  return texts[index] || null;
}

export const isPooled = (group) => group.rows !== group.query_len || group.cols !== group.key_len;

// One head, unpacked when first asked for; asked for twice at once it is unpacked once.
export function loadHead(group, head) {
  const name = group + "." + head;
  const loading = heads.get(name) || unpackHead(page.groups[group], head);
  heads.delete(name); // it goes to the end of those kept
  heads.set(name, loading);
  const [[oldest]] = heads;
  if (heads.size > KEPT) heads.delete(oldest);
  return loading;
}

async function unpackHead(group, head) {
  const meta = group.heads[head];
  group.unpacked ||= inflate(group["queries"]).then((buffer) => new Uint32Array(buffer));
  const [buffer, queries] = await Promise.all([inflate(meta["data"]), group.unpacked]);
  const { query_len, key_len, rows, cols, top, depth } = group;
  const count = queries.length;
  let at = 0;
  const take = (Kind, size) => {
    const part = new Kind(buffer, at, size);
    at += part.byteLength;
    return part;
  };
  const words = (size) => take(Uint16Array, size);
  const linear = (size, most) => Float64Array.from(words(size), (code) => (code / 65535) * most);
  const weights = (size) => Float64Array.from(words(size), weightOf16);
  // The order is the document's: 4-byte parts, 2-byte parts, 1-byte parts.
  const topKeys = take(Uint32Array, count * top);
  const mostRead = { keys: take(Uint32Array, group.most_read), weights: take(Float32Array, group.most_read) };
  const [entropyAt, totalAt, firstAt] = [0, 1, 2].map(() => take(Float32Array, count));
  const topWeights = weights(count * top);
  const restAt = weights(count);
  const most = meta.without_first ? meta.without_first.entropy_max : 0;
  const entropyLeftAt = linear(count, most);
  const first = weights(rows);
  const entropy = linear(group.margins[0], meta.entropy_max);
  const entropyLeft = linear(group.margins[0], most);
  const [received, peak] = [meta.received_max, meta.peak_max].map((highest) =>
    weights(group.margins[1]).map((share) => share * highest),
  );
  const windows = meta["windows"].map((box) => {
    const [rows, cols] = [box["rows"], box["cols"]];
    return patch(box["query"], box.key, rows, cols, { name: box.name, codes: words(rows * cols) });
  });
  const codes = take(depth === 16 ? Uint16Array : Uint8Array, rows * cols);
  const mean = patch(0, 0, query_len, key_len, { rows, cols, depth, codes, first });
  const [maxRows, maxCols] = group.max;
  const max =
    maxRows > 0
      ? patch(0, 0, query_len, key_len, {
          rows: maxRows,
          cols: maxCols,
          depth: 8,
          codes: take(Uint8Array, maxRows * maxCols),
        })
      : null;
  if (at !== buffer.byteLength) throw new Error("a head holds " + buffer.byteLength + " bytes; expected " + at);
  return {
    ...{
      meta,
      group,
      highest: meta["highest"],
      mean,
      max,
      windows,
      queries,
      topKeys,
      topWeights,
      entropyAt,
      totalAt,
      firstAt,
      mostRead,
    },
    ...{
      entropy,
      entropyLeft,
      restAt,
      entropyLeftAt,
      received,
      peak,
      // The place of a query among those kept exactly, or -1.
      slotOf: (query) => (count === query_len ? query : queries.indexOf(query)),
    },
    tiles: [], // live tiles, the newest last: patches
    rows: new Map(), // live rows: query -> {entropy, total, first, keys, weights, codes (key_len of them, code16)}
  };
}

// A grid of cells over a rectangle of pairs. One cell is one pair where rows === queries and cols === keys.
// codes of the mean map, max: those of the max map or null, first: weight on key 0, a row each, or null.
export function patch(query, key, queries, keys, { rows = queries, cols = keys, ...more }) {
  const place = [query, key, queries, keys, rows, cols].join();
  return { name: "", place, query, key, queries, keys, rows, cols, depth: 16, max: null, first: null, ...more };
}

// Codes to weights: 0 is forbidden and reads NaN, 1 is the floor or less and reads 0.
function tableOf(codes, floor) {
  return Float64Array.from({ length: codes }, (_, code) =>
    code > 1 ? Math.pow(floor, 1 - (code - 1) / (codes - 2)) : code ? 0 : NaN,
  );
}

const tables = {};

export function weightTable(depth) {
  return (tables[depth] ||= depth === 8 ? tableOf(256, page.floor) : tableOf(65536, page.fine_floor));
}

const weightOf16 = (code) => weightTable(16)[code] || 0;
