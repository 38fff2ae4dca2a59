// All heads at a glance, in one canvas: a thumbnail each with a bar for the chosen statistic, or its value as a colour.

import { write } from "./axes.js";
import { convert, imageOf, paint } from "./cells.js";
import { cssColour, cssOf, hatching, isDark, packedColour, rampColour, rampScale, shareOf } from "./colours.js";
import { groupOf, inflate, page, weightTable } from "./decode.js";
import { arrowOf, attributes, byId, on, penFor, press, withModifier } from "./dom.js";
import { element } from "./tokens.js";
import { headName } from "./values.js";
import { clamp } from "./viewport.js";

const TALL = 560; // pixels that the grid may take before its tiles get smaller
const LARGEST = 76;
const SMALLEST = 9;

export function makeOverview(store, choose) {
  const [holder, canvas, mark, otherMark] = ["tiles", "tile-canvas", "tile", "tile-other"].map(byId);
  const [legend, select, sorted] = ["overview-legend", "statistic", "sorted"].map(byId);
  let isMaps = true;
  let grid = null;
  let pen = null;
  let order = [];
  let places = [];
  let hovered = null;

  const headsNow = () => groupOf(store.get()).heads;
  const statisticNow = () => groupOf(store.get()).statistics.find(({ name }) => name === select.value);
  const scoreOf = ({ scores }) => scores[select.value] ?? null;
  const numberOf = (value) => (value === null ? "\u2013" : value.toFixed(statisticNow().decimals));

  // A tab has its own statistics.
  function listStatistics() {
    const chosen = select.value;
    const { statistics } = groupOf(store.get());
    select.replaceChildren(...statistics.map(({ name, label }) => new Option(label, name, false, name === chosen)));
  }

  // Where each tile stands; a layer starts a row of its own unless the heads are sorted.
  function arrange() {
    const heads = headsNow();
    const isSorted = sorted.checked;
    const statistic = statisticNow();
    byId("about").textContent = statistic ? statistic.about : "";
    const layers = Array.from(new Set(heads.map(({ layer }) => layer)));
    const widest = Math.max(...layers.map((layer) => heads.filter((head) => head.layer === layer).length));
    const rank = (at) =>
      (scoreOf(heads[at]) ?? Infinity) * (statistic.low_first || scoreOf(heads[at]) === null ? 1 : -1);
    order = heads.map((_, at) => at);
    if (isSorted && statistic) order.sort((a, b) => rank(a) - rank(b) || a - b);
    const [gutter, top] = isSorted ? [0, 0] : [24, 14];
    const rows = isSorted ? Math.ceil(order.length / widest) : layers.length;
    const below = (size) => (!isMaps || size < 22 ? 0 : size < 46 ? 5 : 19);
    let pitch = clamp(Math.floor((holder.parentElement.clientWidth - 26 - gutter) / widest), SMALLEST, LARGEST);
    while (pitch > 22 && rows * (pitch + below(pitch)) > TALL) pitch -= 1;
    const down = pitch + below(pitch);
    grid = {
      widest,
      pitch,
      down,
      gutter,
      top,
      layers,
      isSorted,
      below: below(pitch),
      side: pitch - (pitch < 14 ? 1 : 3),
    };
    const inRow = {};
    places = [];
    order.forEach((index, at) => {
      const row = isSorted ? Math.floor(at / widest) : layers.indexOf(heads[index].layer);
      inRow[row] = (inRow[row] ?? -1) + 1;
      places[index] = { row, col: inRow[row], x: gutter + inRow[row] * pitch, y: top + row * down };
    });
    pen = penFor(canvas, gutter + widest * pitch, top + rows * down);
    attributes(holder, { "aria-rowcount": rows, "aria-colcount": widest });
    return draw();
  }

  async function draw() {
    const group = groupOf(store.get());
    group.codes ||= inflate(group.thumbnails);
    const codes = new Uint8Array(await group.codes);
    if (groupOf(store.get()) !== group) return;
    pen.clearRect(0, 0, canvas.width, canvas.height);
    if (isMaps) drawMaps(group, codes);
    drawValues(group);
    if (!grid.isSorted) drawNames(group);
    drawLegend();
    place();
  }

  function drawMaps({ thumbnail: [rows, cols] }, codes) {
    const unit = devicePixelRatio || 1;
    const [scale, weights] = [rampScale(isDark()), weightTable(8)];
    // Heads are compared here: one scale for all, the logarithmic one.
    const colourOf = (weight) =>
      Number.isNaN(weight) ? 0 : scale[Math.round(255 * shareOf(weight, "log", { logFloor: page.log_floor }))];
    const table = Uint32Array.from(weights, colourOf);
    const pixels = new Uint32Array(canvas.width * canvas.height);
    const side = Math.round(grid.side * unit);
    const view = { q0: 0, q1: rows, k0: 0, k1: cols };
    pen.save();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = hatching(pen, unit);
    places.forEach(({ x, y }, index) => {
      const part = codes.subarray(index * rows * cols, (index + 1) * rows * cols);
      const layer = { query: 0, key: 0, queries: rows, keys: cols, rows, cols, colourOf };
      layer.colours = convert(Uint32Array, part, (code) => table[code]);
      layer.values = () => convert(Float32Array, part, (code) => weights[code]);
      const [left, top] = [Math.round(x * unit), Math.round(y * unit)];
      pen.fillRect(left, top, side, side);
      paint(pixels, canvas.width, left, top, side, side, view, layer);
    });
    pen.drawImage(imageOf(pixels, canvas.width, canvas.height), 0, 0);
    pen.restore();
  }

  function rangeNow() {
    const known = headsNow()
      .map(scoreOf)
      .filter((value) => value !== null);
    return known.length ? [Math.min(...known), Math.max(...known)] : [0, 0];
  }

  function drawValues({ heads }) {
    const [least, most] = rangeNow();
    const { side, below } = grid;
    const size = Math.min(11, side / 3.1);
    heads.forEach((head, index) => {
      const { x, y } = places[index];
      const value = scoreOf(head);
      const fill = (colour, ...box) => {
        pen.fillStyle = colour;
        pen.fillRect(...box);
      };
      if (!isMaps) {
        const share = most > least ? (value - least) / (most - least) : 0.5;
        fill(value === null ? cssColour("--line") : cssOf(rampColour(share)), x, y, side, side);
        const colour = value !== null && share > 0.45 ? "--paper" : "--ink";
        if (side > 25) {
          write(pen, numberOf(value), x + side / 2, y + side / 2, {
            size,
            colour,
            align: "center",
            base: "middle",
            room: side - 2,
          });
        }
      } else if (below) {
        fill(cssColour("--line"), x, y + side + 1.5, side, 3);
        fill(cssColour("--accent"), x, y + side + 1.5, most > 0 ? side * clamp(value / most, 0, 1) : 0, 3);
        if (below > 5) write(pen, numberOf(value), x + side, y + side + 16, { size, align: "right" });
        if (below > 5 && side > 56) write(pen, head.layer + "." + head.head, x, y + side + 16, { size });
      }
    });
  }

  function drawNames(group) {
    const { pitch, down, side, top, gutter, widest, layers } = grid;
    const every = (room, pixels) => [1, 2, 4, 8, 16].find((step) => step * pixels >= room) || 32;
    layers.forEach((layer, at) => {
      if (at % every(11, down)) return;
      const [number] = String(group.layers[layer]).match(/\d+(?=\D*$)/) || [layer];
      write(pen, number, gutter - 6, top + at * down + side / 2, { size: 10, align: "right", base: "middle" });
    });
    for (let col = 0; col < widest; col += every(14, pitch)) {
      write(pen, col, gutter + col * pitch + side / 2, top / 2 - 1, { size: 10, align: "center", base: "middle" });
    }
  }

  function drawLegend() {
    const says = element("span", "muted");
    says.id = "overview-says";
    if (isMaps) return legend.replaceChildren(says);
    const bar = element("canvas", "ramp");
    fillBar(bar, rampColour);
    const [least, most] = rangeNow().map(numberOf);
    legend.replaceChildren(least, bar, most + " " + statisticNow().unit, says);
  }

  function nameOf(index) {
    const statistic = statisticNow();
    const score = statistic
      ? ", " + statistic.label + " " + numberOf(scoreOf(headsNow()[index])) + " " + statistic.unit
      : "";
    return headName(store.get().group, index) + score.trimEnd();
  }

  // The chosen tile is one element that moves; its name is what a screen reader tells.
  function place() {
    const { group, head, other, hideFirst } = store.get();
    if (!places[head]) return;
    const { row, col } = places[head];
    mark.id = "tile-" + head;
    attributes(mark, { "aria-colindex": col + 1, "aria-label": nameOf(head) });
    attributes(mark.parentElement, { "aria-rowindex": row + 1 });
    attributes(holder, { "aria-activedescendant": mark.id });
    otherMark.hidden = !other || other.group !== group;
    for (const [box, at] of [[mark, head], ...(otherMark.hidden ? [] : [[otherMark, other.head]])]) {
      box.style.left = places[at].x + "px";
      box.style.top = places[at].y + "px";
      box.style.width = box.style.height = grid.side + "px";
    }
    // The head below the pointer, else the chosen one.
    const says = byId("overview-says");
    if (says) {
      says.textContent =
        nameOf(hovered ?? head) + (hideFirst && isMaps ? " \u00b7 the small maps keep the first key" : "");
    }
  }

  function indexAt({ offsetX, offsetY }) {
    const row = Math.floor((offsetY - grid.top) / grid.down);
    const col = Math.floor((offsetX - grid.gutter) / grid.pitch);
    const found = places.findIndex((one) => one.row === row && one.col === col);
    return found < 0 ? null : found;
  }

  // The head a step away among the tiles, or the same one at an edge.
  function stepped(from, down, across) {
    if (!down) return order[clamp(order.indexOf(from) + across, 0, order.length - 1)];
    const row = order.filter((index) => places[index].row === places[from].row + down);
    return row.length ? row[Math.min(places[from].col, row.length - 1)] : from;
  }

  // Arrow keys, here and wherever nothing else takes them.
  function onArrow(event) {
    const step = arrowOf(event);
    if (!step || withModifier(event)) return false;
    const { head } = store.get();
    const next = stepped(head, ...step);
    event.preventDefault();
    event.stopPropagation();
    if (next !== head) choose(next);
    return true;
  }

  function setMode(maps) {
    isMaps = maps;
    press(byId("as-maps"), maps);
    press(byId("as-values"), !maps);
    if (grid) arrange();
  }

  function hover(event) {
    hovered = event.type === "pointermove" ? indexAt(event) : null;
    place();
  }

  on(holder, "keydown", onArrow);
  on(canvas, "click", (event) => {
    const found = indexAt(event);
    if (found !== null) choose(found, true);
  });
  on(canvas, "pointermove pointerleave", hover);
  on(select, "change", arrange);
  on(sorted, "change", arrange);
  on(byId("as-maps"), "click", () => setMode(true));
  on(byId("as-values"), "click", () => setMode(false));
  setMode(true);

  const around = [[0, 1], [0, -1], [1, 0], [-1, 0]]; // prettier-ignore
  return {
    arrange,
    draw,
    place,
    onArrow,
    listStatistics,
    neighbours: (head) => around.map((step) => stepped(head, ...step)),
  };
}

// A colour scale, 256 steps.
export function fillBar(bar, colourOf) {
  bar.width = 256;
  bar.height = 1;
  const pixels = Uint32Array.from({ length: 256 }, (_, at) => packedColour(colourOf(at / 255, isDark())));
  bar.getContext("2d").drawImage(imageOf(pixels, 256, 1), 0, 0);
}
