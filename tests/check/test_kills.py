"""The properties can fail: each mutant is caught by the property that it aims at. The whole matrix: docs/check."""

from __future__ import annotations

from dataclasses import replace

import pytest
from torch import nn

import regard
from regard.check import REGARD, Unsupported, Violation, adapt
from regard.check.guard import one_thread, random_state
from regard.check.mutants import MUTANTS
from regard.check.registry import all_properties

CONTRACT = replace(REGARD, float_mask="added")
PROPERTIES = {prop.name: prop for prop in all_properties("attention")}


@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_is_caught_by_the_property_it_aims_at(name: str) -> None:
    mutant = MUTANTS[name]
    with random_state(), one_thread():
        built = mutant.build()
        # A module that takes the batch for the length is a right one that is called with the length first.
        layout = "BLE" if isinstance(built, nn.Module) else None
        subject = adapt(built, replace(CONTRACT, layout=layout))
        with pytest.raises(Violation) as violation:
            PROPERTIES[mutant.aims].run(subject, subject.sizes, 0)
    assert len(str(violation.value)) > 10


def test_every_property_has_a_mutant_but_the_thorough_ones() -> None:
    aimed = {mutant.aims for mutant in MUTANTS.values()}
    # A mutant of the compiler would be a compiler; the other two are thorough forms of others.
    assert set(PROPERTIES) - aimed == {"compiled_equals_eager", "many_sizes", "very_long_inputs"}


def test_every_bug_of_the_table_has_a_property() -> None:
    rows = {row for prop in all_properties() for row in prop.rows}
    assert set(range(1, 35)) <= rows, sorted(set(range(1, 35)) - rows)


@pytest.mark.parametrize("prop", PROPERTIES.values(), ids=PROPERTIES)
def test_a_property_says_what_must_hold_and_which_bug_it_catches(prop) -> None:
    assert prop.says.endswith(".")
    assert len(prop.bug) > 20, f"{prop.name} names no bug: its docstring needs a paragraph that begins with Catches:"


@pytest.mark.parametrize("name", ["scale_of_the_model_width", "no_causal", "view_without_transpose"])
def test_a_property_can_be_called_alone(name: str) -> None:
    mutant = MUTANTS[name]
    alone = getattr(regard.check.properties, f"check_{mutant.aims}")
    with pytest.raises(AssertionError):
        alone(mutant.build())
    alone(regard.check.mutants.as_function(regard.check.definition.define))


def test_a_property_that_does_not_apply_says_so() -> None:
    with pytest.raises(Unsupported, match="it has no argument for a window"):
        regard.check.properties.check_window_counts(lambda q, k, v: (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v)
