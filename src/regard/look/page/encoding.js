// The page of a positional encoding: position x dimension around zero, and how alike two positions are.

import { barOf } from "./canvas.js";
import { element, on } from "./dom.js";
import { signedColour } from "./colours.js";
import { inflate, page } from "./decode.js";
import { abs, floor, round } from "./numbers.js";
import { imageOfCodes, makePlain } from "./plain.js";
import { counted, grouped } from "./values.js";
import { niceSteps } from "./viewport.js";

// Round numbers among kept indices, each where the first kept one from it on stands: [pixel, label].
function ticksOf(kept, length, pixels, room) {
  return niceSteps(0, length, pixels / room).flatMap((at) => {
    const place = kept.findIndex((index) => index >= at);
    return place < 0 ? [] : [[((place + 0.5) * pixels) / kept.length, grouped(kept[place])]];
  });
}

export async function startEncoding(root) {
  const { rows, cols, length, dims, lowest, highest, ...packed } = page.encoding;
  const buffers = await Promise.all([packed.positions, packed.dimensions, packed.codes].map(inflate));
  const [positions, dimensions] = buffers.slice(0, 2).map((buffer) => new Uint32Array(buffer));
  const codes = new Uint16Array(buffers[2]);
  const step = (highest - lowest) / 65535;
  // As many decimals as half a step leaves certain.
  const decimals = step > 0 ? Math.max(0, Math.min(6, floor(-Math.log10(step / 2)))) : 6;
  const limit = Math.max(abs(lowest), abs(highest)) || 1;
  const valueAt = (row, col) => lowest + codes[row * cols + col] * step;
  const value = (row, col) =>
    valueAt(row, col)
      .toFixed(decimals)
      .replace(/^-(0\.?0*)$/, "$1");
  // 0 .. 254 around 127, which is none
  const signs = Uint8Array.from(codes, (code) => round(127 * (1 + (lowest + code * step) / limit)));
  const sampled = cols < dims ? ", over " + counted(cols, "kept dimension") : "";
  let pinned = 0;
  let alike = null;

  function pin(row) {
    pinned = row;
    alike = new Float64Array(rows);
    for (let other = 0; other < rows; other++) {
      for (let col = 0; col < cols; col++) alike[other] += (valueAt(row, col) * valueAt(other, col)) / cols;
    }
    input.value = String(positions[row]);
  }

  const input = element("input", "number");
  const label = element("label", "", "compare with position ");
  Object.assign(input, { type: "number", min: "0", max: String(length - 1), id: "position" });
  label.append(input);
  pin(0);

  const plain = makePlain(root, {
    ...{ name: "Positional encoding", corner: "position", controls: [label], rows, cols, pin, value },
    ...{ square: false, hatched: false, top: null },
    label: "Map of the encoding: arrow keys move, Enter compares with a position",
    axes: {
      left: { title: "\u2190 position", ticks: (pixels) => ticksOf(positions, length, pixels, 50) },
      bottom: { title: "dimension \u2192", ticks: (pixels) => ticksOf(dimensions, dims, pixels, 80) },
    },
    image: () =>
      imageOfCodes(
        signs,
        rows,
        cols,
        Array.from({ length: 255 }, (_, at) => signedColour(at / 127 - 1)),
      ),
    lines: () => {
      const kept =
        rows < length || cols < dims
          ? "; " + grouped(rows) + " \u00d7 " + grouped(cols) + " of them are kept, none averaged"
          : "";
      const size = counted(length, "position") + ", " + counted(dims, "dimension") + kept;
      return [size, "at the right: dot product with position " + grouped(positions[pinned]) + " / d" + sampled];
    },
    right() {
      const range = [Math.min(0, ...alike), Math.max(0, ...alike)];
      const ends = range.map((end) => end.toFixed(2)).join(" to ");
      return { values: alike, range, title: "similarity to position " + grouped(positions[pinned]) + ": " + ends };
    },
    scale() {
      const bar = barOf((share) => signedColour(2 * share - 1));
      const ticks = [-1, 0, 1].map((side) => [(side + 1) / 2, String(Number((side * limit).toPrecision(3)))]);
      return { title: "value", bar, ticks, hatched: false };
    },
    says: (row, col) => [
      "position " + grouped(positions[row]) + ", dimension " + grouped(dimensions[col]) + ": ",
      element("b", "", value(row, col)),
      element("br", ""),
      element(
        "span",
        "muted",
        "similarity to position " +
          grouped(positions[pinned]) +
          ": " +
          alike[row].toFixed(4) +
          " (dot product / d" +
          sampled +
          ")",
      ),
    ],
    rowName: (row) => grouped(positions[row]),
    colName: (col) => grouped(dimensions[col]),
    suffix: () => "",
    *csv() {
      yield [
        "position",
        ...Array.from(dimensions, (at) => "dimension " + at),
        "similarity to position " + positions[pinned],
      ];
      for (let row = 0; row < rows; row++) {
        const values = Array.from(dimensions, (_, col) => Number(value(row, col)));
        yield [positions[row], ...values, Number(alike[row].toPrecision(6))];
      }
    },
  });
  on(input, "change", () => {
    const far = Array.from(positions, (at) => abs(at - Number(input.value)));
    plain.choose(far.indexOf(Math.min(...far)), 0);
  });
}
