// Where to look: sentences; one that names a head is a button that goes there.

import { page } from "./decode.js";
import { byId } from "./dom.js";
import { button } from "./grid.js";
import { element } from "./tokens.js";

// [group, head] of the first "layer 3 head 5" in a sentence: in the tab that it names, else in the first that has it.
function headIn(sentence) {
  const found = /layer (\d+),? head (\d+)/i.exec(sentence);
  if (!found) return null;
  const [layerNumber, headNumber] = found.slice(1).map(Number);
  const isNamed = (at) => Number(Boolean(page.groups[at].name) && sentence.startsWith(page.groups[at].name));
  const groups = page.groups.map((_, at) => at).sort((a, b) => isNamed(b) - isNamed(a));
  for (const at of groups) {
    const { heads, layers } = page.groups[at];
    const named = layers.indexOf("layer " + layerNumber);
    const index = heads.findIndex(
      ({ layer, head }) => layer === (named < 0 ? layerNumber : named) && head === headNumber,
    );
    if (index >= 0) return [at, index];
  }
  return null;
}

export function fillGuide(go) {
  const items = page.guide.map((sentence) => {
    const target = headIn(sentence);
    const made = target ? button(sentence, () => go(...target)) : element("span", "", sentence);
    made.className = target ? "go" : "";
    return element("li", "", made);
  });
  byId("guide").replaceChildren(...items);
}
