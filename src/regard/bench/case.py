"""What a benchmark is: subjects whose results are compared first, the bars they are held to, and what was measured."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from regard.bench.timing import Spread, Subject

__all__ = ["Bar", "Case", "Disagreement", "Duel", "Measured", "Missing", "Solo"]

Quantity = Literal["ratio", "speedup", "difference", "memory", "share", "seconds"]
UNITS: dict[Quantity, str] = {
    "ratio": "x",
    "speedup": "x",
    "difference": "µs",
    "memory": "MB",
    "share": "of the memory",
    "seconds": "s",
}


class Disagreement(ValueError):
    """A result is wrong, so how fast it comes is of no interest."""


class Missing(ImportError):
    """A peer is not installed, or does not work on this machine: there is nothing to compare with."""


@dataclass(frozen=True)
class Bar:
    """What a case is held to: ``quantity <= at_most``, or ``quantity >= at_least``.

    >>> Bar("ratio", 1.05).describe()
    'at most 1.05x'
    >>> Bar("speedup", at_least=7).describe()
    'at least 7x as fast'

    Args:
        quantity: "ratio" (subject over peer), "speedup" (peer over subject), "difference" (subject minus peer,
            microseconds), "memory" (peak beyond what was in use before the call, MB of 10^6 bytes), "share" (that of
            the subject over that of the peer) or "seconds".
        at_most: in the unit of the quantity.
        at_least: likewise.

    Raises:
        ValueError: unless exactly one of the limits is given.
    """

    quantity: Quantity
    at_most: float | None = None
    at_least: float | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if (self.at_most is None) == (self.at_least is None):
            raise ValueError(f"Bar({self.quantity!r}): expected at_most or at_least, and not both")

    def met_by(self, value: float) -> bool:
        """Whether a measured value is within the limit."""
        if self.at_least is not None:
            return value >= self.at_least
        return self.at_most is not None and value <= self.at_most

    def describe(self) -> str:
        """The bar in words."""
        limit = self.at_most if self.at_least is None else self.at_least
        space = "" if UNITS[self.quantity] == "x" else " "
        side = "at most" if self.at_least is None else "at least"
        return f"{side} {limit:g}{space}{UNITS[self.quantity]}{' as fast' if self.quantity == 'speedup' else ''}"


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
        once: it takes so long that it is run once, with its memory, in a process of its own.
    """

    name: str
    sample: Callable[[], float]
    once: bool = False


@dataclass(frozen=True)
class Case:
    """A named benchmark.

    Args:
        name: as in ``regard bench --only NAME``.
        group: several cases at once, likewise.
        what: one line for the table.
        build: makes the inputs and the duel (or solo); called once, when its turn comes, because inputs can be large.
        bars: what it is held to.
        memory: also measure the peak memory of one call of the subject, in a process of its own; of the peer too where
            a bar is on its "share".
    """

    name: str
    group: str
    what: str
    build: Callable[[], Duel | Solo]
    bars: tuple[Bar, ...] = ()
    memory: bool = False

    @property
    def shown(self) -> Quantity:
        """How the table relates subject and peer: as the first bar that does, or as a speedup."""
        related: tuple[Quantity, ...] = ("ratio", "speedup", "difference")
        return next((bar.quantity for bar in self.bars if bar.quantity in related), "speedup")


@dataclass(frozen=True)
class Measured:
    """What came out of one case; a quantity that was not measured is None.

    Args:
        case: the case.
        subject: name and median seconds of one call.
        peer: likewise; None where nothing is compared.
        ratio: subject over peer.
        speedup: peer over subject.
        difference: subject minus peer, microseconds.
        memory: peak beyond what was in use before the call, MB.
        peer_memory: the peer's.
        samples: rounds behind each number.
        share_of_peak: the peer's operations a second over the matrix-product peak; None if not counted.
        checked: what was compared before timing.
        failed: why there are no numbers, or None.
        skipped: likewise, where the peer is missing and nothing is wrong.
    """

    case: Case
    subject: tuple[str, float] | None = None
    peer: tuple[str, float] | None = None
    ratio: Spread | None = None
    speedup: Spread | None = None
    difference: Spread | None = None
    memory: float | None = None
    peer_memory: float | None = None
    samples: int = 0
    share_of_peak: float | None = None
    checked: str = ""
    failed: str | None = None
    skipped: str | None = None

    def spread(self, quantity: Quantity) -> Spread | None:
        """A quantity that relates subject and peer, with its quartiles."""
        spreads: dict[Quantity, Spread | None] = {
            "ratio": self.ratio,
            "speedup": self.speedup,
            "difference": self.difference,
        }
        return spreads.get(quantity)

    def value(self, quantity: Quantity) -> float | None:
        """The median of a quantity, in the unit of its bar."""
        if quantity == "memory":
            return self.memory
        if quantity == "share":
            return self.memory / self.peer_memory if self.memory is not None and self.peer_memory else None
        if quantity == "seconds":
            return self.subject and self.subject[1]
        spread = self.spread(quantity)
        return None if spread is None else spread.median

    def met(self, bar: Bar) -> bool:
        """Whether the bar is met. What could not be measured is missed."""
        value = self.value(bar.quantity)
        return self.failed is None and value is not None and bar.met_by(value)

    @property
    def verdict(self) -> Literal["met", "missed", "failed", "skipped", "no bar"]:
        """One word: "failed" without numbers, "missed" if any bar is missed."""
        if self.failed is not None:
            return "failed"
        if self.skipped is not None:
            return "skipped"
        if not self.case.bars:
            return "no bar"
        return "met" if all(self.met(bar) for bar in self.case.bars) else "missed"
