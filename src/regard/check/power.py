"""What these sizes cannot detect: mutants that no property catches where it ran."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch

from regard.check.adapt import CannotAdapt, adapt
from regard.check.contract import REGARD
from regard.check.guard import SubjectError
from regard.check.registry import Property
from regard.check.request import Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported

if TYPE_CHECKING:
    from regard.check.mutants import Mutant

__all__ = ["blind_spots"]

SECONDS = 15.0


def blind_spots(
    subject: Subject, mutants: Iterable[Mutant], ran: Sequence[Property], seed: int, *, seconds: float = SECONDS
) -> tuple[str, ...]:
    """In words, each bug that the properties which ran would catch at the usual sizes and not at those of this run.

    The mutants themselves are put to the test, each with the property that it aims at and, where that passes it, with
    the others: one head cannot show the scale of all heads, nor a single sequence the mask of another.

    Args:
        subject: whose sizes and kind they are; it is not called.
        mutants: the bugs.
        ran: the properties that ran to their end on the subject.
        seed: of the inputs.
        seconds: after so long, what is left is not looked at.
    """
    until = time.monotonic() + seconds
    by_name = {prop.name: prop for prop in ran}
    unseen = []
    for mutant in mutants:
        if mutant.aims not in by_name or time.monotonic() > until:
            continue
        built = mutant.build()
        if isinstance(built, torch.nn.Module) != (subject.kind == "module"):
            continue
        order = [by_name[mutant.aims], *(prop for prop in ran if prop.name != mutant.aims)]
        if not _caught(built, subject, subject.sizes, order, seed, until) and _caught(
            mutant.build(), subject, Sizes(), order, seed, until
        ):
            unseen.append(mutant.says)
    return tuple(unseen)


def _caught(
    built: object, subject: Subject, at: Sizes, properties: Sequence[Property], seed: int, until: float
) -> bool:
    try:
        adapted = adapt(built, replace(REGARD, float_mask="added"), sizes=at)
    except CannotAdapt:
        return True
    adapted.limited_to(subject, sizes=at == subject.sizes)
    for prop in properties:
        if time.monotonic() > until:
            return True
        with contextlib.suppress(Unsupported):
            try:
                prop.run(adapted, adapted.sizes, seed)
            except (AssertionError, SubjectError):
                return True
    return False
