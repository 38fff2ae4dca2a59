"""check(): adapt, find the conventions, run the properties, say what is wrong."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from regard.check.adapt import CannotAdapt, adapt, name_of
from regard.check.contract import Contract
from regard.check.deadline import memory_limit
from regard.check.guard import one_thread, random_state
from regard.check.report import Report, Result
from regard.check.request import Sizes
from regard.check.runner import Progress, chosen, run_properties, versions
from regard.check.suites import suite_of

__all__ = ["check"]

MEMORY_MB = 4000


def check(
    subject: Any,
    contract: Contract | None = None,
    *,
    suite: str | None = None,
    sizes: Sizes | None = None,
    only: Sequence[str] = (),
    thorough: bool = False,
    expected: Mapping[str, str] | None = None,
    device: str | torch.device = "cpu",
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    seconds: float = 20.0,
    memory_mb: int | None = MEMORY_MB,
    name: str | None = None,
    origin: str | None = None,
    progress: Progress | None = None,
) -> Report:
    """Ask any attention implementation whether it is right.

    Every property that applies is checked against the float64 definition or by intervention: move what must not
    matter, by a lot, and require the same bits. What the subject does not offer is skipped and said, never counted as
    passed; a subject of which too little could be tested is not "ok".

    >>> import torch, regard
    >>> def attention(q, k, v, mask=None):
    ...     scores = q @ k.transpose(-2, -1)  # the scale is forgotten
    ...     if mask is not None:
    ...         scores = scores.masked_fill(~mask, float("-inf"))
    ...     return scores.softmax(-1) @ v
    >>> report = regard.check(attention)
    >>> report.ok
    False
    >>> report.failures[0].name, report.failures[0].likely
    ('matches_definition', 'this is what leaving the scores unscaled gives')

    Args:
        subject: a function of query, key and value (tensors or arrays, with or without heads, whatever the arguments
            are called), a module on x or on query, key and value, or a class, which is constructed.
        contract: the conventions that its author declares; they are verified. Others are found and reported.
        suite: "attention", "rotary" or "positions"; told from the subject if None.
        sizes: what it can be called with, where the usual sizes do not do.
        only: names or groups of properties; all if empty.
        thorough: also what takes long: the compiler.
        expected: property -> why it is known to fail; it then counts as "xfailed".
        device: where the inputs are made.
        dtype: of the inputs, where a property asks for no other. A module keeps its own.
        seed: of all inputs.
        seconds: the time limit of one call.
        memory_mb: how much the process may grow before allocations fail (Linux); None for no limit.
        name: in the report; its own if None.
        origin: the line that imports it, for snippets; made from its module if None.
        progress: called with (name, number, how many) before each property.

    Returns:
        A :class:`regard.check.Report`. A subject that cannot be called at all has one failure, "can_be_called".

    Raises:
        TypeError: for a subject that is neither callable nor a class.
        ValueError: for a suite, property or reason that does not exist or says nothing.
    """
    if not callable(subject):
        raise TypeError(f"subject must be a function, a module or a class, got {type(subject).__name__}")
    suite = suite or suite_of(subject)
    properties = chosen(suite, only, thorough=thorough)
    _check_expected(expected or {}, {prop.name for prop in chosen(suite, (), thorough=True)})
    began = time.monotonic()
    options: dict[str, Any] = {"sizes": sizes, "device": device, "dtype": dtype, "seconds": seconds, "name": name}
    with random_state(), one_thread(), memory_limit(memory_mb):
        try:
            adapted = adapt(subject, contract, suite=suite, **options)
        except CannotAdapt as error:
            return _uncallable(subject, name, suite, contract, str(error), began)
        adapted.origin = origin_of(subject, adapted.name) if origin is None else origin
        return run_properties(
            adapted,
            properties,
            suite=suite,
            seed=seed,
            began=began,
            expected=expected,
            progress=progress,
            complete=not only,
        )


def _check_expected(expected: Mapping[str, str], known: set[str]) -> None:
    for name, reason in expected.items():
        if name not in known:
            raise ValueError(f"expected: there is no property {name!r}")
        if not isinstance(reason, str) or not reason.strip():
            raise ValueError(f"expected: {name!r} needs a reason, in words")


def _uncallable(
    subject: Any, name: str | None, suite: str, contract: Contract | None, message: str, began: float
) -> Report:
    result = Result("can_be_called", "failed", group="Calling", message=message)
    declared = contract or Contract()
    return Report(
        subject=name or name_of(subject),
        kind="unknown",
        suite=suite,
        setting="not run",
        contract=declared,
        declared=declared,
        results=(result,),
        seconds=time.monotonic() - began,
        versions=versions(),
    )


def origin_of(subject: Any, name: str) -> str:
    """The line that imports a subject, or a comment where there is none."""
    module = getattr(subject, "__module__", None)
    qualified = getattr(subject, "__qualname__", "")
    if module in (None, "__main__") or not (inspect.isfunction(subject) or inspect.isclass(subject)):
        return f"# {name}: the subject of this check"
    if "<" in qualified or "." in qualified:
        return f"# {name}: {module}.{qualified}"
    return f"from {module} import {qualified}"
