"""Partial results of one row, merged by their log-sum-exp."""

from __future__ import annotations

import math

import pytest
import torch
from tests.properties import problem

from regard import reference
from regard.engine.merge import merge, with_sinks

NEAR = {"rtol": 0, "atol": 1e-14}


def test_two_parts_by_hand():
    # Sums of e^score 1 and 3: the parts have a quarter and three quarters of the weight.
    out, lse = merge(torch.tensor([[8.0]]), torch.tensor([0.0]), torch.tensor([[4.0]]), torch.tensor([math.log(3)]))
    torch.testing.assert_close(out, torch.tensor([[5.0]]))
    torch.testing.assert_close(lse, torch.tensor([math.log(4)]))


@pytest.mark.parametrize("cut", [0, 1, 4, 9])
def test_any_cut_of_the_keys_gives_the_whole(cut):
    q, k, v = problem(2, 3, query_len=5, key_len=9)
    mask = torch.ones(5, 9).bool().tril(2)
    whole = reference.attention(q, k, v, mask)
    parts = [reference.attention(q, k[..., s, :], v[..., s, :], mask[:, s]) for s in (slice(0, cut), slice(cut, 9))]
    a, b = parts if cut % 2 else parts[::-1]
    out, lse = merge(a.output, a.lse, b.output, b.lse)
    torch.testing.assert_close(out, whole.output, **NEAR)
    torch.testing.assert_close(lse, whole.lse, **NEAR)


def test_parts_without_keys():
    empty, none = torch.zeros(1, 2), torch.tensor([-torch.inf])
    out, lse = merge(empty, none, torch.ones(1, 2), torch.tensor([3.0]))
    assert (out.tolist(), lse.tolist()) == ([[1.0, 1.0]], [3.0])
    out, lse = merge(empty, none, empty, none)
    assert (out.tolist(), lse.tolist()) == ([[0.0, 0.0]], [-math.inf])


def test_far_apart_parts_do_not_overflow():
    out, lse = merge(torch.ones(1, 1), torch.tensor([3e4]), torch.zeros(1, 1), torch.tensor([-3e4]))
    assert (out.item(), lse.item()) == (1.0, 3e4)


def test_the_output_keeps_its_dtype():
    out, lse = merge(*2 * (torch.ones(1, 1, dtype=torch.bfloat16), torch.zeros(1)))
    assert (out.dtype, lse.dtype) == (torch.bfloat16, torch.float32)


def test_sinks_join_the_denominator():
    out, lse = with_sinks(torch.full((1, 2, 1, 1), 6.0), torch.zeros(1, 2, 1), torch.tensor([0.0, math.log(2)]))
    torch.testing.assert_close(out.flatten(), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(lse.flatten(), torch.tensor([math.log(2), math.log(3)]))
