"""The page in a real browser: what it asks for, what it draws, what it says, what the keys do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, attention, masks
from regard.look import colours, page

pytestmark = pytest.mark.browser

Make = Callable[..., AttentionWeights]
Define = Callable[[Tensor, int, int], Tensor]

HOSTILE = [
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\u202eabc",
    "\0",
    "\u2028",
    "漢",
    "🙂",
    "\n    ",
    "<b>bold</b>",
    "&lt;",
    "x" * 1_000_000,
    "$x$",
]

# The picture's box in the page and, within it, the map's: taken from the frame that is drawn around the cells.
BOX = "(() => { const b = document.getElementById('cells').getBoundingClientRect(); return [b.left, b.top]; })()"
MARGINS = {"left": 58, "top": 58}
LABELLED_LEFT = 100


def say(browser: Any, name: str) -> str:
    return browser.evaluate(f"document.getElementById('{name}').textContent")


@pytest.fixture
def short(layers: list[AttentionWeights], tmp_path: Path) -> Path:
    return page(layers, list("abcabcabcabc"), tmp_path / "page.html", title="A short text")


@pytest.fixture
def long(some_weights: Make, tmp_path: Path) -> Path:
    weights = [some_weights(1, 2, 2000, 2000, mask=masks.causal(), width=4)]
    return page(weights, [f"t{at} " for at in range(2000)], tmp_path / "long.html", max_bytes=150_000)


def side(browser: Any, cells: int, left: int) -> float:
    """The width of the map, found as the page finds it."""
    room = browser.evaluate("document.getElementById('map').clientWidth") - left - 66
    tallest = max(280, browser.evaluate("window.innerHeight") - 330)
    width = min(room, tallest, 640)
    whole = width // cells * cells
    return whole if whole > 0.8 * width else width


def centre(browser: Any, cells: int, row: int, col: int, left: int) -> tuple[float, float]:
    x, y = browser.evaluate(BOX)
    cell = side(browser, cells, left) / cells
    return x + left + (col + 0.5) * cell, y + MARGINS["top"] + (row + 0.5) * cell


def pixel(browser: Any, x: float, y: float) -> list[int]:
    x0, y0 = browser.evaluate(BOX)
    script = (
        f"Array.from(document.getElementById('cells').getContext('2d').getImageData({x - x0}, {y - y0}, 1, 1).data)"
    )
    return browser.evaluate(script)


def test_one_request_and_no_complaint(browser: Any, short: Path) -> None:
    browser.open(short)
    assert browser.requests() == [short.as_uri()]
    assert browser.complaints() == []
    assert browser.evaluate("document.title") == "A short text"
    assert browser.evaluate("document.querySelectorAll('.tile').length") == 6


def test_hostile_tokens_stay_text(browser: Any, layers: list[AttentionWeights], tmp_path: Path) -> None:
    path = page(layers, HOSTILE, tmp_path / "page.html", title=HOSTILE[0], source=HOSTILE[1], notes=[HOSTILE[8]])
    browser.open(path)
    assert browser.complaints() == []
    assert browser.evaluate("typeof window.ran") == "undefined"
    assert browser.evaluate("document.querySelectorAll('img, b:not(#readout b), script').length") == 2
    assert say(browser, "title") == HOSTILE[0]
    tokens = browser.evaluate("Array.from(document.querySelectorAll('#tokens span'), (token) => token.textContent)")
    assert tokens[:2] == HOSTILE[:2]
    assert tokens[2:5] == ["<U+202E>abc", "\u2400", "<U+2028>"]
    assert tokens[5:10] == ["漢", "🙂", "\u23ce\n    ", "<b>bold</b>", "&lt;"]
    assert len(tokens[10]) == 100


def test_a_pixel_has_the_colour_of_its_weight(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short)
    for head in (0, 4):
        browser.evaluate(f"document.querySelectorAll('.tile')[{head}].click()")
        browser.settle()
        dense = layers[head // 3].to_dense()[0, head % 3]
        for row, col in ((0, 0), (5, 2), (11, 11), (7, 7), (9, 0)):
            weight = float(dense[row, col])
            share = 1 + torch.log10(torch.tensor(max(weight, 1e-4))).item() / 4
            near = [colours.colour(share + by) for by in (-0.006, 0, 0.006)]
            found = pixel(browser, *centre(browser, 12, row, col, LABELLED_LEFT))[:3]
            assert all(min(c) - 1 <= part <= max(c) + 1 for part, c in zip(found, zip(*near, strict=True), strict=True))
    # What is not allowed is hatched in grey: its colours lie between the two of the hatching and nowhere on the ramp.
    grey = pixel(browser, *centre(browser, 12, 2, 9, LABELLED_LEFT))
    assert max(grey[:3]) - min(grey[:3]) <= 4
    assert 205 <= grey[0] <= 236


def test_a_linear_scale_is_drawn_when_asked(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short)
    browser.evaluate("document.querySelectorAll('.tile')[0].click()")
    browser.settle()
    browser.press("l")
    dense = layers[0].to_dense()[0, 0]
    highest = float(dense.max())
    assert say(browser, "legend-high") == f"{highest:.3f}"
    assert "linear" in say(browser, "legend-name")
    row, col = divmod(int((dense - 0.5 * highest).abs().argmin()), 12)
    expected = colours.colour(float(dense[row, col]) / highest)
    found = pixel(browser, *centre(browser, 12, row, col, LABELLED_LEFT))[:3]
    assert max(abs(a - b) for a, b in zip(found, expected, strict=True)) <= 6


def test_hovering_tells_query_key_and_weight(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short)
    browser.evaluate("document.querySelectorAll('.tile')[1].click()")
    browser.settle()
    dense = layers[0].to_dense()[0, 1]
    row, col = 8, int(dense[8].argmax())
    browser.mouse("mouseMoved", *centre(browser, 12, row, col, LABELLED_LEFT))
    said = say(browser, "readout")
    assert said.startswith(f"{float(dense[row, col]):.3f}  query 8 c \u2192 key {col} {'abc'[col % 3]}")
    assert f"entropy {float(layers[0].entropy()[0, 1, 8]):.2f} nats" in said
    browser.mouse("mouseMoved", *centre(browser, 12, 3, 9, LABELLED_LEFT))
    assert say(browser, "readout").startswith("may not attend  query 3 a \u2192 key 9 a")
    browser.mouse("mouseMoved", 2, 2)
    assert say(browser, "readout").startswith("query ")
    assert " key " not in say(browser, "readout")


def test_a_click_keeps_a_query_and_colours_the_text(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short)
    browser.evaluate("document.querySelectorAll('.tile')[2].click()")
    browser.settle()
    x, y = centre(browser, 12, 6, 1, LABELLED_LEFT)
    browser.mouse("mousePressed", x, y)
    browser.mouse("mouseReleased", x, y)
    browser.mouse("mouseMoved", 2, 2)
    assert say(browser, "top-name") == "What query 6 reads most"
    row = layers[0].to_dense()[0, 2, 6]
    strongest = browser.evaluate("document.querySelector('#top .share').textContent")
    assert strongest == f"{float(row.max()):.3f}"
    classes = browser.evaluate(
        "Array.from(document.querySelectorAll('#tokens span'), (token) => token.className.trim())"
    )
    assert classes == [""] * 6 + ["query"] + ["later"] * 5
    backs = browser.evaluate(
        "Array.from(document.querySelectorAll('#tokens span'), (token) => token.style.backgroundColor)"
    )
    assert backs[7:] == [""] * 5
    assert backs[int(row.argmax())] == "rgb({}, {}, {})".format(*colours.colour(0.5))
    browser.evaluate("document.querySelectorAll('#tokens span')[10].click()")
    browser.settle()
    assert say(browser, "top-name") == "What query 10 reads most"


def test_a_pooled_map_says_so_and_tells_its_cells(
    browser: Any, some_weights: Make, by_definition: Define, long: Path
) -> None:
    browser.open(long)
    data = json.loads(browser.evaluate("document.getElementById('data').textContent"))
    rows = data["rows"]
    assert rows < 512
    assert "1 cell = " in say(browser, "legend-name")
    browser.evaluate("document.querySelectorAll('.tile')[0].click()")
    browser.settle()
    weights = some_weights(1, 2, 2000, 2000, mask=masks.causal(), width=4)
    pooled = weights.pool(rows, rows)[0, 0]
    row = rows // 2
    col = int(pooled[row].argmax())
    browser.mouse("mouseMoved", *centre(browser, rows, row, col, MARGINS["left"]))
    said = say(browser, "readout")
    first, last = row * 2000 // rows, (row + 1) * 2000 // rows - 1
    shown = f"{first:,}" if first == last else f"{first:,}\u2013{last:,}"
    assert f"query {shown} " in said
    weight = float(pooled[row, col])
    assert said.startswith(f"{weight:.3f} " if weight >= 0.1 else f"{weight:.4f} ")
    assert "1 cell = " in said
    assert browser.complaints() == []


def test_the_number_of_elements_does_not_grow_with_the_text(browser: Any, some_weights: Make, tmp_path: Path) -> None:
    counts = []
    for length in (1600, 3200):
        weights = [some_weights(1, 1, length, length, mask=masks.causal(), width=4)]
        browser.open(page(weights, [f"{at} " for at in range(length)], tmp_path / f"{length}.html", max_bytes=400_000))
        counts.append(browser.evaluate("document.querySelectorAll('*').length"))
    assert abs(counts[1] - counts[0]) < 20
    assert counts[1] < 2500


def test_the_keyboard_alone_reaches_a_head_a_query_and_a_key(
    browser: Any, layers: list[AttentionWeights], short: Path
) -> None:
    browser.open(short)
    start = browser.evaluate("document.querySelector('.tile[aria-pressed=true]').getAttribute('aria-label')")
    browser.evaluate("document.querySelectorAll('.tile')[0].click()")
    browser.settle()
    assert say(browser, "head-name") == "Layer 0, head 0"
    browser.press("ArrowRight")
    browser.press("ArrowDown")
    assert say(browser, "head-name") == "Layer 1, head 1"
    browser.press("ArrowUp")
    assert say(browser, "head-name") == "Layer 0, head 1"
    assert "layer" in start
    browser.evaluate("document.querySelectorAll('#tokens span')[9].click(); document.getElementById('map').focus()")
    for key in ("ArrowUp", "ArrowUp", "ArrowLeft", "Enter"):
        browser.press(key)
    # From the kept query 9 two up to 7; the key starts where the query stands, at 9, and goes one to the left.
    assert say(browser, "top-name") == "What query 7 reads most"
    assert say(browser, "readout").startswith("may not attend  query 7 b \u2192 key 8 c")
    browser.press("ArrowLeft")
    weight = float(layers[0].to_dense()[0, 1, 7, 7])
    assert say(browser, "readout").removeprefix("\u2248 ").startswith(f"{weight:.2f}"[:3])
    assert " query 7 b \u2192 key 7 b" in say(browser, "readout")
    assert browser.evaluate("document.activeElement.id") == "map"


def test_heads_are_sorted_by_a_statistic(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short)
    entropy = torch.stack([weights.entropy()[0].mean(-1) for weights in layers]).flatten()
    browser.evaluate(
        "(() => { const by = document.getElementById('statistic'); by.value = 'entropy';"
        " by.dispatchEvent(new Event('change')); document.getElementById('sorted').click(); })()"
    )
    browser.settle()
    labels = browser.evaluate(
        "Array.from(document.querySelectorAll('.tile'), (tile) => tile.getAttribute('aria-label'))"
    )
    order = entropy.argsort().tolist()
    assert labels == [f"layer {at // 3}, head {at % 3}, entropy {entropy[at]:.2f}" for at in order]


def test_dark_surroundings_turn_the_ramp_round(browser: Any, layers: list[AttentionWeights], short: Path) -> None:
    browser.open(short, dark=True)
    assert browser.complaints() == []
    browser.evaluate("document.querySelectorAll('.tile')[0].click()")
    browser.settle()
    assert browser.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    found = pixel(browser, *centre(browser, 12, 0, 0, LABELLED_LEFT))[:3]
    assert found == list(colours.ramp()[0])  # query 0 gives all its weight to itself
    browser.evaluate("document.getElementById('theme').click()")
    browser.settle()
    assert pixel(browser, *centre(browser, 12, 0, 0, LABELLED_LEFT))[:3] == list(colours.ramp()[255])


def test_a_page_of_another_version_says_so(browser: Any, short: Path) -> None:
    short.write_text(short.read_text().replace('"schema":"regard.look/1"', '"schema":"regard.look/9"'))
    browser.open(short, wait=False)
    assert say(browser, "failure") == (
        "The page could not be drawn: these data are regard.look/9; this page reads regard.look/1"
    )


def test_a_page_without_tokens_and_with_two_queries(browser: Any, some_weights: Make, tmp_path: Path) -> None:
    browser.open(page([some_weights(1, 2, 2, 50, mask=masks.causal())], None, tmp_path / "page.html"))
    assert browser.evaluate("document.getElementById('text').hidden")
    assert browser.complaints() == []
    assert say(browser, "readout").startswith("query 1 ")


def test_the_first_query_shown_is_one_that_looks_far(browser: Any, tmp_path: Path) -> None:
    # Query 9 gives nearly everything to key 2; all others look at themselves.
    key = 20 * torch.eye(12)
    query = torch.eye(12)
    query[9] = torch.eye(12)[2]
    _, weights = attention(query[None], key[None], key[None], masks.causal(), scale=1.0)
    browser.open(page([weights], None, tmp_path / "page.html"))
    assert say(browser, "top-name") == "What query 9 reads most"
    assert browser.evaluate("Array.from(document.querySelectorAll('#top li'), (item) => item.textContent)") == [
        "1.000at 2"
    ]
