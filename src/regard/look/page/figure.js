// Figures as files: what is drawn, with a title above it and its scale below, as PNG or SVG, always on white.

import { canvasOf, fillBox, hatchBox, write } from "./canvas.js";
import { bytesOf, page } from "./decode.js";
import { root } from "./dom.js";
import { fileName, save } from "./saving.js";
import { svgPen } from "./svg.js";
import { visible } from "./tokens.js";

const SCALE = 2;
const SIDE = 16;

// scale: {title, bar: canvas, ticks: [[0..1, label]], hatched: are there forbidden cells}
export function drawScale(pen, x, y, width, { title, bar, ticks, hatched }) {
  write(pen, title, x, y - 6, { colour: "--ink" });
  pen.drawImage(bar, x, y, width, 10);
  for (const [share, label] of ticks) write(pen, label, x + share * width, y + 24, { align: "center" });
  if (!hatched) return;
  write(pen, "may not attend", x + width + 52, y + 9);
  hatchBox(pen, x + width + 28, y, 18, 10);
}

// figure: {lines, width, height, draw(pen, x, y) -> its scale}
function drawSheet(pen, { lines, width, draw, height }, top, fullWidth, fullHeight) {
  // A line that would leave the sheet is cut, since a figure cannot scroll.
  const line = (text, y, look) => write(pen, visible(text, 400), SIDE, y, { room: width, ...look });
  fillBox(pen, "#fff", 0, 0, fullWidth, fullHeight);
  line(page.title, 27, { size: 15, colour: "--ink" });
  lines.forEach((text, at) => line(text, 46 + 17 * at));
  drawScale(pen, SIDE + 24, top + height + 28, 240, draw(pen, SIDE, top));
  line(page.source, fullHeight - 10, { size: 10, room: width - 90 });
  write(pen, "drawn by regard", fullWidth - SIDE, fullHeight - 10, { size: 10, align: "right" });
}

export async function saveFigure(kind, figure, ...names) {
  const top = 40 + 17 * figure.lines.length;
  const size = [figure.width + 2 * SIDE, top + figure.height + 84];
  const { dataset } = root;
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
  // Not toBlob: a browser may never call back for a canvas that is shown nowhere.
  const bytes = kind === "svg" ? pen.source() : bytesOf(canvas.toDataURL("image/png").split(",")[1]);
  if (!bytes.length) throw new Error("this browser makes no PNG of so many pixels");
  save(fileName(...names) + "." + kind, new Blob([bytes], { type: kind === "svg" ? "image/svg+xml" : "image/png" }));
}
