"""How the page is read: what stands together in a window, names and places for screen readers, words, where to look."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import Map, click

import regard
from regard import masks

pytestmark = pytest.mark.browser

HEADS, LENGTH, LONG = 3, 24, 700
# What is seen of an element: [share of its height in the window, share of its width].
SEEN = """(name) => {
  const { left, right, top, bottom, width, height } = document.querySelector(name).getBoundingClientRect();
  return [(Math.min(bottom, innerHeight) - Math.max(top, 0)) / height,
          (Math.min(right, innerWidth) - Math.max(left, 0)) / width];
}"""


@pytest.fixture(scope="module")
def weights() -> list[regard.AttentionWeights]:
    return [make_weights(1, HEADS, LENGTH, LENGTH, mask=masks.causal(), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def path(weights: list[regard.AttentionWeights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    page = regard.look(weights, list("abcdef" * 4), notes=["a note"])
    return page.save(tmp_path_factory.mktemp("reading") / "page.html")


@pytest.fixture(scope="module")
def tab(shared_browser: Browser, path: Path) -> Tab:
    return shared_browser.open(path)


@pytest.mark.parametrize(("width", "height"), [(960, 720), (1280, 720), (1440, 900)])
def test_map_readout_and_inspector_are_seen_together(browser: Browser, path: Path, width: int, height: int) -> None:
    tab = browser.open(path, width=width, height=height)
    for name in ("#cells", "#readout", "#top-name", "#top"):
        assert tab.evaluate(SEEN, name) == pytest.approx([1, 1]), name
    # Also of a pair, of which more is said.
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("ArrowUp", "ArrowLeft")
    for name in ("#cells", "#readout", "#top"):
        assert tab.evaluate(SEEN, name) == pytest.approx([1, 1]), name
    assert tab.evaluate("document.documentElement.scrollWidth") <= width


def test_the_readout_stays_in_a_window_that_is_too_low_for_the_map(browser: Browser, path: Path) -> None:
    tab = browser.open(path, width=960, height=480)
    assert tab.evaluate(SEEN, "#cells")[0] < 1
    assert tab.evaluate(SEEN, "#readout") == pytest.approx([1, 1])


def test_lists_have_names_and_entries_have_places(tab: Tab) -> None:
    lists = """() => Array.from(document.querySelectorAll("main ol, ul"))
      .filter((list) => list.checkVisibility() && list.children.length)
      .map((list) => [list.getAttribute("role"), list.getAttribute("aria-label")
        || document.getElementById(list.getAttribute("aria-labelledby"))?.textContent])"""
    found = tab.evaluate(lists)
    assert [role for role, _ in found] == ["list"] * 4
    query = tab.page.input_value("#query")
    assert [name for _, name in found] == [
        "Notes",
        "Where to look",
        f"{tab.evaluate('document.getElementById(`top-name`).textContent')}, {tab.say('head-name')}",
        "Most read keys",
    ]
    assert f"query {query}" in found[2][1]
    places = """() => Array.from(document.querySelectorAll("#tokens [role=option]"),
      (token) => [token.getAttribute("aria-posinset"), token.getAttribute("aria-setsize")].join(" of "))"""
    assert tab.evaluate(places) == [f"{at + 1} of {LENGTH}" for at in range(LENGTH)]


def test_a_stretch_of_a_long_text_says_where_it_stands(browser: Browser, tmp_path: Path) -> None:
    given = make_weights(1, 1, LONG, LONG, mask=masks.causal(), width=4)
    tab = browser.open(regard.look(given, ["a "] * LONG, max_bytes=25_000).save(tmp_path / "page.html"))
    click(tab, "later")
    last = "() => { const token = document.querySelector('#tokens [role=option]:last-child');"
    assert tab.evaluate(last + " return [token.ariaPosInSet, token.ariaSetSize]; }") == [str(LONG)] * 2
    # Closer than the cells are fine, the page says where it ends and what shows more.
    rows = tab.evaluate("JSON.parse(document.getElementById('data').textContent).groups[0].rows")
    kept = f"kept to {rows} \u00d7 {rows} here; open with --serve for single entries"
    assert kept not in tab.say("legend")
    assert ", pooled values within 2.3 %" in tab.say("legend")
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("ArrowDown", "+", "+", "+")
    assert kept in tab.say("legend")
    click(tab, "zoom-reset")
    assert kept not in tab.say("legend")


def test_a_map_of_single_pairs_ends_nowhere(tab: Tab) -> None:
    click(tab, "zoom-in", "zoom-in")
    assert "1 cell = 1 pair" in tab.say("legend")
    assert "kept to" not in tab.say("legend")
    click(tab, "zoom-reset")


def test_the_keys_of_a_grid_go_far_in_the_heads(tab: Tab) -> None:
    tab.evaluate("() => document.getElementById('tiles').focus()")
    tab.press("PageUp", "ArrowRight")
    for key, name in {
        "Home": "Layer 0, head 0",
        "End": "Layer 0, head 2",
        "PageDown": "Layer 1, head 2",
        "ArrowDown": "Layer 1, head 2",
        "ArrowRight": "Layer 1, head 2",
        "ArrowLeft": "Layer 1, head 1",
        "PageUp": "Layer 0, head 1",
    }.items():
        tab.press(key)
        assert tab.say("head-name") == name, key


def test_the_keys_of_a_grid_go_far_in_the_map(tab: Tab) -> None:
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("Escape", "ArrowUp", "PageUp", "PageUp", "PageUp", "Home")
    assert _pair(tab) == "query 0 key 0"
    tab.press("End")
    assert _pair(tab) == f"query 0 key {LENGTH - 1}"
    tab.press("PageDown")
    assert _pair(tab) == f"query 10 key {LENGTH - 1}"
    tab.press("PageDown", "PageDown", "ArrowLeft")
    assert _pair(tab) == f"query {LENGTH - 1} key {LENGTH - 2}"
    tab.press("Escape")


def _pair(tab: Tab) -> str:
    """Where the map's cursor is."""
    words = tab.say("readout").replace("\u2192 ", "").split()
    at = words.index("query")
    return " ".join([*words[at : at + 2], *words[at + 3 : at + 5]])


def test_the_keys_of_a_grid_go_far_in_the_text(tab: Tab) -> None:
    tab.evaluate("() => document.getElementById('tokens').focus()")
    active = "document.getElementById('tokens').getAttribute('aria-activedescendant')"
    for key, at in {"Home": 0, "ArrowDown": 10, "PageDown": LENGTH - 1, "ArrowLeft": LENGTH - 2, "PageUp": 0}.items():
        tab.press(key)
        assert tab.evaluate(active) == f"token-{at}", key


def test_such_keys_scroll_the_page_where_no_grid_has_the_focus(browser: Browser, path: Path) -> None:
    tab = browser.open(path, width=960, height=480)
    name = tab.say("head-name")
    tab.press("End")
    tab.until("() => scrollY > 50")
    assert tab.say("head-name") == name


def test_where_to_look_goes_by_tab_and_each_head_is_a_way_to_it(browser: Browser, tmp_path: Path) -> None:
    layers = {f"blocks.{at}.attn": make_weights(1, 12, LENGTH, LENGTH, mask=masks.causal(), seed=at) for at in range(2)}
    tab = browser.open(regard.look({"a": layers, "a: b": layers}, list("abcdef" * 4)).save(tmp_path / "page.html"))
    guide = tab.evaluate("JSON.parse(document.getElementById('data').textContent).guide")
    for name, others in (("a", "a: b"), ("a: b", "no such tab")):
        tab.page.click(f"#tabs [role=tab]:text-is('{name}')")
        tab.until("(name) => document.getElementById('head-name').textContent.startsWith(name + ': b')", name)
        own = [
            text.removeprefix(f"{name}: ")
            for text in guide
            if text.startswith(f"{name}: ") and not text.startswith(f"{others}: ")
        ]
        assert len(own) >= 3
        assert tab.texts("#guide li") == own
        heads = [text for text in own if " head " in text and not text.startswith("Most attended")]
        assert tab.texts("#guide button") == heads, "each sentence that names a head is a button"
        for text in heads:
            tab.page.click(f'#guide button:text-is("{text}")')
            tab.settle()
            layer, _, head = tab.say("head-name").removeprefix(f"{name}: ").partition(", head ")
            assert re.search(rf"{re.escape(layer)} head {head}\b", text), (text, tab.say("head-name"))
    assert tab.complaints() == []


SINGULAR: dict[str, tuple[Callable[[], regard.look.Page], list[str]]] = {
    "attention": (
        lambda: regard.look(torch.ones(1, 1), ["a"]),
        ["1 token", "mean weight over 1 query, and the sum; exact"],
    ),
    "mask": (
        lambda: regard.look.mask(masks.causal(), 1, 1),
        ["1 query \u00d7 1 key;", "query 0 may read 1 of 1 key;"],
    ),
    "encoding": (lambda: regard.look.encoding(torch.ones(1, 1)), ["1 position, 1 dimension;"]),
}


@pytest.mark.parametrize("kind", SINGULAR)
def test_one_is_not_told_as_many(browser: Browser, tmp_path: Path, kind: str) -> None:
    make, sentences = SINGULAR[kind]
    tab = browser.open(make().save(tmp_path / "page.html"))
    if kind != "attention":
        tab.evaluate("() => document.querySelector('.plain-map').focus()")
        tab.press("ArrowDown")
    said = " ".join(tab.evaluate("document.body.innerText").split())
    for sentence in sentences:
        assert sentence in said, said
    for wrong in ("1 tokens", "1 queries", "1 keys", "1 heads", "1 positions", "1 dimensions", "1 matches"):
        assert wrong not in said, said


def test_the_title_of_the_window_turns_nothing_around(browser: Browser, tmp_path: Path) -> None:
    title = "a\u202eb\u0007c\u2028d"
    tab = browser.open(regard.look(torch.ones(1, 1), title=title).save(tmp_path / "page.html"))
    assert tab.evaluate("document.title") == "a<U+202E>b\u2407c<U+2028>d"
    assert tab.complaints() == []


@pytest.mark.parametrize("kind", ["mask", "encoding"])
def test_a_plain_page_uses_the_whole_width_and_points_at_nothing_yet(
    browser: Browser, tmp_path: Path, kind: str
) -> None:
    made = regard.look.mask(masks.causal(), 40) if kind == "mask" else regard.look.encoding(torch.eye(40, 16))
    tab = browser.open(made.save(tmp_path / "page.html"), width=1280, height=800)
    ends = """() => {
      const boxes = Array.from(document.querySelectorAll(".plain canvas, .plain table"), (e) => e.parentElement)
        .map((e) => e.getBoundingClientRect());
      return [Math.min(...boxes.map((box) => box.left)), Math.max(...boxes.map((box) => box.right))];
    }"""
    left, right = tab.evaluate(ends)
    assert left < 60
    assert right > 1280 - 60
    assert tab.evaluate(SEEN, ".plain-map canvas") == pytest.approx([1, 1])
    lines = "['across', 'down'].map((name) => document.querySelector('.' + name).checkVisibility())"
    assert tab.evaluate(lines) == [False, False]
    assert tab.texts(".plain-readout") == ["Point at the map, or move in it with the arrow keys."]
    tab.page.hover(".plain-map", position={"x": 200, "y": 200})
    tab.settle()
    assert tab.evaluate(lines) == [True, True]
    assert tab.texts(".plain-readout")[0].startswith("query " if kind == "mask" else "position ")
    assert tab.complaints() == []


def test_a_key_beside_the_map_shows_the_first_cell_and_then_moves(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(regard.look.mask(masks.causal(), 30).save(tmp_path / "page.html"))
    tab.evaluate("() => document.querySelector('.plain-map').focus()")
    said = "document.querySelector('.plain-readout').textContent"
    for key, place in {
        "ArrowRight": "query 0 \u2192 key 0",
        "End": "query 0 \u2192 key 29",
        "PageDown": "query 10 \u2192 key 29",
        "Home": "query 10 \u2192 key 0",
        "PageUp": "query 0 \u2192 key 0",
    }.items():
        tab.press(key)
        assert tab.evaluate(said).startswith(place + ":"), key


def test_the_map_is_pointed_at_where_it_is_drawn_in_a_low_window(browser: Browser, path: Path) -> None:
    tab = browser.open(path, width=960, height=720)
    assert "query 9 d \u2192 key 4 e" in Map(tab, (0, LENGTH, 0, LENGTH)).hover(9, 4)
