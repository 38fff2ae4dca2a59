"""Every known class, in a tiny model of its own: the loaded layer computes what the original computes."""

from __future__ import annotations

import pytest
from tests.hf.load_cases import CASES, calls
from tests.hf.load_proofs import MOST, examined

from regard.hf.families import CLASSES, full_name


@pytest.mark.parametrize("case", CASES)
def test_a_loaded_layer_computes_what_the_original_computes(case):
    found = list(examined(case))
    assert found
    for each in found:
        worse = {what: error for what, error in each.errors.items() if not error <= MOST}
        assert not worse, f"{each.kind} at {each.name}"
        assert "forward, gradients of parameters" in each.errors


def test_every_class_is_proven():
    proven = {full_name(type(call.layer)) for case in CASES for call in calls(case)}
    assert proven == set(CLASSES)
