"""What a benchmark is: subjects whose results are compared first, the bars they are held to, and what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from regard.bench.timing import Spread, Subject

__all__ = ["Bar", "Case", "Disagreement", "Duel", "Measured", "Solo", "close_to", "within_budget"]

Quantity = Literal["ratio", "difference", "memory", "seconds"]
UNITS: dict[Quantity, str] = {"ratio": "x", "difference": "µs", "memory": "MB", "seconds": "s"}


class Disagreement(ValueError):
    """A result is wrong, so how fast it comes is of no interest."""


@dataclass(frozen=True)
class Bar:
    """What a case is held to: ``quantity <= at_most``.

    >>> Bar("ratio", 1.05).describe()
    'at most 1.05x'

    Args:
        quantity: "ratio" (subject over peer), "difference" (subject minus peer, microseconds), "memory" (peak beyond
            what was in use before the call, MB of 10^6 bytes) or "seconds".
        at_most: in the unit of the quantity.
    """

    quantity: Quantity
    at_most: float

    def describe(self) -> str:
        """The bar in words."""
        space = "" if self.quantity == "ratio" else " "
        return f"at most {self.at_most:g}{space}{UNITS[self.quantity]}"


@dataclass(frozen=True)
class Duel:
    """A subject and the peer that it is timed against.

    Args:
        subject: regard.
        peer: what it is compared with.
        check: compares the results and returns one line on what was compared and how close it was; raises a
            :class:`Disagreement` where they differ.
        flops: floating-point operations of one call, for the share of the machine's peak; 0 if not counted.
    """

    subject: Subject
    peer: Subject
    check: Callable[[], str]
    flops: float = 0.0


@dataclass(frozen=True)
class Solo:
    """Something that has no peer and times itself.

    Args:
        name: what is timed.
        sample: runs it once and returns seconds.
    """

    name: str
    sample: Callable[[], float]


@dataclass(frozen=True)
class Case:
    """A named benchmark.

    Args:
        name: as in ``regard bench --only NAME``.
        group: several cases at once, likewise.
        what: one line for the table.
        build: makes the inputs and the duel (or solo); called once, when its turn comes, because inputs can be large.
        bars: what it is held to.
        memory: also measure the peak memory of one call of the subject, in a process of its own.
    """

    name: str
    group: str
    what: str
    build: Callable[[], Duel | Solo]
    bars: tuple[Bar, ...] = ()
    memory: bool = False


@dataclass(frozen=True)
class Measured:
    """What came out of one case; a quantity that was not measured is None.

    Args:
        case: the case.
        subject: name and median seconds of one call.
        peer: likewise; None where nothing is compared.
        ratio: subject over peer.
        difference: subject minus peer, microseconds.
        memory: peak beyond what was in use before the call, MB.
        samples: rounds behind each number.
        share_of_peak: the peer's operations a second over the matrix-product peak; None if not counted.
        checked: what was compared before timing.
        failed: why there are no numbers, or None.
    """

    case: Case
    subject: tuple[str, float] | None = None
    peer: tuple[str, float] | None = None
    ratio: Spread | None = None
    difference: Spread | None = None
    memory: float | None = None
    samples: int = 0
    share_of_peak: float | None = None
    checked: str = ""
    failed: str | None = None

    def value(self, quantity: Quantity) -> float | None:
        """The median of a quantity, in the unit of its bar."""
        if quantity == "ratio":
            return None if self.ratio is None else self.ratio.median
        if quantity == "difference":
            return None if self.difference is None else self.difference.median
        if quantity == "memory":
            return self.memory
        return self.subject and self.subject[1]

    def met(self, bar: Bar) -> bool:
        """Whether the bar is met. What could not be measured is missed."""
        value = self.value(bar.quantity)
        return self.failed is None and value is not None and value <= bar.at_most

    @property
    def verdict(self) -> Literal["met", "missed", "failed", "no bar"]:
        """One word: "failed" without numbers, "missed" if any bar is missed."""
        if self.failed is not None:
            return "failed"
        if not self.case.bars:
            return "no bar"
        return "met" if all(self.met(bar) for bar in self.case.bars) else "missed"


def within_budget(what: str, got: Tensor, peer: Tensor, truth: Tensor) -> float:
    """Require that ``got`` is about as close to the truth as the peer is, in every slice over the last two axes.

    ``max|got - truth| <= 2 * (max|peer - truth| + eps * max|truth|)``, with eps of got's dtype.

    Args:
        what: how to call it in the error.
        got: the result.
        peer: another implementation's result, of the same dtype.
        truth: the definition's result in float64.

    Returns:
        The largest share of the budget that was used.

    Raises:
        Disagreement: naming the slice that is worst, or what is not finite, or shapes that differ.
    """
    _same_shape(what, got, truth)
    _same_shape(f"the peer's {what}", peer, truth)
    eps = torch.finfo(got.dtype).eps
    error = (got.double() - truth).abs().amax((-2, -1))
    budget = 2 * ((peer.double() - truth).abs().amax((-2, -1)) + eps * truth.abs().amax((-2, -1)))
    used = torch.where(error == 0, torch.zeros_like(error), error / budget)
    if not bool((used <= 1).all()):
        worst = int(used.flatten().nan_to_num(nan=torch.inf).argmax())
        raise Disagreement(
            f"{what}: off by {error.flatten()[worst]:.3g} in slice {worst}; allowed are {budget.flatten()[worst]:.3g}"
        )
    return float(used.max())


def close_to(what: str, got: Tensor, truth: Tensor, *, ulps: float) -> float:
    """Require ``|got - truth| <= ulps * eps * max|truth|``, the maximum over the last axis, and return the worst error.

    Args:
        what: how to call it in the error.
        got: the result.
        truth: the definition's result in float64.
        ulps: how many eps of got's dtype are allowed; from the length of the computation, not from what comes out.

    Raises:
        Disagreement: with the largest error, or what is not finite, or shapes that differ.
    """
    _same_shape(what, got, truth)
    allowed = ulps * torch.finfo(got.dtype).eps * truth.abs().amax(-1)
    error = (got.double() - truth).abs().amax(-1)
    if not bool((error <= allowed).all()):
        worst = int((error - allowed).argmax())
        raise Disagreement(
            f"{what}: off by {error.flatten()[worst]:.3g} in row {worst}; allowed are {allowed.flatten()[worst]:.3g}"
        )
    return float(error.max())


def _same_shape(what: str, got: Tensor, truth: Tensor) -> None:
    if got.shape != truth.shape:
        raise Disagreement(f"{what}: shape {tuple(got.shape)}; expected {tuple(truth.shape)}")
    if not bool(torch.isfinite(got).all()):
        raise Disagreement(f"{what}: holds NaN or inf")
