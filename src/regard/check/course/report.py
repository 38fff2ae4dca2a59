"""Grades as text for a person, as JSON for a program, and as CSV for a gradebook."""

from __future__ import annotations

import csv
import io
import json
import textwrap
from collections.abc import Sequence
from itertools import groupby
from typing import Any

from regard import __version__
from regard.check.course.grading import Grade
from regard.look.wording import one_line

__all__ = ["SCHEMA", "to_csv", "to_json", "to_text"]

SCHEMA = 1
WIDTH = 100

NOT_GRADED = "The heatmap of exercise 1 is for a person to look at: it has no points."
NO_SANDBOX = (
    "Each submission ran in a process of its own, with a limit on its time and, on Linux, on its memory. "
    "That is no sandbox: grade what you would also run."
)


def to_text(grades: Sequence[Grade]) -> str:
    """One grade with everything that was found, or a table of several."""
    text = _details(grades[0]) if len(grades) == 1 else _table(grades)
    return "\n".join([*text, "", NOT_GRADED, *textwrap.wrap(NO_SANDBOX, WIDTH)])


def _details(grade: Grade) -> list[str]:
    lines = [f"{one_line(grade.name)}: {grade.earned} of {grade.points} points"]
    if grade.remark:
        lines += textwrap.wrap(grade.remark, WIDTH)
    width = max(map(len, grade.tasks), default=0)
    lines += ["", *(f"{task:<{width}}  {earned:>2} of {points:>2}" for task, (earned, points) in grade.tasks.items())]
    lost = [result for result in grade.results if result.earned < result.points and result.message != grade.remark]
    # What is missing altogether is said once, not by every check of it.
    for (task, message), group in groupby(lost, key=lambda result: (result.task, result.message)):
        results = list(group)
        points = sum(result.points for result in results)
        names = ", ".join(result.check for result in results)
        lines += ["", f"{task}, {names}: {points} {'point' if points == 1 else 'points'} lost"]
        lines += _indented(message) + (_indented(f"Hint: {results[0].hint}") if results[0].hint else [])
    return lines


def _indented(text: str) -> list[str]:
    return textwrap.wrap(text, WIDTH, initial_indent="  ", subsequent_indent="  ")


def _table(grades: Sequence[Grade]) -> list[str]:
    if not grades:
        return ["no submissions"]
    # The tasks' names are longer than their points: they are numbered, and the numbers explained.
    tasks = list(grades[0].tasks)
    legend = [f"{number}: {task} ({grades[0].tasks[task][1]})" for number, task in enumerate(tasks, 1)]
    rows = [["submission", *map(str, range(1, len(tasks) + 1)), "total", "remark"]]
    for grade in grades:
        points = [str(grade.tasks[task][0]) for task in tasks]
        remark = textwrap.shorten(grade.remark, 80, placeholder=" ...")
        rows.append([one_line(grade.name), *points, f"{grade.earned}/{grade.points}", remark])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        first, *numbers, remark = row
        cells = [cell.rjust(width) for cell, width in zip(numbers, widths[1:-1], strict=True)]
        lines.append("  ".join([first.ljust(widths[0]), *cells, remark]).rstrip())
    return [*lines, "", *textwrap.wrap("; ".join(legend), WIDTH)]


def to_json(grades: Sequence[Grade]) -> str:
    """Grades as JSON, schema version :data:`SCHEMA`.

    The keys: ``schema``, ``regard``, ``suite`` and ``submissions``; for each ``name``, ``status``, ``earned``,
    ``points``, ``remark``, ``seconds`` and ``tasks``; for each task ``name``, ``earned``, ``points`` and ``checks``;
    for each check ``name``, ``earned``, ``points``, ``message`` and ``hint``.
    """
    document = {
        "schema": SCHEMA,
        "regard": __version__,
        "suite": "exercises",
        "submissions": [_record(grade) for grade in grades],
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _record(grade: Grade) -> dict[str, Any]:
    tasks = [
        {
            "name": task,
            "earned": earned,
            "points": points,
            "checks": [
                {
                    "name": result.check,
                    "earned": result.earned,
                    "points": result.points,
                    "message": result.message,
                    "hint": result.hint,
                }
                for result in grade.results
                if result.task == task
            ],
        }
        for task, (earned, points) in grade.tasks.items()
    ]
    return {
        "name": grade.name,
        "status": grade.status,
        "earned": grade.earned,
        "points": grade.points,
        "remark": grade.remark,
        "seconds": round(grade.seconds, 2),
        "tasks": tasks,
    }


def to_csv(grades: Sequence[Grade]) -> str:
    """A gradebook: a row for each submission, a column for each task, the total, what it is out of, and a remark."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    tasks = list(grades[0].tasks) if grades else []
    writer.writerow(["submission", *tasks, "total", "out_of", "remark"])
    for grade in grades:
        points = [grade.tasks[task][0] for task in tasks]
        writer.writerow([_plain(grade.name), *points, grade.earned, grade.points, _plain(grade.remark)])
    return text.getvalue()


def _plain(cell: str) -> str:
    # A spreadsheet runs a cell that begins like a formula; a submission chooses its own name and its own errors.
    return "'" + one_line(cell) if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else one_line(cell)
