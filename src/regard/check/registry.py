"""A property: one plain function that returns, or raises AssertionError; what it needs, and the bug it catches."""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from regard.check.request import Sizes

if TYPE_CHECKING:
    from regard.check.subject import Subject

__all__ = ["Property", "all_properties", "near", "property_"]

_REGISTERED: dict[str, Property] = {}

ORDER = (
    "Answers", "Numbers", "Any sizes", "Algebra", "Sequences and heads", "Masks", "Empty rows", "Causality", "Weights",
    "Gradients", "Training and dropout", "Compiler",
)  # fmt: skip
"""Groups in the order in which they run: what explains other failures comes first."""


@dataclass(frozen=True)
class Property:
    """A registered property.

    Args:
        name: without ``check_``.
        run: the function, called with an adapted subject, sizes and a seed.
        suite: "attention", "rotary" or "positions".
        group: the heading it stands under.
        rows: the numbers of the bugs in the table of docs/check/properties.md that it catches.
        needs: features a subject must have, or the property is skipped with the reason.
        essential: a subject that skips it cannot be "ok".
        thorough: only run when asked to be thorough.
    """

    name: str
    run: Callable[..., None]
    suite: str
    group: str
    rows: tuple[int, ...] = ()
    needs: tuple[str, ...] = ()
    essential: bool = False
    thorough: bool = False

    @property
    def says(self) -> str:
        """What must hold: the first paragraph of its docstring."""
        return " ".join((inspect.getdoc(self.run) or "").split("\n\n")[0].split())

    @property
    def bug(self) -> str:
        """The bug it catches: the docstring's second paragraph, without its first word."""
        parts = (inspect.getdoc(self.run) or "").split("\n\n")
        return " ".join(parts[1].split()).removeprefix("Catches: ") if len(parts) > 1 else ""


def property_(
    *,
    suite: str = "attention",
    group: str,
    rows: tuple[int, ...] = (),
    needs: tuple[str, ...] = (),
    essential: bool = False,
    thorough: bool = False,
) -> Callable[[Callable[[Any, Sizes, int], None]], Callable[..., None]]:
    """Register a function ``check_NAME(subject, at, seed)``; it can be called with any attention afterwards.

    Called alone, ``check_NAME(my_attention)`` adapts its argument first, and raises
    :class:`regard.check.Unsupported` where the property does not apply.
    """

    def register(function: Callable[[Any, Sizes, int], None]) -> Callable[..., None]:
        @functools.wraps(function)
        def alone(subject: Any, at: Sizes | None = None, seed: int = 0, **options: Any) -> None:
            with _around(subject):
                adapted = _adapted(subject, suite, **options)
                for need in needs:
                    adapted.require(need)
                function(adapted, at or adapted.sizes, seed)

        name = function.__name__.removeprefix("check_")
        _REGISTERED[name] = Property(name, alone, suite, group, rows, needs, essential, thorough)
        return alone

    return register


def _around(subject: Any) -> contextlib.AbstractContextManager[None]:
    """Everybody's state is put back after a property that is called alone; after a whole check, check() does it."""
    from regard.check.state import global_state
    from regard.check.subject import Subject

    return contextlib.nullcontext() if isinstance(subject, Subject) else global_state()


def _adapted(subject: Any, suite: str, **options: Any) -> Subject:
    from regard.check.subject import Subject

    if isinstance(subject, Subject):
        return subject
    from regard.check.adapt import adapt

    return adapt(subject, suite=suite, **options)


def all_properties(suite: str | None = None) -> tuple[Property, ...]:
    """Every registered property, in the order in which they run."""
    import regard.check.properties  # noqa: F401 (importing it registers them)

    found = [prop for prop in _REGISTERED.values() if suite in (None, prop.suite)]
    return tuple(sorted(found, key=lambda prop: ORDER.index(prop.group) if prop.group in ORDER else len(ORDER)))


def near(name: str, known: list[str]) -> str:
    """A hint: names like this one, or all of them."""
    import difflib

    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    return f"did you mean {' or '.join(close)}?" if close else f"known: {', '.join(sorted(known))}"
