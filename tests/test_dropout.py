"""Dropout: what it keeps is scaled, the backward pass drops the same weights, and the seed decides."""

from __future__ import annotations

import pytest
import torch
from tests import dropout_properties as properties

import regard
from regard import masks

both = pytest.mark.parametrize("impl", ["auto", "reference"])


@both
def test_the_same_seed_drops_the_same_weights(impl):
    properties.dropout_follows_the_seed(regard.attention, impl=impl)


@both
def test_with_the_identity_as_values_the_output_is_the_kept_weights(impl):
    properties.dropout_scales_what_it_keeps(regard.attention, impl=impl)


@both
def test_the_mean_over_seeds_is_the_output_without(impl):
    properties.dropout_is_unbiased(regard.attention, impl=impl)


@both
def test_the_gradient_drops_the_same_weights(impl):
    properties.dropout_gradient_is_that_of_the_forward_pass(regard.attention, impl=impl)


@both
def test_a_dropout_of_zero_is_none(impl):
    properties.dropout_of_zero_is_none(regard.attention, impl=impl)


@both
def test_a_dropout_of_one_leaves_nothing(impl):
    q, k, v = (t.requires_grad_() for t in properties.problem(1, 2, query_len=5, key_len=6))
    output, weights = regard.attention(q, k, v, masks.causal(), dropout=1.0, impl=impl)
    assert not output.any()
    gradients = torch.autograd.grad(output.sum(), (q, k, v), allow_unused=True)
    assert all(g is None or not g.any() for g in gradients)
    torch.testing.assert_close(weights.lse, regard.attention(q, k, v, masks.causal())[1].lse, rtol=0, atol=1e-14)


@both
def test_the_weights_are_those_before_dropout(impl):
    q, k, v = properties.problem(2, 2, query_len=5, key_len=6)
    want = regard.attention(q, k, v, masks.causal())[1]
    got = regard.attention(q, k, v, masks.causal(), dropout=0.5, impl=impl)[1]
    torch.testing.assert_close(got.to_dense(), want.to_dense(), rtol=0, atol=1e-14)
    torch.testing.assert_close(got @ v, want @ v, rtol=0, atol=1e-14)
    torch.testing.assert_close(got.lse, want.lse, rtol=0, atol=1e-14)


def test_heads_and_sequences_drop_different_weights():
    q, k = (torch.zeros(2, 2, 8, 8) for _ in range(2))
    torch.manual_seed(0)
    kept = regard.attention(q, k, torch.eye(8).expand(2, 2, 8, 8), dropout=0.5)[0] > 0
    flat = kept.flatten(0, 1)
    assert all(not torch.equal(flat[a], flat[b]) for a in range(4) for b in range(a))


def test_blocks_of_rows_drop_different_weights():
    q, k = torch.zeros(1, 1, 1100, 4), torch.zeros(1, 1, 40, 4)  # more rows than one block has
    torch.manual_seed(0)
    kept = regard.attention(q, k, torch.eye(40)[None, None], dropout=0.5)[0][0, 0] > 0
    assert len(torch.unique(kept, dim=0)) == 1100
    assert 0.48 < kept.float().mean() < 0.52  # 44,000 draws: a standard deviation of 0.0024
