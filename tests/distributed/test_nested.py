"""States as one level of names: what comes out is what went in."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch

from regard.distributed.nested import flattened, put


class Pair(NamedTuple):
    first: float
    second: Any


def test_names_and_values():
    weight = torch.zeros(2)
    found = flattened({"model": {"a.weight": weight}, "groups": [{"lr": 0.1, "params": ["a.weight"]}], 0: None})
    assert found.tensors == {"model/a.weight": weight}
    assert found.values == {"groups/0/lr": 0.1, "groups/0/params/0": "a.weight", "0": None}


def test_values_are_put_where_they_belong():
    weight, inner = torch.zeros(2), {"b": 1}
    state = {"weight": weight, "inner": inner, "tuple": (1, [2, (3,)]), "pair": Pair(1.0, "x"), "empty": {}}
    values = {name: f"new {name}" for name in flattened(state).values}
    put(state, values)
    assert state["weight"] is weight
    assert state["inner"] is inner
    assert inner == {"b": "new inner/b"}
    assert state["tuple"] == ("new tuple/0", ["new tuple/1/0", ("new tuple/1/1/0",)])
    assert state["pair"] == Pair("new pair/0", "new pair/1")
    assert flattened(state).values == {name: f"new {name}" for name in values}


@pytest.mark.parametrize("thing", [{1}, b"", torch.float32, object(), 1j])
def test_what_would_need_a_pickle_is_refused(thing):
    with pytest.raises(TypeError, match=r"state: a/0 must be a tensor, a number, a word, .* needs a pickle is saved"):
        flattened({"a": [thing]})


def test_names_that_are_no_words_are_refused():
    with pytest.raises(
        ValueError, match=r"state: a name must be a word without a slash, or a number, got \(1,\) in 'a'"
    ):
        flattened({"a": {(1,): 2}})
