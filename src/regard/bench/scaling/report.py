"""The curves as a table and as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Any

from regard.bench.report import heading, table_text, time_words
from regard.bench.scaling.curves import FIT_FROM, SLOPE, Fit, Scaling
from regard.bench.scaling.kinds import KINDS

__all__ = ["SCHEMA", "show", "to_json", "to_text"]

SCHEMA = 1


def show(report: Scaling) -> None:
    """Print the report on stdout."""
    print(to_text(report))


def to_text(report: Scaling) -> str:
    """The report as plain text: a row for each length of each kind, then the slopes."""
    rows = [("kind", "L", "time", "memory")]
    for curve in report.curves:
        rows.extend(
            (KINDS[curve.name].words, str(length), time_words(seconds), f"{memory:.0f} MB")
            for length, seconds, memory in zip(curve.lengths, curve.seconds, curve.memory, strict=True)
        )
    lines = [heading(report.machine, report.version), *table_text(rows), "", *map(_line, report.fits)]
    if report.quick:
        lines.append("A quick run: an impression, not a record.")
    return "\n".join(lines)


def _line(fit: Fit) -> str:
    words = f"{KINDS[fit.name].words}: {fit.quantity} grows with L to the power {fit.slope:.2f} from {FIT_FROM} on"
    if fit.met is None:
        return words
    return f"{words}, asked {SLOPE.describe().removesuffix('x')}: {'met' if fit.met else 'missed'}"


def to_json(report: Scaling) -> str:
    """The report as JSON, schema version :data:`SCHEMA`.

    The keys: ``schema``, ``regard``, ``date``, ``machine``, ``settings``, ``checked``, ``met``, ``curves`` (each with
    ``name``, ``what``, ``lengths``, ``seconds`` and ``memory_mb``) and ``slopes`` (each with ``name``, ``quantity``,
    ``slope``, ``at_most``, null where nothing is asked, and ``met``, likewise).
    """
    machine = asdict(report.machine)
    machine["peak_gflops"] = round(machine.pop("peak"), 1)
    document: dict[str, Any] = {
        "schema": SCHEMA,
        "regard": report.version,
        "date": report.date,
        "machine": machine,
        "settings": {"quick": report.quick, "rounds": report.rounds, "threads": report.machine.threads},
        "checked": report.checked,
        "met": report.met,
        "curves": [
            {
                "name": curve.name,
                "what": KINDS[curve.name].words,
                "lengths": curve.lengths,
                "seconds": curve.seconds,
                "memory_mb": curve.memory,
            }
            for curve in report.curves
        ],
        "slopes": [
            {
                "name": fit.name,
                "quantity": fit.quantity,
                "slope": fit.slope,
                "at_most": SLOPE.at_most if fit.held else None,
                "met": fit.met,
            }
            for fit in report.fits
        ],
    }
    return json.dumps(document, indent=2) + "\n"
