"""How fine the data of a page are, and what gives way first where they take too many bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

#: Larger than any text: all queries.
ALL = 1 << 40


@dataclass(frozen=True)
class Detail:
    """How much is kept.

    Attributes:
        depth: bits of a weight in maps where every pair has a cell of its own, 16 or 8; pooled maps have 8.
        queries: so many queries are kept exactly, beside those asked for; ALL, or 0 for those asked for alone.
        top: keys kept of each.
        max: the most cells along a side of the max map; 0 for none.
        mean: along a side of the mean map.
        margins: of the margins.
        windows: the side of a window that was not asked for; 0 for none.
        thumbnails: of the thumbnails.
        asked_windows: the side of a window that was asked for.
        tokens: characters of a token.
    """

    depth: int = 16
    queries: int = ALL
    top: int = 8
    max: int = 512
    mean: int = 512
    margins: int = 512
    windows: int = 64
    thumbnails: int = 32
    asked_windows: int = 64
    tokens: int = 100


#: What gives way, in this order, until everything fits: first what a reader misses least. Single weights beyond the
#: precision of a colour; then exact queries and the max map down to a useful number; then the mean map, which is what
#: is looked at, in turn with all else; tokens and thumbnails, which are small, late; and what was asked for last.
LADDER: tuple[tuple[str, int], ...] = (
    ("depth", 8),
    ("queries", 1024),
    ("max", 256),
    ("queries", 512),
    ("max", 128),
    ("queries", 256),
    ("mean", 256),
    ("margins", 256),
    ("queries", 128),
    ("windows", 32),
    ("max", 64),
    ("mean", 128),
    ("queries", 64),
    ("margins", 128),
    ("max", 32),
    ("windows", 0),
    ("thumbnails", 16),
    ("queries", 16),
    ("mean", 64),
    ("margins", 64),
    ("max", 0),
    ("tokens", 24),
    ("mean", 32),
    ("margins", 32),
    ("top", 5),
    ("thumbnails", 8),
    ("tokens", 8),
    ("queries", 0),
    ("mean", 16),
    ("asked_windows", 32),
    ("asked_windows", 16),
    ("asked_windows", 8),
)


def details() -> Iterator[Detail]:
    """Everything in full, and then with each further step of the ladder.

    Example:
        >>> from regard.look.ladder import details
        >>> [detail.depth for detail in details()][:2], [detail.mean for detail in details()][-1]
        ([16, 8], 16)
    """
    detail = Detail()
    yield detail
    for name, value in LADDER:
        changed: dict[str, Any] = {name: value}
        detail = replace(detail, **changed)
        yield detail


def restored(detail: Detail, fits: Callable[[Detail], bool]) -> Detail:
    """A detail with what still fits put back: what was given up last is tried first.

    A step of the ladder can free more than was needed.

    Example:
        >>> from regard.look.ladder import Detail, restored
        >>> found = restored(Detail(max=64, windows=32), lambda detail: detail.max <= 128)
        >>> found.max, found.windows
        (128, 64)

    Args:
        detail: what fits for sure.
        fits: whether another detail does.

    Returns:
        The finest found.
    """
    values = {name: [getattr(Detail(), name)] for name, _ in LADDER}
    for name, value in LADDER:
        values[name].append(value)
    for name, value in reversed(LADDER):
        if getattr(detail, name) != value:
            continue  # never given up, or put back no further than to a later step
        finer: dict[str, Any] = {name: values[name][values[name].index(value) - 1]}
        if fits(replace(detail, **finer)):
            detail = replace(detail, **finer)
    return detail
