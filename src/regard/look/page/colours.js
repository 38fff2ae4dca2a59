// Weights to colours. A code is 0 where the mask forbids, 1 at the floor or below, 255 for a weight of 1.

const FORBIDDEN = 0;

function weightOf(code, floor) {
  return code <= 1 ? 0 : Math.pow(floor, 1 - (code - 1) / 254);
}

// Where a weight lies on the scale, 0 to 1.
function shareOf(weight, scale, range) {
  if (scale === "log") {
    if (weight <= range.logFloor) return 0;
    return Math.min(1, 1 - Math.log(weight) / Math.log(range.logFloor));
  }
  return range.highest > 0 ? Math.min(1, weight / range.highest) : 0;
}

// The ramp starts at the paper, whichever colour that has.
function rampColour(ramp, share, dark) {
  const at = 3 * Math.round(255 * (dark ? 1 - share : share));
  return [ramp[at], ramp[at + 1], ramp[at + 2]];
}

// The colour of every code as packed RGBA, forbidden ones transparent so that the hatching shows.
function colourTable(ramp, scale, range, dark) {
  const table = new Uint8ClampedArray(256 * 4);
  for (let code = 1; code < 256; code++) {
    const colour = rampColour(ramp, shareOf(weightOf(code, range.floor), scale, range), dark);
    table.set([colour[0], colour[1], colour[2], 255], 4 * code);
  }
  return new Uint32Array(table.buffer);
}

function isDark() {
  return document.documentElement.dataset.theme === "dark";
}

function cssColour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

// Grey with slanted lines, for what the mask forbids.
function hatching(context, unit) {
  const tile = document.createElement("canvas");
  const side = Math.max(4, Math.round(7 * unit));
  tile.width = tile.height = side;
  const pen = tile.getContext("2d");
  pen.fillStyle = cssColour("--forbidden");
  pen.fillRect(0, 0, side, side);
  pen.strokeStyle = cssColour("--forbidden-line");
  pen.lineWidth = 1.2 * unit;
  pen.beginPath();
  for (const shift of [-side, 0, side]) {
    pen.moveTo(shift - 1, side + 1);
    pen.lineTo(shift + side + 1, -1);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}
