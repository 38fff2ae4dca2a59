"""check(): adapt, find the conventions, run the properties, say what is wrong."""

from __future__ import annotations

import contextlib
import inspect
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from regard.check.adapt import CannotAdapt, adapt, compiled, name_of
from regard.check.arguments import check_arguments, check_expected, check_subject
from regard.check.contract import Contract
from regard.check.deadline import memory_limit
from regard.check.report import Report, Result
from regard.check.request import Sizes
from regard.check.runner import Progress, chosen, run_properties, versions
from regard.check.state import global_state, one_thread
from regard.check.suites import suite_of

__all__ = ["check", "unanswered"]

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
    ('matches_definition', 'this is what you get from leaving the scores unscaled')

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
        TypeError: for a subject that is neither callable nor a class, and for arguments of another type.
        ValueError: for a suite, property or reason that does not exist or says nothing, and limits that cannot work.
    """
    check_subject(subject)
    limits: dict[str, Any] = {"seed": seed, "seconds": seconds, "memory_mb": memory_mb}
    check_arguments(contract, sizes, only, device=device, dtype=dtype, **limits)
    suite = suite or suite_of(subject)
    properties = chosen(suite, only, thorough=thorough)
    check_expected({} if expected is None else expected, [prop.name for prop in chosen(suite, (), thorough=True)])
    began = time.monotonic()
    options: dict[str, Any] = {"sizes": sizes, "device": device, "dtype": dtype, "seconds": seconds, "name": name}
    with global_state(), one_thread(), memory_limit(memory_mb), _every_size_compiled(thorough and compiled(subject)):
        try:
            adapted = adapt(subject, contract, suite=suite, **options)
        except CannotAdapt as error:
            taken = time.monotonic() - began
            return unanswered(name or name_of(subject), suite, contract, str(error), seconds=taken)
        if compiled(subject) and not thorough:
            adapted.notes.append("after 8 sizes torch.compile runs a function eagerly; thorough compiles every size")
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


@contextlib.contextmanager
def _every_size_compiled(wanted: bool, /) -> Iterator[None]:
    """Lift torch's limit on compilations of one function, after which it is run eagerly and nobody is told."""
    if not wanted:
        yield
        return
    import torch._dynamo

    with torch._dynamo.config.patch(recompile_limit=1000, accumulated_recompile_limit=10_000):
        yield


def unanswered(name: str, suite: str, contract: Contract | None, message: str, *, seconds: float) -> Report:
    """The report on a subject that gave no answers: one failure."""
    result = Result("can_be_called", "failed", group="Calling", message=message)
    declared = contract or Contract()
    return Report(
        subject=name,
        kind="unknown",
        suite=suite,
        setting="not run",
        contract=declared,
        declared=declared,
        results=(result,),
        seconds=seconds,
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
