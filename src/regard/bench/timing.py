"""Time several subjects beside each other, so that what the machine does meanwhile happens to all of them.

Sample i of every subject comes from round i, seconds apart at most. A ratio is taken within a round, and the median of
the ratios is reported: a machine that slows down moves both sides of a ratio alike, and a burst spoils one of many.
"""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Spread", "Subject", "differences", "interleave", "ratios"]

# A sample shorter than this says more about the clock's surroundings than about the subject.
SHORTEST_SAMPLE = 2e-3
# Seconds from which on a call need not be repeated to learn how long it takes.
LONG = 0.1
# Seconds from which on the first call says that too: what is slow in it for being the first is a small part.
VERY_LONG = 2.0


@dataclass(frozen=True)
class Subject:
    """Something to time: ``call(prepare())``, of which only ``call`` is on the clock.

    Args:
        name: how the table calls it.
        call: what is timed; gets what ``prepare`` made.
        prepare: makes the input of one call, anew each time, so that nothing a call caches helps the next one.
    """

    name: str
    call: Callable[[Any], object]
    prepare: Callable[[], Any] = lambda: None


@dataclass(frozen=True)
class Spread:
    """The median of some numbers, and their quartiles.

    >>> Spread.of([4.0, 1.0, 2.0, 3.0, 5.0])
    Spread(median=3.0, low=2.0, high=4.0)
    """

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, numbers: Sequence[float]) -> Spread:
        """Summarise ``numbers``: median, lower and upper quartile, interpolated."""
        if not numbers:
            raise ValueError("numbers: got none; a spread needs at least one")
        if len(numbers) == 1:
            return cls(numbers[0], numbers[0], numbers[0])
        low, median, high = statistics.quantiles(numbers, n=4, method="inclusive")
        return cls(median, low, high)


def ratios(subject: Sequence[float], peer: Sequence[float]) -> Spread:
    """The median of ``subject[i] / peer[i]``, which is not the ratio of the medians.

    >>> ratios([1.0, 10.0, 3.0], [1.0, 5.0, 2.0]).median
    1.5

    Args:
        subject: seconds of each round.
        peer: seconds of the same rounds.
    """
    return Spread.of([s / p for s, p in zip(subject, peer, strict=True)])


def differences(subject: Sequence[float], peer: Sequence[float]) -> Spread:
    """The median of ``subject[i] - peer[i]``, in seconds.

    >>> differences([3.0, 10.0, 5.0], [1.0, 5.0, 2.0]).median
    3.0
    """
    return Spread.of([s - p for s, p in zip(subject, peer, strict=True)])


def interleave(
    subjects: Sequence[Subject],
    *,
    repeats: int | None = None,
    seconds: float = 10.0,
    least: int = 5,
    most: int = 51,
    clock: Callable[[], float] = time.perf_counter,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Mapping[str, list[float]]:
    """Time the subjects in turns, A B C, B C A, C A B, ..., and return the seconds of one call of each.

    The first call of each subject is in no round: it loads code and touches memory for the first time.

    Args:
        subjects: what to time; their names differ.
        repeats: rounds. If None, as many as fit in ``seconds``, within ``least`` and ``most``; three are enough where
            a round alone takes ``seconds`` or longer.
        seconds: what all rounds together may take, roughly.
        least: rounds to take where they take longer than ``seconds``.
        most: rounds to take where more would fit.
        clock: returns seconds.
        progress: called with (rounds done, rounds) after each round.

    Returns:
        name -> seconds of one call, one entry for each round.
    """
    if len({subject.name for subject in subjects}) != len(subjects):
        raise ValueError(f"subjects: got {[subject.name for subject in subjects]}; expected names that differ")
    if repeats is not None and repeats < 1:
        raise ValueError(f"repeats: got {repeats}; expected at least 1")
    calls: dict[str, int] = {}
    round_seconds = 0.0
    for subject in subjects:
        once = _sample(subject, 1, clock)
        if once < VERY_LONG:
            once = _sample(subject, 1, clock)
        if once < LONG:
            # The shortest of three: one slow call would leave too few calls in a sample for the whole run.
            once = min(once, _sample(subject, 1, clock), _sample(subject, 1, clock))
        calls[subject.name] = max(1, math.ceil(SHORTEST_SAMPLE / max(once, 1e-9)))
        round_seconds += calls[subject.name] * once
    least = min(least, 3) if round_seconds >= seconds else least
    rounds = repeats or min(most, max(least, int(seconds / max(round_seconds, 1e-9))))
    samples: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for index in range(rounds):
        first = index % len(subjects)
        for subject in (*subjects[first:], *subjects[:first]):
            samples[subject.name].append(_sample(subject, calls[subject.name], clock))
        progress(index + 1, rounds)
    return samples


def _sample(subject: Subject, calls: int, clock: Callable[[], float]) -> float:
    inputs = [subject.prepare() for _ in range(calls)]
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        start = clock()
        for given in inputs:
            subject.call(given)
        return (clock() - start) / calls
    finally:
        if was_enabled:
            gc.enable()
