// The page's state in one place: who changes it, and who is told. A page has one state, so it is a module's.

// Parts of the state that are small objects: they are compared by what they hold.
const PLACES = ["view", "pointed", "other"];

// other: {group, head} of the head that is compared with, or null; query: the pinned one, -1 before there is one;
// pointed: {query, key} below the pointer or the cursor; tick: told when data grew in place.
export let state = {
  ...{ group: 0, head: 0, other: null, scale: "log", reduce: "mean", hideFirst: false, query: -1, pointed: null },
  ...{ view: null, found: { text: "", keys: [], at: -1 }, data: null, rival: null, theme: "light", tick: 0 },
  ...{ queryTokens: null, keyTokens: null },
};
let changed = new Set();
const listeners = [];

function tell() {
  // A listener may set more: that is told in the same turn, after the present round.
  while (changed.size) {
    const keys = changed;
    changed = new Set();
    for (const [wanted, listener] of listeners) {
      if (wanted.some((key) => keys.has(key))) listener(keys);
    }
  }
}

export function set(patch) {
  const waiting = changed.size;
  const next = { ...state };
  for (const key in patch) {
    const same = PLACES.includes(key) && JSON.stringify(patch[key]) === JSON.stringify(state[key]);
    if (same || patch[key] === state[key]) continue;
    next[key] = patch[key];
    changed.add(key);
  }
  state = next;
  if (!waiting && changed.size) queueMicrotask(tell);
}

// Listens to parts of the state ("data query"): once after all that was set in one turn, in the order of asking.
export const when = (wanted, listener) => listeners.push([wanted.split(" "), listener]);

// The same for what concerns a head: only once one is there.
export const whenThere = (wanted, listener) => when(wanted, (keys) => state.data && listener(keys));
