// Numbers as real tables, for readers without a mouse or a screen, and for copying.

import { attributes, element } from "./dom.js";

// heads: strings or nodes, the first above the row heads; rows: arrays, the first entry the row's head.
// A wide table scrolls inside a box that the keyboard reaches.
export function tableOf(caption, heads, rows) {
  const cell = (name, content, scope) => {
    const made = element(name, "", ...[content].flat());
    if (scope) made.scope = scope;
    return made;
  };
  const top = heads.map((head) => cell("th", head, "col"));
  const body = rows.map(([name, ...values]) =>
    element("tr", "", cell("th", name, "row"), ...values.map((value) => cell("td", value))),
  );
  const parts = [element("thead", "", element("tr", "", ...top)), element("tbody", "", ...body)];
  const box = element("div", "scrolling", element("table", "numbers", element("caption", "", caption), ...parts));
  attributes(box, { role: "region", tabindex: 0, "aria-label": caption });
  return box;
}
