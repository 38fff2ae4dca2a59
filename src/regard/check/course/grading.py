"""Grades submissions, each in a process of its own.

This is no sandbox: the limits on time and memory hold mistakes, not attacks. A submission runs with the rights of
whoever grades it, may read what they may read, and could forge its own points. Grade what you would also run.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from regard.check.course.grader import Result, selected
from regard.check.course.registry import TASKS
from regard.check.isolate import Outcome, run_isolated
from regard.check.load import check_file
from regard.look.wording import one_line

__all__ = ["Grade", "grade", "grade_folder", "submissions"]

Status = Literal["done", "failed", "timeout", "memory", "crashed"]

#: Told what happens: a submission begins (path, ""), a task of it begins (path, task).
Progress = Callable[[Path, str], None]

NAMES_A_TASK = re.compile(rf"\b(?:class|def)\s+(?:{'|'.join(TASKS)})\b")


@dataclass(frozen=True)
class Grade:
    """What a submission earned.

    Args:
        path: the submission.
        name: what it is called in a list: its path within the folder that was graded.
        status: "done"; "failed": it does not import; "timeout", "memory", "crashed": it ended before the last check.
        results: one for every check, in the order of the exercises.
        remark: one line for anything but done, else "".
        seconds: that it ran.
    """

    path: Path
    name: str
    status: Status
    results: tuple[Result, ...]
    remark: str
    seconds: float

    @property
    def earned(self) -> int:
        """The points earned."""
        return sum(result.earned for result in self.results)

    @property
    def points(self) -> int:
        """The points there were."""
        return sum(result.points for result in self.results)

    @property
    def tasks(self) -> dict[str, tuple[int, int]]:
        """For each task, the points earned and the points there were."""
        names = dict.fromkeys(result.task for result in self.results)
        of = {name: [result for result in self.results if result.task == name] for name in names}
        return {name: (sum(r.earned for r in found), sum(r.points for r in found)) for name, found in of.items()}


def grade(
    path: str | Path,
    *,
    seconds: float = 60.0,
    memory_mb: int | None = 4096,
    only: Sequence[str] = (),
    name: str | None = None,
    progress: Progress | None = None,
) -> Grade:
    """Grade one submission in a process of its own.

    What it earned before it hangs, falls or runs out of memory counts. No sandbox: see this module's docstring.

    Args:
        path: a .py or .ipynb file.
        seconds: it may take.
        memory_mb: it may take; Linux alone holds it to that.
        only: names of tasks; all of them if empty.
        name: what it is called in a list; the file's name if None.
        progress: told when it begins and when a task of it does.

    Returns:
        The grade, with a result for every check, also for those that were not reached.

    Raises:
        ValueError: no such file, another kind of file, a limit that is not above 0.
    """
    path = Path(path)
    check_file(path)
    results: dict[tuple[str, str], Result] = {}
    begun: list[tuple[str, str]] = []

    def follow(message: dict[str, Any]) -> None:
        if "begin" in message:
            task, check = message["begin"]
            if progress is not None and (not begun or begun[-1][0] != task):
                progress(path, task)
            begun.append((task, check))
        elif "earned" in message:
            result = Result(**message)
            results[result.task, result.check] = result

    if progress is not None:
        progress(path, "")
    outcome = run_isolated(
        "regard.check.course.grader:grade_file",
        {"path": str(path), "only": list(only)},
        seconds=seconds,
        memory_mb=memory_mb,
        progress=follow,
    )
    status, remark, blamed = _verdict(outcome, begun[-1] if begun and begun[-1] not in results else None)
    rows = tuple(
        results.get((check.task, check.name))
        or Result(check.task, check.name, check.points, 0, blamed if (check.task, check.name) in begun else remark)
        for check in selected(only)
    )
    return Grade(path, path.name if name is None else name, status, rows, remark, outcome.seconds)


def _verdict(outcome: Outcome, running: tuple[str, str] | None) -> tuple[Status, str, str]:
    """The status, the remark, and the message of the check that was running."""
    failed = outcome.value.get("failed") if isinstance(outcome.value, dict) else None
    if failed is not None:
        return "failed", one_line(str(failed)), ""
    if outcome.status == "done":
        return "done", "", ""
    reason = one_line(outcome.reason)
    if running is None:
        return outcome.status, f"ended while it was imported: {reason}", ""
    where = "/".join(running)
    return outcome.status, f"ended in {where}: {reason}; the points before that count", reason


def grade_folder(
    folder: str | Path,
    *,
    seconds: float = 60.0,
    memory_mb: int | None = 4096,
    only: Sequence[str] = (),
    progress: Progress | None = None,
) -> list[Grade]:
    """Grade every submission in a folder, one after the other; whatever one does, the next is graded all the same.

    Args:
        folder: with the submissions: see :func:`submissions`.
        seconds: each may take.
        memory_mb: each may take; Linux alone holds it to that.
        only: names of tasks; all of them if empty.
        progress: told when a submission begins and when a task of it does.

    Returns:
        The grades, in the order of the submissions' names.

    Raises:
        ValueError: a folder without submissions, a limit that is not above 0.
    """
    folder = Path(folder)
    return [
        grade(
            path,
            seconds=seconds,
            memory_mb=memory_mb,
            only=only,
            name=path.relative_to(folder).as_posix(),
            progress=progress,
        )
        for path in submissions(folder)
    ]


def submissions(folder: Path) -> list[Path]:
    """The submissions in a folder: its .py and .ipynb files, and those one folder down.

    Of several files in a folder further down, those count that define something the exercises ask for; the others are
    taken for their helpers.

    Args:
        folder: where to look.

    Returns:
        Their paths, sorted.

    Raises:
        ValueError: if there is none.
    """
    found = _files(folder)
    for below in sorted(folder.iterdir()):
        if below.is_dir() and not below.name.startswith((".", "__")):
            files = _files(below)
            found += [file for file in files if len(files) == 1 or _names_a_task(file)] or files
    if not found:
        raise ValueError(f"there is no .py or .ipynb file in {one_line(str(folder))}, nor in a folder in it")
    return found


def _files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.is_file() and file.suffix.lower() in (".py", ".ipynb") and not file.name.startswith((".", "__"))
    )


def _names_a_task(file: Path) -> bool:
    return NAMES_A_TASK.search(file.read_bytes().decode("utf-8", "replace")) is not None
