"""Attention in blocks of rows: what the fused op cannot do, and the same as the fused op where it can."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from tests import properties
from tests.engine.test_problem import problem_of
from tests.properties import problem, seeded
from tests.strategies import Case, cases, examples

import regard
from regard import masks
from regard.engine import row_blocks, rows
from regard.engine.problem import Options, Problem
from regard.masks import Sizes
from regard.masks.lowering import lower


@contextmanager
def small_blocks(elements: int = 300) -> Iterator[None]:
    """Blocks of few scores, few rows and few heads, and gaps of a key jumped over, as long sequences have them."""
    small = {"budget": lambda: elements, "SMALL": 0, "FEW_ROWS": 2, "ROWS": 5, "MOST_ROWS": 9, "GAP": 1}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in small.items():
            patch.setattr(row_blocks, name, value)
        yield


@examples(60)
@given(case=cases(ranks=(4,)))
def test_small_blocks_give_what_the_definition_gives(case: Case):
    case = replace(case, options={**case.options, "softcap": 2.0})
    with small_blocks():
        properties.matches_the_definition(regard.attention, case)
        properties.gradients_match_the_definition(regard.attention, case, through_lse=True)


@examples(30)
@given(case=cases(ranks=(4,), dtypes=(torch.float16, torch.bfloat16, torch.float32)))
def test_lower_precisions_are_as_exact_as_their_dtype(case: Case):
    case = replace(case, options={**case.options, "softcap": 2.0})
    with small_blocks():
        properties.matches_the_definition(regard.attention, case)
        properties.gradients_match_the_definition(regard.attention, case)


@examples(30)
@given(case=cases(ranks=(4,)))
def test_forward_without_options_is_the_definition_too(case: Case):
    case = replace(case, options={})
    with small_blocks():
        out, lse = rows.forward(problem_of(case)[0], case.value, 0)
    truth = case.truth()
    torch.testing.assert_close(out, truth.output, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, truth.lse, rtol=0, atol=1e-12)


def lowered(q: torch.Tensor, k: torch.Tensor, mask: masks.Mask | None) -> Problem:
    sizes = Sizes((q.shape[0],), q.shape[1], q.shape[2], k.shape[2])
    return Problem(q, k, options=Options(1.0, **lower(None if mask is None else mask.bind(sizes), sizes)))


MASKS = {
    "none": None,
    "causal": masks.causal(),
    "window": masks.window(7),
    "documents": masks.documents(torch.arange(60) // 13),
    "two documents": masks.documents(torch.stack([torch.arange(60) // 13, torch.arange(60) // 30])),
    "lengths": masks.padding(torch.tensor([60, 17])),
    "by head": masks.where(lambda b, h, q, kv: kv <= q - 9 * h),
    "sink and window": (masks.prefix(2) | masks.window(5)) & masks.causal(),
    "no intervals": masks.where(lambda b, h, q, kv: (q + kv) % 2 == 0),
    "nothing": masks.window(3) & ~masks.window(3),
}


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("elements", [60, 300, 1 << 20])
def test_every_score_is_in_one_block(name, elements):
    q, k, _ = problem(2, 4, query_len=60, key_len=60, kv_heads=2)
    asked, counted = lowered(q, k, MASKS[name]), torch.zeros(2, 4, 60, 60, dtype=torch.int64)
    want = torch.ones_like(counted) if MASKS[name] is None else asked.allowed(slice(0, 60), slice(0, 60)).long()
    computed = 0
    with small_blocks(elements):
        for block in row_blocks.blocks(asked):
            shape = (*counted[block.batch, block.heads, block.rows, :1].shape[:3], block.num_keys)
            part = torch.ones(shape, dtype=q.dtype)
            block.clear(part)
            for keys, columns in block.columns():
                counted[block.batch, block.heads, block.rows, keys] += part[..., columns].long()
            scores = torch.zeros_like(part)
            block.forbid(scores)
            assert torch.equal(scores == -torch.inf, part == 0)
            assert block.kv_heads == slice(block.heads.start // 2, (block.heads.stop - 1) // 2 + 1)
            computed += part.numel()
    assert torch.equal(counted, want.expand_as(counted))
    if name not in ("none", "no intervals") and elements > 60:
        assert computed < 0.75 * counted.numel()  # and what is forbidden is mostly not computed


def test_keys_between_two_intervals_are_not_read():
    q, k, _ = problem(1, 1, query_len=60, key_len=60)
    asked = lowered(q, k, masks.prefix(2) & masks.causal() | masks.window(5))
    with small_blocks():
        read = [[(s.start, s.stop) for s in block.spans] for block in row_blocks.blocks(asked)]
    assert [(0, 2), (36, 45)] in read
    assert max(sum(b - a for a, b in spans) for spans in read) == 2 + 9


def test_blocks_end_where_documents_do():
    q, k, _ = problem(1, 1, query_len=60, key_len=60)
    asked = lowered(q, k, masks.documents(torch.arange(60) // 4))
    with small_blocks():
        found = list(row_blocks.blocks(asked))
    assert [block.rows.start for block in found] == list(range(0, 60, 4))
    assert not any(block.edges for block in found)


def test_a_mask_is_asked_for_its_intervals_once(monkeypatch):
    asked = []
    rule = masks.where(lambda b, h, q, kv: kv <= q)
    intervals = type(rule).intervals
    monkeypatch.setattr(type(rule), "intervals", lambda self, sizes: asked.append(1) or intervals(self, sizes))
    q, k, v = (t.requires_grad_() for t in problem(1, 1, query_len=20, key_len=20))
    with small_blocks():
        regard.attention(q, k, v, rule, softcap=3.0)[0].sum().backward()
    assert len(asked) == 1


@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_scores_too_large_for_a_plain_exponential(dropout):
    """Scores of up to some thousands, and of a hundred below zero; a row among others must not change these."""
    q, k, v = problem(1, 2, query_len=40, key_len=40)
    large = q.clone()
    large[:, :, 7] *= 3000
    large[:, :, 9] = -300 * k[:, :, :40].mean(2)
    options = {"softcap": 1e6, "dropout": dropout}
    plain, moved = (seeded(regard.attention, t, k, v, masks.causal(), **options) for t in (q, large))
    others = [i for i in range(40) if i not in (7, 9)]
    assert torch.equal(plain[0][:, :, others], moved[0][:, :, others])
    assert torch.equal(plain[1].lse[:, :, others], moved[1].lse[:, :, others])
    want = regard.attention(large, k, v, masks.causal(), softcap=1e6, impl="reference")
    torch.testing.assert_close(moved[1].lse, want[1].lse, rtol=1e-12, atol=1e-12)
    if not dropout:
        torch.testing.assert_close(moved[0], want[0], rtol=0, atol=1e-12)


def test_a_forbidden_score_may_overflow():
    q, k, v = problem(1, 1, query_len=8, key_len=8)
    far = k.clone()
    far[:, :, 7] *= 1e200  # an exponential of it is inf, and only the last row may read it
    found = []
    for keys in (k, far):
        tensors = [t.clone().requires_grad_() for t in (q, keys, v)]
        output = regard.attention(*tensors, masks.causal(), softcap=1e300)[0][:, :, :7]
        found.append([output, *torch.autograd.grad(output.sum(), tensors)])
    for plain, moved in zip(*found, strict=True):
        assert torch.equal(plain, moved)


@pytest.mark.parametrize("shape", [(2, 4, 30, 30), (1, 4, 30, 1), (2, 1, 1, 30), (30, 30), (4, 1, 1), (1, 1, 1, 1)])
def test_the_gradient_of_a_bias_of_every_shape(shape):
    q, k, v = problem(2, 4, query_len=30, key_len=30, kv_heads=2)
    bias = torch.randn(shape, generator=torch.Generator().manual_seed(4), dtype=q.dtype)
    mask = masks.prefix(2) | masks.window(4)
    found = []
    for impl in ("auto", "reference"):
        leaf = bias.clone().requires_grad_()
        with small_blocks():
            regard.attention(q, k, v, mask, bias=leaf, impl=impl)[0].sin().sum().backward()
        found.append(leaf.grad)
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
