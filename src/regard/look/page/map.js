// The map of one head: its place on the screen, cells, axes and margins, and above them the cross-hair.

import { drawAxes } from "./axes.js";
import { fillShape, frame, hatchBox, imageOf, penFor, unitNow, wholeCells } from "./canvas.js";
import { pixelsOf } from "./cells.js";
import { cssColour, isDark } from "./colours.js";
import { groupNow } from "./decode.js";
import { byId } from "./dom.js";
import { drawMargins } from "./margins.js";
import { abs, max, min, round } from "./numbers.js";
import { state } from "./store.js";
import { drawnCell, partsInView } from "./values.js";
import { clamp } from "./viewport.js";

const NARROW = 480;
const SIDE = 720;

// Where the map lies in its canvas, in CSS pixels: {left, top, width, height, right, bottom, narrow, size}; right and bottom: the
// room beside it and below.
let place = null;
let pens = null;

export function measure() {
  const { query_len, key_len, rows, cols } = groupNow();
  const holder = byId("map");
  const room = holder.previousElementSibling.clientWidth; // the map itself is as wide as what it draws
  const narrow = room < NARROW;
  const hasTokens = state.queryTokens || state.keyTokens;
  const left = hasTokens ? (narrow ? 64 : 92) : narrow ? 48 : 68;
  const bottom = hasTokens ? (narrow ? 64 : 80) : 44;
  const [top, right] = narrow ? [48, 44] : [60, 64];
  const tallest = clamp(innerHeight - 400, 300, SIDE);
  const widest = clamp(room - left - right, 120, SIDE);
  const width = wholeCells(clamp((tallest * key_len) / query_len, 120, widest), cols);
  const height = query_len === key_len ? width : wholeCells(clamp((width * query_len) / key_len, 90, tallest), rows);
  place = { left, top, width, height, right, bottom, narrow, size: [left + width + right, top + height + bottom] };
  pens = ["cells", "cross"].map((id) => penFor(byId(id), ...place.size));
}

// The map with its axes and margins at a place, from so many pixels. Gives what the pixels hold.
export function drawMap(pen, at, wide, high, dark) {
  const pixels = pixelsOf(state.data, wide, high, dark);
  const box = [at.left, at.top, at.width, at.height];
  hatchBox(pen, ...box);
  pen.imageSmoothingEnabled = false;
  pen.drawImage(imageOf(pixels, wide, high), ...box);
  frame(pen, "--muted", ...box);
  drawAxes(pen, at);
  drawMargins(pen, at);
  return pixels;
}

function clear(pen) {
  pen.clearRect(0, 0, ...place.size);
  pen.fillStyle = pen.strokeStyle = cssColour("--cross");
  pen.lineWidth = pen.globalAlpha = 1;
  return pen;
}

export function drawHead() {
  const pen = clear(pens[0]);
  const { width, height } = place;
  drawMap(pen, place, round(width * unitNow()), round(height * unitNow()), isDark());
  // A dashed line around what is finer than the map.
  pen.strokeStyle = cssColour("--accent");
  pen.setLineDash([4, 3]);
  for (const { query, key, queries, keys } of partsInView(state.data)) {
    const [x, y, across, down] = boxOf([query, query + queries], [key, key + keys]);
    if (across < width - 1 || down < height - 1) pen.strokeRect(x + 0.5, y + 0.5, across - 1, down - 1);
  }
  pen.setLineDash([]);
  drawMarks();
}

// The pixels that pairs cover, cut at the edges of the map: [x, y, width, height].
function boxOf(queries, keys) {
  const { view } = state;
  const side = ([from, to], low, high, start, size) => {
    const [a, b] = [from, to].map((at) => clamp(((at - low) * size) / (high - low), 0, size));
    return [start + a, b - a];
  };
  const [x, wide] = side(keys, view.k0, view.k1, place.left, place.width);
  const [y, high] = side(queries, view.q0, view.q1, place.top, place.height);
  return [x, y, wide, high];
}

// The cross-hair, the pinned query, what was found, a box being drawn: redrawn without the cells.
export function drawMarks(box) {
  const { data, pointed, query, view } = state;
  const { shift, key_len } = data.group;
  const { left, top, width, height, right } = place;
  const pen = clear(pens[1]);
  const isQuery = (at) => at >= view.q0 && at < view.q1;
  const isKey = (at) => at >= view.k0 && at < view.k1;
  const markQuery = (at, colour) => {
    if (!isQuery(at)) return;
    const [, y, , high] = boxOf([at, at + 1], [0, 0]);
    const middle = y + high / 2;
    fillShape(pen, colour, [left - 1, middle], [left - 8, middle - 4.5], [left - 8, middle + 4.5]);
  };
  for (const key of state.found.keys) {
    if (shift !== null) markQuery(key - shift, "--found");
    const [x, , wide] = boxOf([0, 0], [key, key + 1]);
    const [middle, under] = [x + wide / 2, top + height];
    if (isKey(key)) fillShape(pen, "--found", [middle, under + 1], [middle - 4, under + 8], [middle + 4, under + 8]);
  }
  markQuery(query, "--cross");
  pen.globalAlpha = 0.5;
  if (isQuery(query)) {
    const [, y, , high] = boxOf(drawnCell(data, query, clamp(query, 0, key_len - 1)).queries, [0, 0]);
    pen.setLineDash([2, 2]);
    strip(pen, left, y, width + right - 18, high);
    pen.setLineDash([]);
  }
  if (pointed && isQuery(pointed.query) && isKey(pointed.key)) {
    const cell = drawnCell(data, pointed.query, pointed.key);
    const [x, y, wide, high] = boxOf(cell.queries, cell.keys);
    strip(pen, left, y, width + right - 18, high);
    strip(pen, x, 18, wide, top + height - 18);
    pen.globalAlpha = 1;
    pen.lineWidth = 1.5;
    const [growX, growY] = [wide, high].map((size) => max(1, 4 - size / 2));
    pen.strokeRect(x - growX, y - growY, wide + 2 * growX, high + 2 * growY);
  }
  if (box) pen.strokeRect(...box);
}

// The outline of a row or column of cells: one line where they are finer than two would show.
function strip(pen, x, y, wide, high) {
  const thin = (size) => size < 4;
  const line = (start, size) => (thin(size) ? [round(start + size / 2), 1] : [start, size]);
  const [[left, width], [top, height]] = [line(x, wide), line(y, high)];
  if (thin(min(wide, high))) pen.fillRect(left, top, width, height);
  else pen.strokeRect(x - 0.5, y - 0.5, wide + 1, high + 1);
}

// A place of the window as shares of the map: [across, down].
export function sharesAt({ clientX, clientY }) {
  const box = byId("cells").getBoundingClientRect();
  return [(clientX - box.left - place.left) / place.width, (clientY - box.top - place.top) / place.height];
}

// The box between two places, as shares of the map.
export function drawBox([a, b], [c, d]) {
  const side = (from, to, start, size) => [start + min(from, to) * size, abs(from - to) * size];
  const [x, wide] = side(a, c, place.left, place.width);
  const [y, high] = side(b, d, place.top, place.height);
  drawMarks([x, y, wide, high]);
}

// The middle pair of the cell that the map draws at a pair.
export function middleOf({ query, key }, view) {
  const cell = drawnCell(state.data, query, key, view);
  const middle = ([from, to]) => (from + to - 1) >> 1;
  return { query: middle(cell.queries), key: middle(cell.keys) };
}
