"""The smallest sizes at which a property still fails in the same way."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import replace

from regard.check.registry import Property
from regard.check.request import Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["shrink"]


def shrink(
    prop: Property, subject: Subject, at: Sizes, seed: int, first: Violation, *, seconds: float = 2.0
) -> tuple[Sizes, Violation]:
    """Make one size after the other smaller while the property fails with the same kind of message.

    Args:
        prop: the property.
        subject: the subject.
        at: sizes at which it fails.
        seed: of its inputs.
        first: how it fails.
        seconds: after so long, the smallest found so far is good enough.

    Returns:
        The sizes, and how it fails at these.
    """
    until = time.monotonic() + seconds
    kind, found = _kind(first), first
    progress = True
    while progress and time.monotonic() < until:
        progress = False
        for smaller in _smaller(at):
            if time.monotonic() > until:
                break
            try:
                prop.run(subject, smaller, seed)
            except Violation as violation:
                if _kind(violation) == kind:
                    at, found, progress = smaller, violation, True
                    break
            except Exception:  # these sizes say nothing
                continue
    return at, found


def _kind(violation: Violation) -> str:
    """The message up to its numbers."""
    return re.sub(r"[\d.e+-]+", "#", str(violation).partition(":")[0])


def _smaller(at: Sizes) -> Iterator[Sizes]:
    def candidates(n: int) -> list[int]:
        return sorted({m for m in (1, 2, n // 2, n - 1) if 0 < m < n})

    def tied(at: Sizes, names: tuple[str, ...], m: int) -> Sizes:
        return replace(at, **dict.fromkeys(names, m))

    groups: list[tuple[str, ...]] = [("batch",)]
    groups.append(("heads", "kv_heads") if at.heads == at.kv_heads else ("heads",))
    groups.append(("query_len", "key_len") if at.query_len == at.key_len else ("query_len",))
    if at.query_len != at.key_len:
        groups.append(("key_len",))
    groups.append(("width", "value_width") if at.width == at.value_width else ("width",))
    if at.width != at.value_width:
        groups.append(("value_width",))
    for names in groups:
        for m in candidates(getattr(at, names[0])):
            new = tied(at, names, m)
            if new.heads % new.kv_heads == 0:
                yield new
