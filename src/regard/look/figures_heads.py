"""The maps of heads: one, with its margins on request, or all of a layer side by side."""

from __future__ import annotations

import math
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
    new_figure,
    norm,
    own_or_given,
    titled,
)
from regard.look.checks import check_tokens
from regard.look.colours import colour
from regard.look.dense import wrapped
from regard.look.figures_labels import label_tokens
from regard.look.figures_source import OneHead, Reduce, most_cells, one_head, sequence
from regard.look.maps import Maps, average, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

#: How a figure says that key 0 was left out.
WITHOUT_FIRST = "without key 0, renormalised"


def head(
    weights: AttentionWeights | Tensor,
    *,
    tokens: Sequence[str] | None = None,
    query_tokens: Sequence[str] | None = None,
    ax: Axes | None = None,
    scale: Scale = "log",
    size: int = 512,
    which: int | None = None,
    batch: int = 0,
    title: str | None = None,
    reduce: Reduce = "mean",
    hide_first: bool = False,
    margins: bool = False,
    mask: Mask | Tensor | None = None,
    width: float = 6.4,
) -> Figure:
    """The map of one head: queries down, keys across, what the mask forbids hatched.

    Example:
        >>> import torch
        >>> from regard.look import figures
        >>> figure = figures.head(torch.full((4, 4), 0.25), tokens=["a", "b", "c", "d"])
        >>> [axes.get_xlabel() for axes in figure.axes][0]
        'key (read from)'

    Args:
        weights: (L, S), or (..., H, L, S) with which.
        tokens: S texts; each labels its row and column when there are at most 40 and the map has room.
        query_tokens: L texts, where the queries are not the last of the keys (cross-attention).
        ax: draw here instead of on a new figure.
        scale: "log" from 0.0001 to 1, the same for every head, or "linear" from 0 to the highest weight.
        size: the most cells along a side; more tokens are pooled, and the colour bar says so.
        which: the head, where weights holds several.
        batch: the sequence, where weights holds several.
        title: a line above the map.
        reduce: what a pooled cell shows: "mean" sums over its keys and averages over its queries, "max" is its largest
            single weight.
        hide_first: leave key 0 out and renormalise each query: w / (1 - w_0), as the colour bar says. Key 0 is then
            grey; a query that reads key 0 alone has nothing left and shows 0.
        margins: draw the weight that each key receives above the map and each query's entropy beside it, both exact
            before they are averaged over the map's cells; with hide_first both are of what is left, renormalised.
        mask: of dense weights, what to hatch: a mask, or booleans that broadcast to them; True = may attend.
        width: inches of a new figure: 3.5 for a column of a paper, 7 for a page.

    Returns:
        The figure.

    Raises:
        ValueError: if weights holds several heads and which is not one of them, is not attention weights, or tokens is
            not one a key.
    """
    shown = one_head(weights, which, batch, mask)
    maps = shown.map(size, reduce, hide_first=hide_first)
    labels = both_axes(tokens, query_tokens, shown)
    tall = box_aspect(shown.query_len, shown.key_len)
    high, slope = (0.85, 0.62 * tall + 0.13) if margins else (0.65, 0.74 * tall)
    figure, ax = own_or_given(ax, width, high, slope=slope)
    highest = float(maps.values[0].nan_to_num(0.0).max())
    image = draw_map(ax, maps, 0, norm(scale, highest))
    name_axes(ax)
    label_tokens(ax, *labels, SMALL)
    cax = _margins(ax, shown, maps, hide_first=hide_first) if margins else None
    said = [WITHOUT_FIRST] if hide_first else []
    colour_bar(figure, image, ax, scale, described(maps, scale, *said, reduce=reduce), cax=cax)
    forbidden = not bool(maps.allowed[0].all())
    above = 1.05 + 0.2 / tall if margins else 1.005
    titled(ax, title, height=above, above_legend=forbidden)
    if forbidden:
        legend_above(ax, [forbidden_patch()], height=above)
    if margins:
        figure.draw_without_rendering()  # the margins grow with the map, which a layout sees only when it runs again
    return figure


def layer(
    weights: AttentionWeights | Tensor,
    *,
    tokens: Sequence[str] | None = None,
    scale: Scale = "log",
    size: int = 256,
    batch: int = 0,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
) -> Figure:
    """The maps of all heads of a layer, side by side on one scale.

    Args:
        weights: (..., H, L, S).
        tokens: S texts, as for `head`; only a layer of few heads has room for them.
        scale: "log" from 0.0001 to 1, or "linear" from 0 to the highest weight of any head.
        size: the most cells along a side of each map.
        batch: the sequence, where weights holds several.
        title: a line above the maps.
        mask: of dense weights, what to hatch: a mask, or booleans that broadcast to them; True = may attend.

    Returns:
        The figure.

    Raises:
        ValueError: if tokens is not one a key.
    """
    maps = pooled(wrapped([weights], ["weights"], mask)[0], most_cells(size), batch=sequence(batch))
    num_heads = maps.values.shape[0]
    cols = min(num_heads, max(3, math.ceil(math.sqrt(num_heads * 1.5))))
    rows = -(-num_heads // cols)
    labels = both_axes(tokens, None, maps)
    figure = new_figure(2.1 * cols + 1.1, 2.15 * rows + 0.45)
    grid = figure.subplots(rows, cols, squeeze=False, sharex=True, sharey=True)
    scaling = norm(scale, float(maps.values.max()))
    image = None
    for number, ax in enumerate(grid.flat):
        if number >= num_heads:
            ax.set_axis_off()
            continue
        image = draw_map(ax, maps, number, scaling)
        ax.set_title(f"head {number}", fontsize=SMALL + 1, loc="left", pad=3)
        if num_heads <= 4:
            label_tokens(ax, *labels, SMALL)
    figure.supxlabel("key (read from)", fontsize=SMALL + 1)
    figure.supylabel("query (reading)", fontsize=SMALL + 1)
    if title:
        figure.suptitle(title, fontsize=SMALL + 2)
    colour_bar(figure, image, grid, scale, described(maps, scale))
    if not bool(maps.allowed.all()):
        figure.legend(handles=[forbidden_patch()], loc="outside lower right", frameon=False, fontsize=SMALL)
    return figure


def both_axes(
    tokens: Any, query_tokens: Any, of: OneHead | Maps
) -> tuple[tuple[str, ...] | None, tuple[str, ...] | None]:
    """The tokens of the queries, which are the last of the keys unless they are given, and of the keys.

    Raises:
        TypeError: if they are no lists of texts.
        ValueError: if they are not one a query, and one a key.
    """
    keys = _texts("tokens", tokens, of.key_len, ("key", "keys"))
    queries = _texts("query_tokens", query_tokens, of.query_len, ("query", "queries"))
    if queries is None and keys is not None and of.query_len <= of.key_len:
        queries = keys[of.key_len - of.query_len :]
    return queries, keys


def _texts(name: str, given: Any, length: int, of: tuple[str, str]) -> tuple[str, ...] | None:
    if given is None:
        return None
    check_tokens(name, given)
    if len(given) != length:
        raise ValueError(f"{name} holds {len(given)} texts, but weights has {length} {of[1]}; expected one a {of[0]}")
    return tuple(given)


def _margins(ax: Axes, shown: OneHead, maps: Maps, *, hide_first: bool) -> Axes:
    """Draws what each key receives above the map and each query's entropy beside it; axes for the colour bar."""
    entropy, received = shown.margins(hide_first=hide_first)
    rows, cols = maps.values.shape[-2:]
    tall = box_aspect(shown.query_len, shown.key_len)
    above, beside = ax.inset_axes((0, 1.03, 1, 0.2 / tall)), ax.inset_axes((1.03, 0, 0.2, 1))
    fill: Any = {"facecolor": _tint(0.34), "edgecolor": _tint(0.62), "linewidth": 0.7}
    above.stairs(average(received, cols).numpy(), _edges(shown.key_len, cols), fill=True, **fill)
    beside.stairs(
        average(entropy, rows).numpy(), _edges(shown.query_len, rows), fill=True, orientation="horizontal", **fill
    )
    above.set(xlim=ax.get_xlim(), ylim=(0, None), ylabel="received")
    beside.set(ylim=ax.get_ylim(), xlim=(0, None), xlabel="entropy\n(nats)")
    above.set_xticks([])
    beside.set_yticks([])
    for margin in (above, beside):
        margin.tick_params(labelsize=SMALL - 1, length=2.0)
        margin.spines[["top", "right"]].set_visible(False)
        # Without the 0, which would stand on the map's own numbers.
        margin.locator_params(axis="y" if margin is above else "x", nbins=2, prune="lower")
        margin.xaxis.label.set_fontsize(SMALL)
        margin.yaxis.label.set_fontsize(SMALL)
        for spine in margin.spines.values():
            spine.set_linewidth(0.6)
    return ax.inset_axes((1.28, 0, 0.035, 1))


def _edges(length: int, count: int) -> list[float]:
    return [cell * length / count - 0.5 for cell in range(count + 1)]


def _tint(share: float) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour(share))
