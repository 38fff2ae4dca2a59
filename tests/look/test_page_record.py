"""The recorded run of the page's benchmark, and the tables that are made from it."""

from __future__ import annotations

import importlib.util
import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tables() -> Any:
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tables: Any) -> Any:
    return json.loads(tables.PAGE.read_text(encoding="utf-8"))


def test_the_guide_holds_the_recorded_run(tables: Any, run: Any) -> None:
    text = (ROOT / "docs" / "look.md").read_text(encoding="utf-8")
    for name in ("page", "bertviz"):
        assert f"<!-- bench: {name} -->" in text
    assert tables.filled(text, {}, page=run) == text, "run: python docs/tables.py"


def test_the_run_is_of_all_lengths_beside_bertviz(run: Any) -> None:
    assert [page["tokens"] for page in run["pages"]] == [100, 1_000, 10_000, 100_000]
    assert all(len(page["ready_runs_ms"]) >= 5 for page in run["pages"])
    assert run["bertviz"]["tokens"] == 100


def test_what_misses_its_bar_says_so(tables: Any, run: Any) -> None:
    met = deepcopy(run)
    met["bertviz"] |= {"times_faster": 21.0, "times_smaller": 9.0}
    for page in met["pages"]:
        page |= {"bytes": 4_000_000, "ready_ms": 500, "head_ms": 20, "build_s": 1}
    assert "missed" not in tables.table("page", met) + tables.table("bertviz", met)
    for name, worse in (("bytes", 5_100_000), ("ready_ms", 1001), ("head_ms", 51), ("build_s", 3.1)):
        missed = deepcopy(met)
        missed["pages"][2][name] = worse
        assert tables.table("page", missed).count("**missed**") == 1, name
    for name in ("times_faster", "times_smaller"):
        missed = deepcopy(met)
        missed["bertviz"][name] = 7.9
        assert tables.table("bertviz", missed).count("**missed**") == 1, name
