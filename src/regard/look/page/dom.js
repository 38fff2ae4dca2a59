// Short names for what every part of the page does with its document.

export const root = document.documentElement;

export const byId = (id) => document.getElementById(id);

// Listens to one event or several ("focus pointerdown").
export function on(target, events, act, options) {
  for (const event of events.split(" ")) target.addEventListener(event, act, options);
}

// Takes the keys that are typed into a target; act gives false for those that are not its own.
export function onKeys(target, act) {
  on(target, "keydown", (event) => {
    if (event.defaultPrevented || event.altKey || event.ctrlKey || event.metaKey || act(event) === false) return;
    event.preventDefault();
    event.stopPropagation();
  });
}

const [PAGE, ALL] = [10, 1e9];
const STEPS = {
  ...{ ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] },
  ...{ PageUp: [-PAGE, 0], PageDown: [PAGE, 0], Home: [0, -ALL], End: [0, ALL] },
};

// [down, across] of an arrow key, of PageUp and PageDown, and of Home and End: to the ends of a row; else undefined.
export const arrowOf = ({ key }) => STEPS[key];

export function attributes(target, values) {
  for (const name in values) target.setAttribute(name, values[name]);
}

// content: strings and nodes.
export function element(name, className, ...content) {
  const made = document.createElement(name);
  made.className = className;
  made.append(...content);
  return made;
}

export const span = (className, ...content) => element("span", className, ...content);

export function button(content, act, about = "") {
  const made = element("button", "", ...[content].flat());
  made.title = about;
  on(made, "click", act);
  return made;
}

// Puts content into an element, which may be named by its id, in place of what it holds.
export const fill = (target, ...content) => (target.nodeType ? target : byId(target)).replaceChildren(...content);

// Which of several buttons are pressed: {id: boolean}.
export function press(buttons) {
  for (const id in buttons) attributes(byId(id), { "aria-pressed": buttons[id] });
}
