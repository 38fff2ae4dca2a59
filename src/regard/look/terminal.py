"""The table of heads in the terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from regard.look.colours import colour
from regard.look.extras import extra

if TYPE_CHECKING:
    from regard.look.heads import HeadTable

# Score, heading, decimals, and whether the low end is the telling one.
_COLUMNS = (
    ("entropy", "entropy\nnats", 2, True),
    ("previous_token", "previous\ntoken", 2, False),
    ("first_token", "first\ntoken", 2, False),
    ("induction", "induction\n", 2, False),
    ("distance", "distance\ntokens", 1, False),
)


def table(heads: HeadTable, *, limit: int | None = None) -> Any:
    """The scores as a rich table, each column shaded from its least to its most telling value.

    It prints as plain text where there is no colour, and shows itself in a notebook.

    Example:
        >>> from regard.look.heads import HeadScores, HeadTable
        >>> from regard.look.terminal import table
        >>> scores = HeadScores(0, 1, 1.5, 0.25, 0.5, 0.1, 0.02, 7.0, 0.3, 0)
        >>> table(HeadTable((scores,), None, (), ())).row_count
        1

    Args:
        heads: the scores, in the order to show them.
        limit: show this many and say how many were left out.

    Returns:
        A rich Table.

    Raises:
        ImportError: if rich is not installed.
    """
    rich_table, box, text = extra("rich.table"), extra("rich.box"), extra("rich.text")
    shown = heads.heads if limit is None else heads.heads[:limit]
    left_out = len(heads.heads) - len(shown)
    result = rich_table.Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        caption=f"{left_out} more heads not shown" if left_out else None,
        caption_justify="left",
    )
    for name in ("layer\n", "head\n"):
        result.add_column(name, justify="right")
    for _, heading, _, _ in _COLUMNS:
        result.add_column(heading, justify="right", no_wrap=True)
    ranges = {name: _range([float(getattr(scores, name)) for scores in heads.heads]) for name, *_ in _COLUMNS}
    for scores in shown:
        cells = [text.Text(str(scores.layer)), text.Text(str(scores.head))]
        for name, _, decimals, low_first in _COLUMNS:
            value = float(getattr(scores, name))
            low, high = ranges[name]
            share = (value - low) / (high - low) if high > low else 0.0
            shade = 1 - share if low_first and high > low else share
            cells.append(_cell(value, decimals, shade))
        result.add_row(*cells)
    return result


def _cell(value: float, decimals: int, share: float) -> Any:
    text, style = extra("rich.text"), extra("rich.style")
    if math.isnan(value):
        return text.Text("-")
    shown = f" {value:.{decimals}f} "
    if share < 0.15:
        return text.Text(shown)
    # Both colours are set, so that the number reads on light and dark terminals alike; the ramp's paler and darker ends
    # would glare on one of the two.
    fore = "#ffffff" if share > 0.55 else "#1a1c20"
    back = "#{:02x}{:02x}{:02x}".format(*colour(0.15 + 0.65 * share))
    return text.Text(shown, style=style.Style(color=fore, bgcolor=back))


def _range(values: list[float]) -> tuple[float, float]:
    known = [value for value in values if not math.isnan(value)]
    return (min(known), max(known)) if known else (0.0, 0.0)
