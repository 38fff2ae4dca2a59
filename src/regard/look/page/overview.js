// All heads at a glance, in one canvas: a thumbnail each with a bar for the chosen statistic, or its value as a colour.

import { barOf, fillBox, hatchBox, imageOf, penFor, unitNow, write } from "./canvas.js";
import { convert, paint } from "./cells.js";
import { cssOf, pixelsOfScale, rampColour, shareOf } from "./colours.js";
import { groupNow, inflate, page, weightTable } from "./decode.js";
import { arrowOf, attributes, byId, fill, on, onKeys, press, span } from "./dom.js";
import { abs, ceil, floor, max, min, round } from "./numbers.js";
import { state } from "./store.js";
import { headName, scoresOf } from "./values.js";
import { clamp } from "./viewport.js";

const TALL = 560; // pixels that the grid may take before its tiles get smaller
const [SMALLEST, LARGEST] = [9, 76];
const NAMES = { size: 10, base: "middle" };

export function makeOverview(choose) {
  const [holder, canvas, mark, otherMark] = ["tiles", "tile-canvas", "tile", "tile-other"].map(byId);
  const [select, sorted] = ["statistic", "sorted"].map(byId);
  let isMaps = true;
  let pen = null;
  let order = []; // of the heads, as they are walked through
  let places = []; // of the heads: {row, col, x, y}
  let grid = { gutter: 0, top: 0, pitch: 0, down: 0 };
  let hovered = null;

  const statisticNow = () => groupNow().statistics.find(({ name }) => name === select.value);
  const scoreOf = (head) => scoresOf(groupNow().heads[head])[select.value] ?? null;
  const numberOf = (value) => (value === null ? "\u2013" : value.toFixed(statisticNow().decimals));

  function range() {
    const known = order.map(scoreOf).filter((value) => value !== null);
    return known.length ? [min(...known), max(...known)] : [0, 0];
  }

  // A tab has its own statistics.
  function listStatistics() {
    const chosen = select.value;
    fill(select, ...groupNow().statistics.map(({ name, label }) => new Option(label, name, false, name === chosen)));
  }

  // Where each tile stands; a layer starts a row of its own unless the heads are sorted.
  function arrange() {
    const { heads } = groupNow();
    const isSorted = sorted.checked;
    const statistic = statisticNow();
    const layers = Array.from(new Set(heads.map(({ layer }) => layer)));
    const widest = max(...layers.map((layer) => heads.filter((head) => head.layer === layer).length));
    // What has no value comes last.
    const rank = (at) => (scoreOf(at) === null ? Infinity : statistic.low_first ? scoreOf(at) : -scoreOf(at));
    order = heads.map((_, at) => at);
    if (isSorted && statistic) order.sort((a, b) => rank(a) - rank(b) || a - b);
    fill("about", statistic ? statistic.about : "");
    const [gutter, top] = isSorted ? [0, 0] : [24, 14];
    const rows = isSorted ? ceil(order.length / widest) : layers.length;
    const below = (size) => (!isMaps || size < 22 ? 0 : size < 46 ? 5 : 19);
    let pitch = clamp(floor((holder.parentElement.clientWidth - 26 - gutter) / widest), SMALLEST, LARGEST);
    while (pitch > 22 && rows * (pitch + below(pitch)) > TALL) pitch -= 1;
    const down = pitch + below(pitch);
    grid = { widest, pitch, down, gutter, top, layers, below: below(pitch), side: pitch - (pitch < 14 ? 1 : 3) };
    const filled = [];
    places = [];
    order.forEach((index, at) => {
      const row = isSorted ? floor(at / widest) : layers.indexOf(heads[index].layer);
      const col = (filled[row] ??= 0);
      filled[row] += 1;
      places[index] = { row, col, x: gutter + col * pitch, y: top + row * down };
    });
    grid.size = [gutter + widest * pitch, top + rows * down];
    pen = penFor(canvas, ...grid.size);
    attributes(holder, { "aria-rowcount": rows, "aria-colcount": widest });
    return draw();
  }

  async function draw() {
    const group = groupNow();
    group.codes ||= inflate(group.thumbnails);
    const codes = new Uint8Array(await group.codes);
    if (groupNow() !== group || !pen) return;
    pen.clearRect(0, 0, ...grid.size);
    if (isMaps) drawMaps(group.thumbnail, codes);
    group.heads.forEach((_, head) => drawValue(head));
    if (grid.top) drawNames(group.layers);
    const [least, most] = range().map(numberOf);
    const scale = isMaps ? [] : [least, barOf(rampColour), most + " " + statisticNow().unit];
    const says = span("muted");
    says.id = "overview-says";
    fill("overview-legend", ...scale, says);
    place();
  }

  function drawMaps([rows, cols], codes) {
    const unit = unitNow();
    const [scale, weights] = [pixelsOfScale(rampColour), weightTable(8)];
    // Heads are compared here: one scale for all, the logarithmic one.
    const colourOf = (weight) =>
      isNaN(weight) ? 0 : scale[round(255 * shareOf(weight, "log", { logFloor: page.log_floor }))];
    const table = Uint32Array.from(weights, colourOf);
    const pixels = new Uint32Array(canvas.width * canvas.height);
    const side = round(grid.side * unit);
    const view = { q0: 0, q1: rows, k0: 0, k1: cols };
    places.forEach(({ x, y }, head) => {
      const part = codes.subarray(head * rows * cols, (head + 1) * rows * cols);
      const layer = { query: 0, key: 0, queries: rows, keys: cols, rows, cols, colourOf };
      layer.colours = convert(Uint32Array, part, (code) => table[code]);
      layer.values = () => convert(Float32Array, part, (code) => weights[code]);
      hatchBox(pen, x, y, grid.side, grid.side);
      paint(pixels, canvas.width, round(x * unit), round(y * unit), side, side, view, layer);
    });
    pen.imageSmoothingEnabled = false;
    pen.drawImage(imageOf(pixels, canvas.width, canvas.height), 0, 0, canvas.width / unit, canvas.height / unit);
  }

  function drawValue(head) {
    const [least, most] = range();
    const { side, below } = grid;
    const { x, y } = places[head];
    const value = scoreOf(head);
    const size = min(11, side / 3.1);
    const under = y + side;
    if (!isMaps) {
      const share = most > least ? (value - least) / (most - least) : 0.5;
      fillBox(pen, value === null ? "--line" : cssOf(rampColour(share)), x, y, side, side);
      const colour = value !== null && share > 0.45 ? "--paper" : "--ink";
      const look = { size, colour, align: "center", base: "middle", room: side - 2 };
      if (side > 25) write(pen, numberOf(value), x + side / 2, y + side / 2, look);
    } else if (below) {
      fillBox(pen, "--line", x, under + 1.5, side, 3);
      fillBox(pen, "--accent", x, under + 1.5, most > 0 ? side * clamp(value / most, 0, 1) : 0, 3);
      if (below > 5) write(pen, numberOf(value), x + side, under + 16, { size, align: "right" });
      const { layer, head: number } = groupNow().heads[head];
      if (below > 5 && !grid.top) write(pen, layer + "." + number, x, under + 16, { size });
    }
  }

  // The numbers of layers and heads, as many as there is room for.
  function drawNames(names) {
    const { pitch, down, side, top, gutter, widest, layers } = grid;
    const every = (room, pixels) => [1, 2, 4, 8, 16].find((step) => step * pixels >= room) || 32;
    layers.forEach((layer, at) => {
      const [number] = String(names[layer]).match(/\d+(?=\D*$)/) || [layer];
      if (at % every(11, down)) return;
      write(pen, number, gutter - 6, top + at * down + side / 2, { ...NAMES, align: "right" });
    });
    for (let col = 0; col < widest; col += every(14, pitch)) {
      write(pen, col, gutter + col * pitch + side / 2, top / 2 - 1, { ...NAMES, align: "center" });
    }
  }

  function nameOf(head) {
    const { label, unit } = statisticNow() || {};
    return (headName(state.group, head) + (label ? `, ${label} ${numberOf(scoreOf(head))} ${unit}` : "")).trimEnd();
  }

  // The chosen tile is one element that moves; its name is what a screen reader tells.
  function place() {
    const { group, head, other, hideFirst } = state;
    if (!places[head]) return;
    mark.id = "tile-" + head;
    attributes(mark, { "aria-colindex": places[head].col + 1, "aria-label": nameOf(head) });
    attributes(mark.parentElement, { "aria-rowindex": places[head].row + 1 });
    attributes(holder, { "aria-activedescendant": mark.id });
    otherMark.hidden = !other || other.group !== group;
    const lay = ({ style }, { x, y }) => {
      const size = grid.side + "px";
      Object.assign(style, { left: x + "px", top: y + "px", width: size, height: size });
    };
    lay(mark, places[head]);
    if (!otherMark.hidden) lay(otherMark, places[other.head]);
    // The head below the pointer, else the chosen one.
    const first = hideFirst && isMaps ? " \u00b7 the small maps keep the first key" : "";
    if (byId("overview-says")) fill("overview-says", nameOf(hovered ?? head) + first);
  }

  function headAt({ offsetX, offsetY }) {
    const row = floor((offsetY - grid.top) / grid.down);
    const col = floor((offsetX - grid.gutter) / grid.pitch);
    const found = places.findIndex((one) => one.row === row && one.col === col);
    return found < 0 ? null : found;
  }

  // Arrow keys, here and wherever nothing else takes them: to the tile a step away, at an edge no further.
  function onArrow(event) {
    const step = arrowOf(event);
    if (!step) return false;
    const [down, across] = step;
    const { row, col } = places[state.head];
    const rowOf = (head) => places[head].row;
    const last = order.length - 1;
    const wanted = clamp(row + down, 0, rowOf(order[last]));
    const inRow = order.filter((head) => rowOf(head) === wanted);
    const isNext = abs(across) === 1;
    choose(
      isNext
        ? order[clamp(order.indexOf(state.head) + across, 0, last)]
        : inRow[clamp(col + across, 0, inRow.length - 1)],
    );
    return true;
  }

  function setMode(maps) {
    isMaps = maps;
    press({ "as-maps": maps, "as-values": !maps });
    if (pen) arrange();
  }

  onKeys(holder, onArrow);
  on(canvas, "click", (event) => choose(headAt(event) ?? state.head));
  on(canvas, "pointermove pointerleave", (event) => {
    hovered = event.type === "pointermove" ? headAt(event) : null;
    place();
  });
  on(select, "change", arrange);
  on(sorted, "change", arrange);
  on(byId("as-maps"), "click", () => setMode(true));
  on(byId("as-values"), "click", () => setMode(false));
  setMode(true);

  return { arrange, draw, place, onArrow, listStatistics };
}
