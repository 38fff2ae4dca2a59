"""The README's figures are those of the recorded run, and nothing else."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def tables():
    spec = importlib.util.spec_from_file_location("tables", ROOT / "docs" / "tables.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run(tables):
    return json.loads(tables.RUN.read_text(encoding="utf-8"))


def test_the_readme_holds_the_recorded_run(tables, run):
    assert README.count("<!-- bench: ") == 2
    assert tables.filled(README, run) == README, "run: python docs/tables.py"


def test_another_run_gives_another_readme(tables, run):
    run["cases"][0]["ratio"]["median"] += 0.5
    assert tables.filled(README, run) != README


def test_a_bar_that_is_missed_is_shown_as_missed(tables, run):
    for met in (True, False):
        for case in run["cases"]:
            case["bars"][0]["met"] = met
        assert ("**missed**" in tables.table("speed", run)) is not met


def test_the_record_is_no_quick_run_and_has_no_failed_case(run):
    assert run["settings"]["quick"] is False
    assert [case["name"] for case in run["cases"] if case["failed"]] == []
