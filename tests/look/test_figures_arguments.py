"""What the figures take as numbers, axes, tokens and names, and how they refuse the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from regard import AttentionWeights, masks
from regard.look import canvas, figures

Make = Callable[..., AttentionWeights]


@pytest.fixture
def causal(some_weights: Make) -> AttentionWeights:
    return some_weights(1, 3, 12, 12, mask=masks.causal())


SIZE = r"expected the most cells along a side, at least 1"
SEQUENCE = r"batch is '0'; expected the number of one sequence, from 0"
WIDTH = r"; expected inches above 0, such as 3.5 for a column of a paper"
AXES = r"; expected one matplotlib Axes, as figure.subplots\(\) gives, or None"


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda w: figures.head(w, which="0"), TypeError, r"which is '0'; expected the number of one head, from 0"),
        (lambda w: figures.head(w, which=True), TypeError, r"which is True; expected the number of one head"),
        (lambda w: figures.head(w, which=0, batch="0"), TypeError, SEQUENCE),
        (lambda w: figures.head(w, which=0, size="a"), TypeError, r"size is 'a'; " + SIZE),
        (lambda w: figures.layer(w, size=0), ValueError, r"size is 0; " + SIZE),
        (lambda w: figures.layer(w, batch="0"), TypeError, SEQUENCE),
        (lambda w: figures.overview(w, size=1.5), TypeError, r"size is 1.5; " + SIZE),
        (lambda w: figures.overview(w, batch="0"), TypeError, SEQUENCE),
        (lambda w: figures.overview("x"), TypeError, r"weights is of type str; expected AttentionWeights or dense"),
        (lambda w: figures.profiles(w, size=0), ValueError, r"size is 0; expected the most points of a line"),
        (lambda w: figures.profiles(w, ax=3), TypeError, r"ax is 3; expected two axes, one for entropy"),
        (lambda w: figures.profiles(w, ax=[canvas.new_figure(1, 1).subplots(), 3]), TypeError, r"ax is 3" + AXES),
        (lambda w: figures.head(w, which=0, width=0), ValueError, r"width is 0" + WIDTH),
        (lambda w: figures.head(w, which=0, width="a"), TypeError, r"width is 'a'" + WIDTH),
        (lambda w: figures.row(w, 3, which=0, width=-1), ValueError, r"width is -1" + WIDTH),
        (lambda w: figures.text(w, 3, which=0, tokens=["t"] * 12, width=0), ValueError, r"width is 0" + WIDTH),
        (lambda w: figures.window(w, slice(3), slice(3), which=0, width=None), TypeError, r"width is None" + WIDTH),
        (lambda w: figures.compare(w, w, which=0, width=0), ValueError, r"width is 0" + WIDTH),
        (lambda w: figures.overview(w, width="7"), TypeError, r"width is '7'" + WIDTH),
        (lambda w: figures.head(w, which=0, ax=3), TypeError, r"ax is 3" + AXES),
        (lambda w: figures.text(w, 3, which=0, tokens=["t"] * 12, ax=3), TypeError, r"ax is 3" + AXES),
        (lambda w: figures.row(w, "3", which=0), TypeError, r"query is '3'; expected the number of one of 12 queries"),
        (lambda w: figures.row(w, 3, which=0, k="9"), TypeError, r"k is '9'; expected at least 1, the keys that have"),
        (
            lambda w: figures.row(w, 3, which=0, tokens="t" * 12),
            TypeError,
            r"tokens is one text; expected a list of tex",
        ),
        (
            lambda w: figures.head(w, which=0, tokens=iter("ab")),
            TypeError,
            r"tokens is of type str_.*; expected a list",
        ),
        (lambda w: figures.head(w, which=0, tokens=range(12)), TypeError, r"tokens holds int; expected texts"),
        (
            lambda w: figures.text(w, 3, which=0, tokens=None),
            TypeError,
            r"tokens is None; expected a list of texts, one a",
        ),
        (
            lambda w: figures.compare(w, w, which=0, names=("x",)),
            TypeError,
            r"names is \('x',\); expected two texts, what a and b are called",
        ),
        (lambda w: figures.compare(w, w, which=0, names="ab"), TypeError, r"names is 'ab'; expected two texts"),
        (lambda w: figures.compare(w, w, which=0, names=3), TypeError, r"names is 3; expected two texts"),
        (
            lambda w: figures.compare(w, w, which=(0, 1, 2)),
            ValueError,
            r"which is \(0, 1, 2\); expected a head, or two",
        ),
        (lambda w: figures.compare(w, w, which=(0, 9)), ValueError, r"which is 9, but b holds 3 head\(s\)"),
        (
            lambda w: figures.compare("x", w, which=0),
            TypeError,
            r"a is of type str; expected AttentionWeights, a tensor",
        ),
        (
            lambda w: figures.head(torch.full((2, 2), 0.5), mask=masks.causal()),
            ValueError,
            r"mask forbids pairs that hold weight \(query 0, key 1: 0.5\)",
        ),
    ],
)
def test_arguments_of_another_kind_are_named(
    causal: AttentionWeights, call: Callable[[AttentionWeights], Figure], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        call(causal)


def test_numbers_and_tokens_may_come_from_arrays(causal: AttentionWeights) -> None:
    tokens = np.array([f"t{number}" for number in range(12)])
    figure = figures.row(causal, np.int64(3), which=torch.tensor(1), batch=np.int32(0), k=np.uint8(2), tokens=tokens)
    assert "\u201ct3\u201d" in figure.axes[0].get_title(loc="left")
    window = figures.window(causal, slice(2), slice(3), which=np.int64(1), tokens=tokens)
    assert [text.get_text() for text in window.axes[0].get_xticklabels()] == ["t0", "t1", "t2"]


def test_equal_bars_are_in_the_order_of_their_keys() -> None:
    figure = figures.row(torch.full((1, 64), 1 / 64), 0, k=10)
    keys = [int(text.get_text().split()[1]) for text in figure.axes[0].get_yticklabels()[:10]]
    assert keys == sorted(keys)


def test_a_half_precision_array_has_no_sink(causal: AttentionWeights) -> None:
    half = causal[0, 1].half().numpy()
    names = [text.get_text() for text in figures.row(half, 11).axes[0].get_yticklabels()]
    assert "sink (no key)" not in names
