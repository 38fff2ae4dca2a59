// Moving in the map: a cursor, pinning, and zoom by wheel, pinch, box, keys and buttons.

import { arrowOf, byId, on, withModifier } from "./dom.js";
import { middleOf } from "./map.js";
import { drawnCell } from "./values.js";
import { clamp, holding, isWhole, moved, viewOf, wholeView, zoomed } from "./viewport.js";

const CLOSER = 0.5;
const DRAG = 5; // pixels before a press is a box

export function makeNavigation(store, map) {
  const { holder } = map;
  const pressed = new Map(); // pointers that are down
  let start = null;
  let pinch = null;
  let waiting = null;

  const groupNow = () => store.get().data.group;
  const setView = (view) => store.set({ view });
  const reset = () => setView(wholeView(groupNow()));
  const pin = (pair) => store.set({ query: pair.query, pointed: pair });

  // Where the cursor is, or would be: at the pinned query itself.
  function cursor() {
    const { pointed, query, data } = store.get();
    return pointed || { query, key: clamp(query + (data.group.shift || 0), 0, data.group.key_len - 1) };
  }

  function zoom(factor, at = cursor()) {
    const { view } = store.get();
    const inside = (place, low, high) => (place >= low && place < high ? place : (low + high) >> 1);
    const [query, key] = [inside(at.query, view.q0, view.q1), inside(at.key, view.k0, view.k1)];
    setView(zoomed(view, groupNow(), factor, query, key));
  }

  // The cursor goes some cells and takes the view with it.
  function step(down, across, cells) {
    const { data, pointed } = store.get();
    const { query_len, key_len } = data.group;
    let pair = cursor();
    const state = { ...store.get() };
    for (let count = pointed ? cells : 0; count > 0; count--) {
      const cell = drawnCell(state, data, pair.query, pair.key);
      const next = ([from, to], way, at) => (way > 0 ? to : way < 0 ? from - 1 : at);
      const [query, key] = [next(cell.queries, down, pair.query), next(cell.keys, across, pair.key)];
      if (Math.min(query, key) < 0 || query >= query_len || key >= key_len) break;
      state.view = holding(state.view, data.group, query, key);
      pair = middleOf(state, data, { query, key });
    }
    store.set({ pointed: middleOf(state, data, pair), view: holding(state.view, data.group, pair.query, pair.key) });
  }

  function onKey(event) {
    if (withModifier(event)) return;
    const { pointed } = store.get();
    const arrow = arrowOf(event);
    if (arrow) step(...arrow, event.shiftKey ? 10 : 1);
    else if (event.key === "Enter" && pointed) pin(pointed);
    else if (event.key === "Escape" && pointed) store.set({ pointed: null });
    else return;
    event.preventDefault();
    event.stopPropagation();
  }

  function onMove(event) {
    if (pressed.has(event.pointerId)) pressed.set(event.pointerId, event);
    if (pinch) return setView(zoomed(pinch.view, groupNow(), pinch.apart / fingers().apart, pinch.query, pinch.key));
    if (start) {
      start.dragged ||= Math.hypot(event.clientX - start.clientX, event.clientY - start.clientY) > DRAG;
      if (start.dragged) return drag(event);
    }
    // One change a frame: the pointer moves more often than the screen shows it.
    if (!waiting) {
      requestAnimationFrame(() => {
        const { data } = store.get();
        const pair = data && map.pairAt(waiting);
        waiting = null;
        if (pair) store.set({ pointed: middleOf(store.get(), data, pair) });
      });
    }
    waiting = event;
  }

  function drag(event) {
    const { left, top, width, height } = map.geometry();
    if (start.pan) {
      const { q0, q1, k0, k1 } = start.view;
      const down = ((start.clientY - event.clientY) * (q1 - q0)) / height;
      return setView(moved(start.view, groupNow(), down, ((start.clientX - event.clientX) * (k1 - k0)) / width));
    }
    start.end = map.pairAt(event, "clamped");
    const box = holder.getBoundingClientRect();
    const side = (a, b, low, size) => {
      const end = clamp(b, low, low + size);
      return [Math.min(a, end), Math.abs(a - end)];
    };
    const [x, wide] = side(start.clientX - box.left, event.clientX - box.left, left, width);
    const [y, high] = side(start.clientY - box.top, event.clientY - box.top, top, height);
    map.point([x, y, wide, high]);
  }

  // The two fingers: how far apart, and the place between them.
  function fingers() {
    const [a, b] = pressed.values();
    const middle = { clientX: (a.clientX + b.clientX) / 2, clientY: (a.clientY + b.clientY) / 2 };
    return { apart: Math.max(20, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)), middle };
  }

  function onDown(event) {
    const { data, view } = store.get();
    if (!data) return;
    pressed.set(event.pointerId, event);
    start = null;
    if (pressed.size === 2) {
      const { apart, middle } = fingers();
      pinch = { apart, view, ...map.pairAt(middle, "clamped") };
      return;
    }
    const pair = map.pairAt(event);
    if (!pair || event.button > 1) return;
    const { clientX, clientY, shiftKey, button, pointerType } = event;
    start = { clientX, clientY, pair, view, pan: shiftKey || button === 1 || pointerType === "touch" };
    holder.setPointerCapture(event.pointerId);
  }

  function onUp(event) {
    pressed.delete(event.pointerId);
    if (pressed.size < 2) pinch = null;
    if (!start) return;
    const { pair, dragged, end } = start;
    start = null;
    if (event.type === "pointerup" && !dragged) return pin(middleOf(store.get(), store.get().data, pair));
    map.point();
    if (!end || event.type !== "pointerup") return;
    const side = (name) => [(pair[name] + end[name] + 1) / 2, Math.abs(pair[name] - end[name]) + 1];
    setView(viewOf(groupNow(), ...side("query"), ...side("key")));
  }

  // The page scrolls over a map that nobody works in; a pinch on a touchpad arrives as a wheel with Ctrl.
  function onWheel(event) {
    const { view, data } = store.get();
    if (!data || !(event.ctrlKey || event.metaKey || document.activeElement === holder)) return;
    const pair = map.pairAt(event);
    if (!pair || (event.deltaY > 0 && isWhole(view, data.group) && !event.ctrlKey)) return;
    event.preventDefault();
    zoom(Math.exp(clamp(event.deltaY, -120, 120) / 300), pair);
  }

  on(holder, "keydown", onKey);
  on(holder, "pointermove", onMove);
  on(holder, "pointerdown", onDown);
  on(holder, "pointerup pointercancel", onUp);
  on(holder, "pointerleave", () => start || document.activeElement === holder || store.set({ pointed: null }));
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
