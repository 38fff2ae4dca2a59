"""What was measured: a curve of time and memory for each kind, and the slope of its log-log fit."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from regard.bench.case import Bar
from regard.bench.machine import Machine
from regard.bench.scaling.kinds import KINDS

__all__ = ["FIT_FROM", "SLOPE", "Curve", "Fit", "Scaling", "slope"]

#: The lengths that a slope is fitted to begin here: below, what a call costs at any length counts.
FIT_FROM = 8192
SLOPE = Bar("ratio", 1.1)


@dataclass(frozen=True)
class Curve:
    """One kind at its lengths.

    Args:
        name: a key of :data:`regard.bench.scaling.kinds.KINDS`.
        lengths: L.
        seconds: of one call, the median over the rounds.
        memory: peak of one call beyond what was in use, MB.
    """

    name: str
    lengths: tuple[int, ...]
    seconds: tuple[float, ...]
    memory: tuple[float, ...]

    def fits(self) -> tuple[Fit, ...]:
        """The slopes of time and memory; none where fewer than two lengths are long enough."""
        kept = [index for index, length in enumerate(self.lengths) if length >= FIT_FROM]
        if len(kept) < 2:
            return ()
        lengths = [self.lengths[index] for index in kept]
        return tuple(
            Fit(self.name, quantity, slope(lengths, [values[index] for index in kept]), KINDS[self.name].held)
            for quantity, values in (("time", self.seconds), ("memory", self.memory))
        )


@dataclass(frozen=True)
class Fit:
    """The slope of a log-log fit: 1 is linear, 2 quadratic.

    Args:
        name: a key of :data:`regard.bench.scaling.kinds.KINDS`.
        quantity: "time" or "memory".
        slope: by least squares.
        held: whether it is held to the bar.
    """

    name: str
    quantity: str
    slope: float
    held: bool

    @property
    def met(self) -> bool | None:
        """Whether the bar is met; None where there is none."""
        return SLOPE.met_by(self.slope) if self.held else None


@dataclass(frozen=True)
class Scaling:
    """One run.

    Args:
        machine: where.
        date: when it began, UTC, ISO 8601.
        version: of regard.
        quick: whether it was an impression and no record.
        rounds: behind each time.
        checked: what was compared before timing.
        curves: one of each kind.
    """

    machine: Machine
    date: str
    version: str
    quick: bool
    rounds: int
    checked: str
    curves: tuple[Curve, ...]

    @property
    def fits(self) -> tuple[Fit, ...]:
        """All slopes."""
        return tuple(fit for curve in self.curves for fit in curve.fits())

    @property
    def met(self) -> bool:
        """Whether every slope that is held to the bar meets it."""
        return all(fit.met is not False for fit in self.fits)


def slope(lengths: Sequence[float], values: Sequence[float]) -> float:
    """The exponent p of the power law ``values = c * lengths ** p`` that fits best, by least squares of the logarithms.

    >>> slope([1, 2, 4, 8], [3, 12, 48, 192])
    2.0

    Args:
        lengths: at least two that differ.
        values: one each; zero or less counts as very small.
    """
    x, y = ([math.log2(max(number, 1e-12)) for number in numbers] for numbers in (lengths, values))
    return statistics.linear_regression(x, y).slope
