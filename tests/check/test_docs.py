"""The pages on the check are those of the registry and of the record, and what they show runs."""

from __future__ import annotations

import copy
import importlib
import inspect
import re
import sys
from pathlib import Path

import pytest
import torch
from tests.test_readme import blocks, commands, problem, run

import regard
from regard.check import budget, command, registry, runner
from regard.check.api import MEMORY_MB
from regard.check.registry import all_properties

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "check"
PROSE = sorted(FOLDER.glob("*.md"))
AGAIN = "run: python docs/check/kills.py && python docs/check/pages.py"
NAMED = 0.8  # of the mutants are named right, at least


@pytest.fixture(scope="module")
def pages():
    sys.path.insert(0, str(FOLDER))
    try:
        yield importlib.import_module("pages")
    finally:
        sys.path.remove(str(FOLDER))
        for name in ("pages", "kills", "words"):
            sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def found(pages):
    return pages.read()


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


# -- the record --------------------------------------------------------------------------------------------------------


def test_the_record_is_of_the_present_mutants_and_properties(pages, found):
    present = {suite: [] for suite in pages.SUITES}
    for each in pages.mutants():
        present[each.suite].append(each.name)
    assert {suite: list(some) for suite, some in found.record["mutants"].items()} == present, AGAIN
    names = {suite: [prop.name for prop in all_properties(suite)] for suite in pages.SUITES}
    assert found.record["properties"] == names, AGAIN


def test_what_fails_in_the_record_are_properties(pages, found):
    for suite in pages.SUITES:
        known = set(found.record["properties"][suite])
        for name, one in found.record["mutants"][suite].items():
            assert set(one["failed"]) <= known, f"{name} fails {set(one['failed']) - known}"


def test_every_mutant_is_caught(pages, found):
    missed = [
        name for suite in pages.SUITES for name, one in found.record["mutants"][suite].items() if not one["failed"]
    ]
    assert missed == []


def test_every_mutant_is_caught_by_the_property_that_is_meant_to(found):
    every = found.record["mutants"]
    missed = [
        f"{name}: {each.aims}"
        for (suite, name), each in found.mutants.items()
        if each.aims and each.aims not in every[suite][name]["failed"]
    ]
    assert missed == []


def test_most_mutants_are_named_right(found):
    counts = found.counted()
    assert counts["right"] >= NAMED * counts["mutants"], counts
    assert counts["right"] + counts["another"] + counts["nothing"] == counts["mutants"]


def test_synonyms_are_of_mutants_and_have_a_reason(pages, found):
    known = {name for _, name in found.mutants}
    for name, others in pages.SYNONYMS.items():
        assert {name, *others} <= known
        assert name not in others
        assert all(len(reason.split()) > 3 for reason in others.values())


# -- the registry ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prop", all_properties(), ids=lambda prop: prop.name)
def test_a_property_says_what_must_hold_and_which_bug_it_catches(prop, pages):
    paragraphs = inspect.getdoc(prop.run).split("\n\n")
    assert len(paragraphs) > 1, "the docstring has one paragraph"
    assert paragraphs[1].startswith("Catches: ")
    assert len(prop.says) > 10
    assert len(prop.bug) > 20
    assert set(prop.needs) <= set(pages.NEEDS), "docs/check/words.py: NEEDS says what a subject must offer"
    assert {prop.name, prop.group} & set(pages.SHARED), "docs/check/words.py: SHARED says why a property is kept"


def test_every_row_of_the_table_has_a_bug_and_a_property(pages):
    assert list(pages.BUGS) == list(range(1, 35))
    assert {row for prop in all_properties() for row in prop.rows} == set(pages.BUGS)


def test_every_thread_in_the_table_is_a_link(pages):
    for bug in pages.BUGS.values():
        linked = pages.linked(bug)
        assert "](https://github.com/" in linked
        assert not re.search(r"#\d", re.sub(r"\[[^]]*\]\([^)]*\)", "", linked)), linked


def test_a_thread_becomes_a_link(pages):
    text = pages.linked("seen (pytorch #1, #2, keras PR #3; nobody #4)")
    place = "https://github.com/"
    assert text == (
        f"seen ([pytorch #1]({place}pytorch/pytorch/issues/1), [#2]({place}pytorch/pytorch/issues/2), "
        f"[keras PR #3]({place}keras-team/keras/pull/3); nobody #4)"
    )


# -- the pages ---------------------------------------------------------------------------------------------------------


def test_the_pages_hold_the_registry_and_the_record(pages, found):
    for path in pages.PAGES:
        text = text_of(path)
        assert "<!-- check: " in text, f"{path.name} has no generated part"
        assert found.filled(text) == text, f"{path.name}: run: python docs/check/pages.py"


def test_every_suite_is_shown(pages):
    text = "".join(map(text_of, PROSE))
    for part in ("properties", "matrix", "mutants", "alone"):
        for suite in pages.SUITES:
            assert f"<!-- check: {part}-{suite} -->" in text


def test_every_opened_part_is_closed(pages):
    for path in pages.PAGES:
        text = text_of(path)
        assert len(pages.MARKED.findall(text)) == text.count("<!-- check: ")


def test_another_record_gives_other_pages(pages, found):
    record = copy.deepcopy(found.record)
    record["mutants"]["attention"]["scale_missing"] |= {"failed": [], "named": ""}
    other = pages.Pages(record, found.alarms)
    for path in pages.PAGES:
        assert other.filled(text_of(path)) != text_of(path), path.name
    assert other.counted()["caught"] == found.counted()["caught"] - 1


def test_false_alarms_are_told_from_their_record_alone(pages, found):
    assert pages.Pages(found.record).part("false-alarms") == ""
    alarms = {"runs": 1200, "subjects": ["a", "b"], "seeds": 50, "alarms": 1}
    text = pages.Pages(found.record, alarms).part("false-alarms")
    assert "1,200 recorded checks of 2 right implementations, with 50 seeds: 1 false alarm (" in text
    assert "0 false alarms" in pages.Pages(found.record, alarms | {"alarms": []}).part("false-alarms")


# -- what they show ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_the_snippets_run(path, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    # A property that a page registers is gone afterwards.
    monkeypatch.setattr(registry, "_REGISTERED", dict(registry._REGISTERED))
    names: dict[str, object] = {"__name__": "page"}
    for block in blocks(text_of(path)):
        if block.language in ("python", "pycon"):
            run(block, names)


def test_the_readme_of_the_check_shows_python():
    assert sum(block.language == "python" for block in blocks(text_of(FOLDER / "README.md"))) >= 5


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_the_commands_exist(path):
    assert {line: problem(line) for line in commands(text_of(path)) if problem(line)} == {}


@pytest.mark.parametrize("path", PROSE, ids=lambda path: path.name)
def test_the_links_lead_somewhere(path):
    for target in set(re.findall(r"\]\(([^)\s]+)\)", text_of(path))):
        if re.match(r"[a-z]+:", target):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), target
        if anchor:
            assert re.search(rf"^#+ `?{re.escape(anchor)}`?$", text_of(there), re.MULTILINE), target


def test_the_limits_are_those_of_the_code():
    text = " ".join(text_of(FOLDER / "README.md").split())
    seconds = inspect.signature(regard.check).parameters["seconds"].default
    assert f"each call has {seconds:.0f} seconds" in text
    assert f"grow by {MEMORY_MB:,} MB" in text
    assert f"stopped after {command.SECONDS:,.0f} seconds ({command.THOROUGH_SECONDS:,.0f} with" in text
    assert (runner.HANGS, runner.SHARE) == (2, 0.3)
    assert "After two calls without an answer" in text
    assert "fewer than three in ten could run" in text
    floors = {dtype: budget.FLOOR[dtype] for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    assert list(floors.values()) == [1, 1, 32, 1024]
    assert "1 rounding in half precision, 32 in float32 and 1,024 in float64" in text
    assert (budget.SLACK, inspect.signature(budget.budget).parameters["slack"].default) == (2.0, 2.0)


def test_the_pages_say_nothing_of_the_machine(found):
    everything = "".join(map(text_of, PROSE)) + text_of(FOLDER / "kills.json")
    for word in (str(ROOT), "/tmp", "/home", "/root"):
        assert word not in everything
