from __future__ import annotations

from dataclasses import FrozenInstanceError, fields

import pytest

from regard.check import REGARD, Contract
from regard.check.contract import HAZARDS, WORDS, choices_of


def test_nothing_is_declared_until_it_is():
    assert Contract().declared() == {}
    assert Contract(mask="deny", weights=False).declared() == {"mask": "deny", "weights": False}


def test_a_contract_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        REGARD.mask = "deny"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("field", "given", "message"),
    [
        ("mask", "True = attend", "Contract(mask=): expected one of 'allow', 'deny', 'additive', got 'True = attend'"),
        ("causal", "lower", "Contract(causal=): expected one of 'bottom-right', 'top-left', 'always', got 'lower'"),
        ("weights", "yes", "Contract(weights=): expected one of True, False, got 'yes'"),
    ],
)
def test_a_word_that_is_no_convention_is_refused(field, given, message):
    with pytest.raises(ValueError) as error:
        Contract(**{field: given})
    assert str(error.value) == message


def test_what_is_declared_stands_over_what_is_found():
    found = Contract(mask="deny", causal="top-left", dropout="none")
    both = Contract(mask="allow").over(found)
    assert both == Contract(mask="allow", causal="top-left", dropout="none")


def test_every_choice_has_words_and_every_hazard_is_a_choice():
    choices = choices_of(Contract)
    silent = {"layout"}  # its letters are its words
    for name, values in choices.items():
        for value in values:
            assert name in silent or (name, value) in WORDS, (name, value)
    assert {(name, value) for name, value in HAZARDS if value not in choices[name]} == set()


def test_regard_declares_no_hazard():
    assert [each for each in REGARD.declared().items() if each in HAZARDS] == []
    assert {field.name for field in fields(Contract)} >= set(REGARD.declared())
