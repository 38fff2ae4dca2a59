// Figures as files: what is drawn, with a title above it and its scale below, as PNG or SVG, always on white.

import { SANS } from "./axes.js";
import { cssColour, hatching } from "./colours.js";
import { page } from "./decode.js";
import { fileName, save } from "./saving.js";
import { svgPen } from "./svg.js";

const SCALE = 2;
const SIDE = 16;

export function canvasOf(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = Math.round(width);
  canvas.height = Math.round(height);
  return canvas;
}

function write(pen, text, x, y, size, colour = "--muted", align = "left") {
  pen.font = size + "px " + SANS;
  pen.fillStyle = cssColour(colour);
  pen.textAlign = align;
  pen.fillText(text, x, y);
}

// scale: {title, bar: canvas, ticks: [[0..1, label]], hatched: are there forbidden cells}
export function drawScale(pen, x, y, width, { title, bar, ticks, hatched }) {
  write(pen, title, x, y - 6, 11.5, "--ink");
  pen.drawImage(bar, x, y, width, 10);
  for (const [share, label] of ticks) write(pen, label, x + share * width, y + 24, 11, "--muted", "center");
  if (!hatched) return;
  write(pen, "may not attend", x + width + 52, y + 9, 11);
  pen.fillStyle = hatching(pen, 1);
  pen.fillRect(x + width + 28, y, 18, 10);
}

// figure: {lines, width, height, draw(pen, x, y) -> its scale}
function drawSheet(pen, { lines, width, draw, height }, top, fullWidth, fullHeight) {
  // A line that would leave the sheet is cut, since a figure cannot scroll.
  const cut = (text, size) =>
    text.length * size * 0.55 > width ? text.slice(0, width / size / 0.55) + "\u2026" : text;
  pen.fillStyle = "#fff";
  pen.fillRect(0, 0, fullWidth, fullHeight);
  write(pen, cut(page.title, 15), SIDE, 27, "600 15", "--ink");
  lines.forEach((line, at) => write(pen, cut(line, 11.5), SIDE, 46 + 17 * at, 11.5));
  drawScale(pen, SIDE + 24, top + height + 28, 240, draw(pen, SIDE, top));
  write(pen, cut(page.source, 14), SIDE, fullHeight - 10, 10);
  write(pen, "drawn by regard", fullWidth - SIDE, fullHeight - 10, 10, "--muted", "right");
}

export async function saveFigure(kind, figure, ...names) {
  const top = 40 + 17 * figure.lines.length;
  const size = [figure.width + 2 * SIDE, top + figure.height + 84];
  const { dataset } = document.documentElement;
  const { theme } = dataset;
  const canvas = canvasOf(SCALE * size[0], SCALE * size[1]);
  let pen = canvas.getContext("2d");
  dataset.theme = "light"; // nothing is painted before it is set back
  try {
    if (kind === "svg") pen = svgPen(...size);
    else pen.scale(SCALE, SCALE);
    drawSheet(pen, figure, top, ...size);
  } finally {
    dataset.theme = theme;
  }
  const made = () => new Promise((resolve) => canvas.toBlob(resolve));
  const blob = kind === "svg" ? new Blob([pen.source()], { type: "image/svg+xml" }) : await made();
  if (!blob) throw new Error("this browser makes no PNG of " + canvas.width + " \u00d7 " + canvas.height + " pixels");
  save(fileName(...names) + "." + kind, blob);
}
