"""What was made coarser so that a page fits its bytes, in sentences."""

from __future__ import annotations

from typing import TYPE_CHECKING

from regard.look.content import Sizes, kept_queries
from regard.look.ladder import Detail

if TYPE_CHECKING:
    from regard.look.measure import Group, Measured


def sentences(measured: Measured, detail: Detail) -> list[str]:
    """A sentence for each thing of which less is kept than there is; what holds for one group only names it."""
    said: dict[str, list[str]] = {}
    for group in measured.groups:
        for sentence in _of_group(group, detail):
            said.setdefault(sentence, []).append(group.name)
    every = len(measured.groups)
    return [text if len(names) == every else f"{', '.join(names)}: {text}" for text, names in said.items()]


def _of_group(group: Group, detail: Detail) -> list[str]:
    full, now = Sizes.of(group, Detail()), Sizes.of(group, detail)
    queries, most = len(kept_queries(group, detail)), "The map of the largest weights"
    texts = (*(group.shown.key_tokens or ()), *(group.shown.query_tokens or ()))
    small = detail.windows < Detail().windows and now.depth == 8
    said = (
        (queries < group.query_len, f"{queries:,} of {group.query_len:,} queries are kept exactly."),
        (now.depth < full.depth and _cells(now) == _cells(full), "The weights of a map are within 2.3 %, not 0.02 %."),
        (_cells(now) != _cells(full), f"The maps have {_by(_cells(now))} cells instead of {_by(_cells(full))}."),
        (now.max != full.max and all(now.max + full.max), f"{most} has {_by(now.max)} cells."),
        (all(full.max) and not all(now.max), f"{most} is left out."),
        (now.margins != full.margins, f"The margins have {_by(now.margins)} cells instead of {_by(full.margins)}."),
        (small and detail.windows > 0, f"Windows of single pairs have at most {_by((detail.windows,) * 2)}."),
        (small and detail.windows == 0, "Windows of single pairs are kept only where they were asked for."),
        (now.top < full.top, f"{now.top} keys are named for a query instead of {full.top}."),
        (now.thumbnail != full.thumbnail, f"The small maps have {_by(now.thumbnail)} cells."),
        (any(len(text) > detail.tokens for text in texts), f"Tokens are cut at {detail.tokens} characters."),
    )
    return [sentence for holds, sentence in said if holds]


def _cells(sizes: Sizes) -> tuple[int, int]:
    return sizes.rows, sizes.cols


def _by(cells: tuple[int, int]) -> str:
    return f"{cells[0]} x {cells[1]}"
