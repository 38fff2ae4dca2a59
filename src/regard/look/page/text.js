// The text, coloured by what the pinned query reads; of a long one a stretch, so that the page stays as small as it is.
//
// The colours have a scale of their own, up to the most that this query gives: most weights of a long text are far below 1,
// and what matters here is how the tokens compare.

import { attributes, byId, on, withModifier } from "./dom.js";
import { cssOf, rampColour, shareOf, signedColour } from "./colours.js";
import { groupOf } from "./decode.js";
import { keyOf, pin, pointAt, queryOf } from "./going.js";
import { button } from "./grid.js";
import { fillBar } from "./overview.js";
import { element, inText } from "./tokens.js";
import { grouped, perKey, spanText, strongest } from "./values.js";
import { clamp } from "./viewport.js";

const STRETCH = 400;
const PART = 0.5; // of the ramp: the text stays readable, and its colours cannot be taken for the map's
const BEFORE = 300; // how much of a stretch comes before the query: it reads what is before it
const LOG_FLOOR = 0.01;

// The most that a query gives to one key, and that key.
function mostOf(state, data) {
  const [item] = strongest(state, data, state.query, 1).items;
  return item ? [item.weight / (item.keys[1] - item.keys[0]), item.keys[0]] : [0, 0];
}

export function makeText(store) {
  const holder = byId("tokens");
  const tokens = () => store.get().keyTokens;
  const earlier = button("\u2039 earlier", () => show(first - STRETCH));
  const later = button("later \u203a", () => show(first + STRETCH));
  const most = button("most read", () => moveTo(store.get().data.mostRead.keys[0]), "The key that receives most");
  const moves = element(
    "div",
    "bar moves",
    earlier,
    later,
    button("at the query", () => show(home() - BEFORE)),
    most,
  );
  let first = -1; // nothing is shown yet
  let spans = [];
  let cursor = -1;

  byId("text-legend").before(moves);
  attributes(holder, {
    role: "listbox",
    dir: "auto",
    "aria-label": "Text: arrow keys move, Enter pins a token as the query",
  });

  // Where the pinned query stands, or, where it is no token of this text, what it reads most.
  function home() {
    const state = store.get();
    return keyOf(groupOf(state), state.query) ?? mostOf(state, state.data)[1];
  }

  const isShown = (key) => key >= first && key < first + spans.length;

  function show(start) {
    const length = tokens().length;
    first = clamp(start, 0, Math.max(0, length - STRETCH));
    spans = tokens()
      .slice(first, first + STRETCH)
      .map((token, place) => {
        const made = element("span", "", inText(token));
        made.role = "option";
        made.id = "token-" + (first + place);
        made.dataset.at = first + place;
        return made;
      });
    holder.replaceChildren(...spans);
    const stop = first + spans.length;
    moves.hidden = length <= STRETCH;
    byId("text-about").textContent = moves.hidden
      ? grouped(length) + " tokens"
      : spanText(first, stop) + " of " + grouped(length);
    earlier.disabled = first === 0;
    later.disabled = stop === length;
    colour();
  }

  // Shows a key, without moving the page.
  function reveal(key, before) {
    if (!isShown(key)) show(key - before);
    const top = spans[key - first].offsetTop;
    if (top < holder.scrollTop + 20 || top > holder.scrollTop + holder.clientHeight - 60) {
      holder.scrollTop = top - holder.clientHeight * 0.6;
    }
  }

  function colour() {
    const state = store.get();
    const { data, otherData, scale, found, query } = state;
    const own = keyOf(groupOf(state), query);
    const rows = [data, otherData]
      .filter(Boolean)
      .map((head) => perKey(state, head, query, first, first + spans.length));
    const high = Math.max(mostOf(state, data)[0], otherData ? mostOf(state, otherData)[0] : 0);
    const colourOf = otherData ? signedColour : rampColour;
    const matches = new Set(found.keys);
    spans.forEach((token, place) => {
      const at = first + place;
      const forbidden = rows.every((row) => row.forbidden[place]);
      const weight = rows[0].weights[place] - (otherData ? rows[1].weights[place] : 0);
      const share =
        forbidden || !high ? 0 : shareOf(Math.abs(weight) / high, scale, { logFloor: LOG_FLOOR, highest: 1 });
      const marks = {
        query: at === own,
        hatch: forbidden,
        found: matches.has(at),
        current: at === found.keys[found.at],
      };
      token.className = Object.keys(marks)
        .filter((name) => marks[name])
        .join(" ");
      token.ariaSelected = String(at === own);
      token.style.backgroundColor = share < 0.02 ? "" : cssOf(colourOf(PART * share * Math.sign(weight)));
    });
    mark();
    const bar = element("canvas", "ramp");
    fillBar(bar, (share) => (otherData ? signedColour(PART * (2 * share - 1)) : rampColour(PART * share)));
    const top = high.toPrecision(2);
    const low = scale === "log" ? "\u2264 " + (high * LOG_FLOOR).toPrecision(2) : "0";
    const what =
      "weight that query " +
      grouped(query) +
      " gives" +
      (otherData ? ", A \u2212 B, " : ", ") +
      scale +
      "; " +
      rows[0].how;
    byId("text-legend").replaceChildren(
      otherData ? "\u2212" + top : low,
      bar,
      top,
      element("span", "muted", what),
      ...(rows[0].forbidden.includes(1)
        ? [element("span", "square hatched"), element("span", "muted", "may not attend")]
        : []),
    );
  }

  // The token at the cursor of the map or of the text.
  function mark() {
    const { pointed } = store.get();
    const focused = document.activeElement === holder;
    const token = spans[(focused && cursor >= 0 ? cursor : pointed ? pointed.key : -1) - first];
    for (const old of holder.querySelectorAll(".at")) old.classList.remove("at");
    if (token) token.classList.add("at");
    attributes(holder, { "aria-activedescendant": token && focused ? token.id : "" });
  }

  function keep(key) {
    const state = store.get();
    const query = queryOf(groupOf(state), key);
    if (query >= 0) pin(store, query);
    else pointAt(store, state.query, key);
  }

  function moveTo(key) {
    cursor = clamp(key, 0, tokens().length - 1);
    reveal(cursor, STRETCH / 2);
    pointAt(store, store.get().query, cursor);
    mark();
  }

  on(holder, "keydown", (event) => {
    if (withModifier(event) || first < 0) return;
    if (!isShown(cursor)) cursor = isShown(home()) ? home() : first;
    const ahead = getComputedStyle(holder).direction === "rtl" ? -1 : 1;
    const steps = { ArrowLeft: -ahead, ArrowRight: ahead, ArrowUp: -10, ArrowDown: 10, PageUp: -100, PageDown: 100 };
    const step = { ...steps, Home: -Infinity, End: Infinity }[event.key];
    if (step) moveTo(cursor + step);
    else if (event.key === "Enter") keep(cursor);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  on(holder, "click", ({ target }) => {
    if (!target.dataset.at) return;
    cursor = Number(target.dataset.at);
    keep(cursor);
  });
  on(holder, "pointerover", ({ target }) => {
    if (target.dataset.at) store.set({ pointed: { query: store.get().query, key: Number(target.dataset.at) } });
  });
  on(holder, "pointerleave", () => store.set({ pointed: null }));
  on(holder, "focus blur", mark);

  store.on(
    ["data", "otherData", "query", "scale", "hideFirst", "theme", "found", "tick"],
    ({ data, found }, changed) => {
      byId("text").hidden = !tokens();
      if (!tokens() || !data) return;
      if (spans.length === 0) first = -1;
      const key = changed.has("found") ? found.keys[found.at] : undefined;
      if (first < 0) show(home() - BEFORE);
      else colour();
      if (key !== undefined) reveal(key, STRETCH / 2);
      else if (changed.has("query")) reveal(home(), BEFORE);
    },
  );
  store.on(["group"], () => (spans = []));
  store.on(["pointed"], mark);
}
