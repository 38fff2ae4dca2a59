// The numbers as tables: all heads, the map around the cursor, the pinned query. Built when opened, gone when closed.

import { byId, on } from "./dom.js";
import { groupOf } from "./decode.js";
import { keyOf } from "./going.js";
import { button, tableOf } from "./grid.js";
import { element, tokenElement } from "./tokens.js";
import { drawn, drawnCell, formatDifference, formatWeight, grouped, headName, spanText, strongest } from "./values.js";
import { clamp } from "./viewport.js";

const AROUND = 8;
const STRONGEST = 32;

export function makeTables(store) {
  const dialog = byId("tables");
  let order = { at: -1, down: false }; // -1: as the layers stand

  function open() {
    const close = button("Close", () => dialog.close());
    const tables = { heads: headsTable(), map: mapTable(), query: queryTable() };
    for (const [name, table] of Object.entries(tables)) table.id = "table-" + name;
    dialog.replaceChildren(element("div", "bar", element("h2", "", "Tables"), close), ...Object.values(tables));
    if (!dialog.open) dialog.showModal();
  }

  function headsTable() {
    const state = store.get();
    const { heads, statistics, name } = groupOf(state);
    const score = (index, at) => (at < 0 ? index : heads[index].scores[statistics[at].name]);
    const indexes = heads.map((_, index) => index);
    // What has no value comes last, whichever way the others stand.
    indexes.sort((a, b) => {
      const [x, y] = [score(a, order.at), score(b, order.at)];
      if (x === null || y === null) return (x === null) - (y === null);
      return order.down ? y - x : x - y;
    });
    const rows = indexes.map((head) => {
      const go = button(headName(state.group, head, true), () => {
        dialog.close();
        store.set({ head });
      });
      go.ariaCurrent = String(head === state.head);
      return [go, ...statistics.map(({ decimals }, at) => score(head, at)?.toFixed(decimals) ?? "\u2013")];
    });
    const sorters = [{ label: "head", about: "As the layers stand" }, ...statistics].map(
      ({ label, unit, about }, place) => {
        const at = place - 1;
        const sorted = order.at === at ? (order.down ? " \u25be" : " \u25b4") : "";
        const sort = () => {
          order = { at, down: order.at === at ? !order.down : at >= 0 };
          open();
          dialog.querySelectorAll("thead button")[place].focus();
        };
        return button(label + (unit ? ", " + unit : "") + sorted, sort, about);
      },
    );
    const box = tableOf(
      (name ? name + ": " : "") + grouped(heads.length) + " heads; a head\u2019s name shows it",
      sorters,
      rows,
    );
    box.querySelectorAll("thead th").forEach((cell, place) => {
      cell.ariaSort = order.at !== place - 1 ? "none" : order.down ? "descending" : "ascending";
    });
    return box;
  }

  // The places from which the cells of the map are read, some before and after a place.
  function placesAround(at, low, high, spanAt) {
    const places = [at];
    let place = spanAt(at)[0] - 1;
    for (; place >= low && places.length <= AROUND; place = spanAt(place)[0] - 1) places.unshift(place);
    for (place = spanAt(at)[1]; place < high && places.length < 2 * AROUND; place = spanAt(place)[1]) {
      places.push(place);
    }
    return places;
  }

  function mapTable() {
    const state = store.get();
    const { data, view, otherData, pointed } = state;
    const at = pointed || { query: state.query, key: keyOf(data.group, state.query) ?? view.k0 };
    const query = clamp(at.query, view.q0, view.q1 - 1);
    const key = clamp(at.key, view.k0, view.k1 - 1);
    const queriesAt = (place) => drawnCell(state, data, place, key).queries;
    const keysAt = (place) => drawnCell(state, data, query, place).keys;
    const keys = placesAround(key, view.k0, view.k1, keysAt);
    const named = (name, [from, to], tokens) => [
      name + " " + spanText(from, to) + " ",
      tokens && to - from === 1 ? tokenElement(tokens[from], 14) : "",
    ];
    const rows = placesAround(query, view.q0, view.q1, queriesAt).map((q) => [
      named("query", queriesAt(q), state.queryTokens),
      ...keys.map((k) => {
        const found = drawn(state, data, q, k);
        return otherData ? formatDifference(found, drawn(state, otherData, q, k)) : formatWeight(found);
      }),
    ]);
    const what = otherData ? "A \u2212 B" : drawn(state, data, query, key).how;
    const caption = "The map around query " + grouped(query) + ", key " + grouped(key) + ": " + what;
    return tableOf(caption, ["", ...keys.map((k) => named("key", keysAt(k), state.keyTokens))], rows);
  }

  function queryTable() {
    const state = store.get();
    const { items, rest, ...found } = strongest(state, state.data, state.query, STRONGEST);
    const shown = (weight) => formatWeight({ ...found, weight, left: "" });
    const token = ([from, to]) =>
      state.keyTokens ? tokenElement(state.keyTokens.slice(from, Math.min(to, from + 6)).join(""), 40) : "";
    const rows = items.map(({ keys, weight }) => [spanText(...keys), token(keys), shown(weight)]);
    const caption = "What query " + spanText(...found.queries) + " reads: " + found.how;
    return tableOf(caption, ["key", "token", "weight"], [...rows, ["all others", "", shown(rest)]]);
  }

  on(byId("tables-open"), "click", () => store.get().data && open());
  on(dialog, "close", () => dialog.replaceChildren());
}
