"""What was asked before changes nothing: the same for everything that knows positions."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from torch import Tensor

from regard.check.adapt.places import Places, PlaceSubject
from regard.check.violation import Violation, expect, expect_near

__all__ = ["Budget", "expect_finite", "expect_no_memory"]

Budget = Callable[[Places], Tensor]
"""How far two answers to one question may be apart: a vectorised sine may round a longer table differently."""


def expect_finite(what: str, got: Tensor, request: Places) -> None:
    """No NaN or inf, where the other side of a comparison comes from the subject too."""
    wrong = ~got.isfinite()
    expect(
        not bool(wrong.any()), f"{what}: {int(wrong.sum())} of {wrong.numel()} numbers are NaN or inf", request=request
    )


def expect_no_memory(
    subject: PlaceSubject, first: Places, others: Sequence[tuple[str, Places]], budget: Budget
) -> None:
    """Ask one question before and after others, on one instance and on new ones.

    Args:
        subject: what is asked; it is new again afterwards.
        first: the question.
        others: other questions, each in words; those that it does not take are passed over.
        budget: of two answers to one question.

    Raises:
        Violation: where an answer depends on what was asked before.
    """

    def again(what: str, request: Places, earlier: Tensor) -> None:
        try:
            now = subject.answers(request).output
        except Violation as violation:
            raise Violation(f"{what}: {violation}", request=request) from violation
        expect_near(what, now, earlier, budget(request), request=request)

    try:
        subject.renew()
        before = subject.answers(first).output
        expect_finite("output", before, first)
        for what, other in others:
            subject.quietly(other)
            again(f"after {what}, the same question", first, before)
        for what, other in others:
            subject.renew()
            alone = subject.quietly(other)
            again(f"after {what} as the first question, another one", first, before)
            if alone is not None and bool(alone.isfinite().all()):
                subject.renew()
                subject.quietly(first)
                again(f"{what}, after a shorter or plainer question", other, alone)
    finally:
        subject.renew()
