// What is shown, as files: PNG and SVG with all that a paper needs around the map, and the map's cells as CSV.

import { hasRoom } from "./axes.js";
import { barOf, wholeCells } from "./canvas.js";
import { scaleColour } from "./colours.js";
import { groupNow, page } from "./decode.js";
import { byId, fill, on } from "./dom.js";
import { saveFigure } from "./figure.js";
import { cellsInView, headsNow, scaleTitle, ticksNow } from "./legend.js";
import { drawMap } from "./map.js";
import { min, round } from "./numbers.js";
import { saveCsv } from "./saving.js";
import { state } from "./store.js";
import { visible } from "./tokens.js";
import { drawn, formatWeight, gridOf, grouped, headName, LEAST, partsInView, spanText } from "./values.js";
import { cellOf, clamp } from "./viewport.js";

const PIXELS = 1040; // of a side; cells are whole pixels
const LINES = 262144;
const [TOP, RIGHT] = [60, 64];

const namesNow = () => {
  const { group, head, other } = state;
  return [page.title, headName(group, head), other ? "minus " + headName(other.group, other.head) : ""];
};

function figureNow() {
  const { data, view, queryTokens, keyTokens, rival } = state;
  const { query_len, key_len } = groupNow();
  const grid = gridOf(data);
  const { q0, q1, k0, k1 } = view;
  const shown = (low, high, cells, length) => cellOf(high - 1, cells, length) - cellOf(low, cells, length) + 1;
  const across = wholeCells(PIXELS, shown(k0, k1, grid.cols, key_len), 1);
  const tall = clamp(round((across * (q1 - q0)) / (k1 - k0)), 200, 1300);
  const down = wholeCells(tall, shown(q0, q1, grid.rows, query_len), 1);
  const [width, height] = [across / 2, down / 2];
  const left = hasRoom(q0, q1, height, queryTokens) ? 104 : 70;
  const bottom = hasRoom(k0, k1, width, keyTokens) ? 84 : 42;
  const place = "queries " + spanText(q0, q1) + ", keys " + spanText(k0, k1) + "; ";

  function draw(pen, x, y) {
    pen.save();
    pen.translate(x, y);
    const pixels = drawMap(pen, { left, top: TOP, width, height, right: RIGHT, bottom }, across, down, false);
    pen.restore();
    const bar = barOf(scaleColour(rival));
    return { title: scaleTitle(), bar, ticks: ticksNow(), hatched: pixels.includes(0) };
  }

  return {
    ...{ width: left + width + RIGHT, height: TOP + height + bottom, draw },
    lines: [...headsNow(), place + cellsInView("; exact parts are drawn over it")],
  };
}

// Each cell that is drawn, once: over the cells of the map, and of the finer parts from where they begin.
function* cells() {
  const { data, view, rival } = state;
  const parts = partsInView(data);
  const seen = new Set();
  let below;
  for (let query = view.q0; query < view.q1; query = below) {
    below = min(...parts.map((part) => part.query).filter((at) => at > query), view.q1);
    let beside;
    for (let key = view.k0; key < view.k1; key = beside) {
      const found = drawn(data, query, key);
      const place = found.queries[0] + " " + found.keys;
      beside = min(...parts.map((part) => part.key).filter((at) => at > key), found.keys[1]);
      below = min(below, found.queries[1]);
      if (!seen.has(place)) yield rival ? [found, drawn(rival, query, key)] : [found];
      if (parts.length > 0) seen.add(place);
    }
  }
}

function* linesOf(told) {
  const { queryTokens, keyTokens } = state;
  const weightOf = ({ forbidden, left, weight, exact }) =>
    forbidden || left ? NaN : Number(weight.toPrecision(exact ? 6 : 4));
  const howOf = (found) => (found.forbidden || found.left ? formatWeight(found) : found.weight > 0 ? found.how : LEAST);
  const heads = state.rival ? "weight A,weight B,difference,how A,how B" : "weight,how";
  yield ("first query,last query,query token,first key,last key,key token," + heads).split(",");
  for (const pair of cells()) {
    told.cut = told.lines === LINES;
    if (told.cut) return;
    told.lines += 1;
    const [{ queries, keys }] = pair;
    const weights = pair.map(weightOf);
    if (pair.length > 1) weights.push(Number((weights[0] - weights[1]).toPrecision(4)));
    const placed = ([from, to], tokens) => [from, to - 1, tokens && to - from === 1 ? visible(tokens[from], 100) : ""];
    yield [...placed(queries, queryTokens), ...placed(keys, keyTokens), ...weights, ...pair.map(howOf)];
  }
}

async function make(kind) {
  if (kind !== "csv") return saveFigure(kind, figureNow(), ...namesNow());
  const told = { lines: 0, cut: false };
  saveCsv(linesOf(told), ...namesNow());
  const [first, more] = told.cut ? ["first ", "; zoom in for the others."] : ["", "."];
  return `The CSV holds the ${first}${grouped(told.lines)} cells of the view${more}`;
}

export function makeExport() {
  for (const kind of ["png", "svg", "csv"]) {
    on(byId("export-" + kind), "click", async () => {
      const failed = ({ message }) => "The file could not be made: " + message;
      fill("export-says", (await make(kind).catch(failed)) || "");
    });
  }
}
