"""The text itself, each token on the colour of the weight that a query gives it."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

from matplotlib.cm import ScalarMappable
from matplotlib.collections import PolyCollection
from matplotlib.colors import Normalize
from matplotlib.patches import Polygon
from torch import Tensor

from regard.look.canvas import (
    SMALL,
    Scale,
    checked_width,
    colour_map,
    forbidden_patch,
    hatch_outlines,
    new_figure,
    norm,
    own_or_given,
)
from regard.look.colours import FORBIDDEN_FILL
from regard.look.figures_heads import WITHOUT_FIRST, both_axes
from regard.look.figures_labels import ADVANCE, SMALLEST, cells, drawable, plain
from regard.look.figures_row import Row, read, total_of
from regard.look.figures_source import one_head
from regard.look.wording import visible

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

#: So many tokens are shown where no stretch of keys is asked for.
SHOWN_TOKENS = 300

#: The most tokens of a stretch: more do not fit a page.
MOST_TOKENS = 3000

# Heights and widths in points of the text's size: a line, and a column of the monospaced font with some air.
_LINE, _COLUMN = 1.55, ADVANCE * 1.02

# Points below the text that the colour bar takes, and in less than so many across, where the legend has its own line.
_BELOW, _BELOW_NARROW, _NARROW = 36.0, 50.0, 400.0

# Where on the ramp the text turns from ink to paper.
_DARK = 0.47


def text(
    weights: AttentionWeights | Tensor,
    query: int,
    *,
    tokens: Sequence[str],
    query_tokens: Sequence[str] | None = None,
    keys: slice | None = None,
    which: int | None = None,
    batch: int = 0,
    scale: Scale = "log",
    hide_first: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
    width: float = 7.0,
) -> Figure:
    """The text in lines, each token on a box coloured by the weight that the query gives it, exactly.

    What the query may not read is hatched; the query itself has a frame, where it is one of the keys.

    Args:
        weights: (L, S), or (..., H, L, S) with which.
        query: which query, from 0; -1 is the last.
        tokens: S texts.
        query_tokens: L texts, where the queries are not the last of the keys.
        keys: which keys, a slice of step 1; without it all up to 300, and of more those up to the query.
        which: the head, where weights holds several.
        batch: the sequence, where weights holds several.
        scale: "log" from 0.0001 to 1, or "linear" from 0 to the highest weight of the query.
        hide_first: leave key 0 out and renormalise: w / (1 - w_0), as the colour bar says.
        ax: draw here instead of on a new figure; the text is set as large as fits.
        title: a line above the one that names the query.
        mask: of dense weights, which pairs are allowed.
        width: inches of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no such query, the stretch of keys is empty or too long, the axes are too small for it,
            or as for `head`.
    """
    shown = one_head(weights, which, batch, mask)
    named, texts = both_axes(tokens, query_tokens, shown)
    if texts is None:
        raise TypeError("tokens is None; expected a list of texts, one a key, which the figure is made of")
    facts = read(shown, query, hide_first=hide_first)
    own = shown.key_len - shown.query_len + facts.query if query_tokens is None else -1
    part = _stretch(keys, shown.key_len, own)
    pieces = [piece(token) for token in texts[part]]
    heading = _heading(facts, named, part, shown.key_len)
    told = [title, *heading] if title else heading
    if ax is None:
        width = checked_width(width)
        across = 72 * width - 12
        places = lay_out(pieces, int(across / (SMALL * _COLUMN)))
        text_tall = _height(places, SMALL, across)
        tall = text_tall + 6 + 11.5 * len(told)
        figure: Figure = new_figure(width, tall / 72)
        figure.set_layout_engine("none")  # the boxes are as wide as their words only where the axes stay as they are
        size, ax = SMALL, figure.add_axes((6 / 72 / width, 0, 1 - 12 / 72 / width, text_tall / tall))
        _head_line(ax, told)
    else:
        figure, ax = own_or_given(ax, width, width)
        _head_line(ax, told)
        figure.draw_without_rendering()  # the layout moves the axes to their place
        size, places = _fit(pieces, ax)
    box = ax.get_window_extent()
    across, down = (72 * pixels / ax.figure.dpi for pixels in (box.width, box.height))
    ax.set(xlim=(0, across), ylim=(down, 0))  # points
    scaling = norm(scale, float(facts.weights.max()))
    _boxes(ax, facts, pieces, places, part.start, own, size=size, scaling=scaling)
    _bar(ax, facts, part, scale, scaling, hide_first=hide_first)
    return figure


def _head_line(ax: Axes, lines: Sequence[str]) -> None:
    ax.set_axis_off()
    written = ax.set_title("\n".join(lines), fontsize=SMALL + 1, loc="left", pad=4)
    plain(written)
    written.set_fontfamily(["sans-serif", *written.get_fontfamily()])


def piece(token: str, width: int = 40) -> str:
    """A token as text: spaces as spaces, breaks of the line by their sign, the rest as in a label."""
    shown = " ".join(visible(part, width) if part else "" for part in token.split(" "))
    return drawable(shown[:width] + "\N{HORIZONTAL ELLIPSIS}" if len(shown) > width else shown)


def lay_out(pieces: Sequence[str], columns: int) -> list[tuple[int, int, int]]:
    """Where each piece stands: its line, its first column and how many it takes; a line ends after a break."""
    places, line, column = [], 0, 0
    for shown in pieces:
        taken = max(1, cells(shown))
        if column and column + taken > columns:
            line, column = line + 1, 0
        places.append((line, column, taken))
        column += taken
        if shown.endswith("\N{RETURN SYMBOL}"):
            line, column = line + 1, 0
    return places


def _height(places: Sequence[tuple[int, int, int]], size: float, across: float) -> float:
    return (places[-1][0] + 1) * _LINE * size + (_BELOW if across >= _NARROW else _BELOW_NARROW)


def _fit(pieces: Sequence[str], ax: Axes) -> tuple[float, list[tuple[int, int, int]]]:
    """The largest size at which the text fits given axes, and where each token then stands."""
    box = ax.get_window_extent()
    across, down = (72 * pixels / ax.figure.dpi for pixels in (box.width, box.height))
    size = SMALL
    while size >= SMALLEST:
        columns = int(across / (size * _COLUMN))
        if columns >= max(map(cells, pieces)):
            places = lay_out(pieces, columns)
            if _height(places, size, across) <= down:
                return size, places
        size -= 0.25
    raise ValueError(
        f"ax is {across / 72:.1f} x {down / 72:.1f} inches, too small for the text of {len(pieces)} tokens; give "
        "larger axes, or fewer keys: keys=slice(start, stop)"
    )


def _stretch(keys: slice | None, key_len: int, own: int) -> slice:
    """Which keys are shown."""
    if keys is None:
        stop = key_len if key_len <= SHOWN_TOKENS or own < 0 else own + 1
        start = max(0, stop - SHOWN_TOKENS) if own >= 0 else 0
        return slice(start, min(key_len, start + SHOWN_TOKENS))
    if not isinstance(keys, slice):
        raise TypeError(f"keys is {keys!r}; expected a slice, as slice(100, 400)")
    start, stop, step = keys.indices(key_len)
    if step != 1 or start >= stop or stop - start > MOST_TOKENS:
        raise ValueError(
            f"keys is {keys}; expected 1 to {MOST_TOKENS:,} of {key_len:,} keys in a row, with a step of 1"
        )
    return slice(start, stop)


def _heading(facts: Row, tokens: Sequence[str] | None, part: slice, key_len: int) -> list[str]:
    name = (
        ""
        if tokens is None
        else drawable(
            f" \N{LEFT DOUBLE QUOTATION MARK}{visible(tokens[facts.query], 16)}\N{RIGHT DOUBLE QUOTATION MARK}"
        )
    )
    heading = f"query {facts.query:,}{name}: entropy {facts.entropy:.3f} nats"
    if part.stop - part.start == key_len:
        return [heading]
    share = total_of(facts, part)
    return [heading, f"keys {part.start:,}\N{EN DASH}{part.stop - 1:,} of {key_len:,} hold {share:.1%} of the weight"]


def _boxes(
    ax: Axes,
    facts: Row,
    pieces: Sequence[str],
    places: Sequence[tuple[int, int, int]],
    first: int,
    own: int,
    *,
    size: float,
    scaling: Normalize,
) -> None:
    """Draws the tokens on their boxes."""
    outlines, fills, forbidden = [], [], []
    for at, (shown, (line, column, taken)) in enumerate(zip(pieces, places, strict=True), first):
        left, right = column * size * _COLUMN, (column + taken) * size * _COLUMN
        top, bottom = (line + 0.04) * size * _LINE, (line + 0.96) * size * _LINE
        outline = [(left, top), (right, top), (right, bottom), (left, bottom)]
        share = float(scaling(float(facts.weights[at])))
        allowed = bool(facts.allowed[at])
        outlines.append(outline)
        fills.append(colour_map()(share) if allowed else FORBIDDEN_FILL[0])
        if not allowed:
            forbidden.append(outline)
        ink = "#8a8d91" if not allowed else "white" if share > _DARK else "#15171c"
        words = ax.text(left, (top + bottom) / 2, shown, fontsize=size, va="center_baseline", color=ink)
        plain(words)
        if at == own:
            ax.add_patch(Polygon(outline, fill=False, edgecolor="#c2410c", linewidth=1.4, zorder=3))
    # Thin edges of paper keep neighbouring tokens of one colour apart.
    ax.add_collection(PolyCollection(outlines, facecolors=fills, edgecolors="white", linewidths=0.6, zorder=0.5))
    hatch_outlines(ax, forbidden)


def _bar(ax: Axes, facts: Row, part: slice, scale: Scale, scaling: Normalize, *, hide_first: bool) -> None:
    """The colour bar in the last points of the axes, and beside it what hatching and frame mean."""
    across, down = ax.get_xlim()[1], ax.get_ylim()[0]
    narrow = across < _NARROW
    long, top = min(0.42 * across, 200.0), down - (_BELOW_NARROW if narrow else _BELOW) + 10
    bar = ax.figure.colorbar(
        ScalarMappable(scaling, colour_map()),
        cax=ax.inset_axes((2, top, long, 6), transform=ax.transData),
        orientation="horizontal",
        extend="min" if scale == "log" else "neither",
    )
    bar.ax.tick_params(labelsize=SMALL - 1, length=2.0, pad=1.5)
    bar.outline.set_linewidth(0.6)
    said = f"attention weight, exact, {scale} scale{f', {WITHOUT_FIRST}' if hide_first else ''}"
    beside = across - long - 14 - (0 if narrow else 90)
    ax.text(long + 14, top + 3, textwrap.fill(said, int(beside / (0.53 * SMALL))), fontsize=SMALL, va="center")
    if not bool(facts.allowed[part].all()):
        ax.legend(
            handles=[forbidden_patch()],
            loc="center left" if narrow else "center right",
            bbox_to_anchor=(2, down - 7) if narrow else (across, top + 3),
            bbox_transform=ax.transData,
            frameon=False,
            fontsize=SMALL,
            borderaxespad=0.0,
        )
