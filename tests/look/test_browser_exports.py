"""What the page saves: PNG, SVG and CSV, by download, and what is in them."""

from __future__ import annotations

import base64
import csv
import io
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import among, choose, click, compare, expected, log_share

import regard
from regard import masks

pytestmark = pytest.mark.browser

HEADS, LENGTH, LONG = 2, 10, 700
FORMULAS = ["=1+1", "+2", "-3", "@SUM(A1)", "\t=4", "a,b", 'say "x"', "two\nlines", "plain", "<b>&amp;"]
NAME = "Figures-of-a-page-Layer-0-head-1"
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture(scope="module")
def weights() -> regard.AttentionWeights:
    return make_weights(1, HEADS, LENGTH, LENGTH, mask=masks.causal())


@pytest.fixture(scope="module")
def tab(weights: regard.AttentionWeights, shared_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    page = regard.look(weights, FORMULAS, title="Figures: of a page", source="from <somewhere>")
    tab = shared_browser.open(page.save(tmp_path_factory.mktemp("exports") / "page.html"))
    choose(tab, 0, 1, HEADS)
    return tab


def image_of(content: bytes) -> Any:
    return Image.open(io.BytesIO(content)).convert("RGB")


def check_cells(picture: Any, box: tuple[int, int, int, int], dense: Any) -> None:
    """Every cell of a picture of the map has the colour of its weight; what is forbidden has no weight's colour."""
    left, top, width, height = box
    for query in range(LENGTH):
        for key in range(query + 1):
            place = (left + int((key + 0.5) * width / LENGTH), top + int((query + 0.5) * height / LENGTH))
            near = expected(log_share(float(dense[query, key])))
            assert among(picture.getpixel(place), near, slack=2), (query, key)


def test_a_svg_is_xml_with_the_map_in_it_and_text_that_stays_text(tab: Tab, weights: regard.AttentionWeights) -> None:
    name, content = tab.download("export-svg")
    assert name == f"{NAME}.svg"
    root = ElementTree.fromstring(content.decode("utf-8"))
    assert root.tag == f"{SVG}svg"
    texts = ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]
    said = " ".join(texts)
    for part in ("Figures: of a page", "from <somewhere>", "Layer 0, head 1", "drawn by regard", "attention weight"):
        assert part in said
    assert {"=1+1", "@SUM(A1)", "plain"} <= set(texts)
    assert list(root.iter(f"{SVG}pattern")), "what is not allowed is hatched"
    pictures = [image_of(base64.b64decode(url.partition("base64,")[2])) for url in _pictures(root)]
    # The map itself: its forbidden half lets the hatching show, so that it is transparent there.
    largest = max(pictures, key=lambda picture: picture.width * picture.height)
    check_cells(largest, (0, 0, largest.width, largest.height), weights.to_dense()[0, 1])
    assert not re.search(rb"<script|on\w+=|http://(?!www\.w3\.org)|https:", content)


def _pictures(root: ElementTree.Element) -> list[str]:
    return [
        image.get("href") or image.get("{http://www.w3.org/1999/xlink}href") or "" for image in root.iter(f"{SVG}image")
    ]


def test_a_png_shows_the_map_at_twice_the_size(tab: Tab, weights: regard.AttentionWeights) -> None:
    name, content = tab.download("export-png")
    assert name == f"{NAME}.png"
    picture = image_of(content)
    assert content.startswith(b"\x89PNG")
    # The same drawing as the SVG's: where the map stands in it, the SVG says.
    root = ElementTree.fromstring(tab.download("export-svg")[1].decode("utf-8"))
    factor = picture.width / float(root.get("width", "0"))
    assert factor == pytest.approx(2, rel=0.01)
    image = max(
        root.iter(f"{SVG}image"), key=lambda found: float(found.get("width", "0")) * float(found.get("height", "0"))
    )
    shift = re.search(r"translate\(([-\d.]+)[ ,]([-\d.]+)\)", image.get("transform") or "translate(0 0)")
    assert shift
    left, top = (float(image.get(side, "0")) + float(shift[at]) for side, at in (("x", 1), ("y", 2)))
    sides = (left, top, float(image.get("width", "0")), float(image.get("height", "0")))
    check_cells(picture, tuple(round(factor * side) for side in sides), weights.to_dense()[0, 1])  # type: ignore[arg-type]
    assert picture.getpixel((2, 2)) == (255, 255, 255) or min(picture.getpixel((2, 2))) > 245


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode("utf-8"), newline="")))


def test_a_csv_holds_each_pair_and_no_formula(tab: Tab, weights: regard.AttentionWeights) -> None:
    name, content = tab.download("export-csv")
    assert name == f"{NAME}.csv"
    heads, *rows = rows_of(content)
    assert heads == ["first query", "last query", "query token", "first key", "last key", "key token", "weight", "how"]
    assert len(rows) == LENGTH * LENGTH
    dense = weights.to_dense()[0, 1]
    for row in rows:
        query, key = int(row[0]), int(row[3])
        assert (row[1], row[4]) == (row[0], row[3])
        if key > query:
            assert row[6:] == ["", "may not attend"]
        else:
            assert float(row[6]) == pytest.approx(float(dense[query, key]), rel=3e-4, abs=1e-8)
            assert row[7] == "exact"
        for cell in (row[2], row[5]):
            assert not re.match(r"\s*[=+\-@]", cell), f"{cell!r} would be run by a spreadsheet"
    tokens = {int(row[3]): row[5] for row in rows}
    assert tokens[8] == "plain"
    assert tokens[0] == "'=1+1"
    assert tokens[6] == 'say "x"'
    assert "100 cells" in tab.say("export-says")


def test_a_csv_of_two_heads_holds_both_and_their_difference(tab: Tab, weights: regard.AttentionWeights) -> None:
    compare(tab, 0, 0)
    heads, *rows = rows_of(tab.download("export-csv")[1])
    assert heads[6:] == ["weight A", "weight B", "difference", "how A", "how B"]
    first, second = weights.to_dense()[0, 1], weights.to_dense()[0, 0]
    for row in rows:
        query, key = int(row[0]), int(row[3])
        if key <= query:
            a, b = float(first[query, key]), float(second[query, key])
            assert [float(cell) for cell in row[6:9]] == pytest.approx([a, b, a - b], rel=2e-3, abs=3e-4)
    tab.page.select_option("#compare-with", "")
    tab.settle()


def test_the_zoomed_map_alone_is_saved(tab: Tab) -> None:
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("+")
    rows = rows_of(tab.download("export-csv")[1])[1:]
    assert 9 <= len(rows) < LENGTH * LENGTH
    click(tab, "zoom-reset")


def _texts(content: bytes) -> list[str]:
    root = ElementTree.fromstring(content.decode("utf-8"))
    return ["".join(text.itertext()) for text in root.iter(f"{SVG}text")]


def test_a_figure_of_two_heads_says_which_is_a_and_which_is_b(tab: Tab) -> None:
    compare(tab, 0, 0)
    texts = _texts(tab.download("export-svg")[1])
    assert {"A Layer 0, head 1", "B Layer 0, head 0"} <= set(texts)
    assert any(text.startswith("A \u2212 B, difference of attention weight") for text in texts)
    tab.page.select_option("#compare-with", "")
    tab.settle()
    assert "Layer 0, head 1" in _texts(tab.download("export-svg")[1])


def test_a_figure_says_how_exact_its_values_are(browser: Browser, tmp_path: Path) -> None:
    weights = make_weights(1, 2, LONG, LONG, mask=masks.causal(), width=4)
    tab = browser.open(regard.look(weights, max_bytes=40_000).save(tmp_path / "page.html"))
    accuracy = ", pooled values within 2.3 %"
    assert accuracy in tab.say("legend")
    assert [accuracy in text for text in _texts(tab.download("export-svg")[1]) if "1 cell = " in text] == [True]
    compare(tab, 0, 1)
    accuracy = ", A and B each within 2.3 %"
    assert accuracy in tab.say("legend")
    assert [accuracy in text for text in _texts(tab.download("export-svg")[1]) if "1 cell = " in text] == [True]


# Where each text of a figure stands: its words, and the box that its glyphs fill.
BOXES = """() => Array.from(document.querySelectorAll("text"), (text) => {
  const { left, right, top, bottom } = text.getBoundingClientRect();
  return [text.textContent, left, right, top, bottom];
})"""
WIDE = ["W" * 30, "\u6f22" * 30, "i" * 30, "\U0001f642" * 12, "two words and more", "x", "WWWWWWWWW", "y", "\u202eabc"]


def test_long_labels_and_lines_are_cut_where_their_room_ends(browser: Browser, tmp_path: Path) -> None:
    weights = make_weights(1, 1, len(WIDE), len(WIDE), mask=masks.causal())
    page = regard.look(weights, WIDE, title="a long title " * 40, source="a long source " * 40)
    tab = browser.open(page.save(tmp_path / "page.html"))
    (tmp_path / "figure.svg").write_bytes(tab.download("export-svg")[1])
    drawn = browser.open(tmp_path / "figure.svg", wait=False, width=1500, height=1500)
    width, height = drawn.evaluate("['width', 'height'].map((side) => document.documentElement[side].baseVal.value)")
    boxes = drawn.evaluate(BOXES)
    for text, left, right, top, bottom in boxes:
        assert 0 <= left < right <= width, text
        assert 0 <= top < bottom <= height, text
    # No label of a key reaches the name of the axis below it, and none of a query that beside it.
    (_, *_, axis, _), (_, _, name, *_) = (
        next(box for box in boxes if word in box[0]) for word in ("key (read from)", "query (reading)")
    )
    starts = ("W", "\u6f22", "i", "\U0001f642", "two", "x", "<")
    labels = [box for box in boxes if box[0].startswith(starts) and len(box[0]) < 14]
    assert len(labels) >= 12
    for text, left, _, _, bottom in labels:
        assert bottom <= axis, text
        assert left >= name, text
    assert any(text.startswith("W") and len(text) <= 10 and text.endswith("\u2026") for text, *_ in labels)
    # The line of the source ends before what stands at its right.
    (source,), (by,) = ([box for box in boxes if box[0].startswith(start)] for start in ("a long source", "drawn by"))
    assert source[0].endswith("\u2026")
    assert source[2] <= by[1]


def test_a_figure_holds_no_character_that_turns_a_line_around(browser: Browser, tmp_path: Path) -> None:
    page = regard.look(make_weights(1, 1, 3, 3), ["\u202ea", "b", "c"], title="a\u202eb", source="c\u2066d")
    content = browser.open(page.save(tmp_path / "page.html")).download("export-svg")[1].decode("utf-8")
    assert not re.search("[\u202a-\u202e\u2066-\u2069]", content)
    assert {"a<U+202E>b", "c<U+2066>d", "<U+202E>a"} <= set(_texts(content.encode()))


def test_the_downloads_ask_for_nothing_and_complain_of_nothing(tab: Tab) -> None:
    assert tab.complaints() == []
    assert [url for url in tab.requests() if not url.startswith(("file:", "blob:", "data:"))] == []
