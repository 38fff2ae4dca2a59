"""The numbers that figures draw, beside the definition in float64: grouped heads, padding, windows, caps, sinks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from torch import Tensor

from regard import AttentionWeights, attention, masks, reference
from regard.look import figures
from regard.look.canvas import colour_map

BATCH, HEADS, KV_HEADS, LENGTH, WIDTH = 2, 4, 2, 14, 8


@dataclass
class Case:
    """Weights, their dense twin (B, H, L, S) in float64, and what is allowed, (B, H, L, S)."""

    weights: AttentionWeights
    dense: Tensor
    allowed: Tensor
    sinks: bool = False


def make(name: str) -> Case:
    generator = torch.Generator().manual_seed(7)
    queries = 9 if name == "causal, L below S" else LENGTH
    q = 2.5 * torch.randn(BATCH, HEADS, queries, WIDTH, generator=generator)
    k, v = torch.randn(2, BATCH, KV_HEADS, LENGTH, WIDTH, generator=generator)
    mask = {
        "padding": masks.padding(torch.tensor([5, 11])),
        "window, softcap": masks.window(4),
        "padding, causal": masks.padding(torch.arange(LENGTH).expand(BATCH, -1) >= 3) & masks.causal(),
    }.get(name, masks.causal())
    options: dict[str, object] = {}
    if "softcap" in name:
        options["softcap"] = 3.0
    if name == "sinks":
        options["sinks"] = torch.tensor([1.0, 0.0, 3.0, -2.0])
    allowed = mask.to_dense(queries, LENGTH, batch=BATCH, num_heads=HEADS).expand(BATCH, HEADS, queries, LENGTH)
    wide = {key: value.double() if isinstance(value, Tensor) else value for key, value in options.items()}
    dense = reference.attention(q.double(), k.double(), v.double(), allowed, **wide).weights
    return Case(attention(q, k, v, mask, **options)[1], dense, allowed, "sinks" in options)


NAMES = ["causal, L below S", "padding", "padding, causal", "window, softcap", "sinks"]


@pytest.fixture(scope="module", params=NAMES)
def case(request: pytest.FixtureRequest) -> Case:
    return make(request.param)


def without_first(dense: Tensor) -> Tensor:
    """w / (1 - w_0) without key 0; 0 where nothing is left."""
    out = dense / (1 - dense[..., :1])
    out[..., 0] = 0
    return torch.where(1 - dense[..., :1] < 1e-6, 0.0, out)


def cells_of(dense: Tensor, rows: int, cols: int, reduce: str) -> Tensor:
    query_len, key_len = dense.shape
    out = torch.zeros(rows, cols, dtype=dense.dtype)
    for r in range(rows):
        for c in range(cols):
            part = dense[
                r * query_len // rows : (r + 1) * query_len // rows, c * key_len // cols : (c + 1) * key_len // cols
            ]
            out[r, c] = part.sum(-1).mean() if reduce == "mean" else part.max()
    return out


def image_of(figure: Figure) -> tuple[np.ndarray, np.ndarray]:
    array = np.ma.masked_invalid(figure.axes[0].images[0].get_array())
    return array.filled(0.0), np.ma.getmaskarray(array)


def close(got: object, wanted: object) -> bool:
    return np.allclose(np.asarray(got), np.asarray(wanted), rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("hide_first", [False, True])
@pytest.mark.parametrize("reduce", ["mean", "max"])
def test_a_map_of_any_size_is_the_definition_pooled(case: Case, reduce: str, hide_first: bool) -> None:
    dense = case.dense[1, 2]
    wanted = without_first(dense) if hide_first else dense
    for size in (LENGTH, 5):
        figure = figures.head(
            case.weights, which=2, batch=1, size=size, reduce=reduce, hide_first=hide_first, scale="linear"
        )
        rows, cols = min(size, dense.shape[0]), min(size, dense.shape[1])
        allowed = cells_of(case.allowed[1, 2].double(), rows, cols, "max") > 0
        grey = ~allowed
        if hide_first and cols == LENGTH:
            grey[:, 0] = True
        values, blank = image_of(figure)
        assert np.array_equal(blank, grey.numpy())
        assert close(values, cells_of(wanted, rows, cols, reduce).masked_fill(grey, 0.0))


@pytest.mark.parametrize("hide_first", [False, True])
def test_margins_are_exact(case: Case, hide_first: bool) -> None:
    dense = without_first(case.dense[1, 2]) if hide_first else case.dense[1, 2]
    figure = figures.head(case.weights, which=2, batch=1, margins=True, hide_first=hide_first)
    above, beside, _ = figure.axes[0].child_axes
    received, entropy = above.patches[0].get_data().values, beside.patches[0].get_data().values
    assert close(received, dense.sum(0))
    assert np.allclose(entropy, -torch.special.xlogy(dense, dense).sum(-1), rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("hide_first", [False, True])
def test_the_bars_of_a_row_sum_to_one_and_are_its_largest_weights(case: Case, hide_first: bool) -> None:
    query = case.dense.shape[2] - 2
    dense = (without_first(case.dense) if hide_first else case.dense)[1, 2, query]
    (ax,) = figures.row(case.weights, query, which=2, batch=1, k=3, hide_first=hide_first).axes
    heights = [bar.get_width() for bar in ax.patches]
    labels = [text.get_text() for text in ax.get_yticklabels()]
    values, keys = dense.topk(3)
    assert close(heights[:3], values)
    assert labels[:3] == [f"key {key}" for key in keys.tolist()]
    others = int(case.allowed[1, 2, query].sum()) - 3 - int(hide_first and bool(case.allowed[1, 2, query, 0]))
    wanted = [float(dense.sum() - values.sum())] if others > 0 else []
    names = (["the other key"] if others == 1 else [f"the other {others} keys"]) if others > 0 else []
    if case.sinks:
        wanted.append(float(1 - dense.sum()))
        names.append("sink (no key)")
    assert close(heights[3:], wanted)
    assert labels[3:] == names
    assert sum(heights) == pytest.approx(1.0, abs=1e-5)
    entropy = float(-torch.special.xlogy(dense, dense).sum())
    assert ax.get_title(loc="left") == f"query {query}: entropy {entropy:.3f} nats"
    assert ax.get_xlabel() == f"attention weight, exact{', without key 0, renormalised' if hide_first else ''}"


@pytest.mark.parametrize("hide_first", [False, True])
def test_a_window_holds_the_pairs_themselves(case: Case, hide_first: bool) -> None:
    dense = (without_first(case.dense) if hide_first else case.dense)[1, 2]
    figure = figures.window(case.weights, slice(2, 8), slice(0, 12), which=2, batch=1, hide_first=hide_first)
    grey = ~case.allowed[1, 2, 2:8, :12]
    grey[:, 0] |= hide_first
    values, blank = image_of(figure)
    assert np.array_equal(blank, grey.numpy())
    assert close(values, dense[2:8, :12].masked_fill(grey, 0.0))
    ax = figure.axes[0]
    assert (ax.get_xlim(), ax.get_ylim()) == ((-0.5, 11.5), (7.5, 1.5))


@pytest.mark.parametrize("hide_first", [False, True])
def test_a_comparison_is_the_difference(case: Case, hide_first: bool) -> None:
    dense = without_first(case.dense) if hide_first else case.dense
    for size in (LENGTH, 5):
        figure = figures.compare(
            case.weights,
            case.weights,
            which=(2, 0),
            batch=(1, 0),
            size=size,
            scale="linear",
            hide_first=hide_first,
        )
        rows, cols = min(size, dense.shape[2]), min(size, LENGTH)
        wanted = cells_of(dense[1, 2], rows, cols, "mean") - cells_of(dense[0, 0], rows, cols, "mean")
        either = (case.allowed[1, 2] | case.allowed[0, 0]).double()
        grey = cells_of(either, rows, cols, "max") == 0
        if hide_first and cols == LENGTH:
            grey[:, 0] = True
        values, blank = image_of(figure)
        assert np.array_equal(blank, grey.numpy())
        assert close(values, wanted.masked_fill(grey, 0.0))
        low, high = figure.axes[0].images[0].get_clim()
        assert low == -high
        assert high == pytest.approx(float(wanted.masked_fill(grey, 0.0).abs().max()), rel=1e-4)


def test_the_text_is_coloured_by_the_weights(case: Case) -> None:
    query = case.dense.shape[2] - 2
    dense, allowed = case.dense[1, 2, query], case.allowed[1, 2, query]
    tokens = [f"t{key}" for key in range(LENGTH)]
    ax = figures.text(case.weights, query, which=2, batch=1, tokens=tokens, scale="linear").axes[0]
    fills = ax.collections[0].get_facecolor()
    ramp = colour_map()
    for key in range(LENGTH):
        wanted = ramp(float(dense[key] / dense.max())) if allowed[key] else to_rgba("#ebebe9")
        # A rounding may fall on either side of one of the ramp's 256 steps.
        assert np.allclose(fills[key], wanted, atol=0.03)
    assert [text.get_text() for text in ax.texts[:LENGTH]] == tokens


@pytest.mark.parametrize(
    ("by", "hide_first"),
    [(by, False) for by in ("entropy", "first_token", "distance", "concentration")]
    + [(by, True) for by in ("entropy", "distance", "concentration")],
)
def test_the_heat_is_the_score(case: Case, by: str, hide_first: bool) -> None:
    dense, awake = case.dense[1], case.allowed[1].any(-1)
    if hide_first:
        dense, of_others = without_first(dense), dense.clone()
        of_others[..., 0] = 0  # what keys receive is not renormalised
        awake = dense.sum(-1) > 0
    query_len = dense.shape[1]
    position = torch.arange(query_len)[:, None] + LENGTH - query_len
    per_query = {
        "entropy": -torch.special.xlogy(dense, dense).sum(-1),
        "first_token": dense[..., 0],
        "distance": (dense * (position - torch.arange(LENGTH)).abs()).sum(-1),
    }
    if by == "concentration":
        read = of_others if hide_first else dense
        wanted = read.sum(1).amax(-1) / read.sum((1, 2))
    else:
        if by == "first_token" and query_len == LENGTH:
            awake = awake.clone()
            awake[:, 0] = False
        wanted = torch.stack([row[kept].mean() for row, kept in zip(per_query[by], awake, strict=True)])
    figure = figures.overview([case.weights], by=by, batch=1, hide_first=hide_first)
    values, _ = image_of(figure)
    # Without key 0 a difference of float32 is divided by what is left, 0.002 at least.
    assert np.allclose(values[0], wanted, rtol=1e-4, atol=3e-4 if hide_first else 1e-5)
    told = "of all other keys" if by == "concentration" else "without key 0, renormalised"
    assert (told in figure.axes[0].child_axes[-1].get_ylabel().replace("\n", " ")) == hide_first


@pytest.mark.parametrize("hide_first", [False, True])
def test_small_maps_are_pooled_by_the_same_rule(case: Case, hide_first: bool) -> None:
    ax = figures.overview([case.weights, case.weights], batch=1, size=5, hide_first=hide_first).axes[0]
    assert len(ax.images) == 2 * HEADS
    rows, cols = min(5, case.dense.shape[2]), 5
    for head in range(HEADS):
        image = np.ma.masked_invalid(ax.images[HEADS + head].get_array())
        allowed = cells_of(case.allowed[1, head].double(), rows, cols, "max") > 0
        assert np.array_equal(~np.ma.getmaskarray(image), allowed.numpy())
        dense = without_first(case.dense[1, head]) if hide_first else case.dense[1, head]
        assert close(image.filled(0.0), cells_of(dense, rows, cols, "mean"))


@pytest.mark.parametrize("name", ["padding, causal", "sinks"])
def test_stored_weights_are_drawn_as_the_operator_is(name: str) -> None:
    case = make(name)
    dense, mask = case.dense, case.allowed
    for draw in (
        lambda given, **more: figures.head(given, which=1, batch=1, size=6, **more),
        lambda given, **more: figures.window(given, slice(1, 6), slice(2, 9), which=1, batch=1, **more),
        lambda given, **more: figures.compare(given, given, which=(1, 3), batch=1, scale="linear", **more),
    ):
        (values, blank), (wanted, grey) = image_of(draw(dense, mask=mask)), image_of(draw(case.weights))
        assert close(values, wanted)
        assert np.array_equal(blank, grey)
        assert not image_of(draw(dense))[1].any()  # without a mask nothing is known to be forbidden
    query = dense.shape[2] - 1
    bars = [
        [bar.get_width() for bar in figures.row(given, query, which=1, batch=1, **more).axes[0].patches]
        for given, more in ((dense, {"mask": mask}), (case.weights, {}))
    ]
    assert close(*bars)
    lines = [
        [line.get_ydata() for line in figures.profiles(given, batch=1, **more).axes[0].lines]
        for given, more in ((dense, {"mask": mask}), (case.weights, {}))
    ]
    assert all(np.allclose(a, b, rtol=1e-4, atol=2e-5) for a, b in zip(*lines, strict=True))
