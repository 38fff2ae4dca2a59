"""What is asked of a whole map, against sums over the dense matrix; and cases whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import operator_properties as properties
from tests.shapes import Shape
from tests.strategies import Case, cases, examples

import regard
from regard import masks

ALL_DTYPES = (torch.float64, torch.float64, torch.float32, torch.bfloat16, torch.float16)


@examples(40)
@given(cases(dtypes=ALL_DTYPES))
def test_sums_are_those_of_the_definition(case: Case):
    properties.statistics_match_the_definition(regard.attention, case)


@examples(30)
@given(cases(dtypes=ALL_DTYPES))
def test_max_logit_is_that_of_the_definition(case: Case):
    properties.max_logit_matches_the_definition(regard.attention, case)


@examples(35)
@given(cases(dtypes=ALL_DTYPES), st.integers(1, 9), st.integers(1, 9))
def test_pooling_is_that_of_the_definition(case: Case, rows: int, cols: int):
    properties.pool_matches_the_definition(regard.attention, case, rows, cols)


@examples(35)
@given(cases(dtypes=ALL_DTYPES), st.sampled_from((1, 2, 3, 8)))
def test_topk_is_that_of_the_definition(case: Case, k: int):
    properties.topk_matches_the_definition(regard.attention, case, k)


def uniform(query_len: int, key_len: int, mask=None, **options):
    """Weights over a map on which every allowed score is 0."""
    q, k = torch.zeros(1, 1, query_len, 2).double(), torch.ones(1, 1, key_len, 2).double()
    return regard.attention(q, k, k, mask, **options)[1]


def near(got: torch.Tensor, *want: object) -> bool:
    return torch.allclose(got[0, 0], torch.tensor(want, dtype=torch.float64), rtol=0, atol=1e-14)


def test_uniform_rows():
    w = uniform(3, 3, masks.causal())
    assert near(w.entropy(), 0, math.log(2), math.log(3))
    assert near(w.received(), 1 + 1 / 2 + 1 / 3, 1 / 2 + 1 / 3, 1 / 3)
    assert near(w.distance(), 0, 1 / 2, 1)
    assert near(w.mass([0]), 1, 1 / 2, 1 / 3)
    assert near(w.diagonal(-1), 1 / 2, 1 / 3)
    assert near(w.max_logit(), 0, 0, 0)
    assert near(w.pool(1, 3), (11 / 18, 5 / 18, 2 / 18))
    assert near(w.pool(3, 1, reduce="max"), (1,), (1 / 2,), (1 / 3,))


def test_a_sink_takes_its_share():
    w = uniform(1, 3, sinks=torch.zeros(1).double())
    assert near(w.received(), 1 / 4, 1 / 4, 1 / 4)
    assert near(w.entropy(), 3 / 4 * math.log(4))
    assert near(w.lse, math.log(4))


def test_distance_counts_from_the_position_of_the_query():
    assert near(uniform(1, 5, masks.window(1)).distance(), 0)  # the last query stands at the last key
    assert near(uniform(2, 5).distance(), (3 + 2 + 1 + 0 + 1) / 5, (4 + 3 + 2 + 1 + 0) / 5)


def test_empty_rows_measure_nothing():
    w = uniform(3, 2, masks.causal())  # row 0 reads nothing
    assert near(w.entropy(), 0, 0, math.log(2))
    assert near(w.distance(), 0, 0, 1 / 2)
    assert near(w.max_logit(), -math.inf, 0, 0)
    assert near(w.lse, -math.inf, 0, math.log(2))
    values, indices = w.topk(2)
    assert near(values, (0, 0), (1, 0), (1 / 2, 1 / 2))
    assert indices[0, 0, :2].tolist() == [[-1, -1], [0, -1]]
    assert sorted(indices[0, 0, 2].tolist()) == [0, 1]


@pytest.mark.parametrize(
    "options", [{}, {"softcap": 8.0}, {"sinks": torch.zeros(2)}], ids=["plain", "softcap", "sinks"]
)
def test_maps_of_several_blocks(options):
    # More rows and keys than one block of the stream, and more columns than topk looks through directly.
    torch.manual_seed(0)
    q, k, v = (torch.randn(1, 2, n, 4) for n in (700, 1500, 1500))
    mask = masks.causal() & masks.padding(torch.tensor([1400]))
    case = Case(
        Shape((1,), 2, 2, 700, 1500, 4, 4), q, k, v, mask, mask.to_dense(700, 1500).expand(1, 2, 700, 1500), options
    )
    properties.statistics_match_the_definition(regard.attention, case)
    properties.pool_matches_the_definition(regard.attention, case, 37, 41)
    properties.topk_matches_the_definition(regard.attention, case, 5)


def test_entropy_is_never_negative():
    # One key takes all: lse - mean score is rounding, of either sign.
    q = 40 * torch.randn(1, 1, 50, 8)
    assert (regard.attention(q, q, q)[1].entropy() >= 0).all()


def test_mass_counts_a_key_once():
    w = uniform(1, 4)
    assert near(w.mass([1, 1, -3]), 1 / 4)
    assert near(w.mass(torch.tensor([True, False, False, True])), 1 / 2)
    assert near(w.mass(slice(1, None)), 3 / 4)
    assert near(w.mass(2), 1 / 4)
    assert near(w.mass([]), 0)
