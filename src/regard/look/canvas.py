"""What the figures are drawn with: a figure of one's own, the scales, the hatching, the labels.

Nothing here touches pyplot: no global figure, no backend chosen, no rcParams changed.
"""

from __future__ import annotations

import io
import reprlib
import textwrap
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from typing import Any, Literal

from torch import Tensor

from regard.look.checks import positive
from regard.look.colours import FORBIDDEN_FILL, FORBIDDEN_LINE, LOG_FLOOR, RGB, colour, ramp, signed_ramp
from regard.look.maps import Maps

try:
    import matplotlib
    from matplotlib.axes import Axes
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.colors import ListedColormap, LogNorm, Normalize, SymLogNorm
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch, PathPatch
    from matplotlib.path import Path
except ImportError as error:
    raise ImportError("figures need matplotlib, which is not installed: pip install 'regard[look]'") from error

Scale = Literal["log", "linear"]

#: Points of the numbers and of small print; labels are one larger, titles two.
SMALL = 8.0
_HATCH = "/////"


class Picture(Figure):
    """A matplotlib figure that shows itself in a notebook whether or not pyplot was imported.

    Attributes:
        page: what a notebook shows instead, as HTML that is made when it is shown; None for the figure itself.
    """

    page: Callable[[], str] | None = None

    def _repr_png_(self) -> bytes:
        return rendered(self, "png", dpi=110)

    def _repr_html_(self) -> str | None:
        return None if self.page is None else self.page()


def rendered(figure: Figure, kind: str, *, dpi: float = 200.0) -> bytes:
    """The figure as the bytes of a file of this kind, without a date: what is drawn alike is written alike.

    Text stays text: TrueType in PDF, so that publishers take it and it can be searched, and <text> in SVG.
    """
    buffer = io.BytesIO()
    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    # matplotlib reads these when it writes, from nowhere else; they are put back.
    settings: Any = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "none", "svg.hashsalt": "regard"}
    with matplotlib.rc_context(settings):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


def new_figure(width: float, height: float) -> Figure:
    """An empty figure in inches, with a canvas that needs no display."""
    figure = Picture(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def own_or_given(ax: Axes | None, width: float, height: float, *, slope: float = 0.0) -> tuple[Figure, Axes]:
    """The axes to draw on: those given, or those of a new figure.

    Args:
        ax: the axes, or None.
        width: inches of a new figure.
        height: its inches, besides what grows with the width.
        slope: what it is higher for an inch of width.

    Raises:
        TypeError: if ax is no axes, or width no number.
        ValueError: if width is not above 0.
    """
    if ax is None:
        width = checked_width(width)
        figure = new_figure(width, height + slope * width)
        return figure, figure.subplots()
    if not isinstance(ax, Axes):
        raise TypeError(f"ax is {reprlib.repr(ax)}; expected one matplotlib Axes, as figure.subplots() gives, or None")
    figure_of: Any = ax.figure
    while not isinstance(figure_of, Figure):  # axes of a subfigure
        figure_of = figure_of.figure
    return figure_of, ax


def checked_width(width: Any) -> float:
    """The width of a new figure, in inches."""
    return positive("width", width, "inches above 0, such as 3.5 for a column of a paper")


@lru_cache(maxsize=1)
def colour_map() -> ListedColormap:
    """The ramp of weights for matplotlib."""
    return _listed(ramp(), "regard")


@lru_cache(maxsize=1)
def signed_map() -> ListedColormap:
    """The ramp of differences for matplotlib, no difference in the middle."""
    return _listed(signed_ramp(), "regard_signed")


def _listed(colours: Sequence[RGB], name: str) -> ListedColormap:
    return ListedColormap([[channel / 255 for channel in each] for each in colours], name=name)


def norm(scale: Scale, highest: float) -> Normalize:
    """How values become colours: the logarithm from LOG_FLOOR to 1, or linear from 0 to the highest."""
    _check_scale(scale)
    if scale == "log":
        return LogNorm(LOG_FLOOR, 1.0, clip=True)
    return Normalize(0.0, highest if highest > 0 else 1.0, clip=True)


def signed_norm(scale: Scale, highest: float) -> Normalize:
    """How differences become colours, the same on both sides of 0: up to the highest, or the logarithm up to 1."""
    _check_scale(scale)
    if scale == "log":
        return SymLogNorm(1e-3, linscale=0.4, vmin=-1.0, vmax=1.0, base=10, clip=True)
    highest = highest if highest > 0 else 1.0
    return Normalize(-highest, highest, clip=True)


def _check_scale(scale: Scale) -> None:
    if scale not in ("log", "linear"):
        raise ValueError(f"scale is {scale!r}; expected 'log' or 'linear'")


def draw_map(
    ax: Axes,
    maps: Maps,
    which: int,
    scale: Normalize,
    *,
    colours: ListedColormap | None = None,
    start: tuple[int, int] = (0, 0),
) -> Any:
    """One head's cells on axes that count tokens from (query, key) on, what is not allowed hatched; the image."""
    values, allowed = maps.values[which], maps.allowed[which]
    query, key = start
    image = ax.imshow(
        values.masked_fill(~allowed, float("nan")).numpy(),
        cmap=colour_map() if colours is None else colours,
        norm=scale,
        interpolation="nearest",
        aspect="auto",
        extent=(key - 0.5, key + maps.key_len - 0.5, query + maps.query_len - 0.5, query - 0.5),
    )
    ax.set_box_aspect(box_aspect(maps.query_len, maps.key_len))
    hatch(ax, ~allowed, maps.query_len, maps.key_len, start=start)
    ax.tick_params(labelsize=SMALL, length=2.5)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)
    return image


def box_aspect(query_len: int, key_len: int) -> float:
    """The height of a map for a width of 1: as the tokens are, but never a sliver."""
    return 1.0 if query_len == key_len else min(max(query_len / key_len, 0.25), 2.0)


def hatch(ax: Axes, cells: Tensor, query_len: int, key_len: int, *, start: tuple[int, int] = (0, 0)) -> None:
    """Hatches cells of a map, so that "not allowed" cannot be taken for "zero"."""
    ax.set_facecolor(FORBIDDEN_FILL[0])
    rows, cols = cells.shape
    down, across = query_len / rows, key_len / cols
    query, key = start
    outlines = [
        [(key + x * across - 0.5, query + y * down - 0.5) for x, y in outline] for outline in outlines_of(cells)
    ]
    hatch_outlines(ax, outlines)


def hatch_outlines(ax: Axes, outlines: Sequence[Sequence[tuple[float, float]]]) -> None:
    """Hatches polygons as one path: the lines run through from one to the next, and the file holds one object."""
    if not outlines:
        return
    vertices = [point for outline in outlines for point in (*outline, outline[0])]
    codes = [
        code for outline in outlines for code in (Path.MOVETO, *[Path.LINETO] * (len(outline) - 1), Path.CLOSEPOLY)
    ]
    ax.add_patch(
        PathPatch(Path(vertices, codes), facecolor="none", edgecolor=FORBIDDEN_LINE[0], hatch=_HATCH, linewidth=0)
    )


def ramp_patch(share: float, label: str) -> Patch:
    """The legend's entry for a place on the ramp."""
    return Patch(facecolor="#{:02x}{:02x}{:02x}".format(*colour(share)), label=label)


def forbidden_patch(label: str = "may not attend") -> Patch:
    """The legend's entry for hatched cells."""
    return Patch(facecolor=FORBIDDEN_FILL[0], edgecolor=FORBIDDEN_LINE[0], hatch=_HATCH, linewidth=0, label=label)


def colour_bar(
    figure: Figure,
    image: Any,
    axes: Any,
    scale: Scale,
    lines: Sequence[str],
    *,
    cax: Axes | None = None,
) -> Any:
    """The colour bar of one map or several, with what a value is in a few lines; the bar."""
    extend = "min" if scale == "log" else "neither"
    if cax is None and hasattr(axes, "inset_axes") and figure.get_layout_engine() is not None:
        # As high as the map, which may be lower than its place; the layout makes room for it.
        cax = axes.inset_axes((1.035, 0.0, 0.035, 1.0))
    if cax is not None:
        return finish_bar(figure.colorbar(image, cax=cax, extend=extend), lines)
    return finish_bar(figure.colorbar(image, ax=axes, extend=extend, aspect=30, pad=0.02), lines)


def described(maps: Maps, scale: Scale, *said: str, reduce: str = "mean") -> list[str]:
    """What a value of a map is, in lines: the weight and its scale, what else is said, and what a cell covers."""
    lines = [f"attention weight, {scale} scale", *said]
    if maps.cell:
        lines.append(f"({maps.cell}, {'summed over its keys' if reduce == 'mean' else 'the largest weight in it'})")
    return lines


def finish_bar(bar: Any, lines: Sequence[str]) -> Any:
    """The label of a colour bar, in lines that it is long enough for."""
    room = bar.ax.get_window_extent().height / bar.ax.figure.dpi * 72 / (0.52 * (SMALL + 1))
    wrapped = [piece for line in lines for piece in _balanced(line, max(18, round(room)))]
    bar.set_label("\n".join(wrapped), fontsize=SMALL + 1)
    bar.ax.tick_params(labelsize=SMALL, length=2.5)
    bar.outline.set_linewidth(0.6)
    return bar


def _balanced(line: str, width: int) -> list[str]:
    """A line in as few pieces of at most so many characters as there must be, none of them a lone word."""
    pieces = -(-len(line) // width)
    fewest = len(textwrap.wrap(line, width))
    narrow = range(-(-len(line) // pieces), width)
    return next(
        (found for each in narrow if len(found := textwrap.wrap(line, each)) == fewest), textwrap.wrap(line, width)
    )


def titled(ax: Axes, title: str | None, *, height: float = 1.0, above_legend: bool = False) -> None:
    """A title in the upper left, above the line of the legend where there is one: a column has no room beside it."""
    if title:
        ax.set_title(title, fontsize=SMALL + 2, loc="left", y=height, pad=SMALL + 8 if above_legend else 5.0)


def name_axes(ax: Axes, *, query: str = "query (reading)", key: str = "key (read from)") -> None:
    """The names of a map's axes."""
    ax.set_xlabel(key, fontsize=SMALL + 1)
    ax.set_ylabel(query, fontsize=SMALL + 1)


def legend_above(ax: Axes, patches: Sequence[Patch], *, height: float = 1.005) -> None:
    """A legend in one line above the upper right corner."""
    ax.legend(
        handles=list(patches),
        loc="lower right",
        bbox_to_anchor=(1.0, height),
        ncols=len(patches),
        frameon=False,
        fontsize=SMALL,
        borderaxespad=0.0,
    )


def outlines_of(forbidden: Tensor) -> Iterator[list[tuple[int, int]]]:
    """Polygons around the cells that are True, as (column, row): each stretch is followed down from row to row."""
    open_: list[tuple[list[tuple[int, int]], list[tuple[int, int]]]] = []  # the left and right sides, downwards
    before = 0
    for row, flags in enumerate(forbidden.tolist()):
        runs = _runs(flags)
        if len(runs) != before:
            yield from (left + right[::-1] for left, right in open_)
            open_ = [([], []) for _ in runs]
        for (start, stop), (left, right) in zip(runs, open_, strict=True):
            for side, at in ((left, start), (right, stop)):
                if len(side) > 1 and side[-1][0] == at:
                    side[-1] = (at, row + 1)
                else:
                    side += [(at, row), (at, row + 1)]
        before = len(runs)
    yield from (left + right[::-1] for left, right in open_)


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
