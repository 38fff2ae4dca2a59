// The live client: exact cells and rows from the server that made the page, as the view and the query change.

import { groupNow, isPooled, page, patch } from "./decode.js";
import { byId, fill } from "./dom.js";
import { min } from "./numbers.js";
import { set, state, whenThere } from "./store.js";
import { spanText } from "./values.js";

const SIDE = 512; // cells a side of a tile, at most
const PAIRS = 2 ** 26; // what the server computes at once
const TILES = 8; // kept a head: 1 MB each
const ROWS = 64;

// Throws what the server said in words; no answer at all is its being gone.
async function bytesFrom(asked, { group, meta }, signal) {
  const place = `&group=${page.groups.indexOf(group)}&layer=${meta.layer}&head=${meta.head}`;
  const answer = await fetch(page.live + asked + place, { signal });
  if (answer.ok) return answer.arrayBuffer();
  throw new Error("the server says: " + (await answer.text()).trim().slice(0, 300));
}

// A rectangle of the map as rows x cols cells.
async function fetchTile(data, { q0, q1, k0, k1 }, rows, cols, signal) {
  const buffer = await bytesFrom(`tile?q0=${q0}&q1=${q1}&k0=${k0}&k1=${k1}&rows=${rows}&cols=${cols}`, data, signal);
  const part = (at) => new Uint16Array(buffer, 4 * rows + at * 2 * rows * cols, rows * cols);
  const first = new Float32Array(buffer, 0, rows);
  data.tiles.push(patch(q0, k0, q1 - q0, k1 - k0, { rows, cols, first, codes: part(0), max: part(1) }));
  if (data.tiles.length > TILES) data.tiles.shift();
}

async function fetchRow(data, query, signal) {
  const buffer = await bytesFrom(`row?query=${query}&k=32`, data, signal);
  const [entropy, total, first] = new Float32Array(buffer, 0, 3);
  const [count] = new Uint32Array(buffer, 12, 1);
  const keys = Array.from(new Uint32Array(buffer, 16, count));
  const weights = new Float32Array(buffer, 16 + 4 * count, count);
  const codes = new Uint16Array(buffer, 16 + 8 * count, data.group.key_len);
  data.rows.set(query, { entropy, total, first, keys, weights, codes });
  const [[oldest]] = data.rows;
  if (data.rows.size > ROWS) data.rows.delete(oldest);
}

// What is wanted of a view: [name, how to fetch it, whether a head has it], or only what to say.
function tileWanted() {
  const { q0, q1, k0, k1 } = state.view;
  const { query_len, key_len, rows, cols } = groupNow();
  const [queries, keys] = [q1 - q0, k1 - k0];
  const [down, across] = [min(SIDE, queries), min(SIDE, keys)];
  if (queries * keys > PAIRS) return ["Zoom in for more: at most 67 million pairs at once."];
  if (queries / down >= query_len / rows && keys / across >= key_len / cols && isPooled(groupNow())) return [""];
  const isThis = (one) => one.query === q0 && one.key === k0 && one.queries === queries && one.keys === keys;
  return [
    "queries " + spanText(q0, q1) + ", keys " + spanText(k0, k1),
    (data, signal) => fetchTile(data, { q0, q1, k0, k1 }, down, across, signal),
    ({ tiles }) => tiles.some(isThis),
  ];
}

function rowWanted() {
  const { query } = state;
  const fetchThis = (data, signal) => fetchRow(data, query, signal);
  return ["query " + spanText(query), fetchThis, ({ rows }) => rows.has(query)];
}

export function makeLive() {
  byId("live").hidden = false;
  const says = {};

  function tell(kind, text) {
    says[kind] = text;
    fill("live", ["Live.", ...new Set(Object.values(says))].join(" "));
  }

  // One kind of request, once a frame at most; the newest replaces what is under way.
  function latest(kind, wanted) {
    let frame = 0;
    let running = null;
    async function run() {
      if (running) running.abort();
      const own = (running = new AbortController());
      const { data, rival } = state;
      // Nothing is missing where every pair has an exact cell.
      const isWhole = !data || (!isPooled(data.group) && data.group.depth === 16);
      const [name, fetchOne, isKnown] = isWhole ? [""] : wanted();
      if (!fetchOne) return tell(kind, name);
      const missing = [data, rival].filter((one) => one && !isKnown(one));
      if (missing.length) tell(kind, "Fetching " + name + " \u2026");
      try {
        await Promise.all(missing.map((one) => fetchOne(one, own.signal)));
        if (own !== running) return;
        tell(kind, "Exact: " + name + ".");
        if (missing.length) set({ tick: state.tick + 1 });
      } catch ({ message }) {
        if (own === running) tell(kind, `No exact ${name}: ${message}; the page goes on with what it holds.`);
      }
    }
    return () => {
      cancelAnimationFrame(frame);
      frame = requestAnimationFrame(run);
    };
  }

  whenThere((now) => [now.view, now.data, now.rival], latest("tile", tileWanted));
  whenThere((now) => [now.query, now.data, now.rival], latest("row", rowWanted));
}
