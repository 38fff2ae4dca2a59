// A pen that looks like a canvas's and writes SVG, so that one drawing serves the screen, PNG and papers.

import { canvasOf } from "./canvas.js";
import { cssColour } from "./colours.js";
import { attributes } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const ANCHORS = { center: "middle", right: "end" };
const RAISED = { middle: "0.35em", top: "0.8em" };

const short = (value) => (typeof value === "number" ? Number(value.toFixed(2)) : value);

export function svgPen(width, height) {
  const sheet = document.implementation.createDocument(SVG, "svg", null);
  const ruler = canvasOf(1, 1).getContext("2d");
  const kept = [];
  let path = "";

  function add(name, values, parent = sheet.documentElement) {
    const made = sheet.createElementNS(SVG, name);
    for (const key in values) if (values[key]) made.setAttribute(key, short(values[key]));
    parent.append(made);
    return made;
  }

  const drawn = (name, values) => add(name, { transform: pen.moved, ...values });
  const stroked = () => ({ fill: "none", stroke: pen.strokeStyle, "stroke-width": pen.lineWidth });

  const pen = {
    moved: "",
    // What draws sets its colours; only the place is kept.
    save: () => kept.push(pen.moved),
    restore: () => (pen.moved = kept.pop()),
    translate: (x, y) => (pen.moved += `translate(${short(x)} ${short(y)})`),
    rotate: (angle) => (pen.moved += `rotate(${short((angle * 180) / Math.PI)})`),
    beginPath: () => (path = ""),
    moveTo: (x, y) => (path += `M${short(x)} ${short(y)}`),
    lineTo: (x, y) => (path += `L${short(x)} ${short(y)}`),
    fill: () => drawn("path", { d: path, fill: pen.fillStyle }),
    stroke: () => drawn("path", { d: path, ...stroked() }),
    fillRect: (x, y, width, height) => drawn("rect", { x, y, width, height, fill: pen.fillStyle }),
    strokeRect: (x, y, width, height) => drawn("rect", { x, y, width, height, ...stroked() }),
    measureText(text) {
      ruler.font = pen.font;
      return ruler.measureText(text);
    },
    fillText(text, x, y, room) {
      const [, size, family] = /^([\d.]+)px (.*)/.exec(pen.font);
      const made = drawn("text", {
        ...{ x, y, dy: RAISED[pen.textBaseline], "text-anchor": ANCHORS[pen.textAlign], fill: pen.fillStyle },
        ...{ "font-size": size, "font-family": family, "xml:space": "preserve" },
        ...(pen.measureText(text).width > room ? { textLength: room, lengthAdjust: "spacingAndGlyphs" } : {}),
      });
      // XML has no place for control characters and half characters.
      made.textContent = text.replace(/[\p{Cc}\p{Cs}\ufffe\uffff]/gu, "\ufffd");
    },
    drawImage: (canvas, x, y, width, height) =>
      drawn("image", {
        ...{ x, y, width, height, preserveAspectRatio: "none", "image-rendering": "pixelated" },
        href: canvas.toDataURL("image/png"),
      }),
    // The one pattern of a figure is the hatching.
    createPattern: () => "url(#forbidden)",
    source: () => new XMLSerializer().serializeToString(sheet),
  };

  attributes(sheet.documentElement, { width, height, viewBox: `0 0 ${width} ${height}` });
  const side = 7;
  const tile = { id: "forbidden", width: side, height: side, patternUnits: "userSpaceOnUse" };
  const pattern = add("pattern", tile, add("defs", {}));
  add("rect", { width: side, height: side, fill: cssColour("--forbidden") }, pattern);
  const d = `M-1 1L1 -1M-1 8L8 -1M6 8L8 6`;
  add("path", { d, stroke: cssColour("--forbidden-line"), "stroke-width": 1.2 }, pattern);
  return pen;
}
