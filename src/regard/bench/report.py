"""What came out, as a table and as JSON. A bar that was missed is in both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from regard.bench.case import UNITS, Bar, Measured
from regard.bench.runner import Report

__all__ = ["SCHEMA", "show", "to_json", "to_text"]

SCHEMA = 1
HEADINGS = ("case", "regard", "peer", "against it", "quartiles", "memory", "at most", "verdict")
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
    colours = {"met": "green", "missed": "bold red", "failed": "bold red", "no bar": ""}
    rows = [_cells(result) for result in report.results]
    # The quartiles go first where the terminal is narrow; a table that wraps cannot be read.
    columns = [index for index in range(len(HEADINGS)) if index != SPREAD or _width(rows) <= console.width]
    table = Table(box=None, pad_edge=False, header_style="bold")
    for index in columns:
        left = HEADINGS[index] in ("case", "at most", "verdict")
        table.add_column(HEADINGS[index], justify="left" if left else "right", no_wrap=True)
    for result, row in zip(report.results, rows, strict=True):
        *cells, verdict = (row[index] for index in columns)
        table.add_row(*(Text(cell) for cell in cells), Text(verdict, style=colours[result.verdict]))
    console.print(Text(_heading(report)))
    console.print(table)
    for line in _endnotes(report):
        console.print(Text(line))


def to_text(report: Report) -> str:
    """The report as plain text."""
    rows = [HEADINGS, *(_cells(result) for result in report.results)]
    widths = _widths(rows)
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_heading(report), *lines, *_endnotes(report)])


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(len(row[column]) for row in (HEADINGS, *rows)) for column in range(len(HEADINGS))]


def _width(rows: Sequence[Sequence[str]]) -> int:
    return sum(_widths(rows)) + 2 * (len(HEADINGS) - 1)


def to_json(report: Report) -> str:
    """The report as JSON, schema version :data:`SCHEMA`.

    The keys: ``schema``, ``regard``, ``date``, ``machine``, ``settings``, ``met`` and ``cases``; for each case
    ``name``, ``group``, ``what``, ``seconds`` (medians of one call, by subject), ``ratio``, ``difference_us``,
    ``memory_mb``, ``peer_share_of_peak``, ``samples``, ``checked``, ``failed``, ``bars`` and ``verdict``.
    What was not measured is null.
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
        "difference_us": result.difference and asdict(result.difference),
        "memory_mb": result.memory,
        "peer_share_of_peak": result.share_of_peak,
        "samples": result.samples,
        "checked": result.checked,
        "failed": result.failed,
        "bars": [_bar_record(result, bar) for bar in result.case.bars],
        "verdict": result.verdict,
    }


def _bar_record(result: Measured, bar: Bar) -> dict[str, Any]:
    return {
        "quantity": bar.quantity,
        "unit": UNITS[bar.quantity],
        "at_most": bar.at_most,
        "measured": result.value(bar.quantity),
        "met": result.met(bar),
    }


def _heading(report: Report) -> str:
    machine = report.machine
    heading = (
        f"regard {report.version}, torch {machine.torch}, {machine.threads} threads\n"
        f"{machine.cpu}, {machine.cores} cores, {machine.vector}\n"
        f"float32 matrix product: {machine.peak:.0f} GFLOP/s at its best\n"
    )
    if machine.busy:
        heading += f"Others were using this machine (load {machine.load:.1f}): the numbers say little.\n"
    return heading


def _endnotes(report: Report) -> list[str]:
    notes = ["", "Against it: median over the rounds. Memory: peak of one call beyond what was in use."]
    if report.quick:
        notes.append("A quick run: an impression, not a record.")
    for result in report.results:
        if result.failed is not None:
            notes.append(f"{result.case.name} failed: {result.failed}")
        notes.extend(
            f"{result.case.name} misses {bar.quantity}: {_measured(result, bar)}, asked {bar.describe()}"
            for bar in result.case.bars
            if result.failed is None and not result.met(bar)
        )
    return notes


def _measured(result: Measured, bar: Bar) -> str:
    value = result.value(bar.quantity)
    return "not measured" if value is None else f"{value:.3g} {UNITS[bar.quantity]}".replace(" x", "x")


def _cells(result: Measured) -> tuple[str, ...]:
    bars = result.case.bars
    if any(bar.quantity == "difference" for bar in bars):
        against, sign, digits, unit = result.difference, "+", ".1f", " µs"
    else:
        against, sign, digits, unit = result.ratio, "", ".3f", "x"
    return (
        result.case.name,
        _seconds(result.subject),
        _seconds(result.peer),
        "" if against is None else f"{against.median:{sign}{digits}}{unit}",
        "" if against is None else f"{against.low:{digits}} to {against.high:{digits}}",
        "" if result.memory is None else f"{result.memory:.0f} MB",
        ", ".join(bar.describe().removeprefix("at most ") for bar in bars),
        result.verdict,
    )


def _seconds(timed: tuple[str, float] | None) -> str:
    if timed is None:
        return ""
    seconds = timed[1]
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:#.3g}".rstrip(".") + f" {unit}"
    return f"{1e6 * seconds:#.3g}".rstrip(".") + " µs"
