"""Every number that the page writes, against dense float64 attention by its definition.

Grouped heads, a window, padding, softcap and sinks; the first layer has sinks and a row that may read nothing.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from tests.look.browsing import Browser, Tab
from tests.look.reading import Map, agrees, choose, compare, pin, table
from torch import Tensor

import regard
from regard import masks, reference

pytestmark = pytest.mark.browser

LAYERS, HEADS, LENGTH = 2, 4, 16
TOKENS = list("abcabdabcaecabcd")
VIEW = (0, LENGTH, 0, LENGTH)
MINUS = "\u2212"


@dataclass
class Subject:
    """The page, and what it must say: dense (layers, heads, L, S) weights and which pairs are allowed."""

    tab: Tab
    dense: Tensor
    allowed: Tensor


@pytest.fixture(scope="module")
def subject(shared_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Subject:
    """Two sequences of which the second is shown, its first three keys padding; two key/value heads for four heads."""
    generator = torch.Generator().manual_seed(0)
    valid = torch.ones(2, LENGTH, dtype=torch.bool)
    valid[1, :3] = False
    mask = masks.causal() & masks.window(9) & masks.padding(valid)
    allowed = mask.to_dense(LENGTH, LENGTH, batch=2)[1, 0]  # (L, S)
    weights, dense = [], []
    for layer in range(LAYERS):
        query = 4 * torch.randn(2, HEADS, LENGTH, 8, generator=generator)
        key, value = torch.randn(2, 2, 2, LENGTH, 8, generator=generator)  # Hkv 2
        sinks = torch.randn(HEADS, generator=generator) if layer == 0 else None
        weights.append(regard.attention(query, key, value, mask, softcap=6.0, sinks=sinks)[1])
        defined = reference.attention(
            *(tensor.double() for tensor in (query, key, value)),
            mask.to_dense(LENGTH, LENGTH, batch=2),
            softcap=6.0,
            sinks=None if sinks is None else sinks.double(),
        )
        dense.append(defined.weights[1])  # (H, L, S)
    path = regard.look(weights, TOKENS, batch=1).save(tmp_path_factory.mktemp("numbers") / "page.html")
    return Subject(shared_browser.open(path), torch.stack(dense), allowed)


@pytest.fixture
def tab(subject: Subject) -> Tab:
    """The page as it was opened: nothing compared, nothing hidden, nothing below the pointer."""
    tab = subject.tab
    tab.move(2, 2)
    tab.evaluate("""() => {
      const set = (id, value) => {
        const select = document.getElementById(id);
        if (select.value === value) return;
        select.value = value;
        select.dispatchEvent(new Event("change"));
      };
      set("compare-with", "");
      if (document.getElementById("hide-first").checked) document.getElementById("hide-first").click();
      for (const id of ["log", "mean", "zoom-reset"]) document.getElementById(id).click();
    }""")
    tab.settle()
    return tab


def entropy(row: Tensor) -> float:
    return float(-(row * row.clamp_min(1e-300).log()).sum())


def mean(values: Tensor, keep: Tensor) -> float:
    return float(values[keep].mean())


def scores(dense: Tensor) -> dict[str, float]:
    """What a head does, by definition, from its (L, S) weights."""
    awake = dense.sum(-1) > 0
    place = torch.arange(LENGTH)
    again = torch.tensor([TOKENS[at] in TOKENS[:at] for at in range(LENGTH)])
    pattern = torch.zeros(LENGTH, LENGTH)
    for query in range(LENGTH):
        for key in range(1, query + 1):
            pattern[query, key] = float(TOKENS[key - 1] == TOKENS[query])
    received = dense.sum(0)
    return {
        "induction": mean((dense * pattern).sum(-1), awake & again),
        "previous token": mean(dense.diagonal(-1), awake[1:]),
        "first token": mean(dense[1:, 0], awake[1:]),
        "entropy": mean(torch.tensor([entropy(row) for row in dense]), awake),
        "mean distance": mean((dense * (place[:, None] - place).abs()).sum(-1), awake),
        "concentration": float(received.max() / received.sum()),
    }


def map_cells(tab: Tab, query: int = 8, key: int = 8) -> list[list[str]]:
    """All cells of a short map, from the table of those around the cursor."""
    pin(tab, query)
    rows = table(tab, "table-map")
    assert len(rows) == LENGTH + 1, "the table does not hold the whole map"
    return [row[1:] for row in rows[1:]]


def test_the_scores_of_all_heads(subject: Subject, tab: Tab) -> None:
    heads, *rows = table(tab, "table-heads")
    names = [head.partition(",")[0] for head in heads[1:]]
    assert names == list(scores(subject.dense[0, 0]))
    assert len(rows) == LAYERS * HEADS
    for at, (name, *texts) in enumerate(rows):
        layer, head = divmod(at, HEADS)
        assert name == f"Layer {layer}, head {head}"
        for (what, value), text in zip(scores(subject.dense[layer, head]).items(), texts, strict=True):
            assert agrees(text, value), f"{name}: {what} {text}, by definition {value}"


def test_the_scores_above_the_map(subject: Subject, tab: Tab) -> None:
    choose(tab, 1, 2, HEADS)
    names, texts = tab.texts("#scores dt"), tab.texts("#scores dd")
    for (what, value), name, text in zip(scores(subject.dense[1, 2]).items(), names, texts, strict=True):
        assert name == what
        assert agrees(text, value)


@pytest.mark.parametrize(("layer", "head"), [(0, 0), (0, 3), (1, 1)])
def test_every_cell_of_the_map(subject: Subject, tab: Tab, layer: int, head: int) -> None:
    choose(tab, layer, head, HEADS)
    dense = subject.dense[layer, head]
    for query, texts in enumerate(map_cells(tab)):
        for key, text in enumerate(texts):
            if subject.allowed[query, key]:
                assert "\u2248" not in text
                assert agrees(text, float(dense[query, key])), (query, key)
            else:
                assert text == "may not attend", (query, key)


def test_the_readout_with_its_margins(subject: Subject, tab: Tab) -> None:
    choose(tab, 0, 1, HEADS)
    dense = subject.dense[0, 1]
    shown = Map(tab, VIEW)
    for query, key in ((5, 4), (9, 6), (15, 15), (12, 2), (8, 12)):
        said = shown.hover(query, key)
        weight, _, rest = said.partition("query ")
        assert rest.startswith(f"{query} {TOKENS[query]} \u2192 key {key} {TOKENS[key]}")
        if subject.allowed[query, key]:
            assert agrees(weight, float(dense[query, key]))
            assert "exact" in rest
        else:
            assert weight.strip() == "may not attend"
        assert agrees(rest.partition("receives ")[2], float(dense[:, key].sum()))
        assert agrees(rest.partition("entropy is ")[2], entropy(dense[query]))


@pytest.mark.parametrize(("layer", "head"), [(0, 2), (1, 0)])
def test_what_each_query_reads(subject: Subject, tab: Tab, layer: int, head: int) -> None:
    choose(tab, layer, head, HEADS)
    for query in range(LENGTH):
        pin(tab, query)
        row = subject.dense[layer, head, query]
        rest = tab.say("rest")
        if not subject.allowed[query].any():
            assert tab.count("#top li") == 0
            assert rest == "This query may read no key."
            continue
        may = int(subject.allowed[query].sum())
        order = row.argsort(descending=True)[: min(8, may)].tolist()
        listed = list(
            zip(tab.texts("#top li b"), tab.texts("#top li .place"), tab.texts("#top .distance"), strict=True)
        )
        assert [place for _, place, _ in listed] == [f"key {key}" for key in order]
        assert tab.texts("#top li .token") == [TOKENS[key] for key in order]
        for text, distance, key in zip(tab.texts("#top li b"), tab.texts("#top .distance"), order, strict=True):
            assert agrees(text, float(row[key]))
            assert distance == ("itself" if key == query else f"{MINUS}{query - key}")
        others, _, sink = rest.partition(" on no key")
        if may > 8:
            named = "other key: " if may == 9 else f"other {may - 8} keys together: "
            assert agrees(others.partition(named)[2], float(row.sum() - row[order].sum()))
        if layer == 0:
            assert agrees(others.rpartition(" ")[2], float(1 - row.sum()))
            assert sink.startswith(" (the sink)")
        assert agrees(rest.partition("entropy ")[2], entropy(row))
        if entropy(row) > 0.1:
            assert agrees(rest.partition("as if ")[2], math.exp(entropy(row)))


def test_what_is_read_most(subject: Subject, tab: Tab) -> None:
    choose(tab, 1, 3, HEADS)
    received = subject.dense[1, 3].sum(0)
    order = received.argsort(descending=True)[:8].tolist()
    assert tab.texts("#most-read .place") == [f"key {key}" for key in order]
    for text, share, key in zip(tab.texts("#most-read li .muted"), tab.texts("#most-read li b"), order, strict=True):
        assert agrees(text, float(received[key]))
        assert agrees(share, float(received[key] / LENGTH), unit=0.01)


def test_the_tile_says_its_score(subject: Subject, tab: Tab) -> None:
    tab.page.select_option("#statistic", "distance")
    choose(tab, 1, 1, HEADS)
    said = tab.evaluate("() => document.querySelector('#tiles [aria-selected=true]').getAttribute('aria-label')")
    name, _, score = said.partition(", mean distance ")
    assert name == "Layer 1, head 1"
    assert agrees(score, scores(subject.dense[1, 1])["mean distance"])


def test_two_heads_compared(subject: Subject, tab: Tab) -> None:
    choose(tab, 0, 1, HEADS)
    compare(tab, 0, 6)
    ours, theirs = subject.dense[0, 1], subject.dense[1, 2]
    for query, texts in enumerate(map_cells(tab)):
        for key, text in enumerate(texts):
            if subject.allowed[query, key]:
                difference = float(ours[query, key] - theirs[query, key])
                assert text.startswith(MINUS) == (difference < 0) or abs(difference) < 1e-4
                # Each of the two is rounded before they are taken from one another.
                assert abs(float(text.replace(MINUS, "-")) - difference) <= 5e-4 * abs(difference) + 6e-4
            else:
                assert text == "\u2013"
    said = Map(tab, VIEW).hover(9, 7)
    a, b = said.partition("A ")[2].split(f" {MINUS} B ")
    assert agrees(a, float(ours[9, 7]))
    assert agrees(b, float(theirs[9, 7]))
    pin(tab, 10)
    columns = tab.evaluate(
        "() => Array.from(document.querySelectorAll('#row .one'), (one) => [one.querySelector('h3').textContent,"
        " one.querySelector('li b').textContent])"
    )
    for (name, strongest), row, expected in zip(
        columns, (ours[10], theirs[10]), ("Layer 0, head 1", "Layer 1, head 2"), strict=True
    ):
        assert name == expected
        assert agrees(strongest, float(row.max()))


def test_the_first_key_left_out(shared_browser: Browser, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(1)
    query, key, value = torch.randn(3, 1, 1, LENGTH, 8, generator=generator)
    weights = regard.attention(3 * query, key, value, masks.causal())[1]
    dense = reference.attention(
        3 * query.double(), key.double(), value.double(), masks.causal().to_dense(LENGTH, LENGTH)
    )
    left = dense.weights[0, 0].clone()
    left[:, 0] = 0
    left = left / left.sum(-1, keepdim=True).clamp_min(1e-300)
    tab = shared_browser.open(regard.look(weights, TOKENS).save(tmp_path / "page.html"))
    tab.page.check("#hide-first")
    assert "renormalised" in tab.say("legend")
    for row, texts in enumerate(map_cells(tab)):
        assert texts[0] == ("nothing left" if row == 0 else "left out") or texts[0] == "left out"
        for at, text in enumerate(texts[1:], start=1):
            if at > row:
                assert text == "may not attend"
            else:
                assert agrees(text, float(left[row, at])), (row, at, text)
    pin(tab, 0)
    assert tab.say("rest").startswith("Nothing is left: this query gives all its weight to the first key.")
    for row in (3, 9, 15):
        pin(tab, row)
        order = left[row].argsort(descending=True)[: tab.count("#top li")].tolist()
        assert tab.texts("#top li .place") == [f"key {at}" for at in order]
        assert all(agrees(text, float(left[row, at])) for text, at in zip(tab.texts("#top b"), order, strict=True))
        assert agrees(tab.say("rest").partition("entropy ")[2], entropy(left[row]))
    said = Map(tab, VIEW).hover(9, 4)
    assert agrees(said, float(left[9, 4]))
    assert "renormalised" in said
