"""What docs/positions.md shows is run, and its pictures are there and small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
PAGE = (DOCS / "positions.md").read_text(encoding="utf-8")


def test_its_python_runs_in_order():
    pytest.importorskip("matplotlib")
    names: dict[str, object] = {"__name__": "page"}
    found = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert len(found) >= 5
    for block in found:
        exec(compile(block, str(DOCS / "positions.md"), "exec"), names)


def test_each_part_has_its_equation_its_paper_and_its_use():
    sections = {part.split("\n", 1)[0]: part for part in PAGE.split("\n## ")[1:]}
    del sections["Your own"]
    assert len(sections) == 7
    for name, text in sections.items():
        assert re.search(r"^Paper: .*20\d\d", text, re.MULTILINE) or "| paper |" in text, name
        assert re.search(r"^`.*(=|->|theta)|^\| `.*theta", text, re.MULTILINE), name
        assert "\n**Use it when** " in text, name
        assert "\n```python\n" in text, name


def test_its_pictures_are_small():
    named = re.findall(r"\]\((positions/.*?\.png)\)", PAGE)
    assert sorted(named) == sorted(f"positions/{file.name}" for file in (DOCS / "positions").glob("*.png"))
    for name in named:
        assert 5_000 < (DOCS / name).stat().st_size < 60_000
