// Where to look: sentences; one that names a head is a button that goes there.

import { page } from "./decode.js";
import { button, element, fill } from "./dom.js";

// [group, head] of the first "layer 3 head 5" in a sentence: in the tab that it names, else in the first that has it.
function headIn(sentence) {
  const [, ...numbers] = /layer (\d+),? head (\d+)/i.exec(sentence) || [];
  if (!numbers[0]) return undefined;
  const found = page.groups.flatMap(({ heads, layers }, group) => {
    const named = layers.indexOf("layer " + numbers[0]);
    const layer = named < 0 ? Number(numbers[0]) : named;
    const index = heads.findIndex((one) => one.layer === layer && one.head === Number(numbers[1]));
    return index < 0 ? [] : [[group, index]];
  });
  const names = ([group]) => page.groups[group].name && sentence.startsWith(page.groups[group].name);
  return found.find(names) || found[0];
}

export function fillGuide(go) {
  const items = page.guide.map((sentence) => {
    const target = headIn(sentence);
    return element("li", "", target ? button(sentence, () => go(...target)) : sentence);
  });
  fill("guide", ...items);
}
