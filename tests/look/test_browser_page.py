"""The page in a real browser: what it asks for, what it draws, pixel by pixel, and how it takes its surroundings."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import Map, agrees, among, choose, click, compare, expected, log_share, pin, table
from torch import Tensor

import regard
from regard import AttentionWeights, masks
from regard.look import colours

pytestmark = pytest.mark.browser

HEADS, LENGTH, LONG = 3, 12, 1300
VIEW = (0, LENGTH, 0, LENGTH)
PAIRS = [(0, 0), (5, 2), (11, 11), (7, 7), (9, 0), (8, 3)]
FORBIDDEN = (2, 9)


@pytest.fixture(scope="module")
def weights() -> list[AttentionWeights]:
    return [make_weights(1, HEADS, LENGTH, LENGTH, mask=masks.causal(), seed=seed) for seed in range(2)]


@pytest.fixture(scope="module")
def short(weights: list[AttentionWeights], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("short") / "page.html"
    return regard.look(weights, list("abcabcabcabc"), title="A short text", source="a test").save(path)


@pytest.fixture(scope="module")
def long_weights() -> AttentionWeights:
    return make_weights(1, 2, LONG, LONG, mask=masks.causal() & masks.window(900), width=4)


@pytest.fixture(scope="module")
def long(long_weights: AttentionWeights, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("long") / "page.html"
    tokens = [f"t{at} " for at in range(LONG)]
    return regard.look(long_weights, tokens, max_bytes=250_000, queries=[700]).save(path)


@pytest.fixture(scope="module")
def light(shared_browser: Browser, short: Path) -> Tab:
    return shared_browser.open(short)


@pytest.fixture(scope="module")
def dark(shared_browser: Browser, short: Path) -> Tab:
    return shared_browser.open(short, dark=True)


@pytest.fixture(scope="module")
def pooled(shared_browser: Browser, long: Path) -> Tab:
    return shared_browser.open(long)


def test_one_request_and_no_complaint(browser: Browser, short: Path) -> None:
    tab = browser.open(short)
    tab.press("m", "l", "f", "f", "t", "?", "?", "+", "-", "0")
    assert tab.requests() == [short.as_uri()]
    assert tab.complaints() == []
    assert tab.evaluate("document.title") == "A short text"
    assert (tab.say("title"), tab.say("source")) == ("A short text", "a test")


def test_the_page_leaves_no_global_name(light: Tab, tmp_path: Path) -> None:
    empty = tmp_path / "empty.html"
    empty.write_text("<!doctype html>", encoding="utf-8")
    other = light.page.context.new_page()
    other.goto(empty.as_uri())
    before = set(other.evaluate("Object.keys(window)"))
    other.close()
    ids = set(light.evaluate("Array.from(document.querySelectorAll('[id]'), (found) => found.id)"))
    assert set(light.evaluate("Object.keys(window)")) - before - ids == set()


@pytest.mark.parametrize("surroundings", ["light", "dark"])
def test_a_pixel_has_the_colour_of_its_weight(
    surroundings: str, weights: list[AttentionWeights], request: pytest.FixtureRequest
) -> None:
    tab, is_dark = request.getfixturevalue(surroundings), surroundings == "dark"
    click(tab, "log")
    for layer, head in ((0, 0), (1, 1)):
        choose(tab, layer, head, HEADS)
        dense, shown = weights[layer].to_dense()[0, head].double(), Map(tab, VIEW)
        for (query, key), colour in zip(PAIRS, shown.colours(*PAIRS), strict=True):
            near = expected(log_share(float(dense[query, key])), dark=is_dark)
            assert among(colour, near), (query, key)
        assert shown.is_hatched(*FORBIDDEN)


@pytest.mark.parametrize("surroundings", ["light", "dark"])
def test_a_linear_scale_ends_at_the_highest_weight(
    surroundings: str, weights: list[AttentionWeights], request: pytest.FixtureRequest
) -> None:
    tab, is_dark = request.getfixturevalue(surroundings), surroundings == "dark"
    choose(tab, 0, 1, HEADS)
    click(tab, "linear")
    dense, shown = weights[0].to_dense()[0, 1].double(), Map(tab, VIEW)
    for query, key in PAIRS:
        share = float(dense[query, key] / dense.max())
        assert among(shown.colour(query, key), expected(share, dark=is_dark)), (query, key)
    assert "linear scale" in tab.say("legend")
    assert float(tab.texts("#legend .tick")[-1]) == pytest.approx(float(dense.max()), rel=0.05)
    click(tab, "log")
    assert "log scale" in tab.say("legend")
    assert tab.texts("#legend .tick")[-1] == "1"


@pytest.mark.parametrize("surroundings", ["light", "dark"])
@pytest.mark.parametrize("scale", ["log", "linear"])
def test_a_difference_has_the_colour_of_the_signed_scale(
    surroundings: str, scale: str, weights: list[AttentionWeights], request: pytest.FixtureRequest
) -> None:
    tab, is_dark = request.getfixturevalue(surroundings), surroundings == "dark"
    choose(tab, 0, 0, HEADS)
    compare(tab, 0, 4)
    click(tab, scale)
    ours, theirs = (weights[layer].to_dense()[0, head].double() for layer, head in ((0, 0), (1, 1)))
    difference, shown = ours - theirs, Map(tab, VIEW)
    table = colours.signed_ramp(dark=is_dark)
    for query, key in PAIRS:
        found = float(difference[query, key])
        size = log_share(abs(found)) if scale == "log" else abs(found) / float(difference.abs().max())
        share = max(-1.0, min(1.0, size if found >= 0 else -size))
        near = [table[round(127.5 + 127.5 * max(-1.0, min(1.0, share + by)))] for by in (-0.01, 0, 0.01)]
        assert among(shown.colour(query, key), near, slack=2), (query, key, found)
    assert shown.is_hatched(*FORBIDDEN)
    tab.page.select_option("#compare-with", "")
    click(tab, "log")


@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_cell_of_a_pooled_map_has_the_colour_of_its_tokens(
    reduce: str, pooled: Tab, long_weights: AttentionWeights
) -> None:
    choose(pooled, 0, 1, 2)
    click(pooled, reduce)
    group = data_of(pooled)["groups"][0]
    rows = group["rows"] if reduce == "mean" else group["max"][0]
    assert 16 <= rows <= 256
    dense = long_weights.to_dense()[0, 1].double()
    values = pooled_by_definition(dense, rows, reduce)
    shown = Map(pooled, (0, rows, 0, rows))
    pairs = [(row, col) for row in range(3, rows, 13) for col in range(0, row - 1, 11) if values[row, col] > 0]
    for (row, col), colour in zip(pairs, shown.colours(*pairs), strict=True):
        weight = float(values[row, col])
        assert among(colour, expected(log_share(weight)), slack=2), (row, col, weight)
    assert shown.is_hatched(4, rows - 3)
    assert shown.is_hatched(rows - 3, 3), "beyond the window"
    assert "1 cell = " in pooled.say("legend")
    said = shown.hover(rows // 2, rows // 3)
    first, last = (rows // 2 * LONG // rows, (rows // 2 + 1) * LONG // rows - 1)
    assert f"query {first:,}\u2013{last:,} " in said
    assert agrees(said, float(values[rows // 2, rows // 3]))
    assert ("the largest of the cell" if reduce == "max" else "summed over the keys, mean of the queries") in said
    click(pooled, "mean")


def pooled_by_definition(dense: Tensor, rows: int, reduce: str) -> Tensor:
    """The map of rows x rows cells: summed over the keys and averaged over the queries, or the largest of each cell."""
    edges = [row * dense.shape[-1] // rows for row in range(rows + 1)]
    spans = [slice(*ends) for ends in itertools.pairwise(edges)]
    if reduce == "max":
        by_row = torch.stack([dense[span].amax(0) for span in spans])  # (rows, S)
        return torch.stack([by_row[:, span].amax(1) for span in spans], dim=1)  # (rows, rows)
    by_row = torch.stack([dense[span].mean(0) for span in spans])  # (rows, S)
    return torch.stack([by_row[:, span].sum(1) for span in spans], dim=1)  # (rows, rows)


def test_the_margins_of_a_pooled_map(pooled: Tab, long_weights: AttentionWeights) -> None:
    choose(pooled, 0, 1, 2)
    group = data_of(pooled)["groups"][0]
    dense = long_weights.to_dense()[0, 1].double()
    received = dense.sum(0)
    entropy = -(dense * dense.clamp_min(1e-300).log()).sum(-1)
    rows, (query_cells, key_cells) = group["rows"], group["margins"]
    # A pair in the middle of a cell: the readout names the cells of the margins that hold it.
    row, col = rows // 2 + 1, rows // 4 + 1
    query, key = ((cell * LONG // rows + (cell + 1) * LONG // rows - 1) // 2 for cell in (row, col))
    said = Map(pooled, (0, rows, 0, rows)).hover(row, col)
    margin = said.partition("the key receives ")[2]
    keys, queries = (_cell(place, count) for place, count in ((key, key_cells), (query, query_cells)))
    assert agrees(margin, float(received[keys].mean()))
    if key_cells < LONG:
        assert f"mean over keys {keys.start:,}" in margin
        assert agrees(margin.partition("the most ")[2], float(received[keys].max()))
    spread = said.partition("entropy is ")[2]
    assert agrees(spread, float(entropy[queries].mean() if "mean over queries" in spread else entropy[query]))


def _cell(token: int, count: int) -> slice:
    """The tokens of the cell that holds one."""
    spans = (slice(cell * LONG // count, (cell + 1) * LONG // count) for cell in range(count))
    return next(span for span in spans if span.start <= token < span.stop)


def data_of(tab: Tab) -> Any:
    return tab.evaluate("JSON.parse(document.getElementById('data').textContent)")


def test_an_exact_window_is_drawn_over_the_pooled_map(pooled: Tab, long_weights: AttentionWeights) -> None:
    choose(pooled, 0, 0, 2)
    window = data_of(pooled)["groups"][0]["heads"][0]["windows"][0]
    names = pooled.texts("#windows button")
    assert names[0].startswith("diagonal")
    pooled.evaluate("() => document.querySelector('#windows button').click()")
    pooled.move(2, 2)
    dense = long_weights.to_dense()[0, 0].double()
    # The table of the cells around the pinned query says exactly what the window holds.
    pin(pooled, window["query"] + window["rows"] - 9)
    rows = table(pooled, "table-map")
    queries = [int(row[0].split()[1].replace(",", "")) for row in rows[1:]]
    keys = [int(head.split()[1].replace(",", "")) for head in rows[0][1:]]
    assert len(queries) == len(keys) == 16
    for query, row in zip(queries, rows[1:], strict=True):
        for key, text in zip(keys, row[1:], strict=True):
            if query < key or query - key >= 900:
                assert text == "may not attend"
            else:
                assert "\u2248" not in text, (query, key)
                assert agrees(text, float(dense[query, key])), (query, key)
    click(pooled, "zoom-reset")


def test_a_query_that_was_asked_for_is_exact_and_others_say_what_they_are(
    pooled: Tab, long_weights: AttentionWeights
) -> None:
    choose(pooled, 0, 1, 2)
    pin(pooled, 700)
    row = long_weights.to_dense()[0, 1, 700].double()
    assert pooled.texts("#row .how")[0] == "exact"
    order = row.argsort(descending=True)[:8].tolist()
    assert pooled.texts("#top .place") == [f"key {key}" for key in order]
    assert all(agrees(text, float(row[key])) for text, key in zip(pooled.texts("#top b"), order, strict=True))
    pin(pooled, 701)
    assert pooled.texts("#row .how")[0].startswith("Mean over queries ")
    assert pooled.count("#top li b") > 0
    assert all(text.startswith(("\u2248", "\u2264")) for text in pooled.texts("#top li b"))


def test_heads_are_sorted_by_a_statistic(light: Tab, weights: list[AttentionWeights]) -> None:
    entropy = torch.stack([layer.entropy()[0].mean(-1) for layer in weights]).flatten()
    light.page.select_option("#statistic", "entropy")
    light.page.check("#sorted")
    light.evaluate("() => document.getElementById('tiles').focus()")
    light.press(*["ArrowLeft"] * 5)
    walked = []
    for _ in range(len(entropy)):
        walked.append(light.say("head-name"))
        light.press("ArrowRight")
    assert walked == [f"Layer {at // 3}, head {at % 3}" for at in entropy.argsort().tolist()]
    light.page.uncheck("#sorted")


def test_the_button_and_the_surroundings_choose_light_or_dark(browser: Browser, short: Path) -> None:
    tab = browser.open(short, dark=True)
    back = "getComputedStyle(document.body).backgroundColor"
    assert tab.evaluate(back) == "rgb(20, 22, 26)"
    choose(tab, 0, 0, HEADS)
    # Query 0 gives all its weight to itself.
    assert Map(tab, VIEW).colour(0, 0) == colours.ramp()[0]
    click(tab, "theme")
    assert Map(tab, VIEW).colour(0, 0) == colours.ramp()[255]
    assert tab.evaluate(back) != "rgb(20, 22, 26)"
    assert tab.complaints() == []


def test_a_page_without_motion_keeps_still(browser: Browser, short: Path) -> None:
    tab = browser.open(short, reduced_motion=True)
    tab.press("ArrowRight", "+", "-")
    assert tab.evaluate("document.getAnimations().length") == 0
    moving = """() => Array.from(document.querySelectorAll("*")).filter((element) => {
      const style = getComputedStyle(element);
      return Math.max(...style.transitionDuration.split(",").map(parseFloat)) > 0.001 || style.animationName !== "none";
    }).length"""
    assert tab.evaluate(moving) == 0
    assert tab.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"


def test_forced_colours_keep_the_map_and_the_focus(browser: Browser, short: Path) -> None:
    tab = browser.open(short, forced_colors=True)
    assert tab.complaints() == []
    tab.evaluate("() => document.getElementById('map').focus()")
    tab.press("ArrowDown")
    assert tab.evaluate("getComputedStyle(document.getElementById('map')).outlineStyle") != "none"
    found = Map(tab, VIEW)
    assert len(set(found.colours(*itertools.product(range(LENGTH), repeat=2)))) > 20


@pytest.mark.parametrize("width", [400, 960, 1500])
def test_nothing_is_cut_off_at_any_width(browser: Browser, short: Path, width: int) -> None:
    tab = browser.open(short, width=width, height=720)
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    beyond = """(width) => Array.from(document.querySelectorAll("button, select, input, h1, h2, #readout"))
      .filter((element) => element.checkVisibility() && element.getBoundingClientRect().right > width + 1)
      .map((element) => element.id || element.textContent)"""
    assert tab.evaluate(beyond, width) == []
    choose(tab, 1, 2, HEADS)
    assert "query 5 c" in Map(tab, VIEW).hover(5, 2)
    assert tab.complaints() == []


def test_the_number_of_elements_does_not_grow_with_the_text(browser: Browser, tmp_path: Path) -> None:
    counts, sizes = [], []
    for length in (800, 3200):
        weights = [make_weights(1, 1, length, length, mask=masks.causal(), width=4)]
        path = regard.look(weights, [f"{at} " for at in range(length)], max_bytes=300_000).save(tmp_path / "page.html")
        counts.append(browser.open(path).count())
        sizes.append(path.stat().st_size)
    assert abs(counts[1] - counts[0]) < 20
    assert counts[1] < 1500
    assert max(sizes) < 300_000 + 61_000
