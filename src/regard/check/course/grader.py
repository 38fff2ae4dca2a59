"""A submission through the checks, one after the other: what runs in the child of the grading."""

from __future__ import annotations

import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from regard.check.child import is_out_of_memory
from regard.check.course import masked_scores, multi_head, positions, scores, single_head
from regard.check.course.registry import TASKS, Check, Lost
from regard.check.course.subject import Subject
from regard.check.load import importable, load_module
from regard.look.wording import one_line

__all__ = ["CHECKS", "Result", "grade_file", "grade_module", "selected"]

#: Every check, in the order of the exercises.
CHECKS: tuple[Check, ...] = tuple(
    sorted(
        (
            *positions.CHECKS,
            *scores.CHECKS,
            *masked_scores.CHECKS,
            *single_head.CHECKS,
            *multi_head.CHECKS,
        ),
        key=lambda check: TASKS.index(check.task),
    )
)


@dataclass(frozen=True)
class Result:
    """What one check found.

    Args:
        task: the course's name of what was checked.
        check: the name of the check.
        points: what it is worth.
        earned: points or 0.
        message: what was asked and what came, "" if the points were earned.
        hint: where to look.
    """

    task: str
    check: str
    points: int
    earned: int
    message: str = ""
    hint: str = ""


def selected(only: Sequence[str] = ()) -> tuple[Check, ...]:
    """The checks of these tasks; of all of them if none is named."""
    return tuple(check for check in CHECKS if not only or check.task in only)


def grade_module(
    module: ModuleType, *, only: Sequence[str] = (), report: Callable[[dict[str, Any]], None] | None = None
) -> list[Result]:
    """Run the checks on a submission that is loaded, in this process.

    Args:
        module: the submission.
        only: names of tasks; all of them if empty.
        report: told ``{"begin": [task, check]}`` before every check and its result after it.

    Returns:
        A result for every check.

    Raises:
        MemoryError, RuntimeError: if the submission takes all the memory there is; what follows would fail for it, too.
    """
    subject, results = Subject(module), []
    threads = torch.get_num_threads()
    # The tensors are small: on a busy machine, threads that wait for one another take a hundred times as long.
    torch.set_num_threads(1)
    try:
        for check in selected(only):
            if report is not None:
                report({"begin": [check.task, check.name]})
            results.append(_run(check, subject))
            if report is not None:
                report(asdict(results[-1]))
    finally:
        torch.set_num_threads(threads)
    return results


def _run(check: Check, subject: Subject) -> Result:
    _reset()
    try:
        # For what is missing every check of the task says the same.
        subject.get(check.task)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            check.run(subject)
    except Lost as lost:
        return _lost(check, f"asked for {lost.asked}; got {lost.came}", lost.hint or check.hint)
    except (Exception, SystemExit) as error:
        if is_out_of_memory(error):
            raise
        return _lost(check, f"asked for {check.asks}; got {_raised(error, subject.module)}", check.hint)
    return Result(check.task, check.name, check.points, check.points)


def _lost(check: Check, message: str, hint: str) -> Result:
    return Result(check.task, check.name, check.points, 0, one_line(message), one_line(hint))


def _raised(error: BaseException, module: ModuleType) -> str:
    """An exception and the line of the submission that it came from."""
    if isinstance(error, SystemExit):
        return "a call of sys.exit()"
    home = getattr(module, "__file__", None)
    where = ""
    for frame in traceback.extract_tb(error.__traceback__):
        if frame.filename == home:
            where = f" (line {frame.lineno})"
        elif ".ipynb, cell " in frame.filename:
            where = f" ({frame.filename.rpartition(', ')[2]}, line {frame.lineno})"
    text = " ".join(str(error).split())
    return f"{type(error).__name__}{': ' + text[:200] if text else ''}{where}"


def _reset() -> None:
    """What a submission may have set for the whole process is not to decide how the next check goes."""
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(True)
    torch.manual_seed(0)


def grade_file(payload: dict[str, Any], report: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """The target of :func:`regard.check.isolate.run_isolated`: load ``payload["path"]`` and grade it."""
    path = Path(payload["path"])
    try:
        module = load_module(path)
    except (ImportError, ValueError) as error:
        return {"failed": str(error)}
    report({"loaded": True})
    with importable(path.parent):
        grade_module(module, only=payload["only"], report=report)
    return {}
