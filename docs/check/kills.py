"""Check every mutant and record which properties it fails: `python docs/check/kills.py`, some minutes on one core.

The pages in this folder are made from the record by `python docs/check/pages.py`, and tests compare them.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from torch import nn

import regard
from regard.bench.progress import Progress
from regard.check.contract import REGARD, Contract
from regard.check.mutants import MUTANTS
from regard.check.mutants.positions import POSITION_MUTANTS
from regard.check.mutants.rotary import ROTARY_MUTANTS
from regard.check.registry import all_properties
from regard.check.runner import versions
from regard.look.files import write_atomically

RECORD = Path(__file__).with_name("kills.json")
CONTRACT = replace(REGARD, float_mask="added")
"""What the attention mutants declare: regard's conventions, and that float masks, which regard refuses, are added."""

SUITES = ("attention", "rotary", "positions")


@dataclass(frozen=True)
class Wrong:
    """A mutant of any suite."""

    suite: str
    name: str
    says: str
    rows: tuple[int, ...]
    aims: str
    build: Any
    contract: Contract


def mutants() -> Iterator[Wrong]:
    """Those of every suite, in the order in which the source has them."""
    for name, each in MUTANTS.items():
        # A module that takes the batch for the length is a right one that is called with the length first.
        layout = "BLE" if isinstance(each.build(), nn.Module) else None
        contract = replace(CONTRACT, layout=cast(Any, layout))
        yield Wrong("attention", name, each.says, each.rows, each.aims, each.build, contract)
    for suite, known in (("rotary", ROTARY_MUTANTS), ("positions", POSITION_MUTANTS)):
        for name, one in known.items():
            yield Wrong(suite, name, one.says, () if one.row is None else (one.row,), "", one.build, one.contract)


def property_names() -> dict[str, list[str]]:
    """Suite -> its properties, in the order in which they run."""
    return {suite: [prop.name for prop in all_properties(suite)] for suite in SUITES}


def examined(wrong: Wrong) -> dict[str, Any]:
    """One mutant through the check that anybody's attention goes through."""
    began = time.monotonic()
    report = regard.check(wrong.build(), wrong.contract, suite=wrong.suite, name=wrong.name)
    # The bug that the report ends with: of the first failure that has an explanation.
    named = next((result.likely_name for result in report.failures if result.likely_name), "")
    return {
        "failed": [result.name for result in report.failures],
        "skipped": [result.name for result in report.having("skipped")],
        "named": named,
        "seconds": round(time.monotonic() - began, 2),
    }


def main() -> None:
    """Check them all, then write the record in one step: a run that is interrupted leaves the old one."""
    found: dict[str, dict[str, Any]] = {suite: {} for suite in SUITES}
    every = list(mutants())
    with Progress(len(every)) as progress:
        for wrong in every:
            progress.begin(f"{wrong.suite}: {wrong.name}")
            progress.stage("checking")
            found[wrong.suite][wrong.name] = examined(wrong)
    record = {
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        "contract": CONTRACT.declared(),
        "seed": 0,
        "seconds": round(sum(each["seconds"] for suite in found.values() for each in suite.values()), 1),
        "properties": property_names(),
        "mutants": found,
    }
    write_atomically(RECORD, (json.dumps(record, indent=1) + "\n").encode())
    print(f"{len(every)} mutants in {record['seconds']:.0f} s: {RECORD}; now run: python docs/check/pages.py")


if __name__ == "__main__":
    main()
