"""What a check found: conventions, results, grades, and what it could not see; as data and as text."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from regard.check.contract import WORDS, Contract

__all__ = ["Report", "Result"]

Status = Literal["passed", "failed", "skipped", "xfailed", "xpassed", "error"]
MARKS: dict[Status, str] = {
    "passed": "ok  ",
    "failed": "FAIL",
    "skipped": "--  ",
    "xfailed": "xf  ",
    "xpassed": "XP  ",
    "error": "??  ",
}


@dataclass(frozen=True)
class Result:
    """What became of one property.

    Args:
        name: of the property, without ``check_``.
        status: "passed", "failed", "skipped"; "xfailed" where a failure was expected, "xpassed" where it did not come;
            "error" where the check itself could not work the property out.
        group: the heading it stands under.
        message: what is wrong, or why it was skipped.
        bug: the bug that the property catches, from its documentation.
        likely: the mutant that gives the same numbers, in words; empty where none does.
        likely_name: its name.
        sizes: the smallest sizes at which it fails.
        index: where in the output.
        got: the subject's number there.
        wanted: what it had to be.
        repro: a snippet to paste.
        seconds: how long it took.
    """

    name: str
    status: Status
    group: str = ""
    message: str = ""
    bug: str = ""
    likely: str = ""
    likely_name: str = ""
    sizes: str = ""
    index: tuple[int, ...] | None = None
    got: Any = None
    wanted: Any = None
    repro: str = ""
    seconds: float = 0.0


@dataclass(frozen=True)
class Report:
    """What a check found. Printing it tells it all; ``ok`` is the verdict.

    Args:
        subject: its name.
        kind: "function" or "module"; "unknown" where it cannot be called.
        suite: the properties that ran.
        setting: sizes, dtype, device and seed, in words.
        contract: the conventions, declared or found.
        declared: those that were declared.
        results: one a property, in the order they ran.
        warnings: hazardous conventions that were found and not declared, and other things to know.
        grades: dtype -> (the subject's error, the naive formula's), in multiples of that of rounding the right answer.
        blind: bugs that these inputs cannot tell from a right answer, though the property for them ran.
        untested: why too little was tested to say "ok"; empty where enough was.
        seconds: how long it took.
        versions: of regard, torch and Python.
    """

    subject: str
    kind: str
    suite: str
    setting: str
    contract: Contract
    declared: Contract
    results: tuple[Result, ...]
    warnings: tuple[str, ...] = ()
    grades: dict[str, tuple[float, float]] = field(default_factory=dict)
    blind: tuple[str, ...] = ()
    untested: str = ""
    seconds: float = 0.0
    versions: str = ""

    @property
    def ok(self) -> bool:
        """Nothing failed, and enough was tested to mean something."""
        return not self.failures and not self.untested

    @property
    def failures(self) -> tuple[Result, ...]:
        """The properties that do not hold."""
        return self.having("failed")

    @property
    def likely(self) -> str:
        """The likely bug of the first failure that has one: what fails later is mostly its consequence."""
        return next((result.likely for result in self.failures if result.likely), "")

    def having(self, status: Status) -> tuple[Result, ...]:
        """The results of one status."""
        return tuple(result for result in self.results if result.status == status)

    def to_json(self) -> str:
        """The report as JSON: the same fields, and ``ok``; NaN and inf are "nan" and "inf"."""
        data = asdict(self) | {
            "ok": self.ok,
            "contract": self.contract.declared(),
            "declared": self.declared.declared(),
        }
        return json.dumps(_plain(data), indent=2, default=str, allow_nan=False) + "\n"

    def __str__(self) -> str:
        return "\n".join(self._lines()) + "\n"

    def _lines(self) -> Iterator[str]:
        yield f"regard check: {self.subject} ({self.kind}), suite {self.suite}, {self.setting}"
        words = self.contract.declared()
        if words:
            yield ""
            yield "Conventions"
            known = self.declared.declared()
            for name, value in words.items():
                said = WORDS.get((name, value), str(value))
                yield f"  {name:<11} {said}{' (declared)' if name in known else ''}"
        for warning in self.warnings:
            yield f"  warning: {warning}"
        group, told = None, set[str]()
        for result in self.results:
            if result.group != group:
                group = result.group
                yield ""
                yield group
            explained = result.likely != "" and result.likely in told
            told.add(result.likely)
            yield from _result_lines(result, brief=explained)
        yield ""
        for dtype, (own, plain) in self.grades.items():
            yield f"{dtype}: {own:.2f}x the error of rounding the right answer; the naive formula is {plain:.2f}x"
        if self.blind:
            yield "These inputs cannot tell from a right answer:"
            yield from (f"  {bug}" for bug in self.blind)
        if self.likely:
            yield f"likely bug: {self.likely}"
        yield self.verdict

    @property
    def verdict(self) -> str:
        """The last line: counts, time and OK, FAILED or NOT ENOUGH TESTED."""
        names: tuple[Status, ...] = ("passed", "failed", "skipped", "xfailed", "xpassed", "error")
        counts = [f"{len(found)} {name}" for name in names if (found := self.having(name)) or name in names[:3]]
        end = "FAILED" if self.failures else f"NOT ENOUGH TESTED: {self.untested}" if self.untested else "OK"
        return f"{', '.join(counts)} in {self.seconds:.1f} s: {end}"


def _plain(data: Any) -> Any:
    """NaN and inf as text: JSON has no such numbers."""
    if isinstance(data, float) and not math.isfinite(data):
        return str(data)
    if isinstance(data, dict):
        return {str(name): _plain(part) for name, part in data.items()}
    return [_plain(part) for part in data] if isinstance(data, tuple | list) else data


def _result_lines(result: Result, *, brief: bool) -> Iterator[str]:
    said = f": {result.message}" if result.message else ""
    yield f"  {MARKS[result.status]} {result.name}{said}"
    if result.status != "failed" or brief:  # one bug breaks many properties: it is explained once
        return
    pad = " " * 7
    if result.sizes:
        yield f"{pad}smallest sizes that fail: {result.sizes}"
    if result.index is not None:
        where = ", ".join(map(str, result.index))
        yield f"{pad}at [{where}]: got {_number(result.got)}, wanted {_number(result.wanted)}"
    if result.likely:
        yield f"{pad}likely bug: {result.likely}"
    if result.bug and not result.likely:
        yield f"{pad}this property catches {result.bug}"
    if result.repro:
        yield f"{pad}to reproduce:"
        yield from (f"{pad}  {line}" for line in result.repro.splitlines())


def _number(given: Any) -> str:
    return f"{given:.6g}" if isinstance(given, float) else str(given)
