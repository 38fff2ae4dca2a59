"""Run cases: compare, then time, then measure memory; a case that fails does not stop the others."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import TypedDict

from regard import __version__
from regard.bench.case import Case, Disagreement, Measured, Missing, Solo
from regard.bench.cases import select
from regard.bench.machine import Machine, describe
from regard.bench.memory import once, peak_extra_of_case
from regard.bench.progress import Progress
from regard.bench.settings import check_settings, threads_set
from regard.bench.timing import Spread, differences, interleave, ratios
from regard.look.files import write_atomically

__all__ = ["Report", "measure", "run"]

# An impression: one round where it is long, three where they are short.
QUICK_REPEATS = 3
QUICK_SECONDS = 3.0
SOLO_REPEATS = 5


class Effort(TypedDict, total=False):
    """What :func:`interleave` takes; its own choice where empty."""

    seconds: float
    least: int
    most: int


@dataclass(frozen=True)
class Report:
    """One run.

    Args:
        machine: where.
        date: when it began, UTC, ISO 8601.
        version: of regard.
        quick: whether it was an impression and no record.
        repeats: samples asked for; None where each case chose.
        results: in the order of the table.
    """

    machine: Machine
    date: str
    version: str
    quick: bool
    repeats: int | None
    results: tuple[Measured, ...]

    @property
    def met(self) -> bool:
        """Whether every bar is met and no case failed."""
        return all(result.verdict in ("met", "no bar", "skipped") for result in self.results)


def run(
    only: Sequence[str] = (),
    *,
    quick: bool = False,
    repeats: int | None = None,
    threads: int | None = None,
    json: Path | None = None,
) -> Report:
    """Run the benchmark on this machine; what ``regard bench`` does before it prints the table.

    Args:
        only: names of cases or groups; all if empty.
        quick: at most three samples of each subject, where ``repeats`` does not say otherwise.
        repeats: samples of each subject; as many as fit in some ten seconds a case if None.
        threads: that torch may use; unchanged if None.
        json: also write the report to this file, whole or not at all.

    Returns:
        The :class:`Report`.

    Raises:
        ValueError: for a name that does not exist, numbers below 1, or a ``json`` that cannot be written; before
            anything is timed.
        FileNotFoundError: when the folder of ``json`` does not exist; before anything is timed.
    """
    cases = select(only)
    check_settings(repeats=repeats, threads=threads, json=json)
    with threads_set(threads), Progress(len(cases)) as progress:
        progress.stage("the machine's matrix-product peak")
        machine = describe()
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        results = tuple(
            measure(case, repeats=repeats, quick=quick, machine=machine, progress=progress) for case in cases
        )
    report = Report(machine, date, __version__, quick, repeats, results)
    if json is not None:
        from regard.bench.report import to_json

        write_atomically(json, to_json(report).encode("utf-8"))
    return report


def measure(case: Case, *, repeats: int | None, machine: Machine, progress: Progress, quick: bool = False) -> Measured:
    """Everything about one case. A result that is wrong is not timed, and any error becomes a failed result."""
    progress.begin(case.name)
    effort: Effort = {"seconds": QUICK_SECONDS, "least": 1, "most": QUICK_REPEATS} if quick else {}
    try:
        progress.stage("making the inputs")
        contest = case.build()
        if isinstance(contest, Solo):
            if contest.once:
                progress.stage("once, in a process of its own")
                seconds, megabytes = once(case.name, threads=machine.threads)
                return Measured(case, subject=(contest.name, seconds), memory=megabytes, samples=1)
            return _solo(case, contest, repeats or (QUICK_REPEATS if quick else SOLO_REPEATS), progress)
        progress.stage("comparing the results")
        checked = contest.check()
        progress.stage("timing")
        samples = interleave((contest.subject, contest.peer), repeats=repeats, progress=progress.advance, **effort)
        subject, peer = samples[contest.subject.name], samples[contest.peer.name]
        peer_median = statistics.median(peer)
        memory = peer_memory = None
        if case.memory:
            progress.stage("peak memory")
            memory = peak_extra_of_case(case.name, threads=machine.threads)
            if any(bar.quantity == "share" for bar in case.bars):
                peer_memory = peak_extra_of_case(case.name, threads=machine.threads, of="peer")
    except Missing as missing:
        return Measured(case, skipped=str(missing))
    except Disagreement as wrong:
        return Measured(case, failed=f"wrong, so not timed: {wrong}")
    except Exception as error:
        return Measured(case, failed=f"{type(error).__name__}: {error}")
    difference = differences(subject, peer)
    return Measured(
        case,
        subject=(contest.subject.name, statistics.median(subject)),
        peer=(contest.peer.name, peer_median),
        ratio=ratios(subject, peer),
        speedup=ratios(peer, subject),
        difference=Spread(*(1e6 * seconds for seconds in (difference.median, difference.low, difference.high))),
        memory=memory,
        peer_memory=peer_memory,
        samples=len(subject),
        share_of_peak=contest.flops / peer_median / (machine.peak * 1e9) if contest.flops else None,
        checked=checked,
    )


def _solo(case: Case, solo: Solo, repeats: int, progress: Progress) -> Measured:
    progress.stage("timing")
    seconds = []
    for index in range(repeats):
        seconds.append(solo.sample())
        progress.advance(index + 1, repeats)
    return Measured(case, subject=(solo.name, statistics.median(seconds)), samples=repeats)
