"""Attention as one node of autograd: what is saved, and that nothing is made when nothing asks for it."""

from __future__ import annotations

import pytest
import torch
from tests.properties import problem

import regard
from regard import masks
from regard.engine import execute

LAYOUTS = [(7, 7), (40, 64), (64, 40)]


@pytest.mark.parametrize(("query_len", "key_len"), LAYOUTS)
@pytest.mark.parametrize("mask", [None, masks.causal(), masks.window(5), masks.padding(torch.tensor([3, 30]))], ids=str)
def test_several_tiles_have_the_gradient_of_one(query_len, key_len, mask):
    if str(mask).startswith("padding"):
        mask = masks.padding(torch.tensor([3, key_len]))
    tensors = [t.requires_grad_() for t in problem(2, 4, query_len=query_len, key_len=key_len, kv_heads=2)]
    results = []
    for impl in ("auto", "reference"):
        output, weights = regard.attention(*tensors, mask, impl=impl)
        lse = torch.where(torch.isfinite(weights.lse), weights.lse, 0)
        results.append(torch.autograd.grad(output.sin().sum() + lse.cos().sum(), tensors))
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-12)


def test_lse_alone_has_a_gradient():
    q, k, v = (t.requires_grad_() for t in problem(1, 2, query_len=3, key_len=4))
    lse = regard.attention(q, k, v)[1].lse
    dq, dv = torch.autograd.grad(lse.sum(), (q, v))
    weights = regard.attention(q, k, v)[1].to_dense()
    torch.testing.assert_close(dq, weights @ k / 8**0.5, rtol=0, atol=1e-14)
    assert not dv.any()


def test_without_a_gradient_no_node_is_made():
    q, k, v = problem(1, 1, query_len=3, key_len=3)
    output, weights = regard.attention(q, k, v)
    assert output.grad_fn is None
    assert weights.lse.grad_fn is None


def test_the_backward_pass_reads_no_scores(monkeypatch):
    seen = []
    q, k, v = (t.requires_grad_() for t in problem(1, 1, query_len=50, key_len=60))
    with torch.autograd.graph.saved_tensors_hooks(lambda t: seen.append(t.numel()) or t, lambda t: t):
        regard.attention(q, k, v, masks.causal(), bias=torch.zeros(50, 1, dtype=q.dtype, requires_grad=True))
    assert seen
    assert max(seen) <= 60 * 8  # keys, not 50 * 60 scores


def test_clean_inputs_are_not_copied():
    q, k, v = problem(1, 1, query_len=3, key_len=5)
    options = regard.attention(q, k, v, masks.padding(torch.tensor([2])))[1]._problem
    same, value = execute.sanitize(options, v)
    assert same is options
    assert value is v


def test_huge_numbers_that_are_read_stay():
    q, k, v = problem(1, 1, query_len=3, key_len=5)
    v = v * 1e20  # past what is looked at more closely, but read: they are the user's
    output = regard.attention(q, k, v, masks.padding(torch.tensor([4])))[0]
    want = regard.attention(q, k, v / 1e20, masks.padding(torch.tensor([4])))[0]
    torch.testing.assert_close(output / 1e20, want, rtol=1e-13, atol=0)
