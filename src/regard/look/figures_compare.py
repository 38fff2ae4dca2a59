"""Two heads, runs or models on one map of differences."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regard.look.canvas import (
    SMALL,
    Scale,
    box_aspect,
    colour_bar,
    described,
    draw_map,
    forbidden_patch,
    legend_above,
    name_axes,
    own_or_given,
    signed_map,
    signed_norm,
    titled,
)
from regard.look.figures_heads import WITHOUT_FIRST, both_axes
from regard.look.figures_labels import label_tokens
from regard.look.figures_source import Reduce, one_head
from regard.look.maps import Maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask


def compare(
    a: AttentionWeights | Tensor,
    b: AttentionWeights | Tensor,
    *,
    which: int | tuple[int, int] | None = None,
    names: tuple[str, str] = ("A", "B"),
    tokens: Sequence[str] | None = None,
    query_tokens: Sequence[str] | None = None,
    batch: int | tuple[int, int] = 0,
    scale: Scale = "log",
    size: int = 512,
    reduce: Reduce = "mean",
    hide_first: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
    width: float = 6.4,
) -> Figure:
    """The map of A - B on a signed scale: where one gives more weight than the other, the same colour depth each way.

    Example:
        >>> import torch
        >>> from regard.look import figures
        >>> figure = figures.compare(torch.eye(4), torch.full((4, 4), 0.25), names=("identity", "even"))
        >>> figure.axes[0].images[0].get_clim()
        (-1.0, 1.0)

    Args:
        a: (L, S), or (..., H, L, S) with which.
        b: of the same L and S, query by query and key by key the same tokens.
        which: the head, where a or b holds several; two of them, (2, 5), for one of a and another of b.
        names: what a and b are called in the colour bar.
        tokens: S texts; each labels its row and column when there are at most 40 and the map has room.
        query_tokens: L texts, where the queries are not the last of the keys.
        batch: the sequence, or that of a and that of b.
        scale: "log" up to 1 each way, linear within 0.001 of 0; or "linear" up to the largest difference.
        size: the most cells along a side; more tokens are pooled, and the colour bar says so.
        reduce: what a cell compares: "mean" the summed weights, "max" the largest single ones.
        hide_first: leave key 0 out of both and renormalise each query, as the colour bar says.
        ax: draw here instead of on a new figure.
        title: a line above the map.
        mask: of dense weights, what to hatch: a mask, or booleans that broadcast to them; True = may attend.
        width: inches of a new figure.

    Returns:
        The figure. What neither may attend to is hatched; what only one of them may counts as 0 in the other.

    Raises:
        ValueError: if a and b differ in L or S, or as for `head`.
    """
    heads = _both("which", which, "a head, or two of them, for a and for b")
    sequences = _both("batch", batch, "a sequence, or two of them, for a and for b")
    if not isinstance(names, tuple | list) or [isinstance(name, str) for name in names] != [True, True]:
        raise TypeError(f"names is {names!r}; expected two texts, what a and b are called")
    known = hasattr(a, "ask"), hasattr(b, "ask")  # these have masks of their own; where both do, none is to be given
    left = one_head(a, _of(a, heads[0], which), sequences[0], None if known == (True, False) else mask, name="a")
    right = one_head(b, _of(b, heads[1], which), sequences[1], None if known[1] else mask, name="b")
    if (left.query_len, left.key_len) != (right.query_len, right.key_len):
        raise ValueError(
            f"a has {left.query_len:,} queries and {left.key_len:,} keys, b {right.query_len:,} and "
            f"{right.key_len:,}; a difference is taken pair by pair: compare the same tokens, or cut both to the part "
            "that they share"
        )
    one, other = (shown.map(size, reduce, hide_first=hide_first) for shown in (left, right))
    maps = Maps(one.values - other.values, one.allowed | other.allowed, left.query_len, left.key_len)
    labels = both_axes(tokens, query_tokens, left)
    figure, ax = own_or_given(ax, width, 0.65, slope=0.74 * box_aspect(left.query_len, left.key_len))
    scaling = signed_norm(scale, float(maps.values.nan_to_num(0.0).abs().max()))
    image = draw_map(ax, maps, 0, scaling, colours=signed_map())
    name_axes(ax)
    label_tokens(ax, *labels, SMALL)
    lines = described(maps, scale, *([WITHOUT_FIRST] if hide_first else []), reduce=reduce)
    difference = f"{names[0]} \N{MINUS SIGN} {names[1]}".replace(" ", "\N{NO-BREAK SPACE}")
    lines[0] = f"attention weight, {difference}, {scale} scale"
    bar = colour_bar(figure, image, ax, "linear", lines)
    bar.ax.yaxis.label.set_parse_math(False)
    if scale == "log":
        marks = [-1, -0.1, -0.01, 0, 0.01, 0.1, 1]
        bar.set_ticks(marks, labels=[f"{mark:g}".replace("-", "\N{MINUS SIGN}") for mark in marks])
        bar.minorticks_off()
    forbidden = not bool(maps.allowed.all())
    titled(ax, title, above_legend=forbidden)
    if forbidden:
        legend_above(ax, [forbidden_patch()])
    return figure


def _both(name: str, given: Any, expected: str) -> tuple[Any, Any]:
    """One value for both, or one for each."""
    if not isinstance(given, tuple):
        return given, given
    if len(given) != 2:
        raise ValueError(f"{name} is {given!r}; expected {expected}")
    return given


def _of(weights: Any, head: int | None, which: int | tuple[int, int] | None) -> int | None:
    """The head of one of the two: a number given for both is not meant for weights of one map, (L, S)."""
    return None if getattr(weights, "ndim", None) == 2 and not isinstance(which, tuple) else head
