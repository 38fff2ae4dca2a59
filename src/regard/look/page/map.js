// The map of one head: its place on the screen, cells, axes and margins, and above them the cross-hair.

import { drawAxes } from "./axes.js";
import { imageOf, pixelsOf, scaleOf } from "./cells.js";
import { cssColour, hatching, isDark } from "./colours.js";
import { byId, penFor } from "./dom.js";
import { drawMargins } from "./margins.js";
import { drawnCell, partsInView } from "./values.js";
import { clamp, isWhole } from "./viewport.js";

const NARROW = 480;
const SIDE = 720;

export function makeMap(store) {
  const [holder, cells, cross, minimap] = ["map", "cells", "cross", "minimap"].map(byId);
  let geometry = null;
  let pens = null;

  function measure() {
    const { data, queryTokens, keyTokens } = store.get();
    const { query_len, key_len, rows, cols } = data.group;
    const room = holder.previousElementSibling.clientWidth; // the map itself is as wide as what it draws
    const narrow = room < NARROW;
    const hasTokens = queryTokens || keyTokens;
    const left = hasTokens ? (narrow ? 62 : 92) : narrow ? 48 : 66;
    const bottom = hasTokens ? (narrow ? 62 : 80) : 42;
    const [marginTop, marginRight] = narrow ? [46, 44] : [58, 62];
    const unit = devicePixelRatio || 1;
    const tallest = clamp(innerHeight - 400, 360, SIDE);
    // Cells of whole device pixels where that costs little room: no cell is then wider than its neighbour.
    const whole = (size, count) => {
      const even = Math.floor((size * unit) / count) * count;
      return (even > 0.85 * size * unit ? even : Math.floor(size * unit)) / unit;
    };
    const width = whole(
      clamp((tallest * key_len) / query_len, 120, Math.max(120, Math.min(room - left - marginRight, SIDE))),
      cols,
    );
    const height = query_len === key_len ? width : whole(clamp((width * query_len) / key_len, 90, tallest), rows);
    const [fullWidth, fullHeight] = [left + width + marginRight, marginTop + height + bottom];
    geometry = {
      left,
      top: marginTop,
      width,
      height,
      marginTop,
      marginRight,
      bottom,
      narrow,
      unit,
      fullWidth,
      fullHeight,
    };
    holder.style.width = fullWidth + "px";
    pens = [cells, cross].map((canvas) => penFor(canvas, fullWidth, fullHeight, unit));
  }

  function clear(pen) {
    pen.clearRect(0, 0, geometry.fullWidth, geometry.fullHeight);
    pen.fillStyle = pen.strokeStyle = cssColour("--cross");
    pen.lineWidth = pen.globalAlpha = 1;
    return pen;
  }

  function draw() {
    const state = store.get();
    const { data, view } = state;
    const { left, top, width, height, unit } = geometry;
    const pen = clear(pens[0]);
    const [x, y, wide, high] = [left, top, width, height].map((length) => Math.round(length * unit));
    const image = imageOf(pixelsOf(state, data, wide, high, isDark()), wide, high);
    pen.save();
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.fillStyle = hatching(pen, unit);
    pen.fillRect(x, y, wide, high);
    pen.drawImage(image, x, y);
    pen.restore();
    // A dashed line around what is finer than the map.
    pen.strokeStyle = cssColour("--accent");
    pen.setLineDash([4, 3]);
    for (const { query, key, queries, keys } of partsInView(state, data)) {
      const [px, py, across, down] = boxOf(state, [query, query + queries], [key, key + keys]);
      if (across < width - 1 || down < height - 1) pen.strokeRect(px + 0.5, py + 0.5, across - 1, down - 1);
    }
    pen.setLineDash([]);
    pen.strokeStyle = cssColour("--muted");
    pen.strokeRect(left - 0.5, top - 0.5, width + 1, height + 1);
    drawAxes(pen, geometry, view, { queries: state.queryTokens, keys: state.keyTokens });
    drawMargins(pen, geometry, state, data);
    drawMinimap(view, data.group);
    point();
  }

  // Where the view lies in the whole, in the corner of the margins.
  function drawMinimap(view, group) {
    minimap.hidden = isWhole(view, group);
    const { query_len, key_len } = group;
    const { left, width, marginTop, marginRight } = geometry;
    const scale = Math.min(marginRight - 20, marginTop - 14) / Math.max(query_len, key_len);
    const [wide, high] = [key_len, query_len].map((length) => Math.max(8, length * scale));
    minimap.style.left = left + width + 8 + "px";
    const pen = penFor(minimap, wide + 2, high + 2);
    pen.strokeStyle = cssColour("--muted");
    pen.fillStyle = cssColour("--cross");
    pen.strokeRect(0.5, 0.5, wide + 1, high + 1);
    const side = (from, to, length, size) => [1 + (from / length) * size, Math.max(2, ((to - from) / length) * size)];
    const [x, across] = side(view.k0, view.k1, key_len, wide);
    const [y, down] = side(view.q0, view.q1, query_len, high);
    pen.fillRect(x, y, across, down);
  }

  // The pixels that pairs cover, cut at the edges of the map: [x, y, width, height].
  function boxOf({ view }, queries, keys) {
    const { left, top, width, height } = geometry;
    const side = ([from, to], low, high, start, size) => {
      const [a, b] = [from, to].map((at) => clamp(((at - low) * size) / (high - low), 0, size));
      return [start + a, b - a];
    };
    const [x, wide] = side(keys, view.k0, view.k1, left, width);
    const [y, high] = side(queries, view.q0, view.q1, top, height);
    return [x, y, wide, high];
  }

  // The cross-hair, the pinned query, what was found, a box being drawn: redrawn without the cells.
  function point(box = null) {
    const state = store.get();
    const { data, pointed, query, view } = state;
    if (!data || !geometry) return;
    const { left, top, width, height, marginTop, marginRight } = geometry;
    const { shift, key_len } = data.group;
    const pen = clear(pens[1]);
    const isShown = (at) => at >= view.q0 && at < view.q1;
    const middle = (at) => boxOf(state, [at, at + 1], [0, 0]);
    const markQuery = (at, colour) => {
      if (!isShown(at)) return;
      const [, y, , high] = middle(at);
      triangle(pen, colour, [left - 1, y + high / 2], [left - 8, y + high / 2 - 4.5], [left - 8, y + high / 2 + 4.5]);
    };
    for (const key of state.found.keys) {
      if (shift !== null) markQuery(key - shift, "--found");
      if (key < view.k0 || key >= view.k1) continue;
      const [x, , wide] = boxOf(state, [0, 0], [key, key + 1]);
      const [at, under] = [x + wide / 2, top + height];
      triangle(pen, "--found", [at, under + 1], [at - 4, under + 8], [at + 4, under + 8]);
    }
    markQuery(query, "--cross");
    pen.globalAlpha = 0.5;
    if (isShown(query)) {
      const pinned = drawnCell(state, data, query, clamp(query, 0, key_len - 1));
      const [, y, , high] = boxOf(state, pinned.queries, [0, 0]);
      pen.setLineDash([2, 2]);
      strip(pen, left, y, width + marginRight - 16, high);
      pen.setLineDash([]);
    }
    if (pointed && isShown(pointed.query) && pointed.key >= view.k0 && pointed.key < view.k1) {
      const cell = drawnCell(state, data, pointed.query, pointed.key);
      const [x, y, wide, high] = boxOf(state, cell.queries, cell.keys);
      strip(pen, left, y, width + marginRight - 16, high);
      strip(pen, x, top - marginTop + 18, wide, height + marginTop - 18);
      pen.globalAlpha = 1;
      pen.lineWidth = 1.5;
      const [growX, growY] = [wide, high].map((size) => Math.max(1, 4 - size / 2));
      pen.strokeRect(x - growX, y - growY, wide + 2 * growX, high + 2 * growY);
    }
    if (box) {
      pen.lineWidth = pen.globalAlpha = 1;
      pen.strokeRect(...box);
      pen.globalAlpha = 0.12;
      pen.fillRect(...box);
    }
  }

  // The pair below a place of the window, the nearest one where clamped, or null.
  function pairAt({ clientX, clientY }, clamped = "") {
    const { view } = store.get();
    const box = cells.getBoundingClientRect();
    let shares = [
      (clientX - box.left - geometry.left) / geometry.width,
      (clientY - box.top - geometry.top) / geometry.height,
    ];
    if (clamped) shares = shares.map((share) => clamp(share, 0, 0.999999));
    if (shares.some((share) => share < 0 || share >= 1)) return null;
    const within = (share, from, to) => from + Math.floor(share * (to - from));
    return { query: within(shares[1], view.q0, view.q1), key: within(shares[0], view.k0, view.k1) };
  }

  // What an export needs: the view's pixels, in light colours or dark ones.
  function picture(width, height, dark = false) {
    const state = store.get();
    const pixels = pixelsOf(state, state.data, width, height, dark);
    return { canvas: imageOf(pixels, width, height), forbidden: pixels.includes(0), range: scaleOf(state, state.data) };
  }

  return { holder, measure, draw, point, pairAt, picture, geometry: () => geometry };
}

function triangle(pen, colour, ...points) {
  pen.fillStyle = cssColour(colour);
  pen.beginPath();
  for (const place of points) pen.lineTo(...place);
  pen.fill();
}

// The outline of a row or column of cells: one line where they are finer than two would show.
function strip(pen, x, y, wide, high) {
  const thin = (size) => size < 4;
  if (!thin(Math.min(wide, high))) pen.strokeRect(x - 0.5, y - 0.5, wide + 1, high + 1);
  else {
    pen.fillRect(
      Math.round(x + (thin(wide) ? wide / 2 : 0)),
      Math.round(y + (thin(high) ? high / 2 : 0)),
      thin(wide) ? 1 : wide,
      thin(high) ? 1 : high,
    );
  }
}

// The middle pair of the cell that the map draws at a pair.
export function middleOf(state, data, { query, key }) {
  const cell = drawnCell(state, data, query, key);
  const middle = ([from, to]) => (from + to - 1) >> 1;
  return { query: middle(cell.queries), key: middle(cell.keys) };
}
