// The tabs: runs, models, or encoder, decoder and cross.

import { page } from "./decode.js";
import { arrowOf, attributes, button, byId, fill, onKeys } from "./dom.js";
import { abs } from "./numbers.js";
import { state, when } from "./store.js";
import { groupName } from "./values.js";
import { clamp } from "./viewport.js";

export function makeTabs(choose) {
  const holder = byId("tabs");
  const tabs = page.groups.map((_, at) => button(groupName(at), () => choose(at)));
  holder.hidden = tabs.length < 2;
  fill(holder, ...tabs);

  onKeys(holder, (event) => {
    const [, across] = arrowOf(event) || [];
    if (!across) return false;
    const { length } = tabs;
    const next = abs(across) > 1 ? clamp(across, 0, length - 1) : (state.group + across + length) % length;
    choose(next);
    tabs[next].focus();
  });

  function show() {
    tabs.forEach((tab, at) => {
      const isChosen = at === state.group;
      attributes(tab, { role: "tab", "aria-selected": isChosen, tabindex: isChosen - 1 });
    });
  }

  when((now) => [now.group], show);
  show();
}
