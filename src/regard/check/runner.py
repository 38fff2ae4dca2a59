"""Run the properties of a suite on an adapted subject; failures are data."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import torch

from regard import __version__
from regard.check.budget import grade, naive
from regard.check.contract import HAZARDS, WORDS
from regard.check.diagnose import Elsewhere, Suspects
from regard.check.guard import SubjectError, describe
from regard.check.registry import Property, all_properties, near
from regard.check.report import Report, Result
from regard.check.repro import snippet
from regard.check.request import Request, Sizes
from regard.check.shrink import shrink
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation

__all__ = ["Progress", "chosen", "run_properties"]

Progress = Callable[[str, int, int], None]
"""Called with a property's name, its number and how many there are."""

HANGS = 2  # calls that ran out of time before the rest is not run
POSITIONS = {"order_of_keys_changes_nothing", "order_of_queries_is_kept"}
SHARE = 0.3  # of the properties of a suite must have run, or too little was tested


def chosen(suite: str, only: Sequence[str], *, thorough: bool) -> tuple[Property, ...]:
    """The properties of a suite, or those whose name or group is named.

    Raises:
        ValueError: for a suite or a name that does not exist, with those near it.
    """
    known = all_properties()
    suites = sorted({prop.suite for prop in known})
    if suite not in suites:
        raise ValueError(f"suite: there is no {suite!r}; known: {', '.join(suites)}")
    found = [prop for prop in known if prop.suite == suite]
    names = {prop.name for prop in found} | {prop.group for prop in found}
    wanted = [name.removeprefix("check_") for name in only]
    for name in wanted:
        if name not in names:
            raise ValueError(f"only: the suite {suite} has no property {name!r}; {near(name, sorted(names))}")
    if wanted:
        return tuple(prop for prop in found if prop.name in wanted or prop.group in wanted)
    return tuple(prop for prop in found if thorough or not prop.thorough)


def run_properties(
    subject: Subject,
    properties: Sequence[Property],
    *,
    suite: str,
    seed: int,
    began: float,
    expected: Mapping[str, str] | None = None,
    progress: Progress | None = None,
    complete: bool = True,
) -> Report:
    """Run them, explain what fails, and say what was seen and what could not be.

    Args:
        subject: adapted.
        properties: in the order in which they run.
        suite: its name, for the report.
        seed: of all inputs.
        began: when the whole began, on :func:`time.monotonic`.
        expected: property -> why it is expected to fail.
        progress: told before each property.
        complete: whether this is the whole suite, so that "enough was tested" has a meaning.
    """
    suspects = Suspects(subject, _mutants(), seed) if suite == "attention" else Elsewhere(subject, suite)
    results = []
    for n, prop in enumerate(properties):
        if progress is not None:
            progress(prop.name, n + 1, len(properties))
        results.append(_run_one(subject, prop, seed, suspects, dict(expected or {})))
    ran = {result.name for result in results if result.status in ("passed", "xpassed")}
    clean = not any(result.status == "failed" for result in results)
    blind: tuple[str, ...] = ()
    if clean and complete and suite == "attention" and _chosen_sizes(subject):
        from regard.check.power import blind_spots

        blind = blind_spots(subject, _mutants(), [prop for prop in properties if prop.name in ran], seed)
    return Report(
        subject=subject.name,
        kind=subject.kind,
        suite=suite,
        setting=f"{_sizes(subject)}, {str(subject.dtype).removeprefix('torch.')} on {subject.device}, seed {seed}",
        contract=subject.contract,
        declared=subject.declared,
        results=tuple(results),
        warnings=tuple(_warnings(subject, results)),
        grades=_grades(subject, seed) if suite == "attention" and clean else {},
        blind=blind,
        untested=_untested(properties, results, complete=complete),
        seconds=time.monotonic() - began,
        versions=versions(),
    )


def _chosen_sizes(subject: Subject) -> bool:
    """Whether its sizes are other than the usual ones; a module's heads and widths are its own."""
    at, usual = subject.sizes, Sizes()
    if subject.kind == "module":
        return (at.batch, at.query_len) != (usual.batch, usual.query_len)
    return at != usual


def versions() -> str:
    """Of regard, torch and Python."""
    return f"regard {__version__}, torch {torch.__version__}, Python {platform.python_version()}"


def _sizes(subject: Subject) -> str:
    if subject.kind == "module":
        return f"B {subject.sizes.batch}, L {subject.sizes.query_len}"
    return str(subject.sizes)


def _mutants() -> Sequence[Any]:
    from regard.check.mutants import MUTANTS

    return tuple(MUTANTS.values())


def _run_one(
    subject: Subject, prop: Property, seed: int, suspects: Suspects | Elsewhere, expected: dict[str, str]
) -> Result:
    began = time.monotonic()
    common: dict[str, Any] = {"name": prop.name, "group": prop.group, "bug": prop.bug}
    if subject.findings.hangs >= HANGS:
        return Result(status="skipped", message=f"not run: {HANGS} calls before it gave no answer in time", **common)
    try:
        prop.run(subject, subject.sizes, seed)
    except Unsupported as reason:
        return Result(status="skipped", message=_sentence(reason), seconds=time.monotonic() - began, **common)
    except (Violation, SubjectError) as error:
        violation = error if isinstance(error, Violation) else Violation(f"raises {error}", request=subject.last)
    except Exception as error:
        # A fault of the check must not stop it, nor be blamed on the subject.
        said = f"the property could not be worked out: {describe(error)}"
        return Result(status="error", message=said, seconds=time.monotonic() - began, **common)
    else:
        seconds = time.monotonic() - began
        if prop.name in expected:
            return Result(
                status="xpassed", message=f"expected to fail: {expected[prop.name]}", seconds=seconds, **common
            )
        return Result(status="passed", seconds=seconds, **common)
    if prop.name in expected:
        return Result(
            status="xfailed", message=f"{expected[prop.name]} ({violation})", seconds=time.monotonic() - began, **common
        )
    sizes, smallest = subject.sizes, violation
    if violation.request is not None and not subject.findings.hangs and suspects.patience > 0:
        start = time.monotonic()
        sizes, smallest = shrink(prop, subject, subject.sizes, seed, violation, seconds=min(1.5, suspects.patience))
        # The first failures are the ones that are read; a subject that fails everywhere must not take minutes.
        suspects.patience -= time.monotonic() - start
    diagnosis = suspects.of(prop, violation) if not subject.findings.hangs else None
    return Result(
        status="failed",
        message=str(violation),
        likely=str(diagnosis) if diagnosis else "",
        likely_name=diagnosis.name if diagnosis else "",
        sizes=_shown(subject, sizes),
        index=smallest.index,
        got=smallest.got,
        wanted=smallest.wanted,
        repro=snippet(subject, smallest, prop.name, sizes, seed),
        seconds=time.monotonic() - began,
        **common,
    )


def _sentence(reason: Exception) -> str:
    return " ".join(str(reason).split())


def _shown(subject: Subject, sizes: Sizes) -> str:
    if subject.kind == "module":
        return f"B {sizes.batch}, L {sizes.query_len}"
    return str(sizes)


def _warnings(subject: Subject, results: Sequence[Result]) -> list[str]:
    found = []
    for field in fields(subject.contract):
        value = getattr(subject.contract, field.name)
        hazard = HAZARDS.get((field.name, value)) if isinstance(value, str) else None
        if hazard is not None and getattr(subject.declared, field.name) is None:
            found.append(f"{WORDS[field.name, value]}: {hazard}")
    failed = {result.name for result in results if result.status == "failed"}
    if failed & POSITIONS and subject.declared.positional is None:
        found.append("where the order of the keys is meant to matter, declare it: Contract(positional=True)")
    return found + subject.notes


def _grades(subject: Subject, seed: int) -> dict[str, tuple[float, float]]:
    """The worse of two input scales."""
    found: dict[str, tuple[float, float]] = {}
    wide = replace(subject.sizes, query_len=64, key_len=64, width=32, value_width=32)
    at = wide if subject.supports_sizes(wide) else subject.sizes
    for name in ("float16", "bfloat16"):
        if not (subject.supports(name) and subject.supports("numbers") and subject.supports("not causal")):
            continue
        dtype = getattr(torch, name)
        pairs = []
        for size in (1.0, 3.0):
            request: Request = subject.make(at, seed, size=size, dtype=dtype)
            try:
                output = subject.numbers(request).detach()
                truth = subject.truth(request)
                pairs.append((grade(output, truth, dtype), grade(subject.yardstick(naive, request), truth, dtype)))
            except (SubjectError, Violation, Unsupported):
                continue
        if pairs:
            found[name] = max(pairs)
    return found


def _untested(properties: Sequence[Property], results: Sequence[Result], *, complete: bool) -> str:
    """Why what ran is too little to say that the subject is right; empty where it is enough."""
    broken = [result.name for result in results if result.status == "error"]
    if broken:
        return f"{broken[0]} could not be worked out, which is a fault of the check"
    skipped = {result.name: result.message for result in results if result.status == "skipped"}
    if not complete:
        return (
            "" if len(skipped) < len(results) else f"nothing that was asked for applies: {next(iter(skipped.values()))}"
        )
    missing = [prop.name for prop in properties if prop.essential and prop.name in skipped]
    if missing:
        return f"{missing[0]} was skipped: {skipped[missing[0]]}"
    ran = len(results) - len(skipped)
    if ran < SHARE * len(results):
        return f"only {ran} of {len(results)} properties could run"
    return ""
