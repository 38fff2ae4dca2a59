// What is shown, as files: PNG and SVG with all that a paper needs around the map, and the map's cells as CSV.

import { byId, on } from "./dom.js";
import { drawAxes, hasRoom } from "./axes.js";
import { cssColour, hatching, rampColour, signedColour } from "./colours.js";
import { groupOf, page } from "./decode.js";
import { canvasOf, saveFigure } from "./figure.js";
import { scaleTitle, ticksOf } from "./legend.js";
import { drawMargins } from "./margins.js";
import { fillBar } from "./overview.js";
import { saveCsv } from "./saving.js";
import { visible } from "./tokens.js";
import { cellName, drawn, gridOf, grouped, headName, partsInView, spanText } from "./values.js";
import { cellOf, clamp } from "./viewport.js";

const PIXELS = 1040; // of a side; cells are whole pixels
const LINES = 262144;
const [TOP, RIGHT] = [60, 64];

const namesOf = ({ group, head, other }) => [
  page.title,
  headName(group, head),
  other ? "minus " + headName(other.group, other.head) : "",
];

function figureOf(state, mapPicture) {
  const { data, view, queryTokens, keyTokens } = state;
  const { query_len, key_len } = groupOf(state);
  const grid = gridOf(state, data);
  const { q0, q1, k0, k1 } = view;
  const whole = (pixels, cells) => Math.floor(pixels / cells) * cells || pixels;
  const across = whole(PIXELS, cellOf(k1 - 1, grid.cols, key_len) - cellOf(k0, grid.cols, key_len) + 1);
  const tall = clamp(Math.round((across * (q1 - q0)) / (k1 - k0)), 200, 1300);
  const down = whole(tall, cellOf(q1 - 1, grid.rows, query_len) - cellOf(q0, grid.rows, query_len) + 1);
  const [width, height] = [across / 2, down / 2];
  const left = hasRoom(q0, q1, height, queryTokens) ? 104 : 70;
  const bottom = hasRoom(k0, k1, width, keyTokens) ? 84 : 42;
  const fullHeight = TOP + height + bottom;
  const geometry = { left, top: TOP, width, height, bottom, fullHeight, marginTop: TOP, marginRight: RIGHT };
  const picture = mapPicture(across, down, false);
  const finer = partsInView(state, data).length > 0 ? "; exact parts are drawn over it" : "";
  const place = "queries " + spanText(q0, q1) + ", keys " + spanText(k0, k1) + "; ";

  function draw(pen, x, y) {
    const bar = canvasOf(256, 1);
    pen.save();
    pen.translate(x, y);
    pen.fillStyle = hatching(pen, 1);
    pen.fillRect(left, TOP, width, height);
    pen.imageSmoothingEnabled = false;
    pen.drawImage(picture.canvas, left, TOP, width, height);
    pen.strokeStyle = cssColour("--muted");
    pen.strokeRect(left - 0.5, TOP - 0.5, width + 1, height + 1);
    drawAxes(pen, geometry, view, { queries: queryTokens, keys: keyTokens });
    drawMargins(pen, geometry, state, data);
    pen.restore();
    fillBar(bar, (share) => (state.otherData ? signedColour(2 * share - 1) : rampColour(share)));
    return { title: scaleTitle(state, data), bar, ticks: ticksOf(state, picture.range), hatched: picture.forbidden };
  }

  return {
    ...{ width: left + width + RIGHT, height: fullHeight, draw },
    lines: [namesOf(state).slice(1).join(" "), place + cellName(grid, query_len, key_len) + finer],
  };
}

// Each cell that is drawn, once: over the cells of the map, and of the finer parts from where they begin.
function* cells(state) {
  const { data, view, otherData } = state;
  const parts = partsInView(state, data);
  const seen = new Set();
  let below;
  for (let query = view.q0; query < view.q1; query = below) {
    below = Math.min(...parts.map((part) => part.query).filter((at) => at > query), view.q1);
    let beside;
    for (let key = view.k0; key < view.k1; key = beside) {
      const found = drawn(state, data, query, key);
      const place = found.queries[0] + " " + found.keys;
      beside = Math.min(...parts.map((part) => part.key).filter((at) => at > key), found.keys[1]);
      below = Math.min(below, found.queries[1]);
      if (!seen.has(place)) yield otherData ? [found, drawn(state, otherData, query, key)] : [found];
      if (parts.length > 0) seen.add(place);
    }
  }
}

function* linesOf(state, told) {
  const { queryTokens, keyTokens } = state;
  const weightOf = ({ forbidden, left, weight, exact }) =>
    forbidden || left ? NaN : Number(weight.toPrecision(exact ? 6 : 4));
  const howOf = ({ forbidden, left, how }) => (forbidden ? "may not attend" : left ? "nothing left" : how);
  const token = (tokens, [from, to]) => (tokens && to - from === 1 ? visible(tokens[from], 100) : "");
  const heads = state.otherData ? ["weight A", "weight B", "difference", "how A", "how B"] : ["weight", "how"];
  yield ["first query", "last query", "query token", "first key", "last key", "key token", ...heads];
  for (const pair of cells(state)) {
    told.cut = told.lines === LINES;
    if (told.cut) return;
    told.lines += 1;
    const [{ queries, keys }] = pair;
    const weights = pair.map(weightOf);
    if (pair.length > 1) weights.push(Number((weights[0] - weights[1]).toPrecision(4)));
    const places = [
      queries[0],
      queries[1] - 1,
      token(queryTokens, queries),
      keys[0],
      keys[1] - 1,
      token(keyTokens, keys),
    ];
    yield [...places, ...weights, ...pair.map(howOf)];
  }
}

export function makeExport(store, { mapPicture }) {
  async function make(kind) {
    const state = store.get();
    if (kind !== "csv") return saveFigure(kind, figureOf(state, mapPicture), ...namesOf(state));
    const told = { lines: 0 };
    saveCsv(linesOf(state, told), ...namesOf(state));
    return (
      "The CSV holds the " +
      (told.cut ? "first " : "") +
      grouped(told.lines) +
      " cells of the view" +
      (told.cut ? "; zoom in for the others." : ".")
    );
  }

  for (const kind of ["png", "svg", "csv"]) {
    on(byId("export-" + kind), "click", async () => {
      const failed = ({ message }) => "The file could not be made: " + message;
      byId("export-says").textContent = (await make(kind).catch(failed)) || "";
    });
  }
}
