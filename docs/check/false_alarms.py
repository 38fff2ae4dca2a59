"""Check right attentions over many seeds and record every alarm: `python docs/check/false_alarms.py` (ten minutes)."""

from __future__ import annotations

import json
import sys
import time
import warnings
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from tests.check.right import RIGHT, einsum_attention  # noqa: E402

import regard  # noqa: E402
from regard.look.files import write_atomically  # noqa: E402

SEEDS = 50
FILE = Path(__file__).with_name("false_alarms.json")
COMPILED = "torch.compile"


def subjects() -> dict[str, Any]:
    """Every right attention, and one through the compiler, every size of it compiled."""
    found = {name: make() for name, make in RIGHT.items()}
    return found | {COMPILED: torch.compile(einsum_attention)}


def main() -> None:
    """Run and record."""
    warnings.simplefilter("ignore")
    alarms: list[dict[str, Any]] = []
    passed: dict[str, int] = {}
    longest: dict[str, float] = {}
    everyone = subjects()
    for n, (name, subject) in enumerate(everyone.items()):
        for seed in range(SEEDS):
            began = time.monotonic()
            report = regard.check(subject, suite="attention", seed=seed)
            longest[name] = round(max(longest.get(name, 0.0), time.monotonic() - began), 2)
            passed[name] = min(passed.get(name, 1000), len(report.having("passed")))
            if not report.ok:
                found = [f"{result.name}: {result.message}" for result in report.failures] or [report.untested]
                alarms.append({"subject": name, "seed": seed, "failures": found})
            print(f"\r[{n + 1}/{len(everyone)}] {name}: seed {seed + 1}/{SEEDS}, {len(alarms)} alarms", end="\x1b[K")
    data = {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": report.versions,
        "seeds": SEEDS,
        "subjects": list(everyone),
        "runs": SEEDS * len(everyone),
        "alarms": alarms,
        "fewest_passed": passed,
        "longest_seconds": longest,
    }
    write_atomically(FILE, (json.dumps(data, indent=2) + "\n").encode())
    print(f"\n{data['runs']} runs, {len(alarms)} alarms: {FILE}")


if __name__ == "__main__":
    main()
