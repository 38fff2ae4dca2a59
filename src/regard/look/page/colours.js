// Weights to colours: one ramp from the paper to ink, one signed scale around the paper, and hatching for what is not allowed.

import { bytesOf, page } from "./decode.js";

const ramp = bytesOf(page.ramp);
const signed = [page.signed, page.signed_dark].map((table) => bytesOf(table || page.ramp));
const root = document.documentElement;

export const isDark = () => root.dataset.theme === "dark";

export const cssColour = (name) => getComputedStyle(root).getPropertyValue(name).trim();

// Where a weight lies on the scale, 0 to 1. range: {logFloor, highest}
export function shareOf(weight, scale, { logFloor, highest }) {
  if (scale === "log") return weight > logFloor ? Math.min(1, 1 - Math.log(weight) / Math.log(logFloor)) : 0;
  return highest > 0 ? Math.min(1, Math.max(0, weight / highest)) : 0;
}

// Where a difference lies, -1 to 1; on the log scale its size is, with its sign kept.
export const signedShare = (difference, scale, range) =>
  Math.sign(difference) * shareOf(Math.abs(difference), scale, range);

const colourIn = (table, at) => Array.from(table.subarray(3 * at, 3 * at + 3));

// [red, green, blue] of a share of the ramp. It starts at the paper, whichever colour that has.
export const rampColour = (share, dark = isDark()) => colourIn(ramp, Math.round(255 * (dark ? 1 - share : share)));

// [red, green, blue] of -1 .. 1 on the signed scale.
export const signedColour = (share, dark = isDark()) =>
  colourIn(signed[Number(dark)], Math.round(127.5 + 127.5 * Math.max(-1, Math.min(1, share))));

export const cssOf = (colour) => "rgb(" + colour.join(",") + ")";

export const packedColour = (colour) => new Uint32Array(new Uint8Array([...colour, 255]).buffer)[0];

const scaleOf = (colourOf) => Uint32Array.from({ length: 256 }, (_, at) => packedColour(colourOf(at / 255)));

export const rampScale = (dark) => scaleOf((share) => rampColour(share, dark));

export const signedScale = (dark) => scaleOf((share) => signedColour(2 * share - 1, dark));

// What is left out on demand: a flat grey that neither scale holds.
export const leftColour = (dark) => (dark ? [62, 57, 50] : [214, 207, 196]);

// Grey with slanted lines, for what the mask forbids; unit: device pixels a CSS pixel.
export function hatching(context, unit) {
  const tile = document.createElement("canvas");
  const side = Math.max(4, Math.round(7 * unit));
  tile.width = tile.height = side;
  const pen = tile.getContext("2d");
  pen.fillStyle = cssColour("--forbidden");
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = cssColour("--forbidden-line");
  pen.lineWidth = 1.2 * unit;
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}
