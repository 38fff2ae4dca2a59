"""Figures for papers and notebooks, drawn with matplotlib: each returns its Figure and leaves pyplot alone."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.look.canvas import (
    draw_map,
    forbidden_patch,
    legend_above,
    name_axes,
    norm,
    own_or_given,
    ramp_patch,
    rendered,
)
from regard.look.checks import encoding_table, mask_of, positive, whole
from regard.look.figures_compare import compare
from regard.look.figures_heads import head, layer
from regard.look.figures_overview import overview
from regard.look.figures_row import row
from regard.look.figures_source import most_cells
from regard.look.figures_text import text
from regard.look.figures_window import window
from regard.look.files import write_atomically
from regard.look.maps import Maps, mask_cells
from regard.look.profiles import profiles

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "compare",
    "head",
    "layer",
    "mask",
    "overview",
    "positional_encoding",
    "profiles",
    "row",
    "save",
    "text",
    "window",
]


def positional_encoding(encoding: Any, *, ax: Axes | None = None) -> Figure:
    """The heatmap of a positional encoding.

    Example:
        >>> import torch
        >>> from regard.look import figures
        >>> figures.positional_encoding(torch.zeros(64, 32)).axes[0].get_ylabel()
        'Position in Sequence'

    Args:
        encoding: (L, D), (1, L, D) or (L, 1, D), a tensor or an array; or a module that holds one such table.
        ax: draw here instead of on a new figure.

    Returns:
        The figure.

    Raises:
        TypeError: if encoding is none of these.
        ValueError: if it has another shape, holds nothing, or NaN or infinities.
    """
    values = encoding_table(encoding)  # (L, D)
    figure, ax = own_or_given(ax, 6.4, 4.8)
    image = ax.imshow(values.numpy(), cmap="viridis", aspect="auto", interpolation="nearest")
    figure.colorbar(image, ax=ax, label="Encoding values")
    ax.set(xlabel="Embedding Dimension", ylabel="Position in Sequence")
    return figure


def mask(mask: Any, query_len: int, key_len: int, *, ax: Axes | None = None, size: int = 512) -> Figure:
    """A mask's picture: queries down, keys across, coloured where a query may attend and hatched where not.

    Args:
        mask: a mask, or booleans (..., L, S), a tensor or an array, of which the first are shown; True = may attend.
        query_len: L, the queries.
        key_len: S, the keys.
        ax: draw here instead of on a new figure.
        size: the most cells along a side; a cell then shows the share of its pairs that is allowed.

    Returns:
        The figure.

    Raises:
        TypeError: if mask is neither, or a number is no integer.
        ValueError: if the booleans' last dimensions are not (query_len, key_len), or a number is below 1.
    """
    query_len = whole("query_len", query_len, "the number of queries, at least 1", least=1)
    key_len = whole("key_len", key_len, "the number of keys, at least 1", least=1)
    shares = mask_cells(mask_of(mask), query_len, key_len, most_cells(size))  # (R, C)
    maps = Maps(shares[None], shares[None] > 0, query_len, key_len)
    figure, ax = own_or_given(ax, 5.2, 5.2)
    # Full cells in the middle of the ramp: there is no weight here, only permission.
    draw_map(ax, maps, 0, norm("linear", 1.0 / 0.6))
    name_axes(ax)
    patches = [ramp_patch(0.6, "may attend"), forbidden_patch()]
    if maps.cell:
        patches.insert(1, ramp_patch(0.3, f"some may ({maps.cell})"))
    legend_above(ax, patches)
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
        TypeError: if figure is none.
        ValueError: if the name ends otherwise, the path is a folder, or dpi is not above 0.
    """
    if not callable(getattr(figure, "savefig", None)):
        raise TypeError(f"figure is of type {type(figure).__name__}; expected a matplotlib Figure, and then the path")
    dpi = positive("dpi", dpi, "dots an inch, above 0")
    kind = Path(path).suffix.lower().removeprefix(".")
    if kind not in ("png", "svg", "pdf"):
        raise ValueError(f"path ends in {Path(path).suffix!r}; expected .png, .svg or .pdf")
    return write_atomically(path, rendered(figure, kind, dpi=dpi))
