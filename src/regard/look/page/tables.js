// The numbers as tables: all heads, and the map around the cursor; what a query reads is a list already. Built when opened, gone when closed.

import { groupNow } from "./decode.js";
import { attributes, button, byId, element, fill, on } from "./dom.js";
import { keyOf } from "./going.js";
import { tableOf } from "./grid.js";
import { set, state } from "./store.js";
import { excerpt } from "./tokens.js";
import {
  counted,
  drawn,
  drawnCell,
  formatDifference,
  formatWeight,
  grouped,
  headName,
  scoresOf,
  spanText,
} from "./values.js";
import { clamp } from "./viewport.js";

const AROUND = 8;

export function makeTables() {
  const dialog = byId("tables");
  let order = { at: -1, down: false }; // -1: as the layers stand

  function open() {
    const close = button("Close", () => dialog.close());
    const tables = [headsTable(), mapTable()];
    ["heads", "map"].forEach((name, at) => (tables[at].id = "table-" + name));
    fill(dialog, element("div", "bar", element("h2", "", "Tables"), close), ...tables);
    if (!dialog.open) dialog.showModal();
  }

  function headsTable() {
    const { heads, statistics } = groupNow();
    const score = (head, at) => (at < 0 ? head : scoresOf(heads[head])[statistics[at].name]);
    const indexes = heads.map((_, head) => head);
    // What has no value comes last, whichever way the others stand.
    indexes.sort((a, b) => {
      const [x, y] = [score(a, order.at), score(b, order.at)];
      if (x == null || y == null) return (x == null) - (y == null);
      return order.down ? y - x : x - y;
    });
    const rows = indexes.map((head) => {
      const go = button(headName(state.group, head, true), () => {
        dialog.close();
        set({ head });
      });
      go.ariaCurrent = head === state.head;
      return [go, ...statistics.map(({ decimals }, at) => score(head, at)?.toFixed(decimals) ?? "\u2013")];
    });
    const sorters = [{ label: "head", about: "As the layers stand" }, ...statistics].map(
      ({ label, unit, about }, place) => {
        const at = place - 1;
        const sorted = order.at !== at ? "" : order.down ? " \u25be" : " \u25b4";
        const sort = () => {
          order = { at, down: order.at === at ? !order.down : at >= 0 };
          open();
          dialog.querySelectorAll("thead button")[place].focus();
        };
        return button(label + (unit ? ", " + unit : "") + sorted, sort, about);
      },
    );
    const box = tableOf(
      counted(heads.length, "head") + "; a head\u2019s name shows it" + (state.hideFirst ? "; first key left out" : ""),
      sorters,
      rows,
    );
    box.querySelectorAll("thead th").forEach((cell, place) => {
      const sorted = order.at !== place - 1 ? "none" : order.down ? "descending" : "ascending";
      attributes(cell, { "aria-sort": sorted });
    });
    return box;
  }

  on(byId("tables-open"), "click", () => state.data && open());
  on(dialog, "close", () => fill(dialog));
}

// The places from which the cells of the map are read, some before and after a place.
function placesAround(at, low, high, spanAt) {
  const places = [at];
  let place = spanAt(at)[0] - 1;
  for (; place >= low && places.length <= AROUND; place = spanAt(place)[0] - 1) places.unshift(place);
  for (place = spanAt(at)[1]; place < high && places.length < 2 * AROUND; place = spanAt(place)[1]) places.push(place);
  return places;
}

function mapTable() {
  const { data, view, rival, pointed, queryTokens, keyTokens } = state;
  const at = pointed || { query: state.query, key: keyOf(state.query) ?? view.k0 };
  const query = clamp(at.query, view.q0, view.q1 - 1);
  const key = clamp(at.key, view.k0, view.k1 - 1);
  const queriesAt = (place) => drawnCell(data, place, key).queries;
  const keysAt = (place) => drawnCell(data, query, place).keys;
  const keys = placesAround(key, view.k0, view.k1, keysAt);
  const named = (name, range, tokens) => [name + " " + spanText(...range) + " ", excerpt(tokens, range, 1, 14)];
  const rows = placesAround(query, view.q0, view.q1, queriesAt).map((q) => [
    named("query", queriesAt(q), queryTokens),
    ...keys.map((k) => {
      const found = drawn(data, q, k);
      return rival ? formatDifference(found, drawn(rival, q, k)) : formatWeight(found);
    }),
  ]);
  const what = rival ? ": A \u2212 B" : "";
  const caption = `The map around query ${grouped(query)}, key ${grouped(key)}${what}`;
  return tableOf(caption, ["", ...keys.map((k) => named("key", keysAt(k), keyTokens))], rows);
}
