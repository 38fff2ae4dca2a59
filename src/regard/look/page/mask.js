// The page of a mask: which query may read which key, and how many.

import { barOf } from "./canvas.js";
import { element, on } from "./dom.js";
import { rampColour } from "./colours.js";
import { inflate, page } from "./decode.js";
import { max, min, round } from "./numbers.js";
import { imageOfCodes, makePlain } from "./plain.js";
import { cellName, counted, grouped, spanText } from "./values.js";
import { cellSpan, niceSteps } from "./viewport.js";

const ALL = 0.55; // of the ramp: darker would hide the cross-hair
const SOME = [0.08, 0.42]; // from one pair of the cell to all but one

const colourOf = (share) => rampColour(share === 1 ? ALL : SOME[0] + (SOME[1] - SOME[0]) * share);
const named = (one, many, span) => (span[1] - span[0] > 1 ? many : one) + " " + spanText(...span);
const mean = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 });

function ticksOf(length, pixels, room) {
  return niceSteps(0, length, pixels / room).map((at) => [((at + 0.5) * pixels) / length, grouped(at)]);
}

async function unpacked({ name, share, ...map }) {
  const [codes, perQuery, perKey] = await Promise.all([map.codes, map.per_query, map.per_key].map(inflate));
  const [queries, keys] = [perQuery, perKey].map((buffer) => new Float32Array(buffer));
  return { name, share, codes: new Uint8Array(codes), perQuery: queries, perKey: keys };
}

export async function startMask(root) {
  const { query_len: queries, key_len: keys, rows, cols, maps } = page.mask;
  const pooled = rows !== queries || cols !== keys;
  const [manyQueries, manyKeys] = [counted(queries, "query", "queries"), counted(keys, "key")];
  let map = await unpacked(maps[0]);
  const codeAt = (row, col) => map.codes[row * cols + col];
  const asking = (row) => named("query", "queries", cellSpan(row, rows, queries));
  const asked = (col) => named("key", "keys", cellSpan(col, cols, keys));
  const value = (row, col) => ({ 0: "no", 255: "yes" })[codeAt(row, col)] || "partly";

  function verdict(code) {
    if (code === 0) return "may not attend";
    if (code === 255) return "allowed";
    return "partly allowed (about " + max(1, min(99, round(code / 2.55))) + " % of the pairs)";
  }

  function margin(values, title) {
    const most = values.reduce((a, b) => max(a, b), 0);
    return { values, range: [0, most], title: title + ": 0 to " + mean(most) };
  }

  const select = element("select", "");
  const label = element("label", "", "of ");
  maps.forEach(({ name }, at) => select.append(new Option(name || "mask " + at, at)));
  label.append(select);

  const plain = makePlain(root, {
    ...{ name: "Mask", corner: "query", controls: maps.length > 1 ? [label] : [], rows, cols, pin: null, value },
    ...{ square: true, hatched: true },
    label: "Map of the mask: arrow keys move",
    axes: {
      left: { title: "\u2190 query (reading)", ticks: (pixels) => ticksOf(queries, pixels, 50) },
      bottom: { title: "key (read from) \u2192", ticks: (pixels) => ticksOf(keys, pixels, 80) },
    },
    image: () =>
      imageOfCodes(
        map.codes,
        rows,
        cols,
        Array.from({ length: 256 }, (_, code) => (code ? colourOf(code / 255) : null)),
      ),
    lines() {
      const percent = 100 * map.share;
      const share = percent > 0 && percent < 0.1 ? percent.toPrecision(2) : percent.toFixed(1);
      const size = manyQueries + " \u00d7 " + manyKeys + "; " + share + " % of the pairs are allowed";
      return [(map.name ? map.name + ": " : "") + size, ...(pooled ? [cellName({ rows, cols }, queries, keys)] : [])];
    },
    top: () => margin(map.perKey, "queries that may read a key"),
    right: () => margin(map.perQuery, "keys that a query may read"),
    scale() {
      const bar = barOf(pooled ? colourOf : () => colourOf(1));
      const ticks = pooled ? [0, "some"] : [0.5, "allowed"];
      return {
        title: "share of a cell\u2019s pairs that is allowed",
        bar,
        ticks: pooled ? [ticks, [1, "all"]] : [ticks],
        hatched: true,
      };
    },
    says(row, col) {
      const each = (cells, length) => (cells < length ? " (mean)" : "");
      const reads = " may read " + mean(map.perQuery[row]) + " of " + manyKeys + each(rows, queries);
      const readers = " may be read by " + mean(map.perKey[col]) + " of " + manyQueries + each(cols, keys);
      return [
        asking(row) + " \u2192 " + asked(col) + ": ",
        element("b", "", verdict(codeAt(row, col))),
        element("br", ""),
        element("span", "muted", asking(row) + reads + "; " + asked(col) + readers),
      ];
    },
    rowName: asking,
    colName: asked,
    suffix: () => map.name,
    *csv() {
      yield ["first query", "last query", "first key", "last key", "allowed", "share of pairs"];
      for (let row = 0; row < rows; row++) {
        const [q0, q1] = cellSpan(row, rows, queries);
        for (let col = 0; col < cols; col++) {
          const [k0, k1] = cellSpan(col, cols, keys);
          yield [q0, q1 - 1, k0, k1 - 1, value(row, col), Number((codeAt(row, col) / 255).toFixed(3))];
        }
      }
    },
  });
  on(select, "change", async () => {
    const wanted = select.value;
    const next = await unpacked(maps[wanted]);
    if (select.value !== wanted) return;
    map = next;
    plain.redraw();
  });
}
