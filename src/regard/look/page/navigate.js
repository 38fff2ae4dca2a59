// Moving in the map: a cursor, pinning, and zoom by wheel, box, keys and buttons.

import { groupNow } from "./decode.js";
import { arrowOf, byId, on, onKeys } from "./dom.js";
import { drawBox, drawMarks, middleOf, sharesAt } from "./map.js";
import { abs, exp, floor, max, min } from "./numbers.js";
import { set, state } from "./store.js";
import { drawnCell } from "./values.js";
import { clamp, holding, isWhole, moved, viewOf, wholeView, zoomed } from "./viewport.js";

const CLOSER = 0.5;
const DRAG = 5; // pixels before a press is a box

export function makeNavigation() {
  const holder = byId("map");
  let start = null;
  let waiting = null;

  const setView = (view) => set({ view });
  const reset = () => setView(wholeView(groupNow()));
  const pinPair = (pair) => set({ query: pair.query, pointed: pair });

  // Where the cursor is, or would be: at the pinned query itself.
  const cursor = () =>
    state.pointed || {
      query: state.query,
      key: clamp(state.query + (groupNow().shift || 0), 0, groupNow().key_len - 1),
    };

  // The pair at shares of the map.
  function pairAt([across, down]) {
    const { q0, q1, k0, k1 } = state.view;
    const within = (share, from, to) => from + floor(clamp(share, 0, 0.999999) * (to - from));
    return { query: within(down, q0, q1), key: within(across, k0, k1) };
  }

  // The pair below an event, or null beside the map.
  function pairBelow(event) {
    const shares = sharesAt(event);
    return state.data && shares.every((share) => share >= 0 && share < 1) ? pairAt(shares) : null;
  }

  function zoom(factor, { query, key } = cursor()) {
    const { view } = state;
    const inside = (place, low, high) => (place >= low && place < high ? place : (low + high) >> 1);
    setView(zoomed(view, groupNow(), factor, inside(query, view.q0, view.q1), inside(key, view.k0, view.k1)));
  }

  // The cursor goes some cells and takes the view with it.
  function step(down, across, cells) {
    const group = groupNow();
    let { view } = state;
    let pair = cursor();
    for (let count = state.pointed ? cells * max(abs(down), 1) : 0; count > 0; count--) {
      const cell = drawnCell(state.data, pair.query, pair.key, view);
      const next = ([from, to], way, at) => (way > 0 ? to : way < 0 ? from - 1 : at);
      const query = next(cell.queries, down, pair.query);
      // Home and End go to the first and the last key at once.
      const key = abs(across) > 1 ? clamp(across, 0, group.key_len - 1) : next(cell.keys, across, pair.key);
      if (min(query, key) < 0 || query >= group.query_len || key >= group.key_len) break;
      view = holding(view, group, query, key);
      pair = middleOf({ query, key }, view);
    }
    set({ pointed: middleOf(pair, view), view: holding(view, group, pair.query, pair.key) });
  }

  function onMove(event) {
    if (start && Math.hypot(event.clientX - start.x, event.clientY - start.y) > DRAG) start.end = sharesAt(event);
    if (start && start.end) {
      const { view, from, end, pan } = start;
      if (!pan) return drawBox(from, (start.end = end.map((share) => clamp(share, 0, 1))));
      const [down, across] = [(from[1] - end[1]) * (view.q1 - view.q0), (from[0] - end[0]) * (view.k1 - view.k0)];
      return setView(moved(view, groupNow(), down, across));
    }
    // One change a frame: the pointer moves more often than the screen shows it.
    if (!waiting) {
      requestAnimationFrame(() => {
        const pair = pairBelow(waiting);
        waiting = null;
        if (pair) set({ pointed: middleOf(pair) });
      });
    }
    waiting = event;
  }

  function onDown(event) {
    if (!pairBelow(event) || event.button) return;
    const { clientX: x, clientY: y, shiftKey: pan } = event;
    start = { x, y, pan, from: sharesAt(event), view: state.view, end: null };
    holder.setPointerCapture(event.pointerId);
  }

  function onUp({ type }) {
    if (!start) return;
    const { from, end, pan } = start;
    start = null;
    drawMarks();
    if (pan || type !== "pointerup") return;
    const a = pairAt(from);
    if (!end) return pinPair(middleOf(a));
    const b = pairAt(end);
    const side = (from, to) => [(from + to + 1) / 2, abs(from - to) + 1];
    setView(viewOf(groupNow(), ...side(a.query, b.query), ...side(a.key, b.key)));
  }

  // The page scrolls over a map that nobody works in; a pinch on a touchpad arrives as a wheel with Ctrl.
  function onWheel(event) {
    const pair = pairBelow(event);
    if (!pair || !(event.ctrlKey || event.metaKey || holder.matches(":focus"))) return;
    if (event.deltaY > 0 && isWhole(state.view, groupNow()) && !event.ctrlKey) return;
    event.preventDefault();
    zoom(exp(clamp(event.deltaY, -120, 120) / 300), pair);
  }

  onKeys(holder, (event) => {
    const { pointed } = state;
    const arrow = arrowOf(event);
    if (arrow) step(...arrow, event.shiftKey ? 10 : 1);
    else if (event.key === "Enter" && pointed) pinPair(pointed);
    else if (event.key === "Escape") set({ pointed: null });
    else return false;
  });
  on(holder, "pointermove", onMove);
  on(holder, "pointerdown", onDown);
  on(holder, "pointerup pointercancel", onUp);
  on(holder, "pointerleave", () => start || holder.matches(":focus") || set({ pointed: null }));
  on(holder, "wheel", onWheel, { passive: false });
  on(holder, "dblclick", reset);
  const closer = () => zoom(CLOSER);
  const farther = () => zoom(1 / CLOSER);
  on(byId("zoom-in"), "click", closer);
  on(byId("zoom-out"), "click", farther);
  on(byId("zoom-reset"), "click", reset);

  // A view around an exact part, with a little of what surrounds it.
  function goToPart({ query, queries, key, keys }) {
    setView(viewOf(groupNow(), query + queries / 2, queries * 1.15, key + keys / 2, keys * 1.15));
  }

  return { goToPart, keys: { "+": closer, "=": closer, "-": farther, 0: reset } };
}
