// The live client: exact cells and rows from the server that made the page, as the view and the query change.

import { byId } from "./dom.js";
import { groupOf, isPooled, page, patch } from "./decode.js";
import { spanText } from "./values.js";

const SIDE = 512; // cells a side of a tile, at most
const PAIRS = 2 ** 26; // what the server computes at once
const TILES = 8; // kept a head: 1 MB each
const ROWS = 64;

// Throws what the server said in words; no answer at all is its being gone.
async function bytesFrom(name, data, asked, signal) {
  const place = { group: page.groups.indexOf(data.group), layer: data.meta.layer, head: data.meta.head };
  const answer = await fetch(page.live + name + "?" + new URLSearchParams({ ...place, ...asked }), { signal });
  if (answer.ok) return answer.arrayBuffer();
  throw new Error("the server says: " + (await answer.text()).trim().slice(0, 300));
}

// A rectangle of the map as rows x cols cells.
async function fetchTile(data, { q0, q1, k0, k1 }, rows, cols, signal) {
  const buffer = await bytesFrom("tile", data, { q0, q1, k0, k1, rows, cols }, signal);
  const part = (at) => new Uint16Array(buffer, 4 * rows + at * 2 * rows * cols, rows * cols);
  const first = new Float32Array(buffer, 0, rows);
  const more = { name: "live", rows, cols, depth: 16, first, codes: part(0), max: part(1) };
  data.tiles.push(patch(q0, k0, q1 - q0, k1 - k0, more));
  if (data.tiles.length > TILES) data.tiles.shift();
}

async function fetchRow(data, query, signal) {
  const buffer = await bytesFrom("row", data, { query, k: 32 }, signal);
  const [entropy, total, first] = new Float32Array(buffer, 0, 3);
  const [count] = new Uint32Array(buffer, 12, 1);
  const keys = Array.from(new Uint32Array(buffer, 16, count));
  const weights = new Float32Array(buffer, 16 + 4 * count, count);
  const codes = new Uint16Array(buffer, 16 + 8 * count, data.group.key_len);
  data.rows.set(query, { entropy, total, first, keys, weights, codes });
  if (data.rows.size > ROWS) data.rows.delete(data.rows.keys().next().value);
}

export function makeLive(store) {
  const holder = byId("live");
  holder.hidden = !page.live;
  if (!page.live) return;
  const says = {};

  function tell(kind, text) {
    says[kind] = text;
    holder.textContent = ["Live.", ...new Set(Object.values(says))].join(" ");
  }

  // One kind of request, once a frame at most; the newest replaces what is under way.
  function latest(kind, wanted) {
    let frame = 0;
    let running = null;
    async function run() {
      if (running) running.abort();
      const own = (running = new AbortController());
      const [name, fetchOne, isKnown] = wanted(store.get());
      if (!fetchOne) return tell(kind, name);
      const state = store.get();
      const missing = [state.data, state.otherData].filter((data) => data && !isKnown(data));
      if (missing.length) tell(kind, "Fetching " + name + " \u2026");
      try {
        await Promise.all(missing.map((data) => fetchOne(data, own.signal)));
        if (own !== running) return;
        tell(kind, "Exact: " + name + ".");
        if (missing.length) store.set({ tick: (store.get().tick || 0) + 1 });
      } catch (error) {
        if (own === running) {
          tell(kind, "No exact " + name + ": " + error.message + "; the page goes on with what it holds.");
        }
      }
    }
    return () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(run);
    };
  }

  // Nothing is missing where every pair has an exact cell.
  const isWhole = ({ data }) => !data || (!isPooled(data.group) && data.group.depth === 16);

  function tileOf(state) {
    const { view } = state;
    const { query_len, key_len, rows, cols } = groupOf(state);
    const [queries, keys] = [view.q1 - view.q0, view.k1 - view.k0];
    const [down, across] = [Math.min(SIDE, queries), Math.min(SIDE, keys)];
    if (isWhole(state)) return [""];
    if (queries * keys > PAIRS) return ["Zoom in for more: at most 67 million pairs at once."];
    if (queries / down >= query_len / rows && keys / across >= key_len / cols && isPooled(state.data.group)) {
      return [""];
    }
    return [
      "queries " + spanText(view.q0, view.q1) + ", keys " + spanText(view.k0, view.k1),
      (data, signal) => fetchTile(data, view, down, across, signal),
      ({ tiles }) =>
        tiles.some(
          (one) => one.query === view.q0 && one.key === view.k0 && one.queries === queries && one.keys === keys,
        ),
    ];
  }

  function rowOf(state) {
    const { query } = state;
    if (isWhole(state)) return [""];
    return [
      "query " + spanText(query, query + 1),
      (data, signal) => fetchRow(data, query, signal),
      ({ rows }) => rows.has(query),
    ];
  }

  store.on(["view", "data", "otherData"], latest("tile", tileOf));
  store.on(["query", "data", "otherData"], latest("row", rowOf));
}
