"""Measure time, all lengths in turns, and memory, each in a process of its own."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import torch

import regard
from regard.bench import exact
from regard.bench.compare import ULPS, close_to
from regard.bench.machine import describe
from regard.bench.memory import peak_extra_of_module
from regard.bench.progress import Progress
from regard.bench.scaling.curves import Curve, Scaling
from regard.bench.scaling.kinds import KINDS, LENGTHS, RULE, inputs, subject
from regard.bench.settings import check_settings, threads_set
from regard.bench.timing import interleave
from regard.look.files import write_atomically

__all__ = ["check", "run"]

# Seconds that all rounds over all lengths take, roughly.
SECONDS = 60.0
# The longest whose gradients are compared, all of them: they hold every row to account.
LONGEST_GRADIENT = 8192

Place = tuple[str, int]


def run(
    *,
    quick: bool = False,
    threads: int | None = None,
    json: Path | None = None,
    figure: Path | None = None,
    lengths: Sequence[int] = LENGTHS,
) -> Scaling:
    """Measure on this machine; what ``regard bench --scaling`` does before it prints the table.

    Args:
        quick: one round, up to a quarter of the longest length.
        threads: that torch may use; unchanged if None.
        json: also write the numbers to this file, whole or not at all.
        figure: also draw them to this file: .png, .svg or .pdf.
        lengths: L, in rising order.

    Raises:
        ValueError: for numbers below 1 or a file that cannot be written; before anything is timed.
        FileNotFoundError: when the folder of a file does not exist; likewise.
        ImportError: for a figure without matplotlib; likewise.
    """
    check_settings(threads=threads, json=json, figure=figure)
    if figure is not None:
        from regard.bench.scaling.figure import write
    if quick:
        lengths = [length for length in lengths if 4 * length <= max(lengths)] or lengths[:1]
    places = [(name, length) for name, kind in KINDS.items() for length in lengths if length <= kind.longest]
    with threads_set(threads), Progress(1) as progress:
        progress.stage("the machine's matrix-product peak")
        machine = describe()
        date = datetime.now(timezone.utc).isoformat(timespec="seconds")
        progress.begin("scaling")
        progress.stage("comparing the results")
        checked = "; ".join(check(length) for length in lengths)
        progress.stage("timing")
        samples = _samples(places, progress, quick=quick)
        memory = _memory(places, progress, machine.threads)
    seconds = {place: statistics.median(samples[place]) for place in places}
    report = Scaling(
        machine=machine,
        date=date,
        version=regard.__version__,
        quick=quick,
        rounds=min(map(len, samples.values())),
        checked=checked,
        curves=tuple(_curve(name, [n for which, n in places if which == name], seconds, memory) for name in KINDS),
    )
    if json is not None:
        from regard.bench.scaling.report import to_json

        write_atomically(json, to_json(report).encode("utf-8"))
    if figure is not None:
        write(report, figure)
    return report


def check(query_len: int) -> str:
    """Compare attention under the window with the definition in float64: three blocks of rows of each head.

    Up to :data:`LONGEST_GRADIENT` also the gradients, of every row.

    Raises:
        Disagreement: where they differ.
    """
    q, k, v, grad = inputs(query_len)
    given = tuple(x.detach().requires_grad_() for x in (q, k, v))
    output = KINDS["window"].attend(*given)
    worst = 0.0
    starts = exact.sampled_starts(query_len)
    for block in exact.blocks(q[0], k[0], v[0], RULE.allowed, starts=starts):
        what = f"output at L {query_len}, rows from {block.rows.start}"
        worst = max(worst, close_to(what, output.detach()[0, :, block.rows], block.output, ulps=ULPS))
    if query_len > LONGEST_GRADIENT:
        return f"L {query_len}: output within {worst:.1e}"
    found = torch.autograd.grad(output, given, grad)
    truth = exact.gradients(q[0], k[0], v[0], grad[0], RULE.allowed)
    for what, got, true in zip(("query", "key", "value"), found, (truth.query, truth.key, truth.value), strict=True):
        name = f"gradient of {what} at L {query_len}"
        worst = max(worst, close_to(name, got[0].flatten(1), true.flatten(1), ulps=ULPS))
    return f"L {query_len}: output and gradients within {worst:.1e}"


def _samples(places: Sequence[Place], progress: Progress, *, quick: bool) -> dict[Place, list[float]]:
    longest = inputs(max(length for _, length in places))
    subjects = {place: subject(*place, longest) for place in places}
    samples = interleave(
        tuple(subjects.values()), repeats=1 if quick else None, seconds=SECONDS, most=9, progress=progress.advance
    )
    return {place: samples[subjects[place].name] for place in places}


def _memory(places: Sequence[Place], progress: Progress, threads: int) -> dict[Place, float]:
    found = {}
    for index, (name, length) in enumerate(places):
        what = f"{name}, L {length}"
        progress.stage(f"peak memory of {what}")
        arguments = (name, str(length), str(threads))
        found[name, length] = peak_extra_of_module("regard.bench.scaling.memory", *arguments, what=what)
        progress.advance(index + 1, len(places))
    return found


def _curve(name: str, lengths: Sequence[int], seconds: dict[Place, float], memory: dict[Place, float]) -> Curve:
    return Curve(
        name,
        tuple(lengths),
        tuple(seconds[name, length] for length in lengths),
        tuple(memory[name, length] for length in lengths),
    )
