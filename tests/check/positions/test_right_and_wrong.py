"""Every right encoding passes every property that applies; every wrong one fails; no property is without its mutant."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.check.positions import right_tables, right_turns, wrong_elsewhere

from regard.check.adapt import adapt
from regard.check.mutants import positions as table_mutants
from regard.check.mutants import rotary as turn_mutants
from regard.check.properties import positions as tables
from regard.check.properties import rotary as turns
from regard.check.violation import Unsupported, Violation

SUITES = {
    "positions": (tables, right_tables.RIGHT, table_mutants.POSITION_MUTANTS),
    "rotary": (turns, right_turns.RIGHT, turn_mutants.ROTARY_MUTANTS),
}
# Long inputs, of which one holds as many random numbers as all seeds of the others.
COSTLY = {"check_table_far": 1, "check_rotary_far": 1, "check_table_half": 1, "check_rotary_half": 3}

RIGHT = [pytest.param(suite, name, id=f"{suite}: {name}") for suite, (_, right, _) in SUITES.items() for name in right]
WRONG = [pytest.param(suite, name, id=f"{suite}: {name}") for suite, (_, _, wrong) in SUITES.items() for name in wrong]


def properties(suite: str) -> dict[str, Callable[..., None]]:
    module = SUITES[suite][0]
    return {name: getattr(module, name) for name in module.__all__}


def holds(prop: Callable[..., None], subject: Any, seed: int = 0) -> bool | None:
    """None where it does not apply, which takes a reason."""
    try:
        prop(subject, None, seed)
    except Unsupported as reason:
        return None if str(reason) else False
    except Violation:
        return False
    return True


def failures(suite: str, subject: Any) -> set[str]:
    return {name for name, prop in properties(suite).items() if holds(prop, subject) is False}


@pytest.fixture(scope="module")
def caught() -> dict[str, dict[str, set[str]]]:
    """Suite -> mutant -> the properties that it fails."""
    return {
        suite: {name: failures(suite, adapt(w.build(), w.contract, suite=suite)) for name, w in wrong.items()}
        for suite, (_, _, wrong) in SUITES.items()
    }


@pytest.mark.parametrize(("suite", "name"), RIGHT)
def test_a_right_one_passes_whatever_applies(suite: str, name: str):
    subject = adapt(SUITES[suite][1][name], suite=suite)
    ran = 0
    for key, prop in properties(suite).items():
        for seed in range(COSTLY.get(key, 10)):
            held = holds(prop, subject, seed)
            assert held is not False, f"{key}, seed {seed}"
            ran += held is True
    assert ran >= 30
    assert not subject.findings.written
    assert not subject.findings.state


@pytest.mark.parametrize(("suite", "name"), WRONG)
def test_a_wrong_one_fails(caught, suite: str, name: str):
    assert caught[suite][name]


@pytest.mark.parametrize("suite", SUITES)
def test_no_property_is_without_a_mutant(caught, suite: str):
    killed = set().union(*caught[suite].values())
    assert killed == set(properties(suite))


@pytest.mark.parametrize(
    ("suite", "name", "only"),
    [
        ("positions", "even only", {"check_table_odd_width"}),
        ("positions", "half positions", {"check_table_far"}),
        ("positions", "in place", {"check_table_inputs_unchanged"}),
        ("positions", "in dtype of x", {"check_table_half"}),
        ("positions", "first dtype", {"check_table_history"}),
        ("positions", "wraps", {"check_table_too_long"}),
        ("rotary", "half frequencies", {"check_rotary_half"}),
        ("rotary", "key of half", {"check_rotary_history"}),
        ("rotary", "key without base", {"check_rotary_instances"}),
        ("rotary", "backward forward", {"check_rotary_gradient"}),
        ("rotary", "last column lost", {"check_rotary_odd_width"}),
    ],
)
def test_a_mistake_fails_where_it_is_and_nowhere_else(caught, suite: str, name: str, only: set[str]):
    assert caught[suite][name] == only


def test_what_shipped_is_caught_by_the_property_that_names_it(caught):
    assert "check_table_wavelengths" in caught["positions"]["precedence"]  # LoFTR #41
    assert "check_table_wavelengths" in caught["positions"]["integers"]  # BERT-pytorch #18
    assert "check_table_odd_width" in caught["positions"]["even only"]  # BERT-pytorch #78
    assert "check_table_is_added" in caught["positions"]["one row"]  # DiffPoseTalk #20
    assert "check_table_same_in_each_sequence" in caught["positions"]["along batch"]
    assert "check_rotary_relative" in caught["rotary"]["mixed pairs"]  # how-to-train-your-gpt #6
    assert "check_rotary_history" in caught["rotary"]["key without offset"]  # rotary-embedding-torch #11
    assert "check_rotary_far" in caught["rotary"]["half table"]  # gpt-neox #1003


# -- the likely bug ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("suite", "elsewhere", "mutants", "likely"),
    [
        ("positions", wrong_elsewhere.TABLES, table_mutants.POSITION_MUTANTS, table_mutants.likely),
        ("rotary", wrong_elsewhere.TURNS, turn_mutants.ROTARY_MUTANTS, turn_mutants.likely),
    ],
)
def test_the_likely_bug_is_named_in_what_others_wrote(suite, elsewhere, mutants, likely):
    named = {name: likely(adapt(thing, contract, suite=suite)) for name, (thing, contract) in elsewhere.items()}
    wrong = {name: said for name, said in named.items() if said != mutants[name].says}
    assert len(elsewhere) >= 10
    assert len(wrong) <= len(elsewhere) // 10, wrong


@pytest.mark.parametrize(("suite", "name"), WRONG)
def test_every_mutant_is_named(suite: str, name: str):
    wrong = SUITES[suite][2][name]
    likely = table_mutants.likely if suite == "positions" else turn_mutants.likely
    assert likely(adapt(wrong.build(), wrong.contract, suite=suite)) == wrong.says


@pytest.mark.parametrize(("suite", "name"), RIGHT)
def test_no_bug_is_found_in_a_right_one(suite: str, name: str):
    likely = table_mutants.likely if suite == "positions" else turn_mutants.likely
    assert likely(adapt(SUITES[suite][1][name], suite=suite)) is None
