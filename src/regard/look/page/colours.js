// Weights to colours: one ramp from the paper to ink, one signed scale around the paper, and hatching for what is not allowed.

import { bytesOf, page } from "./decode.js";
import { root } from "./dom.js";
import { log, max, min, round } from "./numbers.js";

const ramp = bytesOf(page.ramp);
const signed = [page.signed, page.signed_dark].map((table) => bytesOf(table || page.ramp));

export const isDark = () => root.dataset.theme === "dark";

// The colour of a custom property; any other colour as it is.
export const cssColour = (name) =>
  name.startsWith("--") ? getComputedStyle(root).getPropertyValue(name).trim() : name;

// Where a weight lies on the scale, 0 to 1. range: {logFloor, highest}
export function shareOf(weight, scale, { logFloor, highest }) {
  if (scale === "log") return weight > logFloor ? min(1, 1 - log(weight) / log(logFloor)) : 0;
  return highest > 0 ? min(1, max(0, weight / highest)) : 0;
}

const colourIn = (table, at) => Array.from(table.subarray(3 * at, 3 * at + 3));

// [red, green, blue] of a share of the ramp. It starts at the paper, whichever colour that has.
export const rampColour = (share, dark = isDark()) => colourIn(ramp, round(255 * (dark ? 1 - share : share)));

// [red, green, blue] of -1 .. 1 on the signed scale.
export const signedColour = (share, dark = isDark()) =>
  colourIn(signed[Number(dark)], round(127.5 + 127.5 * max(-1, min(1, share))));

// Colours along the scale that is shown, 0 .. 1; part: how much of it is used.
export const scaleColour = (isSigned, part = 1) =>
  isSigned
    ? (share, dark) => signedColour(part * (2 * share - 1), dark)
    : (share, dark) => rampColour(part * share, dark);

export const cssOf = (colour) => "rgb(" + colour.join(",") + ")";

export const packedColour = (colour) => new Uint32Array(new Uint8Array([...colour, 255]).buffer)[0];

// A scale as 256 pixels.
export const pixelsOfScale = (colourOf, dark = isDark()) =>
  Uint32Array.from({ length: 256 }, (_, at) => packedColour(colourOf(at / 255, dark)));

// What is left out on demand: a flat grey that neither scale holds.
export const leftColour = (dark) => (dark ? [62, 57, 50] : [214, 207, 196]);
