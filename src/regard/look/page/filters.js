// The switches above the map: scale, mean or max, and leaving the first key out.

import { isPooled } from "./decode.js";
import { byId, on, press } from "./dom.js";
import { reduceOf } from "./values.js";

const CHOICES = { log: "scale", linear: "scale", mean: "reduce", max: "reduce" };

export function makeFilters(store) {
  const hideFirst = byId("hide-first");
  const max = byId("max");
  for (const name in CHOICES) on(byId(name), "click", () => store.set({ [CHOICES[name]]: name }));
  on(hideFirst, "change", () => store.set({ hideFirst: hideFirst.checked }));

  // Why there is no map of the largest weights to choose, or "".
  function whyNoMax({ data, hideFirst: isHidden }) {
    if (!data) return "";
    if (!data.max) {
      return isPooled(data.group) ? "left out so that the page fits its size" : "every pair has a cell of its own";
    }
    return isHidden ? "without the first key the largest weight of a cell is not known" : "";
  }

  function show() {
    const state = store.get();
    const why = whyNoMax(state);
    const reduce = reduceOf(state, state.data);
    for (const name in CHOICES) press(byId(name), name === state.scale || name === reduce);
    max.disabled = why !== "";
    max.title = why || "the largest single weight of each cell";
    hideFirst.checked = state.hideFirst;
  }

  store.on(["scale", "reduce", "hideFirst", "data", "otherData"], show);
  show();
}
