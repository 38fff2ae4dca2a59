// The axes of the map: round numbers, or the tokens themselves where there is room for them.

import { fillBox, write } from "./canvas.js";
import { max, min } from "./numbers.js";
import { state } from "./store.js";
import { visible } from "./tokens.js";
import { grouped } from "./values.js";
import { niceSteps } from "./viewport.js";

const ROOM = 11; // pixels that a token's label needs

export const hasRoom = (low, high, pixels, tokens) => Boolean(tokens) && (high - low) * ROOM <= pixels;

// [place in pixels, label] of the tokens low .. high along so many pixels.
function labelsOf(low, high, pixels, tokens) {
  const count = max(2, min(6, pixels / 60));
  const shown = tokens ? Array.from({ length: high - low }, (_, at) => low + at) : niceSteps(low, high, count);
  return shown.map((at) => [
    ((at + 0.5 - low) * pixels) / (high - low),
    tokens ? visible(tokens[at], 10) : grouped(at),
  ]);
}

export function drawAxes(pen, { left, top, width, height, bottom, narrow }) {
  const { view, queryTokens, keyTokens } = state;
  const { q0, q1, k0, k1 } = view;
  const rowTokens = hasRoom(q0, q1, height, queryTokens) && queryTokens;
  const colTokens = hasRoom(k0, k1, width, keyTokens) && keyTokens;
  for (const [at, label] of labelsOf(q0, q1, height, rowTokens)) {
    const look = {
      font: rowTokens ? "--mono" : "--sans",
      align: "right",
      base: "middle",
      room: left - (narrow ? 8 : 26),
    };
    fillBox(pen, "--muted", left - 4, top + at - 0.5, 3, 1);
    write(pen, label, left - 7, top + at, look);
  }
  const under = top + height;
  for (const [at, label] of labelsOf(k0, k1, width, colTokens)) {
    const turned = { font: "--mono", turn: -1, align: "right", base: "middle", room: bottom - 26 };
    fillBox(pen, "--muted", left + at - 0.5, under + 1, 1, 3);
    write(pen, label, left + at, under + 7, colTokens ? turned : { align: "center", base: "top" });
  }
  const name = { size: 12, colour: "--ink", align: "center" };
  write(pen, "key (read from) \u2192", left + width / 2, under + (colTokens ? bottom - 5 : 34), name);
  if (!narrow) write(pen, "\u2190 query (reading)", 11, top + height / 2, { ...name, turn: -1 });
}
