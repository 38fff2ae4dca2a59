// The text, coloured by what the pinned query reads; of a long one a stretch, so that the page stays as small as it is.
//
// The colours have a scale of their own, up to the most that this query gives: most weights of a long text are far below 1,
// and what matters here is how the tokens compare.

import { barOf } from "./canvas.js";
import { cssOf, rampColour, scaleColour, shareOf, signedColour } from "./colours.js";
import { arrowOf, attributes, byId, fill, on, onKeys, span } from "./dom.js";
import { keyOf, pin, pointAt, queryOf } from "./going.js";
import { swatch } from "./legend.js";
import { abs, max } from "./numbers.js";
import { set, state, when } from "./store.js";
import { inText } from "./tokens.js";
import { counted, grouped, perKey, spanText, strongest } from "./values.js";
import { clamp } from "./viewport.js";

const STRETCH = 400;
const PART = 0.5; // of the ramp: the text stays readable, and its colours cannot be taken for the map's
const BEFORE = 300; // how much of a stretch comes before the query: it reads what is before it
const LOG_FLOOR = 0.01;

// The most that a query gives to one key, and that key.
function mostOf(data) {
  const [item] = strongest(data, state.query, 1).items;
  return item ? [item.weight / (item.keys[1] - item.keys[0]), item.keys[0]] : [0, 0];
}

// Where the pinned query stands, or, where it is no token of this text, what it reads most.
const home = () => keyOf(state.query) ?? mostOf(state.data)[1];

export function makeText() {
  const holder = byId("tokens");
  const [earlier, later] = ["earlier", "later"].map(byId);
  let first = 0;
  let spans = []; // nothing is shown yet
  let cursor = -1;

  const isShown = (key) => key >= first && key < first + spans.length;

  function show(start) {
    const { keyTokens: tokens } = state;
    const { length } = tokens;
    first = clamp(start, 0, max(0, length - STRETCH));
    spans = tokens.slice(first, first + STRETCH).map((token, place) => {
      const made = span("", inText(token));
      made.role = "option";
      made.id = "token-" + (first + place);
      made.dataset.at = first + place;
      made.ariaPosInSet = first + place + 1;
      made.ariaSetSize = length;
      return made;
    });
    const stop = first + spans.length;
    fill(holder, ...spans);
    // Words without spaces of their own are set apart.
    holder.classList.toggle("words", !tokens.some((token) => /\s/.test(token)));
    fill("text-about", (spans.length < length ? spanText(first, stop) + " of " : "") + counted(length, "token"));
    earlier.hidden = first === 0;
    later.hidden = stop === length;
    colour();
  }

  // Shows a key, without moving the page.
  function reveal(key, before) {
    if (!isShown(key)) show(key - before);
    const top = spans[key - first].offsetTop;
    const { scrollTop, clientHeight } = holder;
    if (top < scrollTop + 20 || top > scrollTop + clientHeight - 60) holder.scrollTop = top - clientHeight * 0.6;
  }

  function colour() {
    const { data, rival, scaling, found, query } = state;
    const own = keyOf(query);
    const all = [data, rival].filter(Boolean);
    const rows = all.map((one) => perKey(one, query, first, first + spans.length));
    const high = max(...all.map((one) => mostOf(one)[0]));
    const colourOf = rival ? signedColour : rampColour;
    const matches = new Set(found.keys);
    spans.forEach((token, place) => {
      const at = first + place;
      const forbidden = rows.every((row) => row.forbidden[place]);
      const weight = rows[0].weights[place] - (rival ? rows[1].weights[place] : 0);
      const range = { logFloor: LOG_FLOOR, highest: 1 };
      const share = forbidden || !high ? 0 : shareOf(abs(weight) / high, scaling, range);
      token.className = [
        at === own && "query",
        forbidden && "hatched",
        matches.has(at) && "found",
        at === found.keys[found.at] && "current",
      ]
        .filter(Boolean)
        .join(" ");
      token.ariaSelected = at === own;
      token.style.backgroundColor = share < 0.02 ? "" : cssOf(colourOf(PART * share * Math.sign(weight)));
    });
    mark();
    const top = high.toPrecision(2);
    const low = rival ? "\u2212" + top : scaling === "log" ? "\u2264 " + (high * LOG_FLOOR).toPrecision(2) : "0";
    const what = `weight that query ${grouped(query)} gives, ${rival ? "A \u2212 B, " : ""}${scaling}; ${rows[0].how}`;
    const hatched = rows[0].forbidden.includes(1) ? swatch("hatched", "may not attend") : "";
    fill("text-legend", low, barOf(scaleColour(rival, PART)), top, span("muted", what), hatched);
  }

  // The token at the cursor of the map or of the text.
  function mark() {
    const focused = holder.matches(":focus");
    const at = focused && cursor >= 0 ? cursor : state.pointed ? state.pointed.key : -1;
    const token = spans[at - first];
    for (const old of holder.querySelectorAll(".at")) old.classList.remove("at");
    if (token) token.classList.add("at");
    attributes(holder, { "aria-activedescendant": token && focused ? token.id : "" });
  }

  function keep(key) {
    cursor = key;
    const query = queryOf(key);
    if (query >= 0) pin(query);
    else pointAt(state.query, key);
  }

  onKeys(holder, (event) => {
    if (!spans.length) return false;
    if (!isShown(cursor)) cursor = isShown(home()) ? home() : first;
    if (event.key === "Enter") return keep(cursor);
    const ahead = getComputedStyle(holder).direction === "rtl" ? -1 : 1;
    const step = arrowOf(event);
    if (!step) return false;
    const [down, across] = step;
    const along = abs(across) > 1 ? across : ahead * across;
    cursor = clamp(cursor + 10 * down + along, 0, state.keyTokens.length - 1);
    reveal(cursor, STRETCH / 2);
    pointAt(state.query, cursor);
    mark();
  });
  const withKey = (act) => (event) => {
    const { at } = event.target.dataset;
    if (at) act(Number(at));
  };
  on(holder, "click", withKey(keep));
  on(
    holder,
    "pointerover",
    withKey((key) => set({ pointed: { query: state.query, key } })),
  );
  on(holder, "pointerleave", () => set({ pointed: null }));
  on(holder, "focus blur", mark);
  on(earlier, "click", () => show(first - STRETCH));
  on(later, "click", () => show(first + STRETCH));

  const isTold = () => state.keyTokens && state.data;
  when(
    (now) => [now.data, now.rival, now.query, now.scaling, now.hideFirst, now.theme, now.found, now.tick],
    () => {
      byId("text").hidden = !state.keyTokens;
      if (!isTold()) return;
      if (spans.length) colour();
      else show(home() - BEFORE);
    },
  );
  when(
    (now) => [now.query],
    () => isTold() && reveal(home(), BEFORE),
  );
  when(
    (now) => [now.found],
    () => {
      const key = state.found.keys[state.found.at];
      if (isTold() && key !== undefined) reveal(key, STRETCH / 2);
    },
  );
  when(
    (now) => [now.group],
    () => (spans = []),
  );
  when((now) => [now.pointed], mark);
}
