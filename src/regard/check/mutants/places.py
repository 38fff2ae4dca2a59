"""A wrong implementation and what is known of it; how a subject is found to be wrong in the same way."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.check.contract import Contract

__all__ = ["Traits", "Wrong", "alike", "likely_among"]

Traits = Mapping[str, "Tensor | str | None"]
"""What a subject does, question by question: a tensor, the kind of an error, or None where it cannot be asked."""

NEAR = 5e-4  # two tables with one bug differ in rounding, two bugs differ by a lot


@dataclass(frozen=True)
class Wrong:
    """One wrong implementation.

    Args:
        name: of the mutant.
        says: what is wrong, as a clause.
        row: of the bug in the table of docs/check/properties.md, where it is one of these.
        build: makes the subject.
        contract: what its author declares.
    """

    name: str
    says: str
    row: int | None
    build: Callable[[], Any]
    contract: Contract = field(default_factory=Contract)


def alike(mine: Tensor | str, other: Tensor | str) -> bool:
    """Whether two subjects did the same, up to rounding."""
    if not isinstance(mine, Tensor) or not isinstance(other, Tensor):
        return isinstance(mine, str) and mine == other
    if mine.shape != other.shape:
        return False
    eps = max(torch.finfo(t.dtype).eps for t in (mine, other) if t.is_floating_point())
    a, b = mine.detach().double(), other.detach().double()
    # A rotation rounds in proportion to the pair, of which one number can be small.
    size = b.abs().amax(-1, keepdim=True).nan_to_num() if b.dim() else b.abs()
    return bool((((a - b).abs() <= NEAR + 2 * eps * size) | (a.isnan() & b.isnan())).all())


def likely_among(mine: Traits, wrong: Mapping[str, Traits], right: Traits) -> str | None:
    """The name of the wrong one that explains most of what ``mine`` does otherwise than ``right``, or None.

    One explains it if it does the same wherever both answer, and something of that otherwise than right.
    """
    best, name = 0, None
    for each, traits in wrong.items():
        explained = _explained(mine, traits, right)
        if explained > best:
            best, name = explained, each
    return name


def _explained(mine: Traits, other: Traits, right: Traits) -> int:
    count = 0
    for question, did in mine.items():
        theirs, should = other.get(question), right.get(question)
        if did is None or theirs is None:
            continue
        if alike(did, theirs):
            count += should is not None and not alike(did, should)
        elif type(did) is type(theirs):  # that one of them refuses says little: people refuse more than they must
            return 0
    return count
