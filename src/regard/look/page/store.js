// The page's state in one place: who changes it, and who is told.

// Parts of the state that are small objects: they are compared by what they hold.
const PLACES = ["view", "pointed", "other"];

// Listeners run once after all that was set in one turn, in the order they asked.
export function createStore(state) {
  let changed = new Set();
  const listeners = [];

  function tell() {
    // A listener may set more: that is told in the same turn, after the present round.
    while (changed.size) {
      const keys = changed;
      changed = new Set();
      for (const [wanted, listener] of listeners) {
        if (wanted.some((key) => keys.has(key))) listener(state, keys);
      }
    }
  }

  return {
    get: () => state,
    set(patch) {
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
    },
    on: (wanted, listener) => listeners.push([wanted, listener]),
  };
}
