"""Hold every attention layer that ``regard.hf.load`` knows against the original, and write docs/hf_layers.md.

    python docs/hf_layers.py           # builds a tiny model of each and loads its layers, half a minute; then the page
    python docs/hf_layers.py --page    # the page alone, from the record

``tests/hf/test_load_proofs.py`` proves all of it again, and that page and record belong together.
"""

from __future__ import annotations

import json
import logging
import re
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

RECORD = HERE / "hf_layers.json"
PAGE = HERE / "hf_layers.md"
MARKED = re.compile(r"<!-- hf_layers: ([\w-]+) -->\n.*?<!-- end -->", re.DOTALL)
GROUPS = {
    "forward": ("forward", "padded"),
    "gradients": ("gradient of x", "gradient of context", "gradients of parameters"),
    "decoding": ("decode",),
}


# -- the record -------------------------------------------------------------------------------------------------------


def record() -> dict[str, Any]:
    """Every case: the classes that were loaded, what their layers have, and the largest error of each kind."""
    import torch
    import transformers
    from tests.hf.load_cases import CASES
    from tests.hf.load_proofs import examined

    transformers.logging.set_verbosity(logging.CRITICAL)
    cases = {}
    for case in CASES:
        found = list(examined(case))
        errors = [each.errors for each in found]
        names = sorted({name for each in errors for name in each})
        cases[case] = {
            "classes": sorted({each.kind for each in found}),
            "layers": len(found),
            "has": sorted({trait for each in found for trait in each.traits}),
            "errors": {name: round(max(each.get(name, 0.0) for each in errors), 2) for name in names},
        }
    versions = f"transformers {transformers.__version__}, torch {torch.__version__}"
    return {"versions": versions, "cases": cases}


# -- the page ---------------------------------------------------------------------------------------------------------


class Page:
    """The parts of docs/hf_layers.md that are generated.

    Args:
        record: what :func:`record` found.
    """

    def __init__(self, record: dict[str, Any]) -> None:
        self.versions, self.cases = record["versions"], record["cases"]

    def filled(self, text: str) -> str:
        """The page with every generated part written anew."""
        return MARKED.sub(lambda m: f"<!-- hf_layers: {m[1]} -->\n{getattr(self, '_' + m[1])()}\n<!-- end -->", text)

    def _counts(self) -> str:
        from regard.hf.families import CLASSES, FAMILIES

        layers = sum(case["layers"] for case in self.cases.values())
        worst = max(error for case in self.cases.values() for error in case["errors"].values())
        return (
            f"**{len(FAMILIES)} families, {len(CLASSES)} classes** of {self.versions}, held against {layers} layers in "
            f"{len(self.cases)} tiny models. In the table's unit, the largest error of an output or a gradient is "
            f"{worst:g}."
        )

    def _table(self) -> str:
        from regard.hf.families import FAMILIES

        lines = [
            "| family | classes | what the layer has | forward | gradients | decoding |",
            "|---|---|---|---|---|---|",
        ]
        for family in FAMILIES:
            names = [each.rpartition(".")[2] for each in family.classes]
            cases = [case for case in self.cases.values() if set(case["classes"]) & set(names)]
            has = sorted({trait for case in cases for trait in case["has"]}) or ["-"]
            classes = ", ".join(f"`{name}`" for name in names) + (f"; {family.inside}" if family.inside else "")
            cells = [self._largest(cases, group) for group in GROUPS]
            lines.append(f"| {family.name} | {classes} | {', '.join(has)} | {' | '.join(cells)} |")
        return "\n".join(lines)

    def _largest(self, cases: list[dict[str, Any]], group: str) -> str:
        found = [
            error
            for case in cases
            for what, error in case["errors"].items()
            if (group == "gradients") == ("gradient" in what)
            and any(what.startswith(part) or what.endswith(part) for part in GROUPS[group])
        ]
        return f"{max(found):.2f}" if found else "-"


def read() -> Page:
    """The page of the record that is there."""
    return Page(json.loads(RECORD.read_text(encoding="utf-8")))


def main(arguments: list[str]) -> None:
    """Record, unless only the page is asked for, and write the page."""
    from regard.look.files import write_atomically

    if arguments not in ([], ["--page"]):
        raise SystemExit("usage: python docs/hf_layers.py [--page]")
    if not arguments:
        write_atomically(RECORD, (json.dumps(record(), indent=1) + "\n").encode())
    text = PAGE.read_text(encoding="utf-8")
    write_atomically(PAGE, read().filled(text).encode())


if __name__ == "__main__":
    main(sys.argv[1:])
