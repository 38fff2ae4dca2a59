"""What came out, as a table and as JSON. A bar that was missed is in both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from regard.bench.case import UNITS, Bar, Case, Measured
from regard.bench.machine import Machine
from regard.bench.runner import Report

__all__ = ["SCHEMA", "heading", "limits", "show", "table_text", "time_words", "to_json", "to_text"]

# 2 adds `speedup`, `skipped` and a bar's `at_least`; nothing of 1 is gone, but a bar has one of two limits.
# 3 adds `peer_memory_mb` and bars on a "share" of it.
SCHEMA = 3
HEADINGS = ("case", "regard", "peer", "ratio", "quartiles", "memory", "asked", "verdict")
SPREAD = HEADINGS.index("quartiles")


def show(report: Report) -> None:
    """Print the report on stdout: a table drawn by rich where it is installed, plain text elsewhere."""
    try:
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ModuleNotFoundError:
        print(to_text(report))
        return
    console = Console(highlight=False)
    colours = {"met": "green", "missed": "bold red", "failed": "bold red", "skipped": "yellow", "no bar": ""}
    rows = [_cells(result) for result in report.results]
    # The quartiles go first where the terminal is narrow; a table that wraps cannot be read.
    columns = [index for index in range(len(HEADINGS)) if index != SPREAD or _width(rows) <= console.width]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index in columns:
        left = HEADINGS[index] in ("case", "asked", "verdict")
        table.add_column(HEADINGS[index], justify="left" if left else "right", no_wrap=True)
    for result, row in zip(report.results, rows, strict=True):
        *cells, verdict = (row[index] for index in columns)
        table.add_row(*(Text(cell) for cell in cells), Text(verdict, style=colours[result.verdict]))
    console.print(Text(heading(report.machine, report.version)))
    console.print(table)
    for line in _endnotes(report):
        console.print(Text(line))


def to_text(report: Report) -> str:
    """The report as plain text."""
    lines = table_text([HEADINGS, *(_cells(result) for result in report.results)])
    return "\n".join([heading(report.machine, report.version), *lines, *_endnotes(report)])


def table_text(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows as lines with aligned columns; the first is the headings."""
    widths = _widths(rows)
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*rows, strict=True)]


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(_widths([HEADINGS, *rows])) + 2 * (len(HEADINGS) - 1)


def to_json(report: Report) -> str:
    """The report as JSON, schema version :data:`SCHEMA`.

    The keys: ``schema``, ``regard``, ``date``, ``machine``, ``settings``, ``met`` and ``cases``; for each case
    ``name``, ``group``, ``what``, ``seconds`` (medians of one call, by subject), ``ratio`` (subject over peer),
    ``speedup`` (peer over subject), ``difference_us``, ``memory_mb``, ``peer_memory_mb``, ``peer_share_of_peak``,
    ``samples``, ``checked``, ``failed``, ``skipped``, ``bars`` (each with ``at_most`` or ``at_least``, the other null)
    and ``verdict``. What was not measured is null.
    """
    machine = asdict(report.machine)
    machine["peak_gflops"] = round(machine.pop("peak"), 1)
    settings = {"quick": report.quick, "repeats": report.repeats, "threads": report.machine.threads}
    document = {
        "schema": SCHEMA,
        "regard": report.version,
        "date": report.date,
        "machine": machine,
        "settings": settings,
        "met": report.met,
        "cases": [_record(result) for result in report.results],
    }
    return json.dumps(document, indent=2) + "\n"


def _record(result: Measured) -> dict[str, Any]:
    timed = [pair for pair in (result.subject, result.peer) if pair is not None]
    return {
        "name": result.case.name,
        "group": result.case.group,
        "what": result.case.what,
        "seconds": dict(timed),
        "ratio": result.ratio and asdict(result.ratio),
        "speedup": result.speedup and asdict(result.speedup),
        "difference_us": result.difference and asdict(result.difference),
        "memory_mb": result.memory,
        "peer_memory_mb": result.peer_memory,
        "peer_share_of_peak": result.share_of_peak,
        "samples": result.samples,
        "checked": result.checked,
        "failed": result.failed,
        "skipped": result.skipped,
        "bars": [_bar_record(result, bar) for bar in result.case.bars],
        "verdict": result.verdict,
    }


def _bar_record(result: Measured, bar: Bar) -> dict[str, Any]:
    return {
        "quantity": bar.quantity,
        "unit": UNITS[bar.quantity],
        "at_most": bar.at_most,
        "at_least": bar.at_least,
        "measured": result.value(bar.quantity),
        "met": result.met(bar),
    }


def heading(machine: Machine, version: str) -> str:
    """What the numbers were measured with and on."""
    words = (
        f"regard {version}, torch {machine.torch}, {machine.threads} threads\n"
        f"{machine.cpu}, {machine.cores} cores, {machine.vector}\n"
        f"float32 matrix product: {machine.peak:.0f} GFLOP/s at its best\n"
    )
    if machine.busy:
        words += f"Others were using this machine (load {machine.load:.1f}): the numbers say little.\n"
    return words


def _endnotes(report: Report) -> list[str]:
    notes = [
        "",
        "Ratio: regard's time over the peer's, the median over the rounds;",
        "where at least (≥) or nothing is asked, the peer's over regard's.",
        "Memory: peak of one call beyond what was in use; mem: as a share of the peer's.",
    ]
    if report.quick:
        notes.append("A quick run: an impression, not a record.")
    for result in report.results:
        if result.failed is not None:
            notes.append(f"{result.case.name} failed: {result.failed}")
        if result.skipped is not None:
            notes.append(f"{result.case.name} skipped: {result.skipped}")
        notes.extend(
            f"{result.case.name} misses {bar.quantity}: {_measured(result, bar)}, asked {bar.describe()}"
            for bar in result.case.bars
            if result.verdict == "missed" and not result.met(bar)
        )
    return notes


def _measured(result: Measured, bar: Bar) -> str:
    value = result.value(bar.quantity)
    return "not measured" if value is None else f"{value:.3g} {UNITS[bar.quantity]}".replace(" x", "x")


def _cells(result: Measured) -> tuple[str, ...]:
    shown = result.case.shown
    sign, digits, unit = ("+", ".1f", " µs") if shown == "difference" else ("", ".3f", "x")
    against = result.spread(shown)
    return (
        result.case.name,
        "" if result.subject is None else time_words(result.subject[1]),
        "" if result.peer is None else time_words(result.peer[1]),
        "" if against is None else f"{against.median:{sign}{digits}}{unit}",
        "" if against is None else f"{against.low:{digits}} to {against.high:{digits}}",
        "" if result.memory is None else f"{result.memory:.0f} MB",
        limits(result.case),
        result.verdict,
    )


def limits(case: Case) -> str:
    """What a case is held to, in the few signs that a column has room for."""
    words = " ".join(bar.describe().removesuffix(" as fast") for bar in case.bars)
    return words.replace("at most ", "≤").replace("at least ", "≥").replace(" of the memory", " mem")


def time_words(seconds: float) -> str:
    """Seconds with three digits, in the unit that suits them.

    >>> time_words(0.00526)
    '5.26 ms'
    """
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{1e6 * seconds:#.3g}".rstrip(".") + " µs"
