"""All heads of all layers at a glance: as small maps, or as one heat of a score."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.canvas import (
    SMALL,
    Scale,
    colour_bar,
    colour_map,
    described,
    forbidden_patch,
    hatch_outlines,
    legend_above,
    norm,
    outlines_of,
    own_or_given,
    titled,
)
from regard.look.colours import FORBIDDEN_FILL
from regard.look.dense import layered
from regard.look.figures_heads import WITHOUT_FIRST
from regard.look.figures_source import most_cells, one_head, sequence
from regard.look.heads import SCORES, HeadTable, head_table
from regard.look.maps import Maps, pooled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

# Cells between two thumbnails, as a share of their side.
_GAP = 0.14

_NAMES = {
    "entropy": "mean entropy (nats)",
    "previous_token": "mean weight on the previous token",
    "first_token": "mean weight on the first token",
    "induction": "induction: mean weight on what followed before",
    "induction_chance": "induction of an even spread",
    "distance": "mean distance (tokens)",
    "concentration": "share of all weight on the most read key",
}

# What the caption of a tile takes of its height.
_CAPTION = 0.2

Place = tuple[int, int]  # the row and column of a tile


def overview(
    weights: Sequence[AttentionWeights | Tensor] | AttentionWeights | Tensor,
    *,
    by: str | None = None,
    sort: str | None = None,
    tokens: Sequence[str] | None = None,
    token_ids: Tensor | Sequence[int] | None = None,
    batch: int = 0,
    scale: Scale = "log",
    size: int = 32,
    ax: Axes | None = None,
    title: str | None = None,
    hide_first: bool = False,
    mask: Mask | Tensor | None = None,
    width: float = 7.0,
) -> Figure:
    """All heads of all layers: a small map each, or with by= one heat of a score, each cell with its number.

    Example:
        >>> import torch
        >>> from regard import attention, masks
        >>> from regard.look import figures
        >>> q, k, v = torch.randn(3, 1, 4, 16, 8)
        >>> layers = [attention(q, k, v, masks.causal())[1], attention(k, q, v, masks.causal())[1]]
        >>> figures.overview(layers, by="entropy").axes[0].images[0].get_array().shape
        (2, 4)

    Args:
        weights: one a layer, each (B, H, L, S), (H, L, S) or (L, S).
        by: a score of `regard.look.HeadScores` to colour by: "entropy", "previous_token", "first_token", "induction",
            "distance" or "concentration"; None for small maps.
        sort: a score to put the most telling heads first by, reading like text; each tile then carries its layer and
            head as "3.7". None for layers down and heads across.
        tokens: S texts, which tell repeated tokens for "induction".
        token_ids: (S,) integers that tell them better.
        batch: the sequence, where weights holds several.
        scale: of the small maps, "log" from 0.0001 to 1, or "linear" from 0 to the highest weight of any.
        size: cells along a side of a small map.
        ax: draw here instead of on a new figure.
        title: a line above.
        hide_first: leave key 0 out and renormalise each query: w / (1 - w_0), in maps, scores and order, as the colour
            bar says. A query that has nothing left is in no score; concentration is of what the other keys receive.
        mask: of dense weights, what to hatch: a mask, or booleans that broadcast to them; True = may attend.
        width: inches of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if weights is empty, or there is no such score, or it needs tokens that are not given.
    """
    layers, size, batch = layered(weights, mask), most_cells(size), sequence(batch)
    for name, score in (("by", by), ("sort", sort)):
        if score is not None and score not in SCORES:
            raise ValueError(f"{name} is {score!r}; expected one of {', '.join(map(repr, SCORES))}")
    table = None
    if by is not None or sort is not None:
        table = head_table(layers, tokens=tokens, token_ids=token_ids, batch=batch, hide_first=hide_first)
        for name, score in (("by", by), ("sort", sort)):
            _check_score(table, name, score, hide_first=hide_first)
    places, order = _arrange(layers, table, sort)
    rows, cols = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    labels = [f"{layer}.{head}" if sort else "" for layer, head in order]
    caption = _CAPTION if by is None and sort else 0.0
    tall = rows / cols * (1 - _GAP) / (1 - _GAP - caption)  # so that the tiles under their captions are squares
    figure, ax = own_or_given(ax, width, 0.75, slope=0.8 * tall)
    if by is None:
        maps = [_maps(layer, size, batch, hide_first=hide_first) for layer in layers]
        said = [WITHOUT_FIRST] if hide_first else []
        _thumbnails(figure, ax, maps, places, order, labels, scale=scale, said=said)
    else:
        assert table is not None
        found = {(scores.layer, scores.head): float(getattr(scores, by)) for scores in table.heads}
        told = "of all other keys" if by == "concentration" else WITHOUT_FIRST
        lines = [_NAMES[by], *([told] if hide_first else [])]
        _heat(figure, ax, [found[each] for each in order], places, labels, lines)
    ax.set_box_aspect(tall)
    if sort:
        first = "lowest" if sort == "entropy" else "highest"
        told = f"layer.head, {sort.replace('_', ' ')}, {first} first"
        ax.set_xlabel(told, fontsize=SMALL + 1)
    else:
        ax.set_xlabel("head", fontsize=SMALL + 1)
        ax.set_ylabel("layer", fontsize=SMALL + 1)
    ax.tick_params(labelsize=SMALL, length=0)
    ax.spines[:].set_visible(False)
    titled(ax, title, above_legend=ax.get_legend() is not None)
    return figure


def _check_score(table: HeadTable, name: str, score: str | None, *, hide_first: bool) -> None:
    if score is not None and all(math.isnan(getattr(scores, score)) for scores in table.heads):
        if hide_first and score == "first_token":
            raise ValueError(f"{name} is 'first_token', which hide_first=True leaves out; pick another score")
        fix = "; give tokens= or token_ids=, and square weights" if score.startswith("induction") else ""
        raise ValueError(f"{name} is {score!r}, which no head has here{fix}")


def _arrange(layers: Sequence[Any], table: HeadTable | None, sort: str | None) -> tuple[list[Place], list[Place]]:
    """Where each tile stands, and the (layer, head) of each."""
    counts = [int(layer.shape[-3]) if layer.ndim > 2 else 1 for layer in layers]
    if sort is None or table is None:
        order = [(layer, head) for layer, count in enumerate(counts) for head in range(count)]
        return order, order
    order = [(scores.layer, scores.head) for scores in table.sort(sort).heads]
    cols = max(*counts, math.ceil(math.sqrt(len(order))))
    return [divmod(place, cols) for place in range(len(order))], order


def _maps(layer: Any, size: int, batch: int, *, hide_first: bool) -> Maps:
    """The small maps of a layer."""
    if not hide_first:
        return pooled(layer, size, batch=batch)
    heads = range(int(layer.shape[-3]) if layer.ndim > 2 else 1)
    found = [one_head(layer, head, batch).map(size, hide_first=True) for head in heads]
    values, allowed = (torch.cat([getattr(each, name) for each in found]) for name in ("values", "allowed"))
    return replace(found[0], values=values, allowed=allowed)


def _thumbnails(
    figure: Figure,
    ax: Axes,
    found: Sequence[Maps],
    places: Sequence[Place],
    order: Sequence[Place],
    labels: Sequence[str],
    *,
    scale: Scale,
    said: Sequence[str],
) -> None:
    """Small maps on one grid of axes, a unit each."""
    highest = max(float(maps.values.nan_to_num(0.0).max()) for maps in found)
    scaling, forbidden = norm(scale, highest), False
    outlines: list[list[tuple[float, float]]] = []
    image: Any = None
    caption = _CAPTION if any(labels) else 0.0
    for (row, col), (layer, head), label in zip(places, order, labels, strict=True):
        maps = found[layer]
        left, top = col - 0.5 + _GAP / 2, row - 0.5 + _GAP / 2 + caption
        right, bottom = col + 0.5 - _GAP / 2, row + 0.5 - _GAP / 2
        values, allowed = maps.values[head], maps.allowed[head]
        image = ax.imshow(
            values.masked_fill(~allowed, math.nan).numpy(),
            cmap=colour_map(),
            norm=scaling,
            interpolation="nearest",
            aspect="auto",
            extent=(left, right, bottom, top),
        )
        down, across = (bottom - top) / values.shape[0], (right - left) / values.shape[1]
        outlines += [[(left + x * across, top + y * down) for x, y in each] for each in outlines_of(~allowed)]
        forbidden = forbidden or not bool(allowed.all())
        ax.add_patch(_frame(left, top, right, bottom))
        if label:
            ax.text(left, top - 0.02, label, fontsize=_fitting(ax, places, 4), va="bottom")
    hatch_outlines(ax, outlines)
    _ticks(ax, places, sorted_=any(labels))
    lines = {tuple(described(maps, scale, *said)) for maps in found}
    mixed = [f"attention weight, {scale} scale", "(cells of several sizes, summed over their keys)", *said]
    colour_bar(figure, image, ax, scale, lines.pop() if len(lines) == 1 else mixed)
    if forbidden:
        legend_above(ax, [forbidden_patch()])


def _frame(left: float, top: float, right: float, bottom: float) -> Any:
    from matplotlib.patches import Rectangle

    # The fill shows wherever the image has no value.
    return Rectangle(
        (left, top),
        right - left,
        bottom - top,
        facecolor=FORBIDDEN_FILL[0],
        edgecolor="#6d7278",
        linewidth=0.5,
        zorder=-1,
    )


def _heat(
    figure: Figure,
    ax: Axes,
    values: Sequence[float],
    places: Sequence[Place],
    labels: Sequence[str],
    lines: Sequence[str],
) -> None:
    """One image of a score, the numbers in its cells."""
    rows, cols = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    cells = torch.full((rows, cols), math.nan, dtype=torch.float64)
    for (row, col), value in zip(places, values, strict=True):
        cells[row, col] = value
    scaling = norm("linear", float(cells.nan_to_num(0.0).max()))
    image = ax.imshow(cells.numpy(), cmap=colour_map(), norm=scaling, interpolation="nearest", aspect="auto")
    ax.set_xticks([col - 0.5 for col in range(1, cols)], minor=True)
    ax.set_yticks([row - 0.5 for row in range(1, rows)], minor=True)
    ax.grid(which="minor", color="white", linewidth=1.0)
    ax.tick_params(which="minor", length=0)
    written = [f"{value:.2f}" if value < 100 else f"{value:,.0f}" for value in values]
    font = _fitting(ax, places, max(*map(len, written), *map(len, labels)))
    for (row, col), value, number, label in zip(places, values, written, labels, strict=True):
        if font < 4.5 or math.isnan(value):
            continue
        ink = "white" if float(scaling(value)) > 0.47 else "#15171c"
        ax.text(col, row, f"{label}\n{number}" if label else number, ha="center", va="center", fontsize=font, color=ink)
    _ticks(ax, places, sorted_=any(labels))
    colour_bar(figure, image, ax, "linear", lines)


def _ticks(ax: Axes, places: Sequence[Place], *, sorted_: bool) -> None:
    """The numbers of the heads and the layers, every so many where there are many."""
    rows, cols = (max(place[axis] for place in places) + 1 for axis in (0, 1))
    ax.set_xlim(-0.5, cols - 0.5)
    ax.set_ylim(rows - 0.5, -0.5)
    ax.set_xticks([] if sorted_ else range(0, cols, -(-cols // 24)))
    ax.set_yticks([] if sorted_ else range(0, rows, -(-rows // 24)))


def _fitting(ax: Axes, places: Sequence[Place], characters: int) -> float:
    """The size of text of so many characters that fits a tile."""
    cols = max(place[1] for place in places) + 1
    inches = ax.get_window_extent().width / ax.figure.dpi / cols
    return min(SMALL, 72 * inches * (1 - _GAP) / (0.64 * characters))
