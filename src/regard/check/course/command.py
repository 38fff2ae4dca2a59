"""What `regard check FILE --suite exercises` does: grade a submission or a folder of them, print, write."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from regard.check.course.grading import Grade, grade, grade_folder, submissions
from regard.check.course.registry import TASKS
from regard.check.course.report import to_csv, to_json, to_text
from regard.check.load import check_file
from regard.look.files import check_target, write_atomically

__all__ = ["run"]


def run(
    path: str | Path,
    *,
    json: str | Path | None = None,
    csv: str | Path | None = None,
    seconds: float = 60.0,
    memory_mb: int | None = 4096,
    only: Sequence[str] = (),
) -> int:
    """Grade a submission or a folder of submissions, print the result on stdout, and write the files that are wanted.

    No sandbox: see :mod:`regard.check.course.grading`.

    Args:
        path: a .py or .ipynb file, or a folder.
        json: also write everything that was found to this file.
        csv: also write the gradebook to this file.
        seconds: each submission may take.
        memory_mb: each submission may take; None for no limit.
        only: names of tasks; all of them if empty.

    Returns:
        The exit code: 0 if every submission earned all points, 1 if one lost some.

    Raises:
        ValueError: no such file or folder, no submissions in it, an unknown task, a limit that is not above 0, a file
            that cannot be written.
    """
    path = Path(path)
    _check(path, only, seconds, memory_mb)
    for name, target in (("--json", json), ("--csv", csv)):
        if target is not None:
            check_target(target, name)
    grades = _grade(path, seconds, memory_mb, only)
    if json is not None:
        write_atomically(json, to_json(grades).encode())
    if csv is not None:
        write_atomically(csv, to_csv(grades).encode())
    print(to_text(grades))
    return 0 if all(found.earned == found.points for found in grades) else 1


def _check(path: Path, only: Sequence[str], seconds: float, memory_mb: int | None) -> None:
    if not path.is_dir():
        check_file(path)
    for name in only:
        if name not in TASKS:
            near = difflib.get_close_matches(name, TASKS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(TASKS)}"
            raise ValueError(f"there is no task {name!r}; {hint}")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; expected more than 0")
    if memory_mb is not None and memory_mb < 1:
        raise ValueError(f"memory_mb is {memory_mb}; expected at least 1")


def _grade(path: Path, seconds: float, memory_mb: int | None, only: Sequence[str]) -> list[Grade]:
    from regard.bench.progress import Progress

    count = len(submissions(path)) if path.is_dir() else 1
    with Progress(count) as shown:

        def follow(submission: Path, task: str) -> None:
            if task:
                shown.stage(task)
            else:
                shown.begin(str(submission))

        if path.is_dir():
            return grade_folder(path, seconds=seconds, memory_mb=memory_mb, only=only, progress=follow)
        return [grade(path, seconds=seconds, memory_mb=memory_mb, only=only, progress=follow)]
