// What the pages of encodings and masks share: one map with margins, a cursor, a readout, a table and exports.

import { attributes, on, withModifier } from "./dom.js";
import { SANS } from "./axes.js";
import { cssColour, hatching, packedColour } from "./colours.js";
import { imageOf } from "./cells.js";
import { page } from "./decode.js";
import { canvasOf, drawScale, saveFigure } from "./figure.js";
import { button, tableOf } from "./grid.js";
import { alongPixels } from "./margins.js";
import { saveCsv } from "./saving.js";
import { element } from "./tokens.js";
import { clamp } from "./viewport.js";

const AROUND = 8; // the table reaches this far from the cursor
const [LEFT, TOP, RIGHT, BOTTOM] = [66, 60, 70, 44];

// Cells of whole pixels where that costs little room: no cell is then wider than its neighbour.
function whole(length, cells) {
  const even = Math.floor(length / cells) * cells;
  return even > 0.8 * length ? even : Math.round(length);
}

// Codes as an image through a table of 256 [red, green, blue] or nulls, which let the hatching show.
export function imageOfCodes(codes, rows, cols, colours) {
  const table = Uint32Array.from(colours, (colour) => (colour ? packedColour(colour) : 0));
  return imageOf(
    Uint32Array.from(codes, (code) => table[code]),
    cols,
    rows,
  );
}

function words(pen, text, x, y, { size = 11, colour = "--muted", align = "center", turn = 0 }) {
  pen.save();
  pen.translate(x, y);
  pen.rotate(turn * (Math.PI / 2));
  pen.font = size + "px " + SANS;
  pen.fillStyle = cssColour(colour);
  pen.textAlign = align;
  pen.textBaseline = "alphabetic";
  pen.fillText(text, 0, 0);
  pen.restore();
}

// A filled profile, from the lowest value to the highest; place turns (pixel, share) into a point.
function profile(pen, { values, range: [low, high] }, pixels, place) {
  if (!(high > low)) return;
  const lifted = Float64Array.from(values, (value) => value - low);
  pen.fillStyle = cssColour("--profile");
  pen.beginPath();
  pen.moveTo(...place(0, 0));
  alongPixels(lifted, values.length, 0, values.length, Math.min(pixels, values.length)).forEach((value, at, all) => {
    for (const end of [at, at + 1]) pen.lineTo(...place((end * pixels) / all.length, value / (high - low)));
  });
  pen.lineTo(...place(pixels, 0));
  pen.fill();
}

// view: {name, label, rows, cols, square, image(), hatched, axes: {left, bottom: {title, ticks(pixels)}}, top() | null, right(): {title, values, range},
//        scale(), lines(), says(row, col), value(row, col), corner, rowName(row), colName(col), controls, pin(row) | null, csv(), suffix()}
// What its functions give may change: redraw() asks them again.
export function makePlain(root, view) {
  const { rows, cols } = view;
  const section = element("section", "plain");
  const bar = element("div", "bar exports");
  const about = element("p", "muted");
  const map = element("div", "plain-map");
  const canvas = canvasOf(1, 1);
  const [across, down] = [element("div", "across"), element("div", "down")];
  const readout = element("p", "plain-readout");
  const scale = canvasOf(1, 1);
  const says = element("p", "muted");
  const numbers = element("details", "tables");
  const summary = element("summary", "", "Table: the numbers around the cursor");
  let cursor = [0, 0];
  let shape = null;

  const exporting = ["png", "svg", "csv"].map((kind) =>
    button(kind.toUpperCase(), () => {
      says.textContent = "";
      const names = [page.title, view.suffix()];
      if (kind === "csv") return saveCsv(view.csv(), ...names);
      return saveFigure(kind, figure(...sizeOf(560, 420)), ...names).catch((error) => {
        says.textContent = "The file could not be made: " + error.message;
      });
    }),
  );
  bar.append(element("h2", "", view.name), ...view.controls, ...exporting);

  map.tabIndex = 0;
  attributes(map, { role: "application", "aria-label": view.label });
  attributes(readout, { role: "status" });
  map.append(canvas, across, down);
  numbers.append(summary);
  section.append(bar, about, map, scale, readout, says, numbers);
  root.replaceChildren(section);

  function sizeOf(room, highest) {
    if (!view.square) return [whole(room, cols), whole(highest, rows)];
    const wide = Math.min(room, (highest * cols) / rows);
    return [whole(wide, cols), Math.max(60, whole((wide * rows) / cols, rows))];
  }

  // The map in a box of width x height, with its axes and margins, at (x, y).
  function draw(pen, x, y, width, height) {
    const { left, bottom } = view.axes;
    const [top, right] = [view.top && view.top(), view.right()];
    const muted = cssColour("--muted");
    pen.fillStyle = hatching(pen, 1);
    if (view.hatched) pen.fillRect(x, y, width, height);
    pen.imageSmoothingEnabled = width < cols || height < rows;
    pen.drawImage(view.image(), x, y, width, height);
    pen.strokeStyle = muted;
    pen.lineWidth = 1;
    pen.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
    for (const [place, label] of left.ticks(height)) words(pen, label, x - 7, y + place + 4, { align: "right" });
    for (const [place, label] of bottom.ticks(width)) words(pen, label, x + place, y + height + 16, {});
    words(pen, bottom.title, x + width / 2, y + height + 34, { size: 12, colour: "--ink" });
    words(pen, left.title, x - LEFT + 14, y + height / 2, { size: 12, colour: "--ink", turn: -1 });
    if (top) {
      words(pen, top.title, x, y - TOP + 12, { align: "left" });
      profile(pen, top, width, (at, share) => [x + at, y - 4 - share * (TOP - 22)]);
    }
    words(pen, right.title, x + width + RIGHT - 12, y, { align: "left", turn: 1 });
    profile(pen, right, height, (at, share) => [x + width + 5 + share * (RIGHT - 26), y + at]);
  }

  function figure(width, height) {
    const above = view.top ? TOP : 12;
    return {
      lines: view.lines(),
      ...{ width: LEFT + width + RIGHT, height: above + height + BOTTOM },
      draw(pen, x, y) {
        draw(pen, x + LEFT, y + above, width, height);
        return view.scale();
      },
    };
  }

  function paint(target, width, height, act) {
    const unit = window.devicePixelRatio || 1;
    target.width = Math.round(width * unit);
    target.height = Math.round(height * unit);
    Object.assign(target.style, { width: width + "px", height: height + "px" });
    const pen = target.getContext("2d");
    pen.scale(unit, unit);
    act(pen);
  }

  function redraw() {
    const above = view.top ? TOP : 12;
    const room = Math.max(100, Math.min(760, section.clientWidth - LEFT - RIGHT));
    const [width, height] = sizeOf(room, view.square ? 600 : 440);
    shape = { left: LEFT, top: above, width, height };
    paint(canvas, LEFT + width + RIGHT, above + height + BOTTOM, (pen) => draw(pen, LEFT, above, width, height));
    paint(scale, Math.min(440, section.clientWidth), 48, (pen) => drawScale(pen, 24, 18, 200, view.scale()));
    about.textContent = view.lines().join("; ");
    point(...cursor);
  }

  function point(row, col) {
    cursor = [row, col];
    const { left, top, width, height } = shape;
    const [tall, wide] = [height / rows, width / cols];
    const lay = (line, ...box) =>
      ["left", "top", "width", "height"].forEach((side, at) => (line.style[side] = box[at] + "px"));
    lay(across, left - 1, top + row * tall - 1, width + 2, Math.max(1, tall) + 2);
    lay(down, left + col * wide - 1, top - 1, Math.max(1, wide) + 2, height + 2);
    readout.replaceChildren(...view.says(row, col));
    if (numbers.open) fill();
  }

  function choose(row, col) {
    cursor = [row, col];
    if (!view.pin) return point(row, col);
    view.pin(row);
    redraw();
  }

  function fill() {
    const near = (at, cells) => {
      const first = Math.max(0, Math.min(at - AROUND, cells - 2 * AROUND));
      return Array.from({ length: Math.min(cells, 2 * AROUND) }, (_, step) => first + step);
    };
    const keys = near(cursor[1], cols);
    const body = near(cursor[0], rows).map((row) => [view.rowName(row), ...keys.map((col) => view.value(row, col))]);
    const table = tableOf(view.name, [view.corner, ...keys.map(view.colName)], body);
    numbers.replaceChildren(summary, table);
  }

  const pointed = (act) => (event) => {
    const box = canvas.getBoundingClientRect();
    const row = Math.floor(((event.clientY - box.top - shape.top) / shape.height) * rows);
    const col = Math.floor(((event.clientX - box.left - shape.left) / shape.width) * cols);
    if (row >= 0 && row < rows && col >= 0 && col < cols) act(row, col);
  };
  on(map, "pointermove", pointed(point));
  on(map, "click", pointed(choose));
  on(map, "keydown", (event) => {
    if (withModifier(event)) return;
    const step = event.shiftKey ? 10 : 1;
    const [row, col] = cursor;
    const moves = { ArrowLeft: [row, col - step], ArrowRight: [row, col + step], ArrowUp: [row - step, col] };
    Object.assign(moves, { ArrowDown: [row + step, col], Home: [row, 0], End: [row, cols - 1] });
    const to = moves[event.key];
    if (to) point(clamp(to[0], 0, rows - 1), clamp(to[1], 0, cols - 1));
    else if (event.key === "Enter") choose(row, col);
    else return;
    event.preventDefault();
  });
  on(numbers, "toggle", () => numbers.open && fill());
  new ResizeObserver(() => section.clientWidth && redraw()).observe(section);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  redraw();
  return { redraw, choose };
}
