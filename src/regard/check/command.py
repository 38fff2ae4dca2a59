"""`regard check`: load what is named, check it in a process of its own, print the report."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from regard.bench.progress import Progress
from regard.check.api import check, unanswered
from regard.check.contract import Contract
from regard.check.isolate import run_isolated
from regard.check.registry import all_properties, near
from regard.check.request import Sizes
from regard.check.runner import chosen
from regard.check.suites import SUITES
from regard.look.files import check_target, write_atomically

__all__ = ["listing", "run"]

EXERCISES = "exercises"
SECONDS, THOROUGH_SECONDS, COURSE_SECONDS = 180.0, 1800.0, 60.0
CALL_SECONDS = 20.0
DTYPES = ("float16", "bfloat16", "float32", "float64")


def listing(suite: str | None = None) -> str:
    """Every property with what must hold, a suite and group after the other."""
    lines: list[str] = []
    for name in SUITES if suite is None else (suite,):
        heading = ""
        for prop in chosen(name, (), thorough=True):
            if prop.group != heading:
                heading = prop.group
                lines += ["", f"{name}: {heading}"]
            lines.append(f"  {prop.name}: {prop.says}")
    return "\n".join(lines).strip()


def run(
    target: str,
    *,
    suite: str | None = None,
    only: Sequence[str] = (),
    declare: Sequence[str] = (),
    sizes: str | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    thorough: bool = False,
    seed: int = 0,
    seconds: float | None = None,
    memory_mb: int = 4000,
    json: Path | None = None,
    csv: Path | None = None,
) -> int:
    """Check ``target`` and print the report; 0 where it is right, 1 where it is not.

    Args:
        target: ``file.py:name``, ``notebook.ipynb:name`` or ``package.module:name``; for the exercises a file, a
            notebook or a folder of submissions.
        suite: "attention", "rotary", "positions" or "exercises"; told from the subject if None.
        only: names or groups of properties.
        declare: conventions, ``name=value``.
        sizes: ``batch=2,heads=4,query_len=64``.
        device: where the inputs are made.
        dtype: of the inputs.
        thorough: also what takes long.
        seed: of the inputs.
        seconds: for the whole check; 180 if None, 1800 if thorough, and 60 a submission for the exercises.
        memory_mb: what the check may use beyond what torch does.
        json: also write the report to this file.
        csv: the gradebook of the exercises.

    Raises:
        ValueError: for a target that cannot be loaded, and options that cannot work; nothing is written then.
    """
    if suite == EXERCISES:
        from regard.check.course import command

        limit = COURSE_SECONDS if seconds is None else seconds
        return command.run(Path(target), json=json, csv=csv, seconds=limit, memory_mb=memory_mb, only=only)
    if csv is not None:
        raise ValueError("--csv: a gradebook is what --suite exercises writes; use --json for a report")
    payload: dict[str, Any] = {
        "target": target,
        "suite": _suite(suite),
        "only": list(only),
        "declare": _declared(declare),
        "sizes": _sizes(sizes),
        "device": str(_device(device)),
        "dtype": _dtype(dtype),
        "thorough": thorough,
        "seed": seed,
        "memory_mb": memory_mb,
    }
    if suite is not None:
        chosen(suite, only, thorough=thorough)  # a wrong name is told before anything runs
    if json is not None:
        check_target(json, "--json")
    limit = (THOROUGH_SECONDS if thorough else SECONDS) if seconds is None else seconds
    # A call that hangs shall leave time to say so.
    payload["seconds"] = min(CALL_SECONDS, limit / 3)
    answer = _in_a_process(payload, limit, thorough=thorough)
    if "error" in answer:
        raise ValueError(answer["error"])
    _write(answer["text"])
    if json is not None:
        write_atomically(json, answer["json"].encode("utf-8"))
    return 0 if answer["ok"] else 1


def _write(text: str) -> None:
    """To stdout, whatever its encoding can hold."""
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))


def _in_a_process(payload: dict[str, Any], limit: float, *, thorough: bool) -> dict[str, Any]:
    seen: list[str] = []
    number = len(all_properties())
    shown: Any = Progress(number) if thorough or sys.stderr.isatty() else nullcontext()
    with shown as progress:

        def report(message: dict[str, Any]) -> None:
            seen.append(str(message.get("name", "")))
            if progress is not None:
                progress.cases = message.get("of", number)
                progress.begin(seen[-1])
                progress.stage("checking")

        outcome = run_isolated(
            "regard.check.command:work", payload, seconds=limit, memory_mb=payload["memory_mb"], progress=report
        )
    if outcome.status == "done":
        answer: dict[str, Any] = outcome.value
        return answer
    at = f"while {seen[-1]} was checked" if seen else "before the first property"
    target, suite, declared = payload["target"], payload["suite"] or "attention", Contract(**payload["declare"])
    report_ = unanswered(target, suite, declared, f"{outcome.reason}, {at}", seconds=outcome.seconds)
    return {"ok": False, "text": str(report_), "json": report_.to_json()}


def work(payload: dict[str, Any], report: Any) -> dict[str, Any]:
    """The child's part: load, check, and hand back the report as text and JSON."""
    from regard.check.load import load_object

    target = payload["target"]
    try:
        subject = load_object(target)
        found = check(
            subject,
            Contract(**payload["declare"]),
            suite=payload["suite"],
            sizes=Sizes(**payload["sizes"]) if payload["sizes"] else None,
            only=payload["only"],
            thorough=payload["thorough"],
            device=payload["device"],
            dtype=getattr(torch, payload["dtype"]),
            seed=payload["seed"],
            seconds=payload["seconds"],
            memory_mb=None,  # the process has a limit of its own
            origin=_origin(target),
            progress=lambda name, n, of: report({"name": name, "n": n, "of": of}),
        )
    except (ValueError, ImportError, TypeError) as error:
        return {"error": str(error)}
    return {"ok": found.ok, "text": str(found), "json": found.to_json()}


def _origin(target: str) -> str:
    place, _, name = target.rpartition(":")
    if place.endswith((".py", ".ipynb")):
        first = name.partition(".")[0]
        return f"from regard.check.load import load_object; {first} = load_object({target!r})"
    return f"from {place} import {name}"


def _suite(suite: str | None) -> str | None:
    if suite is not None and suite not in SUITES:
        raise ValueError(f"--suite: there is no {suite!r}; {near(suite, [*SUITES, EXERCISES])}")
    return suite


def _pairs(option: str, text: str, known: list[str]) -> tuple[str, str]:
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not value:
        raise ValueError(f"{option}: expected NAME=VALUE, got {text!r}")
    if name not in known:
        raise ValueError(f"{option}: there is no {name!r}; {near(name, known)}")
    return name, value


def _declared(given: Sequence[str]) -> dict[str, Any]:
    known = [field.name for field in fields(Contract)]
    words: dict[str, Any] = {}
    for text in given:
        name, value = _pairs("--declare", text, known)
        words[name] = {"true": True, "false": False}.get(value.lower(), int(value) if value.isdigit() else value)
    try:
        Contract(**words)
    except ValueError as error:
        raise ValueError(f"--declare: {error}") from None
    return words


def _sizes(text: str | None) -> dict[str, int]:
    known = [field.name for field in fields(Sizes)]
    found: dict[str, int] = {}
    for part in (text or "").split(","):
        if part.strip():
            name, value = _pairs("--sizes", part, known)
            if not value.isdigit():
                raise ValueError(f"--sizes: {name} must be a whole number, got {value!r}")
            found[name] = int(value)
    try:
        Sizes(**found)
    except ValueError as error:
        raise ValueError(f"--sizes: {error}") from None
    return found


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
    except RuntimeError:
        raise ValueError(f"--device: there is no device {name!r}; expected cpu, cuda, cuda:1 ...") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError("--device: cuda was asked for, and torch sees no CUDA device here")
    return device


def _dtype(name: str) -> str:
    plain = name.removeprefix("torch.")
    if plain not in DTYPES:
        raise ValueError(f"--dtype: there is no {name!r}; {near(plain, list(DTYPES))}")
    return plain
