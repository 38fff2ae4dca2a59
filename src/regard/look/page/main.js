// The page of attention: what is chosen at first, who draws it, and in which order.

import { makeCompare } from "./compare.js";
import { groupOf, loadHead, page, tokensOf } from "./decode.js";
import { byId, on } from "./dom.js";
import { makeExport } from "./exporting.js";
import { makeFilters } from "./filters.js";
import { makeFind } from "./find.js";
import { button } from "./grid.js";
import { fillGuide } from "./guide.js";
import { makeInspector } from "./inspector.js";
import { drawLegend } from "./legend.js";
import { makeLive } from "./live.js";
import { makeMap } from "./map.js";
import { makeNavigation } from "./navigate.js";
import { makeOverview } from "./overview.js";
import { say } from "./readout.js";
import { fail, listenToKeys, start } from "./shell.js";
import { createStore } from "./store.js";
import { makeTables } from "./tables.js";
import { makeTabs } from "./tabs.js";
import { makeText } from "./text.js";
import { element } from "./tokens.js";
import { headName } from "./values.js";
import { clamp, wholeView } from "./viewport.js";

const KEYS = [
  ["\u2190 \u2192 \u2191 \u2193", "another head; in the map the cursor, with Shift ten cells", true],
  ["Enter", "pins the query below the cursor", true],
  ["+ \u2212 0", "closer, farther, all", true],
  ["L", "log or linear"],
  ["M", "mean or max"],
  ["F", "the first key left out"],
  ["C", "compare with another head"],
  ["/", "find a token"],
];
const MOUSE =
  "In the map a click pins a query, a box zooms, Shift-drag moves, the wheel zooms once the map was clicked, a double click shows all.";
const NOTHING_FOUND = { text: "", keys: [], at: -1 };

const selectedOf = ({ heads, selected: [layer, head] }) =>
  Math.max(
    0,
    heads.findIndex((one) => one.layer === layer && one.head === head),
  );

const store = createStore({
  ...{ group: 0, head: 0, other: null, scale: "log", reduce: "mean", hideFirst: false, query: -1, pointed: null },
  ...{ view: null, found: NOTHING_FOUND, data: null, otherData: null, theme: "light", pick: null, tick: 0 },
  ...{ queryTokens: null, keyTokens: null },
});

// The query to show first: of the later half of those kept exactly, the one that gives the most to a key not right before it.
function tellingQuery({ group, queries, topKeys, topWeights }) {
  const { top, query_len, shift } = group;
  let [best, most] = [queries.length ? queries.at(-1) : query_len - 1, 0];
  for (let slot = queries.length >> 1; slot < queries.length; slot++) {
    const near = shift !== null && Math.abs(queries[slot] + shift - topKeys[slot * top]) <= 2;
    if (!near && topWeights[slot * top] > most) [best, most] = [queries[slot], topWeights[slot * top]];
  }
  return best;
}

function fillHead(state, navigation) {
  const { group, head, other, data, hideFirst } = state;
  byId("head-name").textContent =
    headName(group, head) +
    (other ? " \u2212 " + headName(other.group, other.head) : hideFirst ? " (first key left out)" : "");
  const scores = groupOf(state).statistics.map(({ name, label, unit, decimals, about }) => {
    const value = (className, { meta }) => {
      const score = meta.scores[name];
      return element(
        "dd",
        className,
        typeof score === "number" ? score.toFixed(decimals) + (unit && " " + unit) : "\u2013",
      );
    };
    const against = state.otherData ? value("against", state.otherData) : undefined;
    const item = element("div", "", element("dt", "", label), value("", data), against);
    item.title = about;
    return item;
  });
  byId("scores").replaceChildren(...scores);
  // Buttons that go to the exact parts of the shown head.
  const windows = data.windows.map((part) =>
    button(
      part.name,
      () => navigation.goToPart(part),
      "exact weights of " + part.rows + " \u00d7 " + part.cols + " pairs",
    ),
  );
  byId("windows").replaceChildren(...windows);
}

function whenIdle(act) {
  if (window.requestIdleCallback) requestIdleCallback(act, { timeout: 500 });
  else setTimeout(act, 50);
}

async function draw() {
  byId("attention").hidden = false;
  const [first] = page.groups;
  store.set({ head: selectedOf(first), view: wholeView(first) });
  const map = makeMap(store);
  const compare = makeCompare(store);
  const overview = makeOverview(store, (head, isClick) => {
    const { pick, group } = store.get();
    // A click picks at once; arrow keys walk on, and Enter picks.
    if (pick && isClick) compare.compareWith(group, head);
    else go(group, head);
  });
  const navigation = makeNavigation(store, map);
  let changedAt = 0;
  let measured = null; // the group that the map was measured for

  function go(group, head) {
    const state = store.get();
    const [before, next] = [groupOf(state), page.groups[group]];
    const { other } = state;
    const patch = { group, head, other: other && other.group === group && other.head === head ? null : other };
    if (group !== state.group) {
      Object.assign(patch, { data: null, otherData: null, other: null, found: NOTHING_FOUND, pick: null });
    }
    if (before.query_len !== next.query_len || before.key_len !== next.key_len) {
      Object.assign(patch, { view: wholeView(next), pointed: null, query: -1 });
    }
    store.set(patch);
  }

  // The chosen heads are unpacked; what is asked for last wins.
  async function load() {
    const { group, head, other } = store.get();
    const { query_tokens, key_tokens } = page.groups[group];
    const [data, otherData, queryTokens, keyTokens] = await Promise.all([
      loadHead(group, head),
      other && loadHead(other.group, other.head),
      tokensOf(query_tokens),
      tokensOf(key_tokens),
    ]);
    const now = store.get();
    if (now.group !== group || now.head !== head || now.other !== other) return;
    const query = now.query < 0 ? tellingQuery(data) : clamp(now.query, 0, data.group.query_len - 1);
    store.set({ data, otherData, queryTokens, keyTokens, query });
  }

  function drawHead(state) {
    if (measured !== state.group) map.measure();
    measured = state.group;
    map.draw();
    drawLegend(byId("legend"), state, state.data);
    say(byId("readout"), state);
  }

  // Listens to what concerns a head that is there.
  const whenDrawn = (keys, listener) => store.on(keys, (state) => state.data && listener(state));

  store.on(["group", "head", "other"], () => {
    changedAt = performance.now();
    load().catch(fail);
  });
  store.on(["group"], () => {
    overview.listStatistics();
    overview.arrange();
  });
  store.on(["head", "other", "hideFirst"], overview.place);
  store.on(["theme"], overview.draw);
  makeTabs(store, (group) => group !== store.get().group && go(group, selectedOf(page.groups[group])));
  makeFilters(store);
  fillGuide(go);
  whenDrawn(["data", "otherData", "hideFirst"], (state) => fillHead(state, navigation));
  whenDrawn(["data", "otherData", "scale", "reduce", "hideFirst", "view", "theme", "tick"], drawHead);
  whenDrawn(["pointed", "query", "found"], (state) => {
    map.point();
    say(byId("readout"), state);
  });
  makeInspector(store);
  makeText(store);
  makeFind(store);
  makeTables(store);
  makeExport(store, { mapPicture: map.picture });
  makeLive(store);
  // The last to be told: all is drawn.
  whenDrawn(["data", "otherData"], ({ group, head }) => {
    performance.measure("head", { start: changedAt, end: performance.now() });
    document.documentElement.dataset.ready = "yes";
    whenIdle(() => {
      compare.listWhenIdle();
      for (const one of overview.neighbours(head)) loadHead(group, one);
    });
  });

  // Only the width and the window's height matter: a longer readout makes the page longer too.
  let settled = "";
  function resize() {
    const size = byId("attention").clientWidth + " " + innerHeight;
    if (size === settled || !store.get().data) return;
    settled = size;
    map.measure();
    map.draw();
    overview.arrange();
  }

  const flip = (name, a, b) => () => store.set({ [name]: store.get()[name] === a ? b : a });
  const onArrow = (event) => event.target === document.body && overview.onArrow(event);
  listenToKeys(KEYS, MOUSE, {
    ...{ ArrowLeft: onArrow, ArrowRight: onArrow, ArrowUp: onArrow, ArrowDown: onArrow, ...navigation.keys },
    ...{ l: flip("scale", "log", "linear"), m: flip("reduce", "mean", "max"), f: flip("hideFirst", true, false) },
    ...{ c: compare.toggle, "/": () => byId("find").focus(), Escape: () => store.set({ pick: null }) },
    Enter(event) {
      const { pick, group, head } = store.get();
      if (!pick || event.target !== byId("tiles")) return false;
      compare.compareWith(group, head);
      return true;
    },
  });
  overview.listStatistics();
  overview.arrange();
  await load();
  new ResizeObserver(resize).observe(byId("attention"));
  on(window, "resize", resize);
}

start((theme) => store.set({ theme }), draw);
