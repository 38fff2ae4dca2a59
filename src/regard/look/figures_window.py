"""A window of the map at full resolution: every pair as it is, with its place in the whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from regard.look.canvas import (
    SMALL,
    Scale,
    box_aspect,
    colour_bar,
    draw_map,
    forbidden_patch,
    hatch,
    legend_above,
    name_axes,
    norm,
    own_or_given,
    titled,
)
from regard.look.colours import colour
from regard.look.figures_heads import WITHOUT_FIRST, both_axes
from regard.look.figures_labels import label_tokens
from regard.look.figures_source import OneHead, one_head
from regard.look.maps import Maps

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

#: The most queries or keys of a window: more pairs than that are no longer told apart.
LARGEST = 512

# Cells along a side of the small map that shows where the window stands.
_LOCATOR = 32


def window(
    weights: AttentionWeights | Tensor,
    queries: slice,
    keys: slice,
    *,
    tokens: Sequence[str] | None = None,
    query_tokens: Sequence[str] | None = None,
    which: int | None = None,
    batch: int = 0,
    scale: Scale = "log",
    hide_first: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
    width: float = 6.4,
) -> Figure:
    """Some queries on some keys, each pair exactly as it is, and where they stand in the whole map.

    Only these entries are computed, at any length.

    Example:
        >>> import torch
        >>> from regard import attention, masks
        >>> from regard.look import figures
        >>> q, k, v = torch.randn(3, 1, 1, 2000, 8)
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> figure = figures.window(weights, slice(1000, 1020), slice(990, 1020))
        >>> figure.axes[0].get_xlabel()
        'key (read from), 990–1,019 of 2,000'

    Args:
        weights: (L, S), or (..., H, L, S) with which.
        queries: which queries, a slice of step 1.
        keys: which keys, a slice of step 1.
        tokens: S texts; those of the window label it where there is room.
        query_tokens: L texts, where the queries are not the last of the keys.
        which: the head, where weights holds several.
        batch: the sequence, where weights holds several.
        scale: "log" from 0.0001 to 1, or "linear" from 0 to the highest weight of the window.
        hide_first: leave key 0 out and renormalise each query: w / (1 - w_0), as the colour bar says.
        ax: draw here instead of on a new figure.
        title: a line above the map.
        mask: of dense weights, what to hatch: a mask, or booleans that broadcast to them; True = may attend.
        width: inches of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if a slice is empty, has a step or holds more than 512, or as for `head`.
    """
    shown = one_head(weights, which, batch, mask)
    rows = _part("queries", queries, shown.query_len)
    cols = _part("keys", keys, shown.key_len)
    query_tokens, key_tokens = both_axes(tokens, query_tokens, shown)
    values = shown.block(rows, cols, hide_first=hide_first)  # (r, c)
    if hide_first and cols.start == 0:
        values[:, 0] = float("nan")
    maps = Maps(values[None].float(), shown.allowed(rows, cols)[None], *values.shape)
    figure, ax = own_or_given(ax, width, 0.65, slope=0.74 * box_aspect(*values.shape))
    start = (rows.start, cols.start)
    image = draw_map(ax, maps, 0, norm(scale, float(values.nan_to_num(0.0).max())), start=start)
    name_axes(
        ax,
        query=f"query (reading), {_span(rows)} of {shown.query_len:,}",
        key=f"key (read from), {_span(cols)} of {shown.key_len:,}",
    )
    label_tokens(ax, query_tokens and query_tokens[rows], key_tokens and key_tokens[cols], SMALL)
    bar = _locate(ax, shown, rows, cols)
    lines = [f"attention weight, exact, {scale} scale", *([WITHOUT_FIRST] if hide_first else [])]
    colour_bar(figure, image, ax, scale, lines, cax=bar)
    forbidden = not bool(maps.allowed.all())
    if forbidden:
        legend_above(ax, [forbidden_patch()])
    titled(ax, title, above_legend=forbidden)
    return figure


def _part(name: str, part: slice, length: int) -> slice:
    """A slice with both ends, checked."""
    if not isinstance(part, slice):
        raise TypeError(f"{name} is {part!r}; expected a slice, as slice(100, 140)")
    start, stop, step = part.indices(length)
    if step != 1:
        raise ValueError(f"{name} has a step of {step}; a window is made of neighbours, expected a step of 1")
    if start >= stop:
        raise ValueError(f"{name} is {part}, which holds none of {length:,} {name}; expected start < stop <= {length}")
    if stop - start > LARGEST:
        raise ValueError(
            f"{name} holds {stop - start:,} of {length:,}; a window shows at most {LARGEST}: use figures.head for more"
        )
    return slice(start, stop)


def _span(part: slice) -> str:
    return f"{part.start:,}" if part.stop - part.start == 1 else f"{part.start:,}\N{EN DASH}{part.stop - 1:,}"


def _locate(ax: Axes, shown: OneHead, rows: slice, cols: slice) -> Axes:
    """Draws the outline of the whole map with the window in it beside the map; axes for the colour bar below it."""
    from matplotlib.patches import Rectangle

    flat = box_aspect(rows.stop - rows.start, cols.stop - cols.start)  # the map's height for a width of 1
    tall = box_aspect(shown.query_len, shown.key_len)
    wide = 0.19 * min(1.0, 1.0 / tall, flat / tall)
    small: Any = ax.inset_axes((1.035, 1 - wide * tall / flat, wide, wide * tall / flat))
    small.set(xlim=(-0.5, shown.key_len - 0.5), ylim=(shown.query_len - 0.5, -0.5), xticks=[], yticks=[])
    if shown.mask is not None:
        cells = min(_LOCATOR, shown.query_len), min(_LOCATOR, shown.key_len)
        hatch(small, shown.forbidden_cells(*cells), shown.query_len, shown.key_len)
    small.set_facecolor("white")
    edge = tuple(channel / 255 for channel in colour(0.7))
    # A window of few tokens among many would be too small to see.
    least = 0.08 * shown.key_len, 0.08 * shown.query_len
    across, down = max(cols.stop - cols.start, least[0]), max(rows.stop - rows.start, least[1])
    middle = (cols.start + cols.stop - 1) / 2, (rows.start + rows.stop - 1) / 2
    small.add_patch(
        Rectangle((middle[0] - across / 2, middle[1] - down / 2), across, down, facecolor=edge, edgecolor="none")
    )
    for spine in small.spines.values():
        spine.set_linewidth(0.6)
    return ax.inset_axes((1.035, 0, 0.035, 1 - wide * tall / flat - 0.06 / flat))
