// The page of attention: what is chosen at first, who draws it, and in which order.

import { makeCompare } from "./compare.js";
import { groupNow, loadHead, page, tokensOf } from "./decode.js";
import { button, byId, element, fill, on, root } from "./dom.js";
import { makeExport } from "./exporting.js";
import { makeFilters } from "./filters.js";
import { makeFind } from "./find.js";
import { makeGuide } from "./guide.js";
import { makeInspector } from "./inspector.js";
import { drawLegend } from "./legend.js";
import { drawHead, drawMarks, measure } from "./map.js";
import { makeNavigation } from "./navigate.js";
import { abs, max } from "./numbers.js";
import { makeOverview } from "./overview.js";
import { say } from "./readout.js";
import { fail, listenToKeys, start } from "./shell.js";
import { set, state, when, whenThere } from "./store.js";
import { makeTables } from "./tables.js";
import { makeTabs } from "./tabs.js";
import { makeText } from "./text.js";
import { headName, scoresOf } from "./values.js";
import { clamp, wholeView } from "./viewport.js";

const KEYS = [
  [
    "\u2190 \u2192 \u2191 \u2193",
    "another head, or the cursor in the map (Shift: ten cells); also Home, End, PageUp, PageDown",
  ],
  ["Enter", "pins the query"],
  ["+ \u2212 0", "zoom"],
  ["L", "log or linear"],
  ["M", "mean or max"],
  ["F", "without the first key"],
  ["C", "compare"],
  ["/", "find"],
];
const MOUSE = "in the map a click pins, a box zooms, Shift-drag moves, the wheel zooms after a click";

// The head that a group opens with.
const selectedOf = ({ heads, selected: [layer, head] }) =>
  max(
    0,
    heads.findIndex((one) => one.layer === layer && one.head === head),
  );

// The query to show first: of the later half of those kept exactly, the one that gives the most to a key not right before it.
function tellingQuery({ group, queries, topKeys, topWeights }) {
  const { top, query_len, shift } = group;
  let [best, most] = [queries.length ? queries.at(-1) : query_len - 1, 0];
  for (let slot = queries.length >> 1; slot < queries.length; slot++) {
    const near = shift !== null && abs(queries[slot] + shift - topKeys[slot * top]) <= 2;
    if (!near && topWeights[slot * top] > most) [best, most] = [queries[slot], topWeights[slot * top]];
  }
  return best;
}

// The head's name and scores, and buttons that go to its exact parts.
function nameHead(goToPart) {
  const { group, head, other, data, rival, hideFirst } = state;
  const against = other ? " \u2212 " + headName(other.group, other.head) : hideFirst ? " (first key left out)" : "";
  fill("head-name", headName(group, head) + against);
  const scores = groupNow().statistics.map(({ name, label, unit, decimals, about }) => {
    const values = [data, rival].map((of, at) => {
      const score = of && scoresOf(of.meta)[name];
      const text = typeof score === "number" ? score.toFixed(decimals) + (unit && " " + unit) : "\u2013";
      return of ? element("dd", at ? "against" : "", text) : "";
    });
    const item = element("div", "", element("dt", "", label), ...values);
    item.title = about;
    return item;
  });
  fill("scores", ...scores);
  const about = (part) => "exact weights of " + part.rows + " \u00d7 " + part.cols + " pairs";
  fill("windows", ...data.windows.map((part) => button(part.name, () => goToPart(part), about(part))));
}

// Goes to a head; in another tab what belonged to the last one goes.
function go(group, head) {
  const [before, next] = [groupNow(), page.groups[group]];
  const patch = { group, head };
  if (group !== state.group) {
    Object.assign(patch, { data: null, rival: null, other: null, found: { text: "", keys: [], at: -1 } });
  }
  if (before.query_len !== next.query_len || before.key_len !== next.key_len) {
    Object.assign(patch, { view: wholeView(next), pointed: null, query: -1 });
  }
  set(patch);
}

// The chosen heads are unpacked; what is asked for last wins.
async function load() {
  const { group, head, other } = state;
  const { query_tokens, key_tokens, query_len } = groupNow();
  const [data, rival, queryTokens, keyTokens] = await Promise.all([
    loadHead(group, head),
    other && loadHead(other.group, other.head),
    tokensOf(query_tokens),
    tokensOf(key_tokens),
  ]);
  if (state.group !== group || state.head !== head || state.other !== other) return;
  const query = state.query < 0 ? tellingQuery(data) : clamp(state.query, 0, query_len - 1);
  set({ data, rival, queryTokens, keyTokens, query });
}

async function draw() {
  const [first] = page.groups;
  byId("attention").hidden = false;
  set({ head: selectedOf(first), view: wholeView(first) });
  const overview = makeOverview((head) => go(state.group, head));
  const navigation = makeNavigation();
  let changedAt = 0;
  let settled = "";

  // Only the width and the window's height matter: a longer readout makes the page longer too.
  function resize() {
    const size = [byId("attention").clientWidth, innerHeight, state.group].join();
    if (size === settled || !state.data) return;
    settled = size;
    measure();
    drawHead();
    overview.arrange();
  }

  when(
    (now) => [now.group, now.head, now.other],
    () => {
      changedAt = performance.now();
      load().catch(fail);
    },
  );
  when((now) => [now.group], overview.listStatistics);
  when((now) => [now.head, now.other], overview.place);
  when((now) => [now.hideFirst], overview.arrange);
  when((now) => [now.theme], overview.draw);
  makeTabs((group) => group !== state.group && go(group, selectedOf(page.groups[group])));
  makeFilters();
  makeCompare();
  makeGuide(go);
  whenThere(
    (now) => [now.data, now.rival, now.hideFirst],
    () => nameHead(navigation.goToPart),
  );
  whenThere(
    (now) => [now.data, now.rival, now.scaling, now.pooling, now.hideFirst, now.view, now.theme, now.tick],
    () => {
      resize();
      drawHead();
      drawLegend();
      say();
    },
  );
  whenThere(
    (now) => [now.pointed, now.query, now.found],
    () => {
      drawMarks();
      say();
    },
  );
  makeInspector();
  makeText();
  makeFind();
  makeTables();
  makeExport();
  // The last to be told: all is drawn.
  whenThere(
    (now) => [now.data, now.rival],
    () => {
      performance.measure("head", { start: changedAt, end: performance.now() });
      root.dataset.ready = "yes";
    },
  );

  listenToKeys(KEYS, MOUSE, {
    ...navigation.keys,
    l: () => set({ scaling: state.scaling === "log" ? "linear" : "log" }),
    m: () => set({ pooling: state.pooling === "max" ? "mean" : "max" }),
    f: () => set({ hideFirst: !state.hideFirst }),
    ...{ c: () => byId("compare-with").focus(), "/": () => byId("find").focus() },
    // The other keys of a grid scroll the page.
    other: (event) => event.target === document.body && event.key.startsWith("Arrow") && overview.onArrow(event),
  });
  overview.listStatistics();
  await load();
  new ResizeObserver(resize).observe(byId("attention"));
  on(window, "resize", resize);
}

start((theme) => set({ theme }), draw);
