"""What these sizes cannot detect: mutants that answer every question of the run as the definition does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from torch import Tensor

from regard.check.diagnose import questions
from regard.check.request import Request, Sizes
from regard.check.subject import Subject

if TYPE_CHECKING:
    from regard.check.mutants import Mutant

__all__ = ["blind_spots"]

VISIBLE = 1e-5  # relative to the largest number: far above what float32 rounds, far below what a bug moves
MOST = 150  # questions


def blind_spots(
    subject: Subject, mutants: Iterable[Mutant], asked: Mapping[str, Request], ran: set[str]
) -> tuple[str, ...]:
    """In words, each bug that the usual sizes would show in this subject, and no question of this run could have shown.

    Args:
        subject: the subject; its numbers play no part.
        mutants: the bugs.
        asked: the questions of the run.
        ran: names of the properties that ran to their end.
    """
    if not subject.supports("numbers") or not asked:
        return ()
    better = questions(subject, _better(subject.sizes), fits=lambda at: at)
    seen, shown = ([(r, subject.truth(r)) for r in some] for some in (list(asked.values())[:MOST], better))
    unseen = []
    for mutant in mutants:
        if mutant.core is None or mutant.aims not in ran:
            continue
        if any(_shows(subject, mutant, *one) for one in shown) and not any(
            _shows(subject, mutant, *one) for one in seen
        ):
            unseen.append(mutant.says)
    return tuple(unseen)


def _better(at: Sizes) -> Sizes:
    """Sizes that tell most bugs apart: the usual ones, where those of the run are no more than these."""
    usual = Sizes()
    return Sizes(max(at.batch, usual.batch), max(at.heads, usual.heads))


def _shows(subject: Subject, mutant: Mutant, request: Request, truth: Tensor) -> bool:
    assert mutant.core is not None
    try:
        given = subject.imagine(mutant.core, request.map(lambda t: t.detach()))
    except Exception:  # a mutant of grouped heads on heads that are not grouped
        return False
    if given.shape != truth.shape:
        return True
    off = (given - truth).detach().abs()
    return not bool((off <= VISIBLE * truth.detach().abs().nan_to_num().max().clamp_min(1e-12)).all())
