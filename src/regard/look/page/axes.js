// The axes of the map: round numbers, or the tokens themselves where there is room for them.

import { cssColour } from "./colours.js";
import { visible } from "./tokens.js";
import { grouped } from "./values.js";
import { niceSteps } from "./viewport.js";

const ROOM = 11; // pixels that a token's label needs

export const SANS = "system-ui, -apple-system, 'Segoe UI', 'Helvetica Neue', 'DejaVu Sans', sans-serif";
const MONO = "ui-monospace, 'SF Mono', Menlo, Consolas, 'DejaVu Sans Mono', monospace";

// One line of text at a place; turn: in right angles.
export function write(
  pen,
  text,
  x,
  y,
  { size = 11, font = SANS, colour = "--muted", align = "left", base = "alphabetic", turn = 0, room } = {},
) {
  pen.save();
  pen.translate(x, y);
  if (turn) pen.rotate((turn * Math.PI) / 2);
  pen.font = size + "px " + font;
  pen.fillStyle = cssColour(colour);
  pen.textAlign = align;
  pen.textBaseline = base;
  pen.fillText(text, 0, 0, room);
  pen.restore();
}

export const hasRoom = (low, high, pixels, tokens) => Boolean(tokens) && (high - low) * ROOM <= pixels;

// [place in pixels, label] of the tokens low .. high along so many pixels.
function labelsOf(low, high, pixels, tokens) {
  const count = Math.max(2, Math.min(6, pixels / 60));
  const shown = tokens ? Array.from({ length: high - low }, (_, at) => low + at) : niceSteps(low, high, count);
  return shown.map((at) => [
    ((at + 0.5 - low) * pixels) / (high - low),
    tokens ? visible(tokens[at], 10) : grouped(at),
  ]);
}

export function drawAxes(
  pen,
  { left, top, width, height, bottom, fullHeight, narrow },
  { q0, q1, k0, k1 },
  { queries, keys },
) {
  const rowTokens = hasRoom(q0, q1, height, queries) && queries;
  const colTokens = hasRoom(k0, k1, width, keys) && keys;
  pen.fillStyle = cssColour("--muted");
  for (const [at, label] of labelsOf(q0, q1, height, rowTokens)) {
    pen.fillRect(left - 4, top + at - 0.5, 3, 1);
    const look = { font: rowTokens ? MONO : SANS, align: "right", base: "middle", room: left - (narrow ? 8 : 26) };
    write(pen, label, left - 7, top + at, look);
  }
  const under = top + height;
  for (const [at, label] of labelsOf(k0, k1, width, colTokens)) {
    pen.fillRect(left + at - 0.5, under + 1, 1, 3);
    const turned = { font: MONO, turn: -1, align: "right", base: "middle", room: bottom - 26 };
    write(pen, label, left + at, under + 7, colTokens ? turned : { align: "center", base: "top" });
  }
  const name = { size: 12, colour: "--ink", align: "center" };
  write(pen, "key (read from) \u2192", left + width / 2, colTokens ? fullHeight - 5 : under + 34, name);
  if (!narrow) write(pen, "\u2190 query (reading)", 11, top + height / 2, { ...name, turn: -1 });
}
