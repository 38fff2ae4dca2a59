// What all pages have around them: title, notes, theme, the keys and what a failure says.

import { page } from "./decode.js";
import { attributes, byId, on, withModifier } from "./dom.js";
import { element } from "./tokens.js";

const SCHEMA = "regard.look/2";
const root = document.documentElement;

// Light or dark is the reader's, until the button or T says otherwise for this page.
function followTheme(told) {
  const preference = matchMedia("(prefers-color-scheme: dark)");
  const button = byId("theme");
  let chosen = "";
  const show = () => {
    const theme = chosen || (preference.matches ? "dark" : "light");
    root.dataset.theme = theme;
    button.textContent = theme === "dark" ? "Light" : "Dark";
    button.title = "switch the colours (T)";
    told(theme);
  };
  on(preference, "change", show);
  on(button, "click", () => {
    chosen = root.dataset.theme === "dark" ? "light" : "dark";
    show();
  });
  show();
}

function toggleKeys() {
  const panel = byId("keys");
  panel.hidden = !panel.hidden;
  attributes(byId("help"), { "aria-expanded": !panel.hidden });
}

const keyNames = (key) => key.split(" ").map((one) => element("kbd", "", one));

// keys: [key, what it does, true where the foot of the page names it too]; does: what to call, by key in lower case.
// Keys typed into a field are its own.
export function listenToKeys(keys, more, does) {
  const all = [...keys, ["T", "light or dark"], ["?", "all keys", true]];
  const list = all.map(([key, text]) =>
    element("div", "", element("dt", "", ...keyNames(key)), element("dd", "", text)),
  );
  const foot = all.filter((one) => one[2]).map(([key, text]) => element("span", "", ...keyNames(key), " " + text));
  byId("keys").replaceChildren(element("h2", "", "Keys"), element("dl", "", ...list), element("p", "muted", more));
  document.querySelector("footer").replaceChildren(...foot, element("span", "", "drawn by regard"));
  on(byId("help"), "click", toggleKeys);
  const acts = { ...does, t: () => byId("theme").click(), "?": toggleKeys };
  on(document, "keydown", (event) => {
    if (event.defaultPrevented || withModifier(event)) return;
    if (event.target.closest("input, select, textarea, dialog")) return;
    const act = acts[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (act && act(event) !== false) event.preventDefault();
  });
}

export async function start(told, draw) {
  try {
    if (page.schema !== SCHEMA) throw new Error("these data are " + page.schema + "; this page reads " + SCHEMA);
    document.title = byId("title").textContent = page.title;
    byId("source").textContent = page.source;
    for (const name of ["notes", "reduced"]) {
      byId(name).replaceChildren(...(page[name] || []).map((sentence) => element("li", "", sentence)));
    }
    followTheme(told);
    await draw();
  } catch (error) {
    fail(error);
  }
}

export function fail(error) {
  const failure = byId("failure");
  failure.hidden = false;
  failure.textContent = "The page could not be drawn: " + error.message;
  throw error;
}
