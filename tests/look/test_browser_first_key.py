"""With the first key left out, every number leaves it out: scores, entropies, rests and lists, against float64."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import Map, agrees, click, pin, table
from torch import Tensor

import regard
from regard import masks

pytestmark = pytest.mark.browser

HEADS, LENGTH, LONG = 2, 16, 700
VIEW = (0, LENGTH, 0, LENGTH)
NOTHING = 1e-6  # a query that keeps less beside the first key has nothing to renormalise


def without_first(dense: Tensor) -> Tensor:
    """What is left of weights (..., L, S) without key 0, each row by its own sum; zeros where nothing is left."""
    left = dense.clone()
    left[..., 0] = 0
    total = left.sum(-1, keepdim=True)
    return torch.where(total > NOTHING, left / total.clamp_min(NOTHING), 0.0)


def entropy(rows: Tensor) -> Tensor:
    return -torch.special.xlogy(rows, rows).sum(-1)


@pytest.fixture(scope="module")
def weights() -> regard.AttentionWeights:
    return make_weights(1, HEADS, LENGTH, LENGTH, mask=masks.causal(), seed=3)


@pytest.fixture(scope="module")
def left(weights: regard.AttentionWeights) -> Tensor:
    return without_first(weights.to_dense()[0].double())  # (H, L, S)


@pytest.fixture(scope="module")
def tab(weights: regard.AttentionWeights, shared_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    page = regard.look(weights, list("abcdabceabcdabcf"))
    tab = shared_browser.open(page.save(tmp_path_factory.mktemp("first") / "page.html"))
    tab.page.check("#hide-first")
    tab.settle()
    return tab


def choose(tab: Tab, head: int) -> None:
    """Goes to a head of the one layer."""
    tab.evaluate("() => document.getElementById('tiles').focus()")
    tab.press("Home", *["ArrowRight"] * head)
    tab.until("(name) => document.getElementById('head-name').textContent.startsWith(name)", f"Layer 0, head {head} (")


def scores(left: Tensor) -> dict[str, float]:
    """Scores that leave the first key out, of queries that have something left."""
    awake = left.sum(-1) > 0
    place = torch.arange(LENGTH)
    away = (place[:, None] - place).abs()
    return {
        # Of queries whose previous token is not the first key.
        "previous token": float(left.diagonal(-1)[1:][awake[2:]].mean()),
        "entropy": float(entropy(left)[awake].mean()),
        "mean distance": float((left * away).sum(-1)[awake].mean()),
    }


def test_the_scores_above_the_map_and_in_the_table_leave_it_out(tab: Tab, left: Tensor) -> None:
    for head in range(HEADS):
        choose(tab, head)
        shown = dict(zip(tab.texts("#scores dt"), tab.texts("#scores dd"), strict=True))
        heads, *rows = table(tab, "table-heads")
        listed = {name.partition(",")[0]: text for name, text in zip(heads, rows[head], strict=True)}
        assert shown["first token"] == listed["first token"] == "\u2013", "nothing is left on it"
        for name, value in scores(left[head]).items():
            assert agrees(shown[name], value), (name, shown[name], value)
            assert agrees(listed[name], value), (name, listed[name], value)
    assert tab.say("head-name").endswith("(first key left out)")


def test_the_small_maps_are_sorted_by_what_is_left(tab: Tab, left: Tensor) -> None:
    tab.page.select_option("#statistic", "entropy")
    tab.settle()
    choose(tab, 1)
    name = tab.evaluate("() => document.querySelector('#tiles [aria-selected=true]').getAttribute('aria-label')")
    assert agrees(name.partition("entropy ")[2], scores(left[1])["entropy"])


def test_entropies_and_rests_leave_it_out(tab: Tab, left: Tensor) -> None:
    choose(tab, 0)
    shown = Map(tab, VIEW)
    for query in (2, 7, 12, 15):
        row = left[0, query]
        said = shown.hover(query, 1)
        assert agrees(said.partition("entropy is ")[2], float(entropy(row))), (query, said)
        tab.move(2, 2)
        pin(tab, query)
        assert agrees(tab.say("readout").partition("entropy ")[2], float(entropy(row)))
        rest = tab.say("rest")
        assert agrees(rest.partition("entropy ")[2], float(entropy(row)))
        assert agrees(rest.partition("as if ")[2], math.exp(float(entropy(row))))
        others = query - tab.count("#top li")  # it may read the keys 1 to itself
        if others > 0:
            beyond = float(row.sort(descending=True).values[-others - (LENGTH - query) :].sum())
            assert agrees(rest.partition(": ")[2], beyond), (query, rest, beyond)
    assert others > 0, "else nothing is said of a rest"


def test_the_most_read_keys_are_the_others(tab: Tab, weights: regard.AttentionWeights) -> None:
    choose(tab, 0)
    received = weights.to_dense()[0, 0].double().sum(0)
    listed = tab.texts("#most-read .place")
    assert "key 0" not in listed
    for place, text in zip(listed, tab.texts("#most-read .distance"), strict=True):
        assert agrees(text, float(received[int(place.split()[1])])), "as it is, not renormalised"
    assert "not renormalised" in tab.say("most-read")
    click(tab, "hide-first")
    assert int(received.argmax()) == 0, "else the test shows nothing"
    assert tab.texts("#most-read .place")[0] == "key 0"
    click(tab, "hide-first")


def test_a_pooled_margin_leaves_it_out(browser: Browser, tmp_path: Path) -> None:
    given = make_weights(1, 1, LONG, LONG, mask=masks.causal(), width=4)
    dense = given.to_dense()[0, 0].double()
    tab = browser.open(regard.look(given, max_bytes=25_000).save(tmp_path / "page.html"))
    tab.page.check("#hide-first")
    ordinary, left = entropy(dense), entropy(without_first(dense))
    at = int((ordinary - left)[100:].abs().argmax()) + 100
    said = Map(tab, (0, LONG, 0, LONG)).hover(at, 50)
    spread = said.partition("entropy is ")[2]
    first, last = spread.partition("mean over queries ")[2].split(")")[0].split("\u2013")
    queries = slice(int(first), int(last) + 1)
    assert agrees(spread, float(left[queries].mean()))
    assert not agrees(spread, float(ordinary[queries].mean())), "else the test shows nothing"


def test_where_nearly_all_is_on_the_first_key_four_digits_are_left(browser: Browser, tmp_path: Path) -> None:
    # 1 - first is 1e-5 in float32, which has some 1e-7 there: what is left is summed instead.
    dense = torch.tensor([[1.0, 0, 0, 0], [1, 0, 0, 0], [1, 0, 0, 0], [1 - 1e-5, 5.1e-6, 3.3e-6, 1.6e-6]])
    tab = browser.open(regard.look(dense.double()).save(tmp_path / "page.html"))
    tab.page.check("#hide-first")
    pin(tab, 3)
    assert tab.texts("#top b") == ["0.510", "0.330", "0.160"]
