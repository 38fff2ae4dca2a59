"""What the figures are drawn with: a figure of one's own, the scales, the hatching, the labels.

Nothing here touches pyplot: no global figure, no backend chosen, no rcParams changed.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor

from regard.look.colours import FORBIDDEN_FILL, FORBIDDEN_LINE, LOG_FLOOR, colour, ramp
from regard.look.maps import Maps
from regard.look.wording import visible

try:
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap, LogNorm, Normalize
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, findfont, get_font
    from matplotlib.patches import Patch, PathPatch
    from matplotlib.path import Path
except ImportError as error:
    raise ImportError("figures need matplotlib, which is not installed: pip install 'regard[look]'") from error

Scale = Literal["log", "linear"]

#: Up to this many tokens along an axis, each is labelled with its text.
LABELLED_TOKENS = 40

SMALL = 8.0
_HATCH = "/////"


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook whether or not pyplot was imported."""

    def _repr_png_(self) -> bytes:
        return rendered(self, "png", dpi=110)


def rendered(figure: Figure, kind: str, *, dpi: float = 200.0) -> bytes:
    """The figure as the bytes of a file of this kind."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=dpi)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, with a canvas that needs no display."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def own_or_given(ax: Axes | None, width: float, height: float) -> tuple[Figure, Axes]:
    """The axes to draw on: those given, or those of a new figure."""
    if ax is None:
        figure = new_figure(width, height)
        return figure, figure.subplots()
    figure_of: Any = ax.figure
    while not isinstance(figure_of, Figure):  # axes of a subfigure
        figure_of = figure_of.figure
    return figure_of, ax


@lru_cache(maxsize=1)
def colour_map() -> ListedColormap:
    """The ramp of weights for matplotlib."""
    return ListedColormap([[channel / 255 for channel in colour] for colour in ramp()], name="regard")


def norm(scale: Scale, highest: float) -> Normalize:
    """How values become colours: the logarithm from LOG_FLOOR to 1, or linear from 0 to the highest."""
    if scale not in ("log", "linear"):
        raise ValueError(f"scale is {scale!r}; expected 'log' or 'linear'")
    if scale == "log":
        return LogNorm(LOG_FLOOR, 1.0, clip=True)
    return Normalize(0.0, highest if highest > 0 else 1.0, clip=True)


def draw_map(ax: Axes, maps: Maps, which: int, scale: Normalize) -> Any:
    """One head's cells on axes that count tokens, what is not allowed hatched; the image."""
    values, allowed = maps.values[which], maps.allowed[which]
    image = ax.imshow(
        values.masked_fill(~allowed, float("nan")).numpy(),
        cmap=colour_map(),
        norm=scale,
        interpolation="nearest",
        aspect="auto",
        extent=(-0.5, maps.key_len - 0.5, maps.query_len - 0.5, -0.5),
    )
    ax.set_box_aspect(1.0 if maps.query_len == maps.key_len else min(max(maps.query_len / maps.key_len, 0.25), 2.0))
    hatch(ax, ~allowed, maps.query_len, maps.key_len)
    ax.tick_params(labelsize=SMALL, length=2.5)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)
    return image


def hatch(ax: Axes, cells: Tensor, query_len: int, key_len: int) -> None:
    """Hatches cells of a map, so that "not allowed" cannot be taken for "zero"."""
    ax.set_facecolor(FORBIDDEN_FILL[0])
    vertices: list[tuple[float, float]] = []
    rows, cols = cells.shape
    for row in range(rows):
        top, bottom = row * query_len / rows - 0.5, (row + 1) * query_len / rows - 0.5
        for start, stop in _runs(cells[row].tolist()):
            left, right = start * key_len / cols - 0.5, stop * key_len / cols - 0.5
            vertices += [(left, top), (right, top), (right, bottom), (left, bottom), (left, top)]
    if vertices:
        # One path for all of them: the lines run through from row to row, and the file holds one object.
        codes = [Path.MOVETO, Path.LINETO, Path.LINETO, Path.LINETO, Path.CLOSEPOLY] * (len(vertices) // 5)
        ax.add_patch(
            PathPatch(Path(vertices, codes), facecolor="none", edgecolor=FORBIDDEN_LINE[0], hatch=_HATCH, linewidth=0)
        )


def ramp_patch(share: float, label: str) -> Patch:
    """The legend's entry for a place on the ramp."""
    return Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour(share)), label=label)


def forbidden_patch(label: str = "may not attend") -> Patch:
    """The legend's entry for hatched cells."""
    return Patch(facecolor=FORBIDDEN_FILL[0], edgecolor=FORBIDDEN_LINE[0], hatch=_HATCH, linewidth=0, label=label)


def colour_bar(figure: Figure, image: Any, axes: Any, maps: Maps, scale: Scale) -> None:
    """The colour bar of a map, with what a value is and its scale."""
    of = f"attention weight, {scale} scale"
    bar = figure.colorbar(image, ax=axes, extend="min" if scale == "log" else "neither", aspect=30, pad=0.02)
    bar.set_label(f"{of}\n({maps.cell}, summed over its keys)" if maps.cell else of, fontsize=SMALL + 1)
    bar.ax.tick_params(labelsize=SMALL, length=2.5)
    bar.outline.set_linewidth(0.6)


def label_tokens(ax: Axes, query_tokens: Sequence[str] | None, key_tokens: Sequence[str] | None) -> None:
    """Puts the tokens on the axes where there is room for each."""
    if query_tokens is not None and len(query_tokens) <= LABELLED_TOKENS:
        ax.set_yticks(range(len(query_tokens)), labels=[_label(token) for token in query_tokens])
    if key_tokens is not None and len(key_tokens) <= LABELLED_TOKENS:
        ax.set_xticks(range(len(key_tokens)), labels=[_label(token) for token in key_tokens], rotation=90)
    for text in (*ax.get_xticklabels(), *ax.get_yticklabels()):
        text.set_parse_math(False)  # a token may hold dollar signs
        text.set_fontfamily("monospace" if text.get_text() else "sans-serif")


def _label(token: str) -> str:
    """A token in characters that the figure's font has; matplotlib would warn about each of the others."""
    return "".join(character if _has_glyph(character) else "□" for character in visible(token, 12))


@lru_cache(maxsize=4096)
def _has_glyph(character: str) -> bool:
    font = get_font(findfont(FontProperties(family="monospace")))
    return bool(font.get_char_index(ord(character)))


def _runs(flags: Sequence[bool]) -> list[tuple[int, int]]:
    """The stretches of True as (start, stop)."""
    runs, start = [], None
    for at, flag in enumerate((*flags, False)):
        if flag and start is None:
            start = at
        elif not flag and start is not None:
            runs.append((start, at))
            start = None
    return runs
