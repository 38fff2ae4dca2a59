// The page's state in one place: who changes it, and who is told. A page has one state, so it is a module's.

// Parts of the state that are small objects: they are compared by what they hold.
const PLACES = [/* @__KEY__ */ "view", /* @__KEY__ */ "pointed", /* @__KEY__ */ "other"];

// other: {group, head} of the head that is compared with, or null; query: the pinned one, -1 before there is one;
// pointed: {query, key} below the pointer or the cursor; tick: told when data grew in place.
export let state = {
  ...{ group: 0, head: 0, other: null, scaling: "log", pooling: "mean", hideFirst: false, query: -1, pointed: null },
  ...{ view: null, found: { text: "", keys: [], at: -1 }, data: null, rival: null, theme: "light", tick: 0 },
  ...{ queryTokens: null, keyTokens: null },
};
const listeners = [];
let waiting = false;

// A listener may set more: that is told in the same turn, after the present round.
function tell() {
  waiting = false;
  for (const one of listeners) {
    const now = one.select(state);
    if (now.every((part, at) => part === one.told[at])) continue;
    one.told = now;
    one.act();
  }
}

export function set(patch) {
  const next = { ...state, ...patch };
  for (const key of PLACES) if (JSON.stringify(next[key]) === JSON.stringify(state[key])) next[key] = state[key];
  state = next;
  if (!waiting) queueMicrotask(tell);
  waiting = true;
}

// Listens to parts of the state, (state) => [its parts]: once after all that was set in one turn, in the order of asking.
export const when = (select, act) => listeners.push({ select, act, told: select(state) });

// The same for what concerns a head: only once one is there.
export const whenThere = (select, act) => when(select, () => state.data && act());
