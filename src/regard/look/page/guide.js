// Where to look: the sentences of the tab that is shown; one that names a head is a button that goes there.

import { groupNow, page } from "./decode.js";
import { button, element, fill } from "./dom.js";
import { state, when } from "./store.js";
import { groupName } from "./values.js";

// The place of the longest name that is meant, or -1: what is said of "a b" holds "a", too.
const longest = (names, isMeant) =>
  names.reduce((best, name, at) => (isMeant(name) && !(names[best]?.length >= name.length) ? at : best), -1);

export function makeGuide(go) {
  const tabs = page.groups.map((_, at) => (page.groups[1] ? groupName(at) + ": " : ""));

  function list() {
    const { heads, layers } = groupNow();
    const names = heads.map(({ layer, head }) => (layers[layer] + " head " + head).toLowerCase());
    const items = page.guide.flatMap((sentence) => {
      if (longest(tabs, (tab) => sentence.startsWith(tab)) !== state.group) return [];
      const text = sentence.slice(tabs[state.group].length);
      const head = longest(names, (name) => text.toLowerCase().includes(name));
      return element("li", "", head < 0 ? text : button(text, () => go(state.group, head)));
    });
    fill("guide", ...items);
  }

  when((now) => [now.group], list);
  list();
}
