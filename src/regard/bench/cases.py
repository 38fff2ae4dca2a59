"""All cases, and how they are called by name."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from regard.bench import decode, dropout, functions, layers, masked, models, parts, peers, questions, watched
from regard.bench.case import Bar, Case, Solo
from regard.bench.machine import import_seconds

__all__ = ["ALL", "listing", "select"]

IMPORT = Case(
    "import",
    "import",
    "import regard, after import torch",
    lambda: Solo("import regard", import_seconds),
    (Bar("seconds", 0.15),),
)
ALL: tuple[Case, ...] = (
    *functions.CASES,
    *masked.CASES,
    *decode.CASES,
    *dropout.CASES,
    *questions.CASES,
    *layers.CASES,
    *parts.CASES,
    *models.CASES,
    *watched.CASES,
    *peers.CASES,
    IMPORT,
)


def select(names: Sequence[str] = ()) -> tuple[Case, ...]:
    """The cases of these names or groups, in the order of the table; all of them without a name.

    >>> [case.name for case in select(["causal", "import"])]
    ['causal', 'import']

    Raises:
        ValueError: naming what is near to a name that does not exist.
    """
    known = {case.name for case in ALL} | {case.group for case in ALL}
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, sorted(known), n=3, cutoff=0.6)
            hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(case.name for case in ALL)}"
            raise ValueError(f"--only: got {name!r}; no case or group has that name: {hint}")
    return tuple(case for case in ALL if not names or case.name in names or case.group in names)


def listing() -> str:
    """One line for each case: name, what it times, and what it is held to."""
    lines = []
    for case in ALL:
        bars = ", ".join(bar.describe() for bar in case.bars) or "no bar"
        lines.append(f"{case.name:20} {case.what}: {bars}")
    return "\n".join(lines)
