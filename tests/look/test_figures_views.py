"""How the figures read: labels, hatching, fonts, given axes, and what bad input is told."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

from regard import AttentionWeights, masks
from regard.look import canvas, figures, figures_labels, figures_text

Make = Callable[..., AttentionWeights]

HOSTILE = ["$x$", "$\\frac", "\x1b[0m", "漢字", "שלום", "🙂", "\u202e", "a\nb", "", "\\N{X}", "_{", "%"]


def bar(figure: Figure) -> str:
    return figure.axes[0].child_axes[-1].get_ylabel().replace("\n", " ").replace("\N{NO-BREAK SPACE}", " ")


def is_hatched(figure: Figure) -> bool:
    return any(isinstance(patch, PathPatch) and patch.get_hatch() for patch in figure.axes[0].patches)


@pytest.fixture
def causal(some_weights: Make) -> AttentionWeights:
    return some_weights(1, 3, 12, 12, mask=masks.causal())


def every_view(weights: AttentionWeights, tokens: list[str], **options: object) -> list[Callable[..., Figure]]:
    both = {"tokens": tokens, "which": 1, **options}
    return [
        lambda **at: figures.head(weights, **both, **at),
        lambda **at: figures.head(weights, margins=True, hide_first=True, **both, **at),
        lambda **at: figures.row(weights, 11, **both, **at),
        lambda **at: figures.text(weights, 8, **both, **at),
        lambda **at: figures.window(weights, slice(2, 9), slice(0, 9), **both, **at),
        lambda **at: figures.compare(weights, weights, **{**both, "which": (0, 1)}, **at),
        lambda **at: figures.overview([weights], **options, **at),
        lambda **at: figures.overview([weights], by="entropy", sort="distance", **options, **at),
    ]


def test_tokens_of_every_kind_are_written_to_files(causal: AttentionWeights) -> None:
    for draw in every_view(causal, HOSTILE, title="layer 1"):
        # A character without a glyph would warn, mathematics that is none would fail.
        assert canvas.rendered(draw(), "png", dpi=40).startswith(b"\x89PNG")
    figure = figures.row(causal, 11, which=1, tokens=HOSTILE, k=12)
    assert not any(text.get_parse_math() for text in figure.axes[0].get_yticklabels()[:12])


def test_text_stays_text_and_maps_stay_images(causal: AttentionWeights) -> None:
    tokens = [f"word{number}" for number in range(12)]
    figure = figures.head(causal, which=1, tokens=tokens)
    svg = canvas.rendered(figure, "svg").decode()
    assert ">word7</text>" in re.sub(r"\s+", "", svg)
    assert svg.count("<image") == 2  # the map and its colour bar
    pdf = canvas.rendered(figure, "pdf")
    assert b"/Type0" in pdf.replace(b" ", b"")
    assert b"/Type3" not in pdf.replace(b" ", b"")
    assert canvas.rendered(figures.head(causal, which=1, tokens=tokens), "svg").decode() == svg


def test_every_view_goes_on_axes_that_are_given(causal: AttentionWeights) -> None:
    tokens = [f"t{number}" for number in range(12)]
    for layout in ("constrained", None):
        for draw in every_view(causal, tokens):
            figure = Figure(figsize=(7, 4), layout=layout)
            left, right = figure.subfigures(1, 2)
            axes = right.subplots()
            assert draw(ax=axes) is figure
            assert not left.axes
            assert axes.has_data()


def test_nothing_but_the_figure_is_touched() -> None:
    script = """
import sys, torch, matplotlib
before = matplotlib.rcParams.copy()
from regard.look import canvas, figures
even = torch.full((4, 4), 0.25)
for figure in (figures.text(even, 1, tokens=list("abcd")), figures.head(even, margins=True)):
    canvas.rendered(figure, "pdf", dpi=30)
assert "matplotlib.pyplot" not in sys.modules
assert matplotlib.rcParams.copy() == before
"""
    subprocess.run([sys.executable, "-W", "error", "-c", script], check=True)


def test_what_was_left_out_is_said(causal: AttentionWeights) -> None:
    assert bar(figures.head(causal, which=0, hide_first=True)) == (
        "attention weight, log scale without key 0, renormalised"
    )
    window = figures.window(causal, slice(4), slice(4), which=0, hide_first=True)
    assert bar(window) == "attention weight, exact, log scale without key 0, renormalised"
    compared = figures.compare(causal, causal, which=(0, 1), names=("$a$", "b"), hide_first=True, size=6)
    assert bar(compared) == (
        "attention weight, $a$ − b, log scale without key 0, renormalised (1 cell = 2 × 2 tokens, summed over its keys)"
    )
    text = figures.text(causal, 3, which=0, tokens=["t"] * 12, hide_first=True)
    assert "without key 0, renormalised" in text.axes[0].texts[-1].get_text().replace("\n", " ")


def test_only_a_known_mask_hatches(causal: AttentionWeights) -> None:
    dense = causal.to_dense()
    assert is_hatched(figures.head(causal, which=0))
    assert not is_hatched(figures.head(dense, which=0))
    assert is_hatched(figures.head(dense, which=0, mask=masks.causal()))
    assert is_hatched(figures.overview([causal]))
    assert not is_hatched(figures.overview([dense]))
    assert is_hatched(figures.text(causal, 3, which=0, tokens=["t"] * 12))


def test_the_hatching_covers_the_forbidden_cells_and_no_others() -> None:
    generator = torch.Generator().manual_seed(3)
    cells = torch.rand(9, 11, generator=generator) < 0.4
    cells[3] = True
    axes = Figure().subplots()
    canvas.hatch(axes, cells, 9, 11)
    path = axes.patches[0].get_path()
    for row in range(9):
        for col in range(11):
            assert path.contains_point((col + 0.1, row - 0.1)) == bool(cells[row, col])


def test_a_difference_has_the_same_depth_each_way() -> None:
    figure = figures.compare(torch.eye(4), torch.full((4, 4), 0.25))
    image = figure.axes[0].images[0]
    norm = image.norm
    assert float(norm(0.0)) == pytest.approx(0.5)
    assert [float(norm(x) + norm(-x)) for x in (1.0, 0.2, 1e-4)] == pytest.approx([1.0] * 3)
    low, middle, high = (np.array(image.cmap(x)[:3]) for x in (0.0, 0.5, 1.0))
    assert middle.min() > 0.9  # paper
    assert low[2] > low[0]  # blue
    assert high[0] > high[2]


def test_labels_shrink_with_the_figure_and_then_go(some_weights: Make) -> None:
    weights, tokens = some_weights(1, 1, 30, 30), [f"t{number}" for number in range(30)]
    wide = figures.head(weights, tokens=tokens).axes[0]
    narrow = figures.head(weights, tokens=tokens, width=3.5).axes[0]
    assert [text.get_text() for text in wide.get_xticklabels()] == tokens
    assert "t7" not in [text.get_text() for text in narrow.get_xticklabels()]


def test_the_text_is_laid_out_in_lines() -> None:
    assert figures_text.piece(" two\n") == " two⏎"
    assert figures_text.lay_out(["abc", " de", "f⏎", "漢字", ""], 6) == [
        (0, 0, 3),
        (0, 3, 3),
        (1, 0, 2),
        (2, 0, figures_labels.cells("漢字")),
        (2, 4, 1),
    ]


def test_a_long_text_shows_what_leads_to_the_query(some_weights: Make) -> None:
    weights = some_weights(1, 1, 900, 900, mask=masks.causal())
    (ax,) = figures.text(weights, 700, tokens=["t"] * 900).axes
    share = float(weights[0, 0, 700, 401:701].double().sum())
    assert ax.get_title(loc="left") == (
        f"query 700 “t”: entropy {float(weights.entropy()[0, 0, 700]):.3f} nats\n"
        f"keys 401–700 of 900 hold {share:.1%} of the weight"
    )
    (asked,) = figures.text(weights, 700, tokens=["t"] * 900, keys=slice(0, 20)).axes
    assert len(asked.collections[0].get_facecolor()) == 20


def test_cross_attention_has_tokens_of_two_texts(some_weights: Make) -> None:
    weights = some_weights(1, 1, 3, 4)
    figure = figures.head(weights, tokens=list("abcd"), query_tokens=list("xyz"))
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["x", "y", "z"]
    assert "“z”" in figures.row(weights, -1, tokens=list("abcd"), query_tokens=list("xyz")).axes[0].get_title(
        loc="left"
    )


def test_sequences_without_heads_keep_their_padding(some_weights: Make) -> None:
    weights = some_weights(2, 5, 5, mask=masks.padding(torch.tensor([2, 4])))
    image = np.ma.masked_invalid(figures.head(weights, which=1).axes[0].images[0].get_array())
    assert (~np.ma.getmaskarray(image)).sum(1).tolist() == [4] * 5
    assert figures.window(weights, slice(5), slice(5), which=0) is not None


def test_heads_are_sorted_and_named(some_weights: Make) -> None:
    layers = [some_weights(1, 3, 12, 12, mask=masks.causal(), seed=seed) for seed in range(2)]
    ax = figures.overview(layers, sort="entropy").axes[0]
    means = {(layer, head): float(w.entropy()[0, head].mean()) for layer, w in enumerate(layers) for head in range(3)}
    assert [text.get_text() for text in ax.texts] == [f"{a}.{b}" for a, b in sorted(means, key=means.__getitem__)]
    assert ax.get_xlabel() == "layer.head, entropy, lowest first"


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda w: figures.row(w, 12, which=0), r"query is 12, but weights has 12 queries; expected -12 to 11"),
        (lambda w: figures.row(w, 3, which=0, k=0), r"k is 0; expected at least 1"),
        (lambda w: figures.row(w, 0, which=0, hide_first=True), r"query is 0, which may read nothing but key 0"),
        (lambda w: figures.row(w, 0), r"which is None, but weights holds 3 head\(s\)"),
        (lambda w: figures.row(w, 0, which=0, batch=1), r"batch is 1, but weights holds 1 sequence\(s\)"),
        (lambda w: figures.head(w, which=0, reduce="sum"), r"reduce is 'sum'; expected 'mean' or 'max'"),
        (lambda w: figures.head(w, which=0, size=0), r"size is 0; expected the most cells along a side, at least 1"),
        (lambda w: figures.head(w, which=0, mask=masks.causal()), r"mask was given, but weights knows its own"),
        (
            lambda w: figures.head(w, which=0, query_tokens=["a"]),
            r"query_tokens holds 1 texts, but weights has 12 queries; expected one a query",
        ),
        (
            lambda w: figures.window(w, slice(5, 5), slice(3), which=0),
            r"queries is slice\(5, 5, None\), which holds none of 12 queries",
        ),
        (
            lambda w: figures.window(w, slice(3), slice(0, 9, 2), which=0),
            r"keys has a step of 2; .* expected a step of 1",
        ),
        (
            lambda w: figures.compare(w, torch.full((4, 6), 0.1), which=(0, 0)),
            r"a has 12 queries and 12 keys, b 4 and 6; a difference is taken pair by pair",
        ),
        (lambda w: figures.overview([]), r"weights is empty; expected one AttentionWeights a layer"),
        (
            lambda w: figures.overview([w], by="first_token", hide_first=True),
            r"by is 'first_token', which hide_first=True leaves out; pick another score",
        ),
        (lambda w: figures.overview([w], by="colour"), r"by is 'colour'; expected one of 'entropy'"),
        (
            lambda w: figures.overview([w], sort="induction"),
            r"sort is 'induction', which no head has here; give tokens=",
        ),
        (
            lambda w: figures.text(w, 3, which=0, tokens=["t"] * 12, keys=slice(9, 3)),
            r"keys is slice\(9, 3, None\); expected 1 to 3,000 of 12 keys in a row",
        ),
        (
            lambda w: figures.text(w, 3, which=0, tokens=["long"] * 12, ax=canvas.new_figure(1, 0.4).subplots()),
            r"ax is .* inches, too small for the text of 12 tokens; give larger axes, or fewer keys",
        ),
        (lambda w: figures.head(torch.full((2, 2), 3.0)), r"weights has a row that sums to 6; expected at most 1"),
        (lambda w: figures.head(torch.tensor([[-1.0]])), r"weights holds -1; .* look like scores before the softmax"),
    ],
)
def test_bad_input_is_named(causal: AttentionWeights, call: Callable[[AttentionWeights], Figure], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        call(causal)


def test_a_window_is_never_too_large(some_weights: Make) -> None:
    with pytest.raises(ValueError, match=r"keys holds 600 of 600; a window shows at most 512: use figures.head"):
        figures.window(some_weights(1, 1, 600, 600), slice(3), slice(None))
    with pytest.raises(TypeError, match=r"queries is 3; expected a slice, as slice\(100, 140\)"):
        figures.window(some_weights(1, 1, 6, 6), 3, slice(None))  # type: ignore[arg-type]


def test_a_padded_query_has_no_row(some_weights: Make) -> None:
    weights = some_weights(1, 1, 5, 5, mask=masks.padding(torch.tensor([0])))
    with pytest.raises(ValueError, match=r"query is 2, which reads no key, as padding does: there is nothing to draw"):
        figures.row(weights, 2)


def test_an_even_head_is_measured_by_the_mask(some_weights: Make) -> None:
    weights = some_weights(1, 2, 8, 8, mask=masks.window(3))
    top = figures.profiles(weights).axes[0]
    assert np.allclose(top.lines[-1].get_ydata(), np.log([1, 2, 3, 3, 3, 3, 3, 3]), atol=1e-6)


def test_a_text_on_given_axes_stands_in_its_boxes(causal: AttentionWeights) -> None:
    figure = canvas.new_figure(6, 3)
    left, right = figure.subplots(1, 2)
    left.plot([0, 1])
    figures.text(causal, 5, which=0, tokens=["word"] * 12, ax=right, title="layer 1")
    figure.draw_without_rendering()
    boxes = right.collections[0].get_paths()
    for text, box in zip(right.texts, boxes, strict=False):
        drawn = right.transData.inverted().transform_bbox(text.get_window_extent())
        wanted = box.get_extents()
        assert abs(drawn.x0 - wanted.x0) < 1.5
        assert drawn.x1 < wanted.x1 + 1.5
