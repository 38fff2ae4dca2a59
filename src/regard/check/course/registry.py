"""What a check of the course is, and how one says that it failed."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:
    from regard.check.course.subject import Subject

__all__ = ["TASKS", "Check", "Lost", "check", "lose"]

#: The course's own names, in the order of its exercises.
TASKS = (
    "PositionalEncoding",
    "add_positional_encoding",
    "att_score",
    "create_mask",
    "attention_score",
    "SelfAttention",
    "MultiHeadSelfAttention",
)


class Lost(AssertionError):
    """What was asked, what came, and where to look.

    Args:
        asked: what the exercise asks for, as the end of "asked for ...".
        came: what the submission gave, as the end of "got ...".
        hint: a question or an observation that leads to the mistake; the check's own if empty.
    """

    def __init__(self, asked: str, came: str, hint: str = "") -> None:
        self.asked, self.came, self.hint = asked, came, hint
        super().__init__(f"asked for {asked}; got {came}." + (f" Hint: {hint}" if hint else ""))


def lose(*, asked: str, came: str, hint: str = "") -> NoReturn:
    """Fail the check that runs.

    Raises:
        Lost: always.
    """
    raise Lost(asked, came, hint)


@dataclass(frozen=True)
class Check:
    """One thing that is checked about one task.

    Args:
        task: one of :data:`TASKS`.
        name: unique within the task.
        points: what it is worth, all or nothing.
        asks: what a submission has to do, as the end of "asked for ...".
        hint: where to look, for a failure that says nothing better.
        run: takes the submission, raises an AssertionError where it falls short.
    """

    task: str
    name: str
    points: int
    asks: str
    hint: str
    run: Callable[[Subject], None]

    @property
    def catches(self) -> str:
        """What the check catches: its docstring."""
        return " ".join((inspect.getdoc(self.run) or "").split())


def check(
    task: str, *, points: int, asks: str, hint: str, into: list[Check]
) -> Callable[[Callable[[Subject], None]], Callable[[Subject], None]]:
    """Make a function that takes a :class:`Subject` a check of a task; the function's name is the check's."""

    def register(run: Callable[[Subject], None]) -> Callable[[Subject], None]:
        into.append(Check(task, run.__name__, points, asks, hint, run))
        return run

    return register
