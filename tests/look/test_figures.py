from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch

import regard
from regard import AttentionWeights, PositionalEncoding, masks
from regard.look import canvas, figures, figures_labels

Make = Callable[..., AttentionWeights]


def drawn(figure: Figure, axes: int = 0) -> np.ma.MaskedArray:
    return np.ma.masked_invalid(figure.axes[axes].images[0].get_array())


def bar(figure: Figure, axes: int = 0) -> str:
    """What the colour bar beside a map says."""
    return figure.axes[axes].child_axes[-1].get_ylabel().replace("\n", " ")


def hatched(figure: Figure, axes: int = 0) -> list[PathPatch]:
    return [patch for patch in figure.axes[axes].patches if isinstance(patch, PathPatch) and patch.get_hatch()]


def test_one_head_is_drawn_as_it_is_with_the_forbidden_half_hatched(layers: list[AttentionWeights]) -> None:
    figure = figures.head(layers[0], which=2)
    image = drawn(figure)
    dense = layers[0].to_dense()[0, 2].numpy()
    lower = np.tril(np.ones((12, 12), dtype=bool))
    assert np.array_equal(image.mask, ~lower)
    assert np.allclose(image[lower], dense[lower], atol=1e-6)
    (patch,) = hatched(figure)
    assert patch.get_path().contains_point((8.0, 2.0))
    assert not patch.get_path().contains_point((2.0, 8.0))
    assert isinstance(figure.axes[0].images[0].norm, LogNorm)


def test_zero_and_not_allowed_do_not_look_alike(some_weights: Make) -> None:
    figure = figures.head(some_weights(1, 1, 6, 6, mask=masks.causal(), sharp=2000.0))
    image = figure.axes[0].images[0]
    colours = image.cmap(image.norm(image.get_array()))
    zero = np.argwhere(image.get_array() == 0)
    assert len(zero) > 0
    assert (colours[tuple(zero[0])] == colours[tuple(zero[-1])]).all()
    assert colours[tuple(zero[0])][3] == 1  # opaque: the lowest colour
    assert colours[0, 5][3] == 0  # nothing: the hatching shows


def test_a_linear_scale_ends_at_the_highest_weight(layers: list[AttentionWeights]) -> None:
    figure = figures.head(layers[0], which=0, scale="linear")
    norm = figure.axes[0].images[0].norm
    assert (norm.vmin, norm.vmax) == (0.0, pytest.approx(float(layers[0].to_dense()[0, 0].max())))
    assert bar(figure) == "attention weight, linear scale"


def test_a_long_head_is_pooled_and_says_so(some_weights: Make) -> None:
    figure = figures.head(some_weights(1, 1, 600, 600, mask=masks.causal()), size=100)
    assert drawn(figure).shape == (100, 100)
    assert figure.axes[0].get_xlim() == (-0.5, 599.5)
    assert figure.axes[0].get_ylim() == (599.5, -0.5)
    assert bar(figure) == "attention weight, log scale (1 cell = 6 × 6 tokens, summed over its keys)"
    largest = figures.head(some_weights(1, 1, 600, 600), size=100, reduce="max")
    assert bar(largest) == "attention weight, log scale (1 cell = 6 × 6 tokens, the largest weight in it)"


def test_tokens_label_a_short_map_whatever_they_hold(some_weights: Make, tmp_path: Path) -> None:
    tokens = ["$\\x$", "\x1b[0m", "漢", "\u202e", "</script>", "\n  "]
    figure = figures.head(some_weights(1, 1, 4, 6, mask=masks.causal()), tokens=tokens)
    axes = figure.axes[0]
    has_chinese = figures_labels.drawable("漢") == "漢"  # where a font of the system has it
    assert [text.get_text() for text in axes.get_xticklabels()] == [
        "$\\x$",
        "□[0m",
        "漢" if has_chinese else "□",
        "<U+202E>",
        "</script>",
        "⏎··",
    ]
    assert [text.get_text() for text in axes.get_yticklabels()] == [
        "漢" if has_chinese else "□",
        "<U+202E>",
        "</script>",
        "⏎··",
    ]
    figures.save(figure, tmp_path / "head.png")  # a missing glyph would warn, mathematics fail


def test_a_long_map_keeps_its_numbers(some_weights: Make) -> None:
    figure = figures.head(some_weights(1, 1, 41, 41), tokens=["t"] * 41)
    assert "t" not in [text.get_text() for text in figure.axes[0].get_xticklabels()]


def test_a_layer_shows_all_its_heads_on_one_scale(layers: list[AttentionWeights]) -> None:
    figure = figures.layer(layers[1])
    maps = [axes for axes in figure.axes if axes.images]
    assert [axes.get_title(loc="left") for axes in maps] == ["head 0", "head 1", "head 2"]
    dense = layers[1].to_dense()[0].numpy()
    for number in range(3):
        assert np.allclose(drawn(figure, number).filled(0), dense[number], atol=1e-6)
    assert len({(axes.images[0].norm.vmin, axes.images[0].norm.vmax) for axes in maps}) == 1


def test_profiles_are_the_margins(layers: list[AttentionWeights]) -> None:
    figure = figures.profiles(layers[0])
    top, bottom = figure.axes
    entropy, received = layers[0].entropy()[0], layers[0].received()[0]
    for number in range(3):
        assert np.allclose(top.lines[number].get_ydata(), entropy[number], atol=1e-6)
        assert np.allclose(bottom.lines[number].get_ydata(), received[number].clamp(min=1e-3))
    assert np.allclose(top.lines[3].get_ydata(), np.log(np.arange(1, 13)), atol=1e-6)


def test_the_heatmap_of_the_exercise() -> None:
    encoding = PositionalEncoding(32, 64).get_encoding()
    figure = figures.positional_encoding(encoding)
    axes, bar = figure.axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("Embedding Dimension", "Position in Sequence")
    assert bar.get_ylabel() == "Encoding values"
    assert axes.images[0].get_cmap().name == "viridis"
    assert np.array_equal(drawn(figure), encoding.numpy())


@pytest.mark.parametrize("given", [masks.causal(), torch.ones(8, 8, dtype=torch.bool).tril()])
def test_a_mask_shows_what_may_be_read(given: masks.Mask | torch.Tensor) -> None:
    figure = figures.mask(given, 8, 8)
    assert np.array_equal(~drawn(figure).mask, np.tril(np.ones((8, 8), dtype=bool)))
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["may attend", "may not attend"]


def test_a_large_mask_shows_shares() -> None:
    figure = figures.mask(masks.causal(), 8, 8, size=2)
    assert drawn(figure)[0, 0] == pytest.approx(10 / 16)
    assert figure.axes[0].get_legend().get_texts()[1].get_text() == "some may (1 cell = 4 × 4 tokens)"


def test_figures_go_on_axes_that_are_given(layers: list[AttentionWeights]) -> None:
    figure = Figure()
    axes = figure.subplots(2, 2)
    assert figures.head(layers[0], which=0, ax=axes[0, 0]) is figure
    assert figures.mask(masks.causal(), 4, 4, ax=axes[0, 1]) is figure
    assert figures.profiles(layers[0], ax=axes[1]) is figure
    assert figures.positional_encoding(torch.zeros(4, 4), ax=figure.subfigures(1, 1).subplots()) is figure


def test_weights_and_masks_draw_themselves(some_weights: Make) -> None:
    assert len(some_weights(5, 5).plot().axes[0].images) == 1
    assert sum(bool(axes.images) for axes in some_weights(1, 3, 5, 5).plot(scale="linear").axes) == 3
    assert isinstance(masks.causal().plot(4), Figure)


@pytest.mark.parametrize("name", ["map.png", "map.svg", "map.pdf"])
def test_a_figure_is_saved_in_the_format_of_its_name(layers: list[AttentionWeights], tmp_path: Path, name: str) -> None:
    path = figures.save(figures.head(layers[0], which=0), tmp_path / "new" / name, dpi=60)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[name[-3:]]
    assert path.read_bytes().startswith(start)
    assert [file.name for file in path.parent.iterdir()] == [name]


def test_a_figure_shows_itself_in_a_notebook() -> None:
    assert figures.positional_encoding(torch.zeros(4, 4))._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]


def test_bad_input_is_named(layers: list[AttentionWeights], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"which is None, but weights holds 3 head\(s\); expected 0 to 2"):
        figures.head(layers[0])
    with pytest.raises(ValueError, match=r"which is 3, but weights holds 3 head\(s\)"):
        figures.head(layers[0], which=3)
    with pytest.raises(ValueError, match=r"scale is 'sqrt'; expected 'log' or 'linear'"):
        figures.head(layers[0], which=0, scale="sqrt")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"tokens holds 2 texts, but weights has 12 keys; expected one a key"):
        figures.head(layers[0], which=0, tokens=["a", "b"])
    with pytest.raises(ValueError, match=r"encoding has shape \(4,\); expected \(L, D\)"):
        figures.positional_encoding(torch.zeros(4))
    with pytest.raises(ValueError, match=r"ax holds 1 axes; expected two"):
        figures.profiles(layers[0], ax=[canvas.new_figure(1, 1).subplots()])
    with pytest.raises(ValueError, match=r"path ends in '.gif'; expected .png, .svg or .pdf"):
        figures.save(canvas.new_figure(1, 1), tmp_path / "a.gif")


def test_long_profiles_are_means_and_their_highest_points_are_marked(some_weights: Make) -> None:
    weights = some_weights(1, 2, 200, 200, mask=masks.causal())
    top, bottom = figures.profiles(weights, size=50).axes
    assert np.allclose(top.lines[1].get_ydata(), weights.entropy()[0, 1].reshape(50, 4).mean(-1), atol=1e-6)
    assert (top.get_xlabel(), bottom.get_xlabel()) == ("query (means over 4)", "key (means over 4)")
    received = weights.received()[0]
    dots = [line for line in bottom.lines if line.get_marker() == "o" and len(line.get_xdata())]
    assert [line.get_xdata()[0] for line in dots] == received.argmax(-1).tolist()
    assert np.allclose([line.get_ydata()[0] for line in dots], received.amax(-1))


def test_without_matplotlib_the_extra_is_named() -> None:
    script = "import sys; sys.modules['matplotlib'] = None; from regard.look import figures"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[-1] == (
        "ImportError: figures need matplotlib, which is not installed: pip install 'regard[look]'"
    )


@pytest.mark.parametrize("kind", ["array", "module", "(1, L, D)"])
def test_the_heatmap_takes_what_the_page_takes(kind: str) -> None:
    embedding = torch.nn.Embedding(9, 4)
    table = embedding.weight.detach()
    given = {"array": table.numpy()[::-1], "module": embedding, "(1, L, D)": table[None]}[kind]
    wanted = table.flip(0) if kind == "array" else table
    assert np.array_equal(drawn(figures.positional_encoding(given)), wanted.numpy())


def test_the_heatmap_refuses_what_the_page_refuses() -> None:
    with pytest.raises(ValueError, match=r"encoding holds NaN or infinities"):
        figures.positional_encoding(torch.full((2, 2), float("nan")))
    with pytest.raises(ValueError, match=r"encoding has shape \(0, 4\); expected \(L, D\), a value at least"):
        figures.positional_encoding(torch.zeros(0, 4))
    with pytest.raises(TypeError, match=r"encoding is of type str; expected a tensor or an array"):
        figures.positional_encoding("sinusoidal")


def test_masks_may_be_arrays(some_weights: Make) -> None:
    allowed = np.tril(np.ones((6, 6), dtype=bool))
    assert np.array_equal(~drawn(figures.mask(allowed, 6, 6)).mask, allowed)
    dense = some_weights(1, 1, 6, 6, mask=masks.causal()).to_dense().numpy()
    assert np.array_equal(~drawn(figures.head(dense, mask=allowed)).mask, allowed)


def test_weights_draw_one_sequence_or_one_head(some_weights: Make) -> None:
    weights = some_weights(2, 3, 5, 5)
    with pytest.raises(ValueError, match=r"weights.plot\(\): one sequence at a time, .*; name one of them, batch=0"):
        weights.plot()
    figure = weights.plot(batch=1)
    maps = [axes.images[0].get_array() for axes in figure.axes if axes.images]
    assert np.allclose(maps, weights.to_dense()[1].numpy(), atol=1e-6)
    assert figure._repr_html_() == regard.look(weights, batch=1)._repr_html_()  # type: ignore[attr-defined]
    assert weights.plot(batch=-1)._repr_html_() == figure._repr_html_()  # type: ignore[attr-defined]
    head = weights.plot(batch=1, which=2)
    assert head._repr_html_() is None  # type: ignore[attr-defined]  # the page shows all heads
    assert np.allclose(drawn(head), weights.to_dense()[1, 2].numpy(), atol=1e-6)
    assert some_weights(1, 3, 5, 5).plot()._repr_html_() is not None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"which is None, but weights holds 3 head\(s\)"):
        some_weights(1, 3, 5, 5).plot(ax=canvas.new_figure(1, 1).subplots())
    with pytest.raises(ValueError, match=r"batch is 2, but weights holds 2 sequence\(s\)"):
        weights.plot(batch=2)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((masks.causal(), "a", 5), TypeError, r"query_len is 'a'; expected the number of queries, at least 1"),
        ((masks.causal(), 5, 0), ValueError, r"key_len is 0; expected the number of keys, at least 1"),
        (("x", 5, 5), TypeError, r"mask is of type str; expected a mask of regard.masks or booleans"),
        ((torch.ones(5, 5), 5, 5), TypeError, r"mask holds float32; expected a mask"),
    ],
)
def test_a_mask_without_a_picture_is_named(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        figures.mask(*arguments)


def test_what_cannot_be_saved_is_named(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"figure is of type int; expected a matplotlib Figure, and then the path"):
        figures.save(3, tmp_path / "a.png")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"dpi is 0; expected dots an inch, above 0"):
        figures.save(canvas.new_figure(1, 1), tmp_path / "a.png", dpi=0)
    assert list(tmp_path.iterdir()) == []
