// Canvases and their pens: sizes, and what is drawn again and again. A pen may also be one that writes SVG.

import { cssColour, pixelsOfScale } from "./colours.js";
import { floor, round } from "./numbers.js";

export const unitNow = () => devicePixelRatio || 1;

export function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = round(width);
  canvas.height = round(height);
  return canvas;
}

// Gives a canvas its size in CSS pixels and a pen that draws in them.
export function penFor(canvas, width, height, unit = unitNow()) {
  canvas.width = round(width * unit);
  canvas.height = round(height * unit);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(unit, unit);
  return pen;
}

// Cells of whole device pixels where that costs little room: no cell is then wider than its neighbour.
export function wholeCells(size, cells, unit = unitNow()) {
  const even = floor((size * unit) / cells) * cells;
  return (even > 0.85 * size * unit ? even : floor(size * unit)) / unit;
}

export function imageOf(pixels, width, height) {
  const canvas = canvasOf(width, height);
  canvas.getContext("2d").putImageData(new ImageData(new Uint8ClampedArray(pixels.buffer), width), 0, 0);
  return canvas;
}

// A colour scale, 256 steps.
export function barOf(colourOf) {
  const bar = imageOf(pixelsOfScale(colourOf), 256, 1);
  bar.className = "ramp";
  return bar;
}

// A text that is too long for so many pixels, cut so that it is squeezed a little at most.
function fitted(pen, text, room) {
  const letters = Array.from(text);
  let shown = text;
  while (letters.length && pen.measureText(shown).width > 1.2 * room) {
    letters.pop();
    shown = letters.join("") + "\u2026";
  }
  return shown;
}

// One line of text at a place; turn: in right angles; room: the pixels that it may take.
export function write(
  pen,
  text,
  x,
  y,
  { size = 11, font = "--sans", colour = "--muted", align = "left", base = "alphabetic", turn = 0, room } = {},
) {
  pen.save();
  pen.translate(x, y);
  if (turn) pen.rotate((turn * Math.PI) / 2);
  pen.font = size + "px " + cssColour(font);
  pen.fillStyle = cssColour(colour);
  pen.textAlign = align;
  pen.textBaseline = base;
  pen.fillText(room ? fitted(pen, text, room) : text, 0, 0, room);
  pen.restore();
}

export function fillBox(pen, colour, ...box) {
  pen.fillStyle = cssColour(colour);
  pen.fillRect(...box);
}

// Grey with slanted lines, for what the mask forbids.
function hatching(context) {
  const side = 7;
  const tile = canvasOf(side, side);
  const pen = tile.getContext("2d");
  fillBox(pen, "--forbidden", 0, 0, side, side);
  pen.strokeStyle = cssColour("--forbidden-line");
  pen.lineWidth = 1.2;
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

export function hatchBox(pen, ...box) {
  pen.fillStyle = hatching(pen);
  pen.fillRect(...box);
}

// A frame just outside of a box.
export function frame(pen, colour, x, y, width, height) {
  pen.strokeStyle = cssColour(colour);
  pen.lineWidth = 1;
  pen.strokeRect(x - 0.5, y - 0.5, width + 1, height + 1);
}

export function fillShape(pen, colour, ...points) {
  pen.fillStyle = cssColour(colour);
  pen.beginPath();
  for (const point of points) pen.lineTo(...point);
  pen.fill();
}
