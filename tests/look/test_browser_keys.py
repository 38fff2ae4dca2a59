"""The page without a mouse, and its less usual ways: keys, tabs, finding a token, tables, the mouse's own gestures."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import Map, agrees, choose, click, pin, table

import regard
from regard import attention, masks

pytestmark = pytest.mark.browser

HEADS, LENGTH = 3, 12
VIEW = (0, LENGTH, 0, LENGTH)
FOCUS = """() => {
  const style = getComputedStyle(document.activeElement);
  return style.outlineStyle !== "none" && parseFloat(style.outlineWidth) >= 1;
}"""


@pytest.fixture(scope="module")
def weights() -> list[regard.AttentionWeights]:
    return [make_weights(1, HEADS, LENGTH, LENGTH, mask=masks.causal(), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def short(weights: list[regard.AttentionWeights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return regard.look(weights, list("abcabcabcabd")).save(tmp_path_factory.mktemp("keys") / "page.html")


@pytest.fixture(scope="module")
def tab(shared_browser: Browser, short: Path) -> Tab:
    return shared_browser.open(short)


def tab_to(tab: Tab, name: str) -> None:
    """Presses Tab until an element has the focus, which must be seen on everything on the way."""
    for _ in range(60):
        tab.press("Tab")
        assert tab.evaluate(FOCUS), f"no focus to be seen on {tab.focused()}"
        if tab.focused() == name:
            return
    raise AssertionError(f"{name} is not reached by Tab")


def test_the_keyboard_alone_reaches_a_head_a_query_and_a_key(
    browser: Browser, short: Path, weights: list[regard.AttentionWeights]
) -> None:
    tab = browser.open(short)
    tab_to(tab, "tiles")
    tab.press(*["ArrowLeft"] * 5)
    assert tab.say("head-name") == "Layer 0, head 0"
    tab.press("ArrowRight", "ArrowDown")
    assert tab.say("head-name") == "Layer 1, head 1"
    tab.press("ArrowUp", "ArrowRight")
    assert tab.say("head-name") == "Layer 0, head 2"
    tab_to(tab, "map")
    pinned = int(tab.page.input_value("#query"))
    # The cursor starts at the pinned query and its own key.
    tab.press("ArrowDown")
    said = tab.say("readout")
    assert f"query {pinned} " in said
    assert f"key {pinned} " in said
    while f"query {LENGTH - 1} " not in tab.say("readout"):
        tab.press("ArrowDown")
    tab.press("ArrowLeft")
    key = pinned - 1
    weight, _, place = tab.say("readout").partition("query ")
    assert place.startswith(f"{LENGTH - 1} d \u2192 key {key} {'abcabcabcabd'[key]}")
    assert agrees(weight, float(weights[0].to_dense()[0, 2, LENGTH - 1, key]))
    tab.press("Enter")
    assert tab.say("top-name") == f"What query {LENGTH - 1} d reads"
    assert tab.focused() == "map"
    assert tab.complaints() == []


def test_every_control_is_reached_by_tab_and_has_a_name(browser: Browser, short: Path) -> None:
    tab = browser.open(short)
    reached = []
    for _ in range(120):
        tab.page.keyboard.press("Tab")
        if tab.evaluate("document.activeElement === document.body"):
            break
        reached.append(tab.focused())
    assert {
        "theme",
        "statistic",
        "tiles",
        "compare-with",
        "log",
        "linear",
        "hide-first",
        "map",
        "query",
        "find",
    } <= set(reached)
    assert {"export-png", "export-svg", "export-csv", "tables-open", "tokens"} <= set(reached)
    nameless = """() => Array.from(document.querySelectorAll("button, select, input, [tabindex]"))
      .filter((element) => element.checkVisibility() && !element.disabled && !element.textContent.trim())
      .filter((element) => !element.getAttribute("aria-label") && !element.labels?.length)
      .map((element) => element.id || element.outerHTML)"""
    assert tab.evaluate(nameless) == []


def test_keys_change_what_is_shown(tab: Tab) -> None:
    choose(tab, 0, 0, HEADS)
    tab.press("l")
    assert "linear scale" in tab.say("legend")
    tab.press("l")
    assert "log scale" in tab.say("legend")
    tab.press("f")
    assert tab.evaluate("document.getElementById('hide-first').checked")
    assert "renormalised" in tab.say("readout")
    tab.press("f")
    theme = tab.evaluate("document.documentElement.dataset.theme")
    tab.press("t")
    assert tab.evaluate("document.documentElement.dataset.theme") != theme
    tab.press("t")
    tab.press("/")
    assert tab.focused() == "find"
    tab.press("l")
    assert "log scale" in tab.say("legend"), "a letter typed into a field is the field's"
    tab.page.fill("#find", "")


def test_zoom_by_keys_and_back(tab: Tab) -> None:
    choose(tab, 0, 0, HEADS)
    pin(tab, 6)
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("ArrowDown", "+")
    rows = table(tab, "table-map")
    assert 3 < len(rows) - 1 < LENGTH
    tab.press("0")
    assert len(table(tab, "table-map")) - 1 == LENGTH


def test_the_mouse_drags_a_box_to_zoom(tab: Tab, weights: list[regard.AttentionWeights]) -> None:
    choose(tab, 1, 0, HEADS)
    shown = Map(tab, VIEW)
    tab.drag(shown.place(5, 1), shown.place(9, 5))
    rows = table(tab, "table-map")
    assert [row[0].split()[1] for row in rows[1:]] == [str(query) for query in range(5, 10)]
    dense = weights[1].to_dense()[0, 0]
    for query, row in enumerate(rows[1:], start=5):
        assert all(agrees(text, float(dense[query, key])) for key, text in enumerate(row[1:], start=1) if key <= query)
    x, y = shown.place(5, 5)
    tab.page.mouse.dblclick(x, y)
    tab.settle()
    assert len(table(tab, "table-map")) - 1 == LENGTH


def test_a_click_pins_a_query_and_the_text_shows_it(tab: Tab, weights: list[regard.AttentionWeights]) -> None:
    choose(tab, 0, 2, HEADS)
    tab.click(*Map(tab, VIEW).place(6, 1))
    tab.move(2, 2)
    assert tab.say("top-name") == "What query 6 a reads"
    row = weights[0].to_dense()[0, 2, 6]
    backs = tab.evaluate("Array.from(document.querySelectorAll('#tokens [data-at]'), (t) => t.style.backgroundColor)")
    assert len(backs) == LENGTH
    assert backs[int(row.argmax())] != ""
    assert backs[7:] == [""] * 5
    tab.evaluate("() => document.querySelectorAll('#tokens [data-at]')[10].click()")
    tab.settle()
    assert tab.say("top-name") == "What query 10 b reads"


def test_the_text_is_one_stop_of_tab_and_arrows_move_in_it(tab: Tab) -> None:
    choose(tab, 0, 0, HEADS)
    pin(tab, 4)
    tab.evaluate("() => document.getElementById('tokens').focus()")
    tab.press("ArrowRight", "ArrowRight", "Enter")
    after = int(tab.page.input_value("#query"))
    assert after != 4
    tab.press("ArrowLeft", "Enter")
    assert int(tab.page.input_value("#query")) == after - 1


def test_finding_a_token_and_a_position(tab: Tab) -> None:
    choose(tab, 0, 0, HEADS)
    tab.page.fill("#find", "D")
    tab.settle()
    assert "1 match" in tab.say("find-results")
    tab.press("Enter")
    assert tab.say("top-name") == "What query 11 d reads"
    tab.page.fill("#find", "#7")
    tab.press("Enter")
    assert tab.say("top-name") == "What query 7 b reads"
    tab.page.fill("#find", "no such")
    tab.settle()
    assert "no such token" in tab.say("find-results")
    tab.page.fill("#find", "")
    tab.settle()


def test_the_table_of_heads_is_sorted_by_its_headings(tab: Tab, weights: list[regard.AttentionWeights]) -> None:
    click(tab, "tables-open")
    tab.page.click("#table-heads thead button:has-text('entropy')")
    names = tab.texts("#table-heads tbody th")
    entropy = torch.stack([layer.entropy()[0].mean(-1) for layer in weights]).flatten()
    order = entropy.argsort(descending=True).tolist()
    assert names == [f"Layer {at // 3}, head {at % 3}" for at in order]
    sorts = tab.evaluate(
        "Array.from(document.querySelectorAll('#table-heads thead th'), (cell) => cell.getAttribute('aria-sort'))"
    )
    assert sorted(set(sorts)) == ["descending", "none"]
    tab.evaluate("() => document.querySelector('#table-heads tbody button').click()")
    tab.settle()
    assert tab.say("head-name") == names[0]
    assert tab.count("table") == 0, "tables are there only while they are open"


def test_tabs_by_arrow_keys(browser: Browser, tmp_path: Path) -> None:
    groups = {
        "encoder": [make_weights(1, 2, 9, 9)],
        "decoder": [make_weights(1, 2, 6, 6, mask=masks.causal())],
        "cross": [make_weights(1, 2, 6, 9)],
    }
    tokens = {"encoder": list("abcdefghi"), "decoder": list("uvwxyz"), "cross": list("abcdefghi")}
    page = regard.look(groups, tokens, query_tokens={"cross": list("uvwxyz")})
    tab = browser.open(page.save(tmp_path / "page.html"))
    assert tab.texts("#tabs [role=tab]") == ["encoder", "decoder", "cross"]
    assert tab.count("#tabs [role=tab][tabindex='0']") == 1
    tab.evaluate("() => document.querySelector('#tabs [aria-selected=true]').focus()")
    tab.press("ArrowRight", "ArrowRight")
    tab.until("() => document.querySelector('#tabs [aria-selected=true]').textContent === 'cross'")
    tab.evaluate("() => document.getElementById('tiles').focus()")
    tab.press("ArrowLeft")
    assert tab.say("head-name") == "cross: Layer 0, head 0"
    said = Map(tab, (0, 6, 0, 9)).hover(2, 8)
    assert agrees(said, float(groups["cross"][0].to_dense()[0, 0, 2, 8]))
    assert "query 2 w \u2192 key 8 i" in said
    pin(tab, 3)
    assert tab.say("top-name") == "What query 3 x reads"
    assert tab.complaints() == []


def test_the_first_query_shown_is_one_that_looks_far(browser: Browser, tmp_path: Path) -> None:
    # Query 9 gives nearly everything to key 2; all others look at themselves.
    key = 20 * torch.eye(12)
    query = torch.eye(12)
    query[9] = torch.eye(12)[2]
    _, weights = attention(query[None], key[None], key[None], masks.causal(), scale=1.0)
    tab = browser.open(regard.look(weights).save(tmp_path / "page.html"))
    assert tab.say("top-name") == "What query 9 reads"
    assert tab.texts("#top li .place")[0] == "key 2"


def test_a_page_without_tokens_and_with_two_queries(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(regard.look(make_weights(1, 2, 2, 50, mask=masks.causal())).save(tmp_path / "page.html"))
    assert tab.evaluate("document.getElementById('text').hidden")
    assert Map(tab, (0, 2, 0, 50)).hover(1, 30).find("query 1 \u2192 key 30") > 0
    assert tab.complaints() == []


def test_a_page_of_another_version_says_so(browser: Browser, short: Path, tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    text = short.read_text(encoding="ascii").replace('"schema":"regard.look/3"', '"schema":"regard.look/9"')
    path.write_text(text, encoding="ascii")
    tab = browser.open(path, wait=False)
    tab.until("() => !document.getElementById('failure').hidden")
    assert tab.say("failure") == (
        "The page could not be drawn: these data are regard.look/9; this page reads regard.look/3"
    )
