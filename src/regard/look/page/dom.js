// Short names for what every part of the page does with its document.

export const byId = (id) => document.getElementById(id);

// Listens to one event or several ("focus pointerdown").
export function on(target, events, act, options) {
  for (const event of events.split(" ")) target.addEventListener(event, act, options);
}

export function attributes(target, values) {
  for (const name in values) target.setAttribute(name, values[name]);
}

export const press = (button, isPressed) => attributes(button, { "aria-pressed": isPressed });

export const withModifier = (event) => event.altKey || event.ctrlKey || event.metaKey;

// [down, across] of an arrow key, or undefined.
export const arrowOf = (event) =>
  ({ ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] })[event.key];

// Gives a canvas its size in CSS pixels and a pen that draws in them.
export function penFor(canvas, width, height, unit = devicePixelRatio || 1) {
  canvas.width = Math.round(width * unit);
  canvas.height = Math.round(height * unit);
  canvas.style.width = width + "px";
  canvas.style.height = height + "px";
  const pen = canvas.getContext("2d");
  pen.scale(unit, unit);
  return pen;
}
