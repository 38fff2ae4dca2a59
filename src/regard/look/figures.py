"""Figures for papers and notebooks, drawn with matplotlib: each returns its Figure and leaves pyplot alone."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from regard.look.canvas import (
    SMALL,
    Scale,
    colour_bar,
    draw_map,
    forbidden_patch,
    label_tokens,
    new_figure,
    norm,
    own_or_given,
    ramp_patch,
    rendered,
)
from regard.look.files import write_atomically
from regard.look.maps import Maps, mask_cells, pooled
from regard.look.profiles import profiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    from regard import AttentionWeights
    from regard.masks import Mask

__all__ = ["head", "layer", "mask", "positional_encoding", "profiles", "save"]


def head(
    weights: AttentionWeights | Tensor,
    *,
    tokens: Sequence[str] | None = None,
    ax: Axes | None = None,
    scale: Scale = "log",
    size: int = 512,
    which: int | None = None,
    batch: int = 0,
    title: str | None = None,
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
        tokens: S texts; each labels its row and column when there are at most 40.
        ax: draw here instead of on a new figure.
        scale: "log" from 0.0001 to 1, the same for every head, or "linear" from 0 to the highest weight.
        size: the most cells along a side; more tokens are pooled, and the colour bar says so.
        which: the head, where weights holds several.
        batch: the sequence, where weights holds several.
        title: a line above the map.

    Returns:
        The figure.

    Raises:
        ValueError: if weights holds several heads and which is not one of them, or tokens is not one a key.
    """
    maps = pooled(weights, size, batch=batch)
    number = _one_head(which, maps.values.shape[0])
    figure, ax = own_or_given(ax, 6.4, 5.4)
    highest = float(maps.values[number].max())
    image = draw_map(ax, maps, number, norm(scale, highest))
    _name_axes(ax)
    if tokens is not None:
        label_tokens(ax, *_both_axes(tokens, maps))
    if title:
        ax.set_title(title, fontsize=SMALL + 2, loc="left")
    colour_bar(figure, image, ax, maps, scale)
    if not bool(maps.allowed[number].all()):
        _legend_above(ax, [forbidden_patch()])
    return figure


def layer(
    weights: AttentionWeights | Tensor,
    *,
    tokens: Sequence[str] | None = None,
    scale: Scale = "log",
    size: int = 256,
    batch: int = 0,
    title: str | None = None,
) -> Figure:
    """The maps of all heads of a layer, side by side on one scale.

    Args:
        weights: (..., H, L, S).
        tokens: S texts, as for `head`; only a layer of few heads has room for them.
        scale: "log" from 0.0001 to 1, or "linear" from 0 to the highest weight of any head.
        size: the most cells along a side of each map.
        batch: the sequence, where weights holds several.
        title: a line above the maps.

    Returns:
        The figure.

    Raises:
        ValueError: if tokens is not one a key.
    """
    maps = pooled(weights, size, batch=batch)
    num_heads = maps.values.shape[0]
    cols = min(num_heads, max(3, math.ceil(math.sqrt(num_heads * 1.5))))
    rows = -(-num_heads // cols)
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
        if tokens is not None and num_heads <= 4:
            label_tokens(ax, *_both_axes(tokens, maps))
    figure.supxlabel("key (read from)", fontsize=SMALL + 1)
    figure.supylabel("query (reading)", fontsize=SMALL + 1)
    if title:
        figure.suptitle(title, fontsize=SMALL + 2)
    colour_bar(figure, image, grid, maps, scale)
    if not bool(maps.allowed.all()):
        figure.legend(handles=[forbidden_patch()], loc="outside lower right", frameon=False, fontsize=SMALL)
    return figure


def positional_encoding(encoding: Tensor, *, ax: Axes | None = None) -> Figure:
    """The heatmap of a positional encoding.

    Example:
        >>> import torch
        >>> from regard.look import figures
        >>> figures.positional_encoding(torch.zeros(64, 32)).axes[0].get_ylabel()
        'Position in Sequence'

    Args:
        encoding: (length, d_model).
        ax: draw here instead of on a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if encoding does not have two dimensions.
    """
    if encoding.ndim != 2:
        raise ValueError(f"encoding has shape {tuple(encoding.shape)}; expected (length, d_model)")
    figure, ax = own_or_given(ax, 6.4, 4.8)
    image = ax.imshow(encoding.detach().float().cpu().numpy(), cmap="viridis", aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=ax, label="Encoding values")
    ax.set(xlabel="Embedding Dimension", ylabel="Position in Sequence")
    return figure


def mask(mask: Mask | Tensor, query_len: int, key_len: int, *, ax: Axes | None = None, size: int = 512) -> Figure:
    """A mask's picture: queries down, keys across, coloured where a query may attend and hatched where not.

    Args:
        mask: a mask, or booleans (..., L, S) of which the first are shown; True = may attend.
        query_len: L, the queries.
        key_len: S, the keys.
        ax: draw here instead of on a new figure.
        size: the most cells along a side; a cell then shows the share of its pairs that is allowed.

    Returns:
        The figure.

    Raises:
        ValueError: if the tensor's last dimensions are not (query_len, key_len).
    """
    shares = mask_cells(mask, query_len, key_len, size)  # (R, C)
    maps = Maps(shares[None], shares[None] > 0, query_len, key_len)
    figure, ax = own_or_given(ax, 5.2, 5.2)
    # Full cells in the middle of the ramp: there is no weight here, only permission.
    draw_map(ax, maps, 0, norm("linear", 1.0 / 0.6))
    _name_axes(ax)
    patches = [ramp_patch(0.6, "may attend"), forbidden_patch()]
    if maps.cell:
        patches.insert(1, ramp_patch(0.3, f"some may ({maps.cell})"))
    _legend_above(ax, patches)
    return figure


def save(figure: Figure, path: str | os.PathLike[str], *, dpi: float = 200.0) -> Path:
    """Writes a figure whole or not at all, in the format its name ends in.

    Args:
        figure: the figure.
        path: where to, ending in .png, .svg or .pdf.
        dpi: dots an inch, for what is not drawn in lines.

    Returns:
        The path written.

    Raises:
        ValueError: if the name ends otherwise, or the path is a folder.
    """
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"path ends in {Path(path).suffix!r}; expected .png, .svg or .pdf")
    return write_atomically(path, rendered(figure, kind, dpi=dpi))


def _name_axes(ax: Axes) -> None:
    ax.set_xlabel("key (read from)", fontsize=SMALL + 1)
    ax.set_ylabel("query (reading)", fontsize=SMALL + 1)


def _legend_above(ax: Axes, patches: list[Patch]) -> None:
    ax.legend(
        handles=patches,
        loc="lower right",
        bbox_to_anchor=(1.0, 1.005),
        ncols=len(patches),
        frameon=False,
        fontsize=SMALL,
        borderaxespad=0.0,
    )


def _one_head(which: int | None, num_heads: int) -> int:
    if which is None and num_heads == 1:
        return 0
    if which is None or not 0 <= which < num_heads:
        raise ValueError(f"which is {which}, but weights holds {num_heads} head(s); expected 0 to {num_heads - 1}")
    return which


def _both_axes(tokens: Sequence[str], maps: Maps) -> tuple[Sequence[str] | None, Sequence[str]]:
    """The tokens of the queries, which are the last of the keys, and of the keys."""
    if len(tokens) != maps.key_len:
        raise ValueError(f"tokens holds {len(tokens)} texts, but weights has {maps.key_len} keys; expected one a key")
    if maps.query_len > maps.key_len:
        return None, tokens
    return tokens[maps.key_len - maps.query_len :], tokens
