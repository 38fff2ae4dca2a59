"""Masks compose: what they mean, the laws of & | ~, blocks and key ranges for the engine, and lowering."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import Shape, batch_size, shapes
from tests.strategies import examples
from torch import Tensor

import regard
from regard import masks
from regard.engine.problem import Options, Problem
from regard.masks import Mask, Sizes
from regard.masks.lowering import lower


@st.composite
def some_masks(draw: st.DrawFn, count: int = 1, depth: int = 2) -> tuple[Shape, list[tuple[Mask, Tensor]]]:
    """Masks of one shape with a batch and heads, which a dense tensor of them may name."""
    shape = draw(shapes(ranks=(4,)))
    return shape, [draw(masked(shape, depth)) for _ in range(count)]


def bools(mask: Mask, shape: Shape) -> Tensor:
    """The mask as (B, H, L, S)."""
    dense = mask.to_dense(shape.query_len, shape.key_len, batch=batch_size(shape), num_heads=shape.heads)
    return dense.expand(batch_size(shape), shape.heads, shape.query_len, shape.key_len)


def sizes_of(shape: Shape) -> Sizes:
    return Sizes(shape.batch, shape.heads, shape.query_len, shape.key_len, torch.device("cpu"))


@examples(150)
@given(some_masks(depth=3))
def test_a_mask_means_its_rule(given_masks):
    shape, [(mask, allowed)] = given_masks
    assert torch.equal(bools(mask, shape), allowed)


@examples(40)
@given(some_masks(count=2, depth=1))
def test_laws(given_masks):
    shape, [(a, _), (b, _)] = given_masks
    for left, right in (
        (~(a & b), ~a | ~b),
        (~(a | b), ~a & ~b),
        (~~a, a),
        (a & b, b & a),
        (a | b, b | a),
        (a & a, a),
        (a | (a & b), a),
        (a & (a | b), a),
    ):
        assert torch.equal(bools(left, shape), bools(right, shape)), f"{left!r} is not {right!r}"
    assert not bools(a & ~a, shape).any()
    assert bools(a | ~a, shape).all()


@examples(100)
@given(some_masks(depth=3), st.data())
def test_a_block_is_a_part_and_the_key_range_holds_all_it_may_read(given_masks, data):
    shape, [(mask, allowed)] = given_masks
    sizes = sizes_of(shape)
    start = data.draw(st.integers(0, shape.query_len - 1))
    stop = data.draw(st.integers(start + 1, shape.query_len))
    low = data.draw(st.integers(0, shape.key_len - 1))
    high = data.draw(st.integers(low + 1, shape.key_len))
    bound = mask.bind(sizes)
    block = bound.block(slice(start, stop), slice(low, high), sizes)
    want = allowed[:, :, start:stop, low:high]
    assert block.shape[2:] == want.shape[2:]
    assert torch.equal(block.expand_as(want), want)
    first, last = bound.key_range(start, stop, sizes)
    assert 0 <= first <= last <= shape.key_len
    outside = torch.ones(shape.key_len).bool()
    outside[first:last] = False
    assert not allowed[:, :, start:stop, outside].any()


@pytest.mark.parametrize(
    ("mask", "rows", "want"),
    [
        (masks.causal(), (2, 4), (0, 4)),
        (masks.window(3), (4, 6), (2, 6)),
        (masks.band(1, 2), (4, 5), (3, 7)),
        (masks.prefix(3), (0, 8), (0, 3)),
        (masks.causal() & masks.window(2), (5, 6), (4, 6)),
        (masks.prefix(1) | masks.window(1), (5, 6), (0, 6)),
        (masks.causal(offset=-4), (0, 4), (0, 0)),
    ],
    ids=str,
)
def test_key_ranges_are_narrow(mask, rows, want):
    # "All keys" would hold everything too: this is what keeps the work that a mask forbids from being done.
    assert mask.key_range(*rows, Sizes((1,), 1, 8, 8, torch.device("cpu"))) == want


@examples(100)
@given(some_masks(depth=3))
def test_lowering_reproduces_the_mask(given_masks):
    shape, [(mask, allowed)] = given_masks
    sizes = sizes_of(shape)
    options = Options(1.0, **lower(mask.bind(sizes), sizes))
    problem = Problem(
        torch.zeros(batch_size(shape), shape.heads, shape.query_len, 1),
        torch.zeros(batch_size(shape), shape.kv_heads, shape.key_len, 1),
        options=options,
    )
    found = problem.allowed(slice(0, shape.query_len), slice(0, shape.key_len))
    found = torch.tensor(True) if found is None else found
    assert torch.equal(found.expand_as(allowed), allowed)
    grid = torch.meshgrid(*(torch.arange(n) for n in allowed.shape), indexing="ij")
    found = problem.allowed_at(*grid)
    found = torch.tensor(True) if found is None else found
    assert torch.equal(found.expand_as(allowed), allowed)


def test_lowering_finds_what_the_kernels_can_be_told():
    sizes = Sizes((2,), 1, 4, 6, torch.device("cpu"))
    rest = masks.window(3)
    mask = masks.causal() & (masks.padding(torch.tensor([2, 6])) & masks.prefix(5)) & rest & masks.causal(offset=0)
    found = lower(mask.bind(sizes), sizes)
    assert found["causal"] == 0  # the narrower of 2 and 0
    assert found["valid"][:, 0, 0].tolist() == [[True] * 2 + [False] * 4, [True] * 5 + [False]]
    assert torch.equal(found["rest"].block(slice(0, 4), slice(0, 6))[0, 0], rest.to_dense(4, 6))
    assert lower(None, sizes) == {}
    assert torch.equal(
        found["view"].block(slice(0, 4), slice(0, 6)), mask.bind(sizes).block(slice(0, 4), slice(0, 6), sizes)
    )
    assert set(lower((masks.causal() | masks.prefix(1)).bind(sizes), sizes)) == {"rest", "view"}


BLOCKED = {
    "causal": masks.causal(),
    "window and prefix": masks.window(5) | masks.prefix(3),
    "documents": masks.causal() & masks.documents(torch.arange(40) // 7),
    "padding": masks.padding(torch.tensor([30, 12])),
}


@pytest.mark.parametrize("name", BLOCKED)
def test_to_block_mask_says_the_same(name):
    mask = BLOCKED[name]
    batch = 2 if name == "padding" else None
    block_mask = mask.to_block_mask(24, 40, batch=batch, block_size=8)
    dense = mask.to_dense(24, 40)
    dense = dense if dense.dim() == 4 else dense[None, None]
    grid = [torch.arange(n).view([-1 if i == axis else 1 for i in range(4)]) for axis, n in enumerate(dense.shape)]
    assert torch.equal(block_mask.mask_mod(*grid).expand_as(dense), dense)
    blocks = dense.unflatten(2, (3, 8)).unflatten(4, (5, 8)).any(5).any(3)  # (B, H, 3, 5)
    assert torch.equal(block_mask.to_dense().bool().expand_as(blocks), blocks)
    assert block_mask.seq_lengths == (24, 40)


def test_a_mask_can_be_used_for_many_shapes():
    mask = masks.causal() & masks.window(3)
    for query_len, key_len in ((4, 4), (2, 6), (6, 2)):
        q, k = torch.randn(1, 1, query_len, 4), torch.randn(1, 1, key_len, 4)
        weights = regard.attention(q, k, k, mask)[1]
        assert weights.mask == mask
        assert torch.equal(weights.to_dense()[0, 0] > 0, mask.to_dense(query_len, key_len))


def test_masks_are_values():
    assert masks.causal() == masks.causal()
    assert masks.window(3) & masks.causal() == masks.window(3) & masks.causal()
    assert masks.window(3) != masks.window(4)
    with pytest.raises(AttributeError):
        masks.prefix(3).length = 4  # frozen
    assert replace(masks.prefix(3), length=4) == masks.prefix(4)
