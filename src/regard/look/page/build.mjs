// Builds the page's sources, the files beside this one, into built/: `npm run build`, or `make page`.
// The same sources give the same bytes, and each built file starts with their hash, by which a test sees stale ones.
// With --check nothing is written: it fails when what stands in built/ is not what these sources give.

import { createHash } from "node:crypto";
import { mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import * as esbuild from "esbuild";

const folder = dirname(fileURLToPath(import.meta.url));
const read = (name) => readFileSync(join(folder, name), "utf8");
const wordsOf = (text) => text.trim().split(/\s+/);
const named = (...kinds) =>
  readdirSync(folder)
    .filter((name) => kinds.some((kind) => name.endsWith(kind)))
    .sort();

// What the oldest browsers can read that inflate data by themselves (DecompressionStream).
const target = ["es2022", "chrome103", "firefox113", "safari16.4"];
const shared = { bundle: true, write: false, minify: true, charset: "ascii", legalComments: "none", target };

// What is built: the page of weights, the same as a live server gives it, and the one of encodings and masks. All use
// page.html; the first two page.css.
const PLAIN_ONLY = ["plain.css"];
const BASE = "base.css";
const styles = named(".css").filter((name) => name !== BASE);
const entries = [
  ["page", "main.js", styles.filter((name) => !PLAIN_ONLY.includes(name))],
  ["served", "served.js", null],
  ["plain", "plain-main.js", [...PLAIN_ONLY, "tables.css"]],
];

// Names of properties that the page of attention spells short: its own, none of the browser's. Those of the document's data
// that are among them are read by decode.js alone, in quotes. No other string may be such a name, but for the ids and words
// of WORDS, or half of what means one thing would keep its name.
const OWN = wordsOf(`
  align arrange base below codes colName colour colourOf colours cols data depth down draw entropy entropyAt
  entropyLeft entropyLeftAt exact first firstAt forbidden found goToPart group gutter hideFirst highest how isMax
  isNamed k0 k1 keyTokens key_len keys lines listStatistics logFloor loose meta mostRead moved narrow onArrow other
  peak perKey perQuery pitch place pointed pooling q0 q1 queries query queryTokens query_len range received redraw
  rest restAt rival room rowName rows scaling select side slotOf span tick ticks tiles told topKeys topWeights total
  totalAt turn unpacked view weight weights widest windows
`);
const WORDS = wordsOf(`
  base data down entropy exact first forbidden found highest keys place queries query received rest rows select span
  tick tiles turn windows
`);

function checkOwnNames() {
  const quoted = new RegExp(`(?<!\\*/ )(["'\`])(${OWN.filter((name) => !WORDS.includes(name)).join("|")})\\1`);
  for (const name of named(".js")) {
    const found = name !== "decode.js" && quoted.exec(read(name));
    if (found) throw new Error(`${name} names ${found[2]} in a string: take it out of OWN in build.mjs`);
  }
}

function sourceHash() {
  const hash = createHash("sha256");
  for (const name of named(".js", ".css", ".html", ".mjs")) hash.update(`${name}\0${read(name)}\0`);
  return hash.digest("hex").slice(0, 16);
}

async function script(entry) {
  const options = { ...shared, entryPoints: [join(folder, entry)], format: "iife", drop: ["console", "debugger"] };
  // The other pages are small, and read other data.
  if (entry !== "plain-main.js") options.mangleProps = new RegExp(`^(${OWN.join("|")})$`);
  return (await esbuild.build(options)).outputFiles[0].text;
}

// The base comes first, so that the others may refine it; they do not depend on one another.
async function style(names) {
  const contents = [BASE, ...names].map((name) => `@import "./${name}";`).join("\n");
  const options = { ...shared, stdin: { contents, resolveDir: folder, loader: "css" } };
  return ascii((await esbuild.build(options)).outputFiles[0].text);
}

// esbuild writes the characters of `content: "\2026"` as they are, and keeps the blank before the value of a `--name`.
function ascii(css) {
  return css
    .replace(/[^\0-\x7f]/gu, (character) => `\\${character.codePointAt(0).toString(16)} `)
    .replace(/(--[\w-]+:) /g, "$1");
}

// White space between elements keeps words apart, however long it is; a value of letters alone needs no quotes.
function html() {
  return read("page.html")
    .replace(/<!--.*?-->/gs, "")
    .replace(/\s+/g, " ")
    .replace(/="([\w-]+)"/g, "=$1")
    .replace(/ ?\/?>/g, ">")
    .replace(/ (?=<(?:\/?(?:html|head|body|main|section|header|footer|div|p|ul|ol|dl|table|h[1-6]|meta|title)\b))/g, "")
    .trim();
}

checkOwnNames();
const hash = sourceHash();
const built = { "page.html": html().replace(/^<!doctype html>/i, (doctype) => `${doctype}<!-- ${hash} -->`) + "\n" };
const sizes = [];
for (const [name, entry, names] of entries) {
  built[`${name}.js`] = `/* ${hash} */${await script(entry)}`;
  const sheet = names ? `${name}.css` : "page.css";
  built[sheet] ??= `/* ${hash} */${await style(names)}`;
  const parts = [built[`${name}.js`], built[sheet], built["page.html"]].map((text) => text.length);
  sizes.push(`${name} ${parts.join(" + ")} = ${parts.reduce((sum, size) => sum + size)}`);
}
const check = process.argv.includes("--check");
for (const [name, text] of Object.entries(built)) {
  if (!/^[\0-\x7f]*$/.test(text)) throw new Error(`${name} holds characters beyond ASCII: write them as escapes`);
  if (check && read(`built/${name}`) !== text) throw new Error(`built/${name} is stale: run make page`);
}
if (!check) {
  mkdirSync(join(folder, "built"), { recursive: true });
  for (const [name, text] of Object.entries(built)) writeFileSync(join(folder, "built", name), text);
}
process.stdout.write(`${check ? "checked" : "built"} js + css + html, in bytes: ${sizes.join("; ")}\n`);
