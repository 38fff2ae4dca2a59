// Numbers as real tables, for readers without a mouse or a screen, and for copying; and buttons.

import { attributes, on } from "./dom.js";
import { element } from "./tokens.js";

const filled = (name, content) => element(name, "", ...[content].flat());

// heads: strings or nodes, the first above the row heads; rows: arrays, the first entry the row's head.
// A wide table scrolls inside a box that the keyboard reaches.
export function tableOf(caption, heads, rows) {
  const line = (cells, scope) => {
    const row = element("tr", "", ...cells);
    row.querySelectorAll("th").forEach((cell) => (cell.scope = scope));
    return row;
  };
  const top = line(
    heads.map((head) => filled("th", head)),
    "col",
  );
  const body = rows.map(([name, ...values]) =>
    line([filled("th", name), ...values.map((value) => filled("td", value))], "row"),
  );
  const parts = [element("caption", "", caption), element("thead", "", top), element("tbody", "", ...body)];
  const box = element("div", "scrolling", element("table", "numbers", ...parts));
  box.tabIndex = 0;
  attributes(box, { role: "region", "aria-label": caption });
  return box;
}

export function button(content, act, about = "") {
  const made = element("button", "", ...[content].flat());
  Object.assign(made, { type: "button", title: about });
  on(made, "click", act);
  return made;
}
