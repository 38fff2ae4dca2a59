// The tabs: runs, models, or encoder, decoder and cross.

import { page } from "./decode.js";
import { arrowOf, attributes, byId, on, withModifier } from "./dom.js";
import { button } from "./grid.js";
import { groupName } from "./values.js";

export function makeTabs(store, choose) {
  const holder = byId("tabs");
  holder.hidden = page.groups.length < 2;
  const tabs = page.groups.map((_, at) => {
    const tab = button(groupName(at), () => choose(at));
    attributes(tab, { class: "tab", role: "tab", "aria-controls": "attention" });
    return tab;
  });
  holder.replaceChildren(...tabs);

  on(holder, "keydown", (event) => {
    const [down, across] = arrowOf(event) || [1, 0];
    if (down || withModifier(event)) return;
    const next = (store.get().group + across + tabs.length) % tabs.length;
    event.preventDefault();
    choose(next);
    tabs[next].focus();
  });

  function show() {
    tabs.forEach((tab, at) => {
      const isChosen = at === store.get().group;
      attributes(tab, { "aria-selected": isChosen, tabindex: isChosen ? 0 : -1 });
    });
  }

  store.on(["group"], show);
  show();
}
