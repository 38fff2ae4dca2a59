"""Hostile and odd tokens stay text, everywhere on the page; text in other directions and scripts stays itself."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import click, pin

import regard
from regard import masks

pytestmark = pytest.mark.browser

HOSTILE = [
    "</script><script>window.ran = 1</script>",
    "<img src=x onerror='window.ran = 1'>",
    "\u202eabc",
    "\0",
    "\u2028",
    "\ud800",
    "漢",
    "🙂",
    "\n    ",
    "<b>bold</b>",
    "&lt;",
    "x" * 1_000_000,
    "$x$",
    "\"'`",
    "שלום",
    " مرحبا",
    "]]>",
    "<!--<script>",
    "javascript:window.ran=1",
    "%%data%%",
]
LENGTH = len(HOSTILE)


@pytest.fixture(scope="module")
def tab(shared_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    weights = [make_weights(1, 2, LENGTH, LENGTH, mask=masks.causal(), seed=seed) for seed in range(2)]
    page = regard.look(
        {HOSTILE[1]: weights, HOSTILE[9]: weights},
        HOSTILE,
        title=HOSTILE[0],
        source=HOSTILE[1],
        notes=[HOSTILE[9], HOSTILE[17]],
    )
    return shared_browser.open(page.save(tmp_path_factory.mktemp("hostile") / "page.html"))


def elements(tab: Tab) -> list[str]:
    """Elements that nothing but a token could have made."""
    return tab.evaluate(
        "Array.from(document.querySelectorAll('img, iframe, #title *, #notes li *'), (e) => e.localName)"
    )


def test_nothing_of_a_token_runs_or_becomes_an_element(tab: Tab) -> None:
    for query in range(LENGTH):
        pin(tab, query)
        tab.press("ArrowDown")
    click(tab, "tables-open")
    tab.press("Escape")
    tab.page.fill("#find", "<")
    tab.press("Enter", "Enter")
    tab.page.fill("#find", "")
    assert tab.complaints() == []
    assert len(tab.requests()) == 1
    assert tab.evaluate("typeof window.ran") == "undefined"
    assert tab.count("script") == 2
    assert elements(tab) == []
    assert tab.evaluate("document.getElementById('title').textContent") == HOSTILE[0]
    assert tab.evaluate("document.getElementById('source').textContent") == HOSTILE[1]
    assert tab.texts("#notes li") == [HOSTILE[9], HOSTILE[17]]
    assert tab.texts("#tabs [role=tab]") == [HOSTILE[1], HOSTILE[9]]


def test_tokens_stand_in_the_text_as_they_are(tab: Tab) -> None:
    shown = tab.texts("#tokens [data-at]")
    assert len(shown) == LENGTH
    assert shown[:2] == HOSTILE[:2]
    assert shown[2:6] == ["<U+202E>abc", "\u2400", "<U+2028>", shown[5]]
    # A half character is not text: it may be told or replaced, but not vanish.
    assert shown[5] in ("<U+D800>", "\ufffd")
    assert shown[6:8] == ["漢", "🙂"]
    assert shown[8].replace("\u23ce", "") == "\n    "
    assert shown[9:11] == ["<b>bold</b>", "&lt;"]
    assert len(shown[11]) <= 101
    assert shown[12:] == HOSTILE[12:]


def test_a_token_from_right_to_left_leaves_the_sentence_around_it_alone(tab: Tab) -> None:
    pin(tab, 14)
    found = tab.evaluate(
        "() => { const name = document.getElementById('top-name'); const token = name.querySelector('bdi');"
        " return [name.textContent, token.textContent, getComputedStyle(token).unicodeBidi]; }"
    )
    assert found == ["What query 14 שלום reads", "שלום", "isolate"]


def test_the_files_hold_them_as_text(tab: Tab) -> None:
    name, content = tab.download("export-svg")
    assert not set(name) & set('<>:"/\\|?*')
    root = ElementTree.fromstring(content.decode("utf-8"))
    names = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert names <= {"svg", "defs", "pattern", "rect", "path", "text", "image", "g", "line", "tspan", "clipPath"}
    assert HOSTILE[0] in ["".join(text.itertext()) for text in root.iter("{http://www.w3.org/2000/svg}text")]
    assert tab.download("export-csv")[1].count(b"\0") == 0


def test_byte_pair_markers_are_spaces(browser: Browser, tmp_path: Path) -> None:
    tokens = ["\u0120the", "\u0120cat", "\u0120sat", "\u010a", "na", "\u00c3\u00afve"]
    path = regard.look(make_weights(1, 1, 6, 6), tokens).save(tmp_path / "page.html")
    tab = browser.open(path)
    assert tab.texts("#tokens [data-at]") == [" the", " cat", " sat", "\u23ce\n", "na", "ïve"]
