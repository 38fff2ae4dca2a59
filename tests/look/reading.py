"""What a reader sees on the page: where its map stands, the colour of a cell, and the numbers that it writes out."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from tests.look.browsing import Tab

from regard.look import colours

# The map lies inside the frame that is drawn around its cells: the only straight lines of that colour that long.
# Pixels are read from a copy: the browser warns of a canvas that is drawn to and read from.
COPY = """(() => {
  const canvas = document.getElementById("cells");
  const copy = document.createElement("canvas");
  [copy.width, copy.height] = [canvas.width, canvas.height];
  const pen = copy.getContext("2d", { willReadFrequently: true });
  pen.drawImage(canvas, 0, 0);
  return pen;
})()"""
FRAME = (
    f"""() => {{
  const pen = {COPY};
"""
    + """
  const { width, height } = pen.canvas;
  const scratch = document.createElement("canvas").getContext("2d");
  scratch.fillStyle = getComputedStyle(document.documentElement).getPropertyValue("--muted");
  scratch.fillRect(0, 0, 1, 1);
  const muted = new Uint32Array(scratch.getImageData(0, 0, 1, 1).data.buffer)[0];
  const pixels = new Uint32Array(pen.getImageData(0, 0, width, height).data.buffer);
  const lines = (count, length, pixel) => {
    const found = [];
    for (let line = 0; line < count; line++) {
      let run = 0, longest = 0;
      for (let at = 0; at < length; at++) {
        run = pixel(line, at) === muted ? run + 1 : 0;
        longest = Math.max(longest, run);
      }
      if (longest > 70) found.push(line);
    }
    return found;
  };
  const rows = lines(height, width, (row, col) => pixels[row * width + col]);
  const cols = lines(width, height, (col, row) => pixels[row * width + col]);
  return [cols[0] + 1, rows[0] + 1, cols.at(-1) - cols[0] - 1, rows.at(-1) - rows[0] - 1];
}"""
)
PIXELS = f"""(places) => {{
  const pen = {COPY};
  return places.map(([x, y]) => Array.from(pen.getImageData(Math.floor(x), Math.floor(y), 1, 1).data.slice(0, 3)));
}}"""
VARIABLES = """(names) => {
  const pen = document.createElement("canvas").getContext("2d", { willReadFrequently: true });
  return names.map((name) => {
    pen.fillStyle = getComputedStyle(document.documentElement).getPropertyValue(name);
    pen.fillRect(0, 0, 1, 1);
    return Array.from(pen.getImageData(0, 0, 1, 1).data.slice(0, 3));
  });
}"""
CORNER = """() => {
  const cells = document.getElementById("cells");
  cells.scrollIntoView({ block: "center" });
  const box = cells.getBoundingClientRect();
  return [box.left, box.top];
}"""

NUMBER = re.compile(r"(\u2248 |\u2264 )?(\d[\d,]*(?:\.\d+)?)")


class Map:
    """The map of a tab: its pairs of query and key, for the pointer and for the colour picker."""

    def __init__(self, tab: Tab, view: Sequence[int]) -> None:
        self.tab = tab
        self.q0, self.q1, self.k0, self.k1 = view
        self.left, self.top, self.width, self.height = tab.evaluate(FRAME)

    def inside(self, query: float, key: float) -> tuple[float, float]:
        """The middle of a pair, in pixels of the canvas."""
        x = self.left + (key + 0.5 - self.k0) * self.width / (self.k1 - self.k0)
        return x, self.top + (query + 0.5 - self.q0) * self.height / (self.q1 - self.q0)

    def place(self, query: float, key: float) -> tuple[float, float]:
        """The middle of a pair, in the window."""
        left, top = self.tab.evaluate(CORNER)
        x, y = self.inside(query, key)
        return left + x, top + y

    def colours(self, *pairs: tuple[float, float]) -> list[tuple[int, ...]]:
        """The colours drawn at some pairs."""
        return [tuple(found) for found in self.tab.evaluate(PIXELS, [self.inside(*pair) for pair in pairs])]

    def colour(self, query: float, key: float) -> tuple[int, ...]:
        """The colour drawn at one pair."""
        return self.colours((query, key))[0]

    def is_hatched(self, query: float, key: float) -> bool:
        """The pair's colour is one of the hatching, or between its two."""
        return among(self.colour(query, key), self.tab.evaluate(VARIABLES, ["--forbidden", "--forbidden-line"]))

    def hover(self, query: float, key: float) -> str:
        """What the page says of the pair below the pointer."""
        self.tab.move(*self.place(query, key))
        return self.tab.say("readout")


def choose(tab: Tab, layer: int, head: int, heads: int) -> None:
    """Goes to a head with the keyboard, as a reader would, and waits until it is drawn."""
    found = re.match(r"Layer (\d+), head (\d+)", tab.say("head-name"))
    assert found
    steps = (layer - int(found[1])) * heads + head - int(found[2])
    tab.evaluate("() => document.getElementById('tiles').focus()")
    tab.press(*["ArrowRight" if steps > 0 else "ArrowLeft"] * abs(steps))
    tab.until("(name) => document.getElementById('head-name').textContent === name", f"Layer {layer}, head {head}")


def pin(tab: Tab, query: int) -> None:
    """Types a query's number."""
    tab.page.fill("#query", str(query))
    tab.press("Enter")
    tab.until("(name) => document.getElementById('top-name').textContent.startsWith(name)", f"What query {query:,}")


def click(tab: Tab, *names: str) -> None:
    """Presses buttons by their ids."""
    for name in names:
        tab.evaluate("(name) => document.getElementById(name).click()", name)
    tab.settle()


def compare(tab: Tab, group: int, head: int) -> None:
    """Compares the head that is shown with another, by the list."""
    tab.page.hover("#compare-with")
    tab.page.select_option("#compare-with", f"{group}.{head}")
    tab.until("() => document.getElementById('rows').classList.contains('comparing')")


def table(tab: Tab, name: str) -> list[list[str]]:
    """A table of the page, row by row, the column heads first."""
    click(tab, "tables-open")
    read = """(id) => Array.from(document.querySelectorAll(`#${id} tr`),
      (row) => Array.from(row.children, (cell) => cell.textContent.trim()))"""
    rows = tab.evaluate(read, name)
    tab.press("Escape")
    return rows


def agrees(text: str, weight: float, *, unit: float = 1.0) -> bool:
    """Whether a number that the page writes is this weight, to the digits that it shows and no further than it claims.

    What is marked with an almost-equal sign is within 2.4 %; what is not is rounded, and exact to 0.02 % before.
    """
    found = NUMBER.search(text)
    assert found, f"no number in {text!r}"
    mark, digits = found[1], found[2].replace(",", "")
    if mark == "\u2264 ":
        return weight <= 1.03 * float(digits) * unit
    places = len(digits.partition(".")[2])
    relative = 0.024 if mark else 2.5e-4
    return abs(float(digits) * unit - weight) <= (0.5000001 * 10**-places) * unit + relative * abs(weight)


def expected(share: float, *, dark: bool = False) -> list[tuple[int, ...]]:
    """The colours of a share of the ramp, and of what a rounded code could make of it."""
    places = [share + by for by in (-0.004, -0.001, 0, 0.001, 0.004)]
    return [colours.colour(1 - place if dark else place) for place in places]


def log_share(weight: float, floor: float = 1e-4) -> float:
    """Where a weight lies on the logarithmic scale."""
    return 1 - math.log(max(weight, floor)) / math.log(floor)


def among(colour: Sequence[int], near: Sequence[Sequence[int]], slack: int = 1) -> bool:
    """Whether a colour lies among those that are near, channel by channel."""
    sides = zip(*near, strict=True)
    return all(min(side) - slack <= part <= max(side) + slack for part, side in zip(colour, sides, strict=True))
