"""The keys of each row as intervals: exactly the booleans that a mask means, in normal form."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import Shape, shapes
from tests.strategies import examples
from torch import Tensor

from regard import masks
from regard.masks import Mask, Sizes, intervals
from regard.masks.intervals import Intervals


def intervals_of(mask: Mask, query_len: int, key_len: int) -> Intervals | None:
    sizes = Sizes((1,), 1, query_len, key_len)
    return mask.bind(sizes).intervals(sizes)


def listed(found: Intervals) -> list[list[tuple[int, int]]]:
    """The intervals of each row of the first map, without those that hold nothing."""
    pairs = zip(found.lo[0, 0].tolist(), found.hi[0, 0].tolist(), strict=True)
    return [[(a, b) for a, b in zip(*row, strict=True) if a < b] for row in pairs]


def booleans(found: Intervals) -> Tensor:
    """(B or 1, H or 1, L or 1, S)."""
    key = torch.arange(found.key_len)
    return ((key >= found.lo[..., None]) & (key < found.hi[..., None])).any(-2)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Shape, Mask, Tensor]:
    shape = draw(shapes())
    return shape, *draw(masked(shape, depth=4))


BY_HAND = {
    "causal": (masks.causal(), 2, 4, [[(0, 3)], [(0, 4)]]),
    "window": (masks.window(2), 3, 3, [[(0, 1)], [(0, 2)], [(1, 3)]]),
    "prefix | window": (masks.prefix(1) | masks.window(1), 3, 3, [[(0, 1)], [(0, 2)], [(0, 1), (2, 3)]]),
    "~window": (~masks.window(1), 3, 3, [[(1, 3)], [(0, 1), (2, 3)], [(0, 2)]]),
    "documents": (masks.documents(torch.tensor([5, 5, 2])), 3, 3, [[(0, 2)], [(0, 2)], [(2, 3)]]),
    "a document in two pieces": (masks.documents(torch.tensor([1, 0, 1])), 2, 3, [[(1, 2)], [(0, 1), (2, 3)]]),
    "queries before all keys": (masks.causal() & masks.documents(torch.tensor([0, 1])), 3, 2, [[], [(0, 1)], [(1, 2)]]),
    "nothing": (masks.causal() & ~masks.causal(), 2, 2, [[], []]),
    "a tensor": (masks.dense(torch.tensor([[1, 1, 0, 1], [0, 0, 0, 0]]).bool()), 2, 4, [[(0, 2), (3, 4)], []]),
    "touching": (masks.prefix(2) | ~masks.prefix(2), 1, 4, [[(0, 4)]]),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    mask, query_len, key_len, want = BY_HAND[name]
    found = intervals_of(mask, query_len, key_len)
    rows = listed(found)
    assert (rows if len(rows) == query_len else rows * query_len) == want


@examples(300)
@given(problems())
def test_they_are_the_booleans_in_normal_form(problem):
    shape, mask, allowed = problem
    sizes = Sizes(shape.batch, shape.heads or 1, shape.query_len, shape.key_len, headless=not shape.heads)
    found = mask.bind(sizes).intervals(sizes)
    if found is None:
        # Only what has too many pieces may say so: in some row of the mask itself, or of a part of it.
        assert too_many(mask, sizes), "a mask of few pieces has intervals"
        return
    assert torch.equal(booleans(found).expand_as(allowed), allowed)
    assert_normal(found)


def too_many(mask: Mask, sizes: Sizes) -> bool:
    """Whether the mask, or a mask that it is made of, has a row of more pieces than are compiled."""
    block = mask.bind(sizes).block(slice(0, sizes.query_len), slice(0, sizes.key_len), sizes)
    starts = block & ~torch.cat([torch.zeros_like(block[..., :1]), block[..., :-1]], -1)
    parts = [part for name in ("left", "right", "inner") if isinstance(part := getattr(mask, name, None), Mask)]
    return bool((starts.sum(-1) > intervals.MOST_PIECES).any()) or any(too_many(part, sizes) for part in parts)


def assert_normal(found: Intervals) -> None:
    empty = found.lo >= found.hi
    assert (found.lo[empty] == found.key_len).all()
    assert (found.hi[empty] == found.key_len).all()
    # In order, a key apart at least, and what is empty last.
    assert ((found.lo[..., 1:] > found.hi[..., :-1]) | empty[..., 1:]).all()
    assert (~empty[..., 1:] <= ~empty[..., :-1]).all()
    # No place that no row uses, but for the one that there must be.
    assert found.lo.shape[-1] == 1 or not empty[..., -1].all()
    assert (found.lo >= 0).all()
    assert (found.hi <= found.key_len).all()


def random_intervals(generator: torch.Generator, rows: int, key_len: int) -> tuple[Intervals, Tensor]:
    allowed = torch.rand(1, 1, rows, key_len, generator=generator) > 0.5
    return Intervals.of_blocks([allowed], key_len), allowed


@examples(100)
@given(st.integers(0, 1 << 31), st.integers(1, 5), st.integers(1, 9))
def test_and_or_not_are_those_of_booleans(seed, rows, key_len):
    generator = torch.Generator().manual_seed(seed)
    (a, x), (b, y) = (random_intervals(generator, n, key_len) for n in (rows, 1))
    for found, want in ((a & b, x & y), (a | b, x | y), (~a, ~x), (~(a & ~b), ~(x & ~y)), (~~a, x)):
        assert torch.equal(booleans(found).expand_as(want), want)
        assert_normal(found)


def test_with_nothing_known_nothing_is_known():
    some = intervals_of(masks.causal(), 3, 3)
    assert (some & None) is None
    assert (some | None) is None


def test_blocks_of_rows_are_put_together():
    allowed = torch.rand(2, 3, 10, 7) > 0.5
    parts = [allowed[:, :, :4], allowed[:, :, 4:5], allowed[:, :, 5:]]
    assert torch.equal(booleans(Intervals.of_blocks(parts, 7)), allowed)
    whole = Intervals.of_blocks([allowed], 7)
    assert torch.equal(Intervals.of_blocks(parts, 7).lo, whole.lo)


def test_a_mask_is_asked_some_rows_at_a_time(monkeypatch):
    asked = []

    def rule(b, h, q, kv):
        asked.append(q.numel() * kv.numel())
        return (kv - q) % 50 < 20

    mask = masks.where(rule)
    whole = intervals_of(mask, 90, 100)
    monkeypatch.setattr("regard.masks.algebra.LOOKED_AT", 1000)
    assert torch.equal(intervals_of(mask, 90, 100).lo, whole.lo)
    assert asked == [1, 9000] + [1] + [1000] * 9  # one entry tells whether it differs by sequence or head


@pytest.mark.parametrize("pieces", [intervals.MOST_PIECES, intervals.MOST_PIECES + 1])
def test_too_many_pieces_are_none(pieces):
    row = torch.arange(2 * pieces) % 2 == 0  # as many runs of one key
    for mask in (
        masks.dense(row),
        masks.padding(row),
        masks.causal() & masks.dense(row),
        masks.prefix(1) | masks.dense(row),
    ):
        assert (intervals_of(mask, 2, 2 * pieces) is None) == (pieces > intervals.MOST_PIECES)
    # The gaps of eight pieces that end with the last key are eight, and of those that do not one more.
    assert (intervals_of(~masks.dense(row), 2, 2 * pieces) is None) == (pieces > intervals.MOST_PIECES)


def test_and_or_not_of_many_pieces_are_none():
    many = masks.dense(torch.arange(16) % 2 == 0)  # eight pieces, from key 0 to key 14
    shifted = masks.dense(torch.arange(16) % 2 == 1)
    inside = masks.dense(torch.arange(17) % 2 == 1)  # eight, with a gap before each and after the last
    assert intervals_of(many & shifted, 1, 16) is not None
    assert listed(intervals_of(many | shifted, 1, 16)) == [[(0, 16)]]
    assert intervals_of(inside, 1, 17) is not None
    assert intervals_of(~inside, 1, 17) is None
    left, right = torch.arange(34) % 4 == 0, torch.arange(34) % 4 == 2
    assert (
        intervals_of(masks.dense(left & (torch.arange(34) < 32)) | masks.dense(right & (torch.arange(34) > 40)), 1, 34)
        is not None
    )
    assert intervals_of(masks.dense(left & (torch.arange(34) < 32)) | masks.dense(right), 1, 34) is None


@pytest.mark.parametrize(("query_len", "key_len"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("mask", [masks.causal(), masks.where(lambda b, h, q, kv: q > kv), ~masks.window(2)], ids=repr)
def test_no_queries_or_no_keys(query_len, key_len, mask):
    found = intervals_of(mask, query_len, key_len)
    assert not booleans(found).numel() or query_len == 0
