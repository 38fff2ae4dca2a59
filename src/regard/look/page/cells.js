// The pixels of the map: cells to colours, nearest when magnified, and the most or the mean of the cells below a pixel otherwise.

import { leftColour, packedColour, pixelsOfScale, scaleColour, shareOf } from "./colours.js";
import { isPooled, page, weightTable } from "./decode.js";
import { abs, floor, max, round } from "./numbers.js";
import { state } from "./store.js";
import { firstOfRow, gridOf, partsInView, reduceOf, renormalise, twinOf } from "./values.js";
import { cellOf } from "./viewport.js";

const LEFT = 9; // stands in place of a weight that is left out; no weight or difference is as large

// As Kind.from(source, act) would, without its iterator: that takes 20 ms for the cells of a map.
export function convert(Kind, source, act) {
  const made = new Kind(source.length);
  for (let at = 0; at < source.length; at++) made[at] = act(source[at]);
  return made;
}

// The weights of a grid's cells; NaN is forbidden, LEFT left out.
function weightsOf(data, part) {
  const grid = gridOf(data, part);
  const table = weightTable(grid.depth);
  const values = convert(Float32Array, grid.codes, (code) => table[code]);
  if (!state.hideFirst) return values;
  for (let row = 0; row < grid.rows; row++) {
    const first = firstOfRow(data, grid, row);
    for (let col = 0; col < grid.cols; col++) {
      const at = row * grid.cols + col;
      if (isNaN(values[at])) continue;
      const isFirst = col + grid.key === 0;
      const weight = renormalise(values[at], first, isFirst ? first : 0);
      values[at] = isNaN(weight) || (isFirst && grid.keys === grid.cols) ? LEFT : weight;
    }
  }
  return values;
}

// The weights, or what two heads differ by.
function valuesOf(data, part) {
  const values = weightsOf(data, part);
  if (!state.rival) return values;
  const others = weightsOf(state.rival, part && twinOf(part, state.rival));
  return values.map((value, at) => (value === LEFT || others[at] === LEFT ? LEFT : value - others[at]));
}

// The scale: where it starts when logarithmic, where it ends when linear.
function rangeOf(data) {
  const range = { logFloor: page.log_floor, highest: 1 };
  if (state.scaling === "log") return range;
  const single = reduceOf(data) === "max" || !isPooled(data.group);
  if (!state.rival && !state.hideFirst && single) range.highest = data.highest;
  else {
    range.highest = valuesOf(data).reduce((most, value) => (value < LEFT ? max(most, abs(value)) : most), 0);
  }
  return range;
}

// Colours of values: 0 (transparent) for forbidden ones, so that the hatching below shows.
function colouring(range, dark) {
  const { rival, scaling } = state;
  const colours = pixelsOfScale(scaleColour(rival), dark);
  const left = packedColour(leftColour(dark));
  const placeOf = (value) => {
    const share = shareOf(abs(value), scaling, range);
    return round(rival ? 127.5 + 127.5 * Math.sign(value) * share : 255 * share);
  };
  return (value) => (value === LEFT ? left : isNaN(value) ? 0 : colours[placeOf(value)]);
}

// One grid with the colours of its cells.
function layerOf(data, part, colourOf) {
  const grid = gridOf(data, part);
  const layer = { ...grid, colourOf, isMax: reduceOf(data) === "max" };
  if (state.rival || state.hideFirst) {
    const values = valuesOf(data, part);
    layer.values = () => values;
    layer.colours = convert(Uint32Array, values, colourOf);
  } else {
    const table = convert(Uint32Array, weightTable(grid.depth), colourOf);
    layer.values = () => weightsOf(data, part);
    layer.colours = convert(Uint32Array, grid.codes, (code) => table[code]);
  }
  return layer;
}

let kept = null;

// What is drawn but for the view: {range, colourOf, layers}. It is kept while only the view moves.
function drawingOf(data, dark) {
  const name = [data, state.rival, state.scaling, state.pooling, state.hideFirst, state.tick, dark];
  if (!kept || name.some((it, at) => it !== kept.name[at])) {
    const range = rangeOf(data);
    kept = { name, range, colourOf: colouring(range, dark), layers: new Map() };
  }
  return kept;
}

export const scaleOf = (data) => drawingOf(data, kept ? kept.name[6] : false).range;

// For each pixel of a side: the first cell below it and the one past the last, -1 outside of the layer.
function below(pixels, low, high, origin, tokens, cells) {
  const step = (high - low) / pixels;
  const fine = (step * cells) / tokens > 1;
  return Array.from({ length: pixels }, (_, at) => {
    const token = floor(low + (fine ? at : at + 0.5) * step) - origin;
    if (token < 0 || token >= tokens) return [-1, -1];
    const cell = cellOf(token, cells, tokens);
    const next = floor(low + (at + 1) * step) - origin;
    return [cell, max(cell + 1, !fine ? 0 : next >= tokens ? cells : cellOf(next, cells, tokens))];
  });
}

// Paints a layer into width x height pixels that show a view, at (left, top) of a picture stride pixels wide.
export function paint(target, stride, left, top, width, height, view, layer) {
  const across = below(width, view.k0, view.k1, layer.key, layer.keys, layer.cols);
  const down = below(height, view.q0, view.q1, layer.query, layer.queries, layer.rows);
  const isSingle = [...across, ...down].every(([from, to]) => to - from <= 1);
  const values = isSingle ? null : layer.values();
  const first = across.findIndex(([cell]) => cell >= 0);
  const last = across.findLastIndex(([cell]) => cell >= 0) + 1;
  if (first < 0) return;
  down.forEach(([row, rowEnd], y) => {
    if (row < 0) return;
    const start = (top + y) * stride + left;
    if (isSingle && y && down[y - 1][0] === row) {
      target.copyWithin(start + first, start - stride + first, start - stride + last);
      return;
    }
    for (let x = first; x < last; x++) {
      target[start + x] = isSingle
        ? layer.colours[row * layer.cols + across[x][0]]
        : layer.colourOf(reduced(values, layer, row, rowEnd, ...across[x]));
    }
  });
}

// The largest or the mean of the cells below one pixel.
function reduced(values, { cols, isMax }, row, rowEnd, col, colEnd) {
  let [sum, count, largest, other] = [0, 0, 0, NaN];
  for (; row < rowEnd; row++) {
    for (let at = row * cols + col; at < row * cols + colEnd; at++) {
      const value = values[at];
      if (value === LEFT) other = LEFT;
      else if (!isNaN(value)) {
        sum += value;
        count += 1;
        if (abs(value) > abs(largest)) largest = value;
      }
    }
  }
  return count ? (isMax ? largest : sum / count) : other;
}

// The pixels of a view; forbidden ones are 0.
export function pixelsOf(data, width, height, dark) {
  const { layers, colourOf } = drawingOf(data, dark);
  const pixels = new Uint32Array(width * height);
  for (const part of [null, ...partsInView(data)]) {
    if (!layers.has(part)) layers.set(part, layerOf(data, part, colourOf));
    paint(pixels, width, 0, 0, width, height, state.view, layers.get(part));
  }
  return pixels;
}
