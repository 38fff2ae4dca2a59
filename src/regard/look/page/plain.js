// What the pages of encodings and masks share: one map with margins, a cursor, a readout, a table and exports.

import { canvasOf, frame, hatchBox, imageOf, penFor, wholeCells, write } from "./canvas.js";
import { packedColour } from "./colours.js";
import { page } from "./decode.js";
import { arrowOf, attributes, button, element, fill, on, onKeys, span } from "./dom.js";
import { drawScale, saveFigure } from "./figure.js";
import { tableOf } from "./grid.js";
import { alongPixels, profile } from "./margins.js";
import { floor, max, min } from "./numbers.js";
import { saveCsv } from "./saving.js";
import { clamp } from "./viewport.js";

const AROUND = 8; // the table reaches this far from the cursor
const [LEFT, TOP, RIGHT, BOTTOM] = [66, 60, 70, 44];

// Codes as an image through a table of 256 [red, green, blue] or nulls, which let the hatching show.
export function imageOfCodes(codes, rows, cols, colours) {
  const table = Uint32Array.from(colours, (colour) => (colour ? packedColour(colour) : 0));
  return imageOf(
    Uint32Array.from(codes, (code) => table[code]),
    cols,
    rows,
  );
}

// A filled profile, from the lowest value to the highest; place turns (pixel, share) into a point.
function drawProfile(pen, { values, range: [low, high] }, pixels, place) {
  const lifted = Float64Array.from(values, (value) => value - low);
  const shown = alongPixels(lifted, values.length, 0, values.length, min(pixels, values.length));
  const step = pixels / shown.length;
  profile(pen, shown, { highest: high - low }, "--profile", (at, share) => place(at * step, share), true);
}

// view: {name, label, rows, cols, square, image(), hatched, axes: {left, bottom: {title, ticks(pixels)}}, top() | null, right(): {title, values, range},
//        scale(), lines(), says(row, col), value(row, col), corner, rowName(row), colName(col), controls, pin(row) | null, csv(), suffix()}
// What its functions give may change: redraw() asks them again.
export function makePlain(root, view) {
  const { rows, cols } = view;
  const section = element("section", "plain");
  const bar = element("div", "bar exports");
  const about = element("p", "muted");
  const map = element("div", "map plain-map");
  const canvas = canvasOf(1, 1);
  const [across, down] = [element("div", "across"), element("div", "down")];
  const readout = element("p", "readout plain-readout");
  const scale = canvasOf(1, 1);
  const says = element("p", "muted");
  const numbers = element("details", "tables");
  const summary = element("summary", "", "Table: the numbers around the cursor");
  let cursor = null; // [row, col], once somebody has pointed at a cell
  let shape = null;

  const exporting = ["png", "svg", "csv"].map((kind) =>
    button(kind.toUpperCase(), () => {
      fill(says, "");
      const names = [page.title, view.suffix()];
      if (kind === "csv") return saveCsv(view.csv(), ...names);
      return saveFigure(kind, figure(...sizeOf(560, 420)), ...names).catch((error) => {
        fill(says, "The file could not be made: " + error.message);
      });
    }),
  );
  bar.append(element("h2", "", view.name), ...view.controls, ...exporting);

  attributes(map, { role: "application", tabindex: 0, "aria-label": view.label });
  attributes(readout, { role: "status" });
  map.append(canvas, across, down);
  numbers.append(summary);
  const side = element("div", "beside", scale, readout, says, numbers);
  section.append(bar, about, map, side);
  root.replaceChildren(section);

  function sizeOf(room, highest) {
    if (!view.square) return [wholeCells(room, cols), wholeCells(highest, rows)];
    const wide = min(room, (highest * cols) / rows);
    return [wholeCells(wide, cols), max(60, wholeCells((wide * rows) / cols, rows))];
  }

  // The map in a box of width x height, with its axes and margins, at (x, y).
  function draw(pen, x, y, width, height) {
    const { left, bottom } = view.axes;
    const [top, right] = [view.top && view.top(), view.right()];
    if (view.hatched) hatchBox(pen, x, y, width, height);
    pen.imageSmoothingEnabled = width < cols || height < rows;
    pen.drawImage(view.image(), x, y, width, height);
    frame(pen, "--muted", x, y, width, height);
    for (const [place, label] of left.ticks(height)) write(pen, label, x - 7, y + place + 4, { align: "right" });
    for (const [place, label] of bottom.ticks(width)) {
      write(pen, label, x + place, y + height + 16, { align: "center" });
    }
    const name = { size: 12, colour: "--ink", align: "center" };
    write(pen, bottom.title, x + width / 2, y + height + 34, name);
    write(pen, left.title, x - LEFT + 14, y + height / 2, { ...name, turn: -1 });
    if (top) {
      write(pen, top.title, x, y - TOP + 12);
      drawProfile(pen, top, width, (at, share) => [x + at, y - 4 - share * (TOP - 22)]);
    }
    write(pen, right.title, x + width + RIGHT - 12, y, { turn: 1 });
    drawProfile(pen, right, height, (at, share) => [x + width + 5 + share * (RIGHT - 26), y + at]);
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

  function redraw() {
    const above = view.top ? TOP : 12;
    const { clientWidth } = section;
    const room = max(100, clientWidth - LEFT - RIGHT);
    const [width, height] = sizeOf(room, view.square ? clamp(innerHeight - 260, 320, 900) : 440);
    // What is said stands beside a map that leaves room for it, with the table.
    const isBeside = clientWidth - LEFT - width - RIGHT > 340;
    section.classList.toggle("two", isBeside);
    if (!shape) numbers.open = isBeside;
    shape = { left: LEFT, top: above, width, height };
    draw(penFor(canvas, LEFT + width + RIGHT, above + height + BOTTOM), LEFT, above, width, height);
    drawScale(penFor(scale, min(340, clientWidth), 48), 24, 18, 160, view.scale());
    fill(about, view.lines().join("; "));
    for (const line of [across, down]) line.hidden = !cursor;
    if (cursor) return point(...cursor);
    readout.replaceChildren(span("muted", "Point at the map, or move in it with the arrow keys."));
    if (numbers.open) tabulate();
  }

  function point(row, col) {
    cursor = [row, col];
    across.hidden = down.hidden = false;
    const { left, top, width, height } = shape;
    const [tall, wide] = [height / rows, width / cols];
    const lay = (line, ...box) =>
      ["left", "top", "width", "height"].forEach((side, at) => (line.style[side] = box[at] + "px"));
    lay(across, left - 1, top + row * tall - 1, width + 2, max(1, tall) + 2);
    lay(down, left + col * wide - 1, top - 1, max(1, wide) + 2, height + 2);
    readout.replaceChildren(...view.says(row, col));
    if (numbers.open) tabulate();
  }

  function choose(row, col) {
    cursor = [row, col];
    if (!view.pin) return point(row, col);
    view.pin(row);
    redraw();
  }

  function tabulate() {
    const near = (at, cells) => {
      const first = max(0, min(at - AROUND, cells - 2 * AROUND));
      return Array.from({ length: min(cells, 2 * AROUND) }, (_, step) => first + step);
    };
    const [row, col] = cursor || [0, 0];
    const keys = near(col, cols);
    const body = near(row, rows).map((at) => [view.rowName(at), ...keys.map((key) => view.value(at, key))]);
    const table = tableOf(view.name, [view.corner, ...keys.map(view.colName)], body);
    numbers.replaceChildren(summary, table);
  }

  const pointed = (act) => (event) => {
    const box = canvas.getBoundingClientRect();
    const row = floor(((event.clientY - box.top - shape.top) / shape.height) * rows);
    const col = floor(((event.clientX - box.left - shape.left) / shape.width) * cols);
    if (row >= 0 && row < rows && col >= 0 && col < cols) act(row, col);
  };
  on(map, "pointermove", pointed(point));
  on(map, "click", pointed(choose));
  onKeys(map, (event) => {
    const times = event.shiftKey ? 10 : 1;
    const [row, col] = cursor || [0, 0];
    const step = arrowOf(event);
    // The first key shows where the cursor is.
    const [down, across] = cursor && step ? step : [0, 0];
    if (step) return point(clamp(row + times * down, 0, rows - 1), clamp(col + times * across, 0, cols - 1));
    return event.key === "Enter" && cursor ? choose(row, col) : false;
  });
  on(numbers, "toggle", () => numbers.open && tabulate());
  new ResizeObserver(() => section.clientWidth && redraw()).observe(section);
  new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
  redraw();
  return { redraw, choose };
}
