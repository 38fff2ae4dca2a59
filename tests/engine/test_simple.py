"""The rectangles of a problem: together they hold every entry that may be read, each once, and little else."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import batch_size, shapes
from tests.strategies import examples

from regard import masks
from regard.engine.problem import Options, Problem
from regard.engine.simple import Rectangle, rectangles
from regard.masks import Mask, Sizes
from regard.masks.lowering import lower


def problem_of(mask: Mask | None, batch: int, heads: int, query_len: int, key_len: int, bias=None) -> Problem:
    sizes = Sizes((batch,), heads, query_len, key_len, torch.device("cpu"))
    options = Options(1.0, **lower(None if mask is None else mask.bind(sizes), sizes))
    return Problem(torch.zeros(batch, heads, query_len, 1), torch.zeros(batch, heads, key_len, 1), bias, None, options)


def held(tile: Rectangle) -> torch.Tensor:
    """Which of its entries a rectangle computes; of a partial one, those that the mask allows."""
    full = torch.ones(tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start).bool()
    return full.tril() if tile.kind == "causal" else full


@st.composite
def problems(draw: st.DrawFn) -> tuple[Problem, torch.Tensor]:
    shape = draw(shapes(ranks=(4,)))
    mask, allowed = draw(masked(shape)) if draw(st.booleans()) else (masks.causal(draw(st.integers(-9, 80))), None)
    problem = problem_of(mask, batch_size(shape), shape.heads, shape.query_len, shape.key_len)
    if allowed is None:
        allowed = mask.to_dense(shape.query_len, shape.key_len).expand(batch_size(shape), shape.heads, -1, -1)
    return problem, allowed


@examples(150)
@given(problems())
def test_rectangles_hold_every_allowed_entry_once(problem_and_mask):
    problem, allowed = problem_and_mask
    times = torch.zeros(allowed.shape, dtype=torch.long)
    first = 0
    for tile in rectangles(problem):
        assert tile.rows.start >= first, "rectangles come in order of rows"
        first = tile.rows.start
        assert tile.kind in ("full", "causal", "partial")
        inside = held(tile).expand(*allowed.shape[:2], -1, -1)
        if tile.kind == "partial":
            inside = inside & allowed[:, :, tile.rows, tile.keys]
        elif problem.options.valid is not None:
            inside = inside & problem.options.valid[..., tile.keys]
        times[:, :, tile.rows, tile.keys] += inside
    assert torch.equal(times, allowed.long())


CASES = {
    "nothing masked": (None, 40, 50, [Rectangle(slice(0, 40), slice(0, 50), "full")]),
    "causal": (masks.causal(), 40, 40, [Rectangle(slice(0, 40), slice(0, 40), "causal")]),
    "causal after a cache": (
        masks.causal(), 40, 50,
        [Rectangle(slice(0, 40), slice(0, 10), "full"), Rectangle(slice(0, 40), slice(10, 50), "causal")],
    ),
    "causal, L > S": (masks.causal(), 50, 40, [Rectangle(slice(10, 50), slice(0, 40), "causal")]),
    "decoding": (masks.causal(), 1, 50, [Rectangle(slice(0, 1), slice(0, 50), "full")]),
    "everything in the future": (masks.causal(offset=-40), 40, 40, []),
    "causal that forbids nothing": (masks.causal(offset=60), 40, 50, [Rectangle(slice(0, 40), slice(0, 50), "full")]),
    "no keys": (None, 3, 0, []),
    "no queries": (masks.causal(), 0, 3, []),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_rectangles_of_simple_masks(name):
    mask, query_len, key_len, want = CASES[name]
    assert list(rectangles(problem_of(mask, 1, 2, query_len, key_len))) == want


def test_a_window_leaves_out_what_it_forbids():
    tiles = rectangles(problem_of(masks.window(64), 1, 1, 4096, 4096))
    assert sum(tile.entries for tile in tiles) < 4096 * 4096 / 4


def test_rectangles_know_their_number_of_entries():
    for rows, keys in ((3, 3), (3, 5), (5, 3), (1, 4), (4, 1)):
        tile = Rectangle(slice(2, 2 + rows), slice(1, 1 + keys), "causal")
        assert tile.entries == held(tile).sum()
        assert Rectangle(tile.rows, tile.keys, "full").entries == rows * keys


@pytest.mark.parametrize("length", [512, 3000])
def test_blocks_of_a_masked_map_stay_small(length):
    # One mask for all heads and sequences is smaller than the scores: still a bounded number of its entries at once.
    rule = masks.where(lambda b, h, q, kv: (q + kv + h) % 2 == 0)
    for tile in rectangles(problem_of(rule, 2, 8, length, length)):
        rows, keys = tile.rows.stop - tile.rows.start, tile.keys.stop - tile.keys.start
        assert 8 * rows * keys <= 1 << 23
