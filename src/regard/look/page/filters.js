// The switches above the map: scale, mean or max, and leaving the first key out.

import { isPooled } from "./decode.js";
import { byId, on, press } from "./dom.js";
import { set, state, when } from "./store.js";
import { reduceOf } from "./values.js";

// Why there is no map of the largest weights to choose, or "".
function whyNoMax({ data, hideFirst }) {
  if (!data) return "";
  if (!isPooled(data.group)) return "every pair has a cell of its own";
  if (!data.max) return "left out so that the page fits its size";
  return hideFirst ? "not known without the first key" : "";
}

export function makeFilters() {
  const hideFirst = byId("hide-first");
  for (const scaling of ["log", "linear"]) on(byId(scaling), "click", () => set({ scaling }));
  for (const pooling of ["mean", "max"]) on(byId(pooling), "click", () => set({ pooling }));
  on(hideFirst, "change", () => set({ hideFirst: hideFirst.checked }));

  function show() {
    const isLog = state.scaling === "log";
    const isMax = reduceOf(state.data) === "max";
    const why = whyNoMax(state);
    press({ log: isLog, linear: !isLog, mean: !isMax, max: isMax });
    byId("max").disabled = why !== "";
    byId("max").title = why || "the largest single weight of each cell";
    hideFirst.checked = state.hideFirst;
  }

  when((now) => [now.scaling, now.pooling, now.hideFirst, now.data, now.rival], show);
  show();
}
