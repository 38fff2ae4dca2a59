// What all pages have around them: title, notes, theme, the keys and what a failure says.

import { page } from "./decode.js";
import { byId, element, fill, on, onKeys, root, span } from "./dom.js";
import { inText, visible } from "./tokens.js";

const SCHEMA = "regard.look/3";

// Light or dark is the reader's, until the button or T says otherwise for this page.
function followTheme(told) {
  const preference = matchMedia("(prefers-color-scheme: dark)");
  let chosen = "";
  const show = () => {
    const theme = chosen || (preference.matches ? "dark" : "light");
    root.dataset.theme = theme;
    fill("theme", theme === "dark" ? "Light" : "Dark");
    told(theme);
  };
  on(preference, "change", show);
  on(byId("theme"), "click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    show();
  });
  show();
}

// keys: [key, what it does], told at the foot of the page; does: what to call, by key in lower case, or for all others.
// Keys typed into a field are its own.
export function listenToKeys(keys, more, does) {
  const named = ([key, text]) => span("", ...key.split(" ").map((one) => element("kbd", "", one)), " " + text);
  fill(document.querySelector("footer"), ...[...keys, ["T", "light or dark"]].map(named), more);
  onKeys(document, (event) => {
    if (event.target.closest("input, select, dialog")) return false;
    if (event.key.toLowerCase() === "t") return byId("theme").click();
    const act = does[event.key.toLowerCase()] || does.other;
    return act ? act(event) : false;
  });
}

export async function start(told, draw) {
  try {
    if (page.schema !== SCHEMA) throw new Error("these data are " + page.schema + "; this page reads " + SCHEMA);
    document.title = visible(page.title, 200);
    fill("title", inText(page.title));
    fill("source", inText(page.source));
    for (const name of ["notes", "reduced"]) {
      fill(name, ...(page[name] || []).map((sentence) => element("li", "", sentence)));
    }
    followTheme(told);
    await draw();
  } catch (error) {
    fail(error);
  }
}

export function fail(error) {
  byId("failure").hidden = false;
  fill("failure", "The page could not be drawn: " + error.message);
  throw error;
}
