// Which head the shown one is compared with, and why another cannot be.

import { page } from "./decode.js";
import { byId, on, press } from "./dom.js";
import { element } from "./tokens.js";
import { groupName, headName, whyNotComparable } from "./values.js";

const AT_ONCE = 256; // more heads are listed when the list is first used

export function makeCompare(store) {
  const [select, button, why] = ["compare-with", "compare-pick", "compare-why"].map(byId);
  const reasonOf = (group, other) => whyNotComparable(page.groups[group], page.groups[other]);
  let listed = -1; // the group that the list was made for

  function list() {
    const { group } = store.get();
    if (listed === group) return;
    listed = group;
    const lists = page.groups.map(({ heads }, at) => {
      const options = heads.map((_, head) => new Option(headName(at, head, true), at + "." + head));
      if (!page.groups[1]) return options;
      const set = element("optgroup");
      const reason = reasonOf(group, at);
      set.label = groupName(at) + (reason && ": " + reason);
      set.disabled = reason !== "";
      set.append(...options);
      return [set];
    });
    select.replaceChildren(new Option("nothing", ""), ...lists.flat());
    show();
  }

  function show() {
    const { other, group, pick } = store.get();
    const value = other ? other.group + "." + other.head : "";
    // A list that is not made yet still names what is chosen.
    if (listed < 0) select.replaceChildren(new Option(other ? headName(other.group, other.head) : "nothing", value));
    select.value = value;
    press(button, Boolean(pick));
    button.textContent = other ? "stop" : "pick a tile";
    const unlike = page.groups.map(
      (_, at) => reasonOf(group, at) && "\u201c" + groupName(at) + "\u201d: " + reasonOf(group, at),
    );
    const reasons = unlike.filter(Boolean).join("; ");
    const how = pick ? "Choose the head to compare with: click its tile, or go there and press Enter. " : "";
    why.hidden = !(pick || (other && reasons));
    why.textContent = how + (reasons && "Not comparable: " + reasons + ".");
  }

  // Compares the shown head, or that from which the picking began, with another.
  function compareWith(group, head) {
    const { pick, ...state } = store.get();
    const shown = pick || { group: state.group, head: state.head };
    const reason = reasonOf(shown.group, group);
    const same = group === shown.group && head === shown.head;
    store.set({ pick: null, ...(reason ? {} : { ...shown, other: same ? null : { group, head } }) });
    if (!reason) return;
    why.hidden = false;
    why.textContent = headName(group, head) + " cannot be compared: " + reason + ".";
  }

  function toggle() {
    const { group, head, other, pick } = store.get();
    store.set({ other: null, pick: other || pick ? null : { group, head } });
  }

  on(select, "change", () => {
    if (select.value) compareWith(...select.value.split(".").map(Number));
    else store.set({ other: null });
  });
  on(select, "focus pointerenter pointerdown", list);
  on(button, "click", toggle);
  store.on(["group"], () => listed >= 0 && list());
  store.on(["other", "pick", "group"], show);
  show();

  const count = page.groups.reduce((sum, { heads }) => sum + heads.length, 0);
  return { compareWith, toggle, listWhenIdle: () => count <= AT_ONCE && list() };
}
