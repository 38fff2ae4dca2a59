// Which head the shown one is compared with, and why another cannot be.

import { page } from "./decode.js";
import { byId, element, fill, on } from "./dom.js";
import { set, state, when } from "./store.js";
import { groupName, headName, whyNotComparable } from "./values.js";

export function makeCompare() {
  const select = byId("compare-with");

  // All heads of all tabs; those of other shapes cannot be chosen, and say why.
  function list() {
    const lists = page.groups.map((one, group) => {
      const reason = whyNotComparable(page.groups[state.group], one);
      const options = one.heads.map((_, head) => new Option(headName(group, head, true), group + "." + head));
      const set = element("optgroup", "", ...options);
      set.label = groupName(group) + (reason && ": " + reason);
      set.disabled = reason !== "";
      return set;
    });
    fill(select, new Option("nothing", ""), ...lists);
    show();
  }

  function show() {
    const { other } = state;
    select.value = other ? other.group + "." + other.head : "";
  }

  on(select, "change", () => {
    const [group, head] = select.value.split(".").map(Number);
    set({ other: select.value ? { group, head } : null });
  });
  when((now) => [now.group], list);
  when((now) => [now.other], show);
  list();
}
