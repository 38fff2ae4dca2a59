"""The definition, against numbers worked out by hand: the oracle of everything else is not tested against itself."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from regard.reference import attention

# Scores log 1, log 2, log 3, ... make weights that are fractions: softmax(log a, log b) = a / (a + b), b / (a + b).
LN2, LN3 = math.log(2), math.log(3)


def tensor(*rows: object) -> Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def near(got: Tensor, *rows: object) -> bool:
    """Equal to float64 rounding of a handful of operations."""
    want = tensor(*rows)
    return got.shape == want.shape and torch.allclose(got.double(), want, rtol=0, atol=1e-14)


def one_query(*scores: float) -> tuple[Tensor, Tensor]:
    """A query 1 and keys that give these scores under scale=1."""
    return tensor([1.0]), tensor(*([s] for s in scores))


VALUES = tensor([10.0, 0.0], [0.0, 10.0], [30.0, 30.0])  # (S=3, Dv=2)


def test_weights_are_the_softmax_over_keys():
    q, k = one_query(0.0, LN2, LN3)
    found = attention(q, k, VALUES, scale=1.0)
    assert near(found.weights, [1 / 6, 2 / 6, 3 / 6])
    assert near(found.output, [10 / 6 + 15, 20 / 6 + 15])
    assert near(found.lse, math.log(6))


def test_scale_is_one_over_the_root_of_the_width():
    q, k = tensor([1.0, 1.0, 1.0, 1.0]), tensor([0.0] * 4, [LN2] * 4)  # scores 0 and 4 ln 2, over sqrt(4): 2 ln 2
    assert near(attention(q, k, VALUES[:2]).weights, [1 / 5, 4 / 5])


def test_scale_multiplies_the_scores():
    q, k = one_query(0.0, LN2)
    assert near(attention(q, k, VALUES[:2], scale=3.0).weights, [1 / 9, 8 / 9])
    assert near(attention(q, k, VALUES[:2], scale=0.0).weights, [1 / 2, 1 / 2])
    assert near(attention(q, k, VALUES[:2], scale=-1.0).weights, [2 / 3, 1 / 3])


def test_each_query_has_its_own_row():
    q, k = tensor([1.0], [0.0], [2.0]), tensor([0.0], [LN2])
    assert near(attention(q, k, VALUES[:2], scale=1.0).weights, [1 / 3, 2 / 3], [1 / 2, 1 / 2], [1 / 5, 4 / 5])


def test_mask_true_means_may_attend():
    q, k = one_query(0.0, LN2, LN3)
    found = attention(q, k, VALUES, torch.tensor([[True, False, True]]), scale=1.0)
    assert near(found.weights, [1 / 4, 0, 3 / 4])
    assert near(found.output, [25.0, 22.5])
    assert near(found.lse, math.log(4))


def test_bias_is_added_after_the_scale():
    q, k = one_query(0.0, LN2)
    assert near(attention(q, k, VALUES[:2], bias=tensor([LN3, 0.0]), scale=2.0).weights, [3 / 7, 4 / 7])


def test_bias_of_minus_infinity_is_a_mask():
    q, k = one_query(0.0, LN2)
    assert near(attention(q, k, VALUES[:2], bias=tensor([0.0, -math.inf])).weights, [1.0, 0.0])
    empty = attention(q, k, VALUES[:2], bias=tensor([-math.inf, -math.inf]))
    assert near(empty.output, [0.0, 0.0])
    assert near(empty.lse, -math.inf)


def test_softcap_comes_before_the_bias():
    # tanh(ln 3) = (3 - 1/3) / (3 + 1/3) = 0.8: a score of 2 ln 3 under a cap of 2 becomes 1.6.
    q, k = one_query(0.0, 2 * LN3)
    found = attention(q, k, VALUES[:2], bias=tensor([0.0, -1.6]), softcap=2.0, scale=1.0)
    assert near(found.weights, [1 / 2, 1 / 2])
    assert near(found.lse, LN2)


def test_softcap_bounds_the_score():
    q, k = one_query(0.0, 1e6)
    assert near(attention(q, k, VALUES[:2], softcap=LN2, scale=1.0).weights, [1 / 3, 2 / 3])


def test_sinks_join_the_denominator_alone():
    q, k = one_query(0.0, LN2)
    found = attention(q, k, VALUES[:2], sinks=tensor(LN3), scale=1.0)
    assert near(found.weights, [1 / 6, 2 / 6])
    assert near(found.output, [10 / 6, 20 / 6])
    assert near(found.lse, math.log(6))


def test_each_head_has_its_own_sink():
    q, k = tensor([[1.0]], [[1.0]])[None], tensor([[0.0]], [[0.0]])[None]  # (1, 2, 1, 1)
    found = attention(q, k, k + 1, sinks=tensor(0.0, LN3))
    assert near(found.weights, [[[1 / 2]], [[1 / 4]]])


def test_sinks_leave_an_empty_row_empty():
    q, k = one_query(0.0, LN2)
    found = attention(q, k, VALUES[:2], torch.tensor([[False, False]]), sinks=tensor(LN3))
    assert near(found.output, [0.0, 0.0])
    assert near(found.lse, LN3)


def test_empty_row_is_zero_and_its_lse_minus_infinity():
    q, k = tensor([1.0], [1.0]), tensor([0.0], [LN2])
    found = attention(q, k, VALUES[:2], torch.tensor([[False, False], [True, True]]), scale=1.0)
    assert near(found.weights, [0.0, 0.0], [1 / 3, 2 / 3])
    assert near(found.output, [0.0, 0.0], [10 / 3, 20 / 3])
    assert near(found.lse, -math.inf, math.log(3))


def test_empty_row_passes_no_gradient():
    tensors = [tensor([1.0], [1.0]), tensor([0.0], [LN2]), VALUES[:2].clone()]
    q, k, v = (t.requires_grad_() for t in tensors)
    attention(q, k, v, torch.tensor([[False, False], [True, True]]), scale=1.0).output.sum().backward()
    # Row 1: weights 1/3, 2/3, value sums 10, 10: both keys give the same, so that no score matters.
    assert near(v.grad, [1 / 3, 1 / 3], [2 / 3, 2 / 3])
    assert near(q.grad, [0.0], [0.0])
    assert near(k.grad, [0.0], [0.0])


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e308])
def test_keys_that_nobody_may_read_hold_anything(poison):
    q, k = one_query(0.0, poison)
    q, k, v = (t.requires_grad_() for t in (q, k, tensor([5.0], [poison])))
    found = attention(q, k, v, torch.tensor([[True, False]]))
    found.output.sum().backward()
    assert near(found.output, [5.0])
    assert near(q.grad, [0.0])
    assert near(k.grad, [0.0], [0.0])
    assert near(v.grad, [1.0], [0.0])


def test_no_keys_at_all_are_empty_rows():
    found = attention(torch.ones(2, 3), torch.ones(0, 3), torch.ones(0, 4))
    assert found.output.tolist() == [[0.0] * 4] * 2
    assert found.lse.tolist() == [-math.inf] * 2


def test_grouped_heads_are_interleaved():
    q = torch.ones(1, 4, 1, 1)
    v = tensor([[10.0]], [[20.0]])[None]  # (1, Hkv=2, S=1, 1)
    assert attention(q, torch.ones(1, 2, 1, 1), v.float()).output.flatten().tolist() == [10, 10, 20, 20]


def test_dropout_scales_what_it_keeps():
    q, k = one_query(0.0, LN2, LN3)
    keep = torch.tensor([[True, False, True]])
    found = attention(q, k, torch.eye(3, dtype=torch.float64), scale=1.0, dropout=0.75, keep=keep)
    assert near(found.output, [4 / 6, 0.0, 12 / 6])
    assert near(found.weights, [1 / 6, 2 / 6, 3 / 6])  # before dropout
    assert near(found.lse, math.log(6))


def test_dropout_of_one_leaves_nothing():
    q, k = one_query(0.0, LN2)
    assert near(attention(q, k, VALUES[:2], dropout=1.0).output, [0.0, 0.0])


def test_dropout_draws_its_own_mask():
    q, k = torch.zeros(1, 1), torch.zeros(4000, 1)
    output = attention(q, k, torch.ones(4000, 1), dropout=0.25).output
    # 4000 weights of 1/4000, kept with 0.75 and scaled: standard deviation sqrt(0.25 / 0.75 / 4000) = 0.009.
    assert abs(output.item() - 1) < 5 * 0.0092
    assert output.item() != 1


def test_order_of_all_options():
    # scale 2 * (ln 3 / 2 * 2) = 2 ln 3, cap 2 -> 1.6, bias 0.4 -> 2; the second key 0 + 2 -> 2; no third; the sink 2.
    q, k = tensor([2.0]), tensor([LN3 / 2], [0.0], [50.0])
    found = attention(
        q,
        k,
        VALUES,
        torch.tensor([[True, True, False]]),
        bias=tensor([0.4, 2.0, 9.0]),
        scale=2.0,
        softcap=2.0,
        sinks=tensor(2.0),
    )
    assert near(found.weights, [1 / 3, 1 / 3, 0.0])
    assert near(found.output, [10 / 3, 10 / 3])
    assert near(found.lse, 2 + LN3)
