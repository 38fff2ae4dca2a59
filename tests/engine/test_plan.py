"""What is decided before anything runs: which heads share tiles, what is compiled, what is known of it afterwards."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import batch_size, shapes
from tests.small_tiles import engine_of
from tests.strategies import examples

import regard
from regard import masks
from regard.engine import plan
from regard.engine.plan import Plan, compile_units, make_plan
from regard.engine.problem import Options, Problem
from regard.masks import Mask, Sizes
from regard.masks.lowering import lower

EAGER = {(plan, "SMALL"): 0, (plan, "CALL"): 0}


def problem_of(
    mask: Mask | None,
    batch: int,
    heads: int,
    query_len: int,
    key_len: int,
    *,
    kv_heads: int | None = None,
    **more: object,
) -> Problem:
    sizes = Sizes((batch,), heads, query_len, key_len)
    options = Options(1.0, **lower(None if mask is None else mask.bind(sizes), sizes))
    one = torch.zeros(1, 1, 1, 1)
    q, k = one.expand(batch, heads, query_len, 1), one.expand(batch, kv_heads or heads, key_len, 1)
    return Problem(q, k, options=options, **more)  # type: ignore[arg-type]


def plan_of(mask: Mask | None, batch: int, heads: int, query_len: int, key_len: int, **more: object) -> Plan:
    problem = problem_of(mask, batch, heads, query_len, key_len, **more)
    return make_plan(problem, problem.k, "auto")


def units_of(rows: list[list[list[int]]], heads: int, group: int) -> list[tuple[slice, slice]]:
    """The batch entries and heads of the units of maps (B, H) that are told apart by how many keys they read."""
    hi = torch.tensor(rows).view(len(rows), -1, 1, 1)
    return [(u.batch, u.heads) for u in compile_units(torch.zeros_like(hi), hi, len(rows), heads, 5, group=group)]


def test_neighbours_with_one_map_are_one_unit():
    assert units_of([[3], [3], [4], [3]], heads=6, group=1) == [
        (slice(0, 2), slice(0, 6)),
        (slice(2, 3), slice(0, 6)),
        (slice(3, 4), slice(0, 6)),
    ]
    assert units_of([[3, 3, 4, 4]], heads=4, group=1) == [(slice(0, 1), slice(0, 2)), (slice(0, 1), slice(2, 4))]


def test_heads_of_a_group_stay_with_their_key_head():
    # Heads 1 and 2 have one map and different key heads.
    assert [h for _, h in units_of([[3, 4, 4, 5]], heads=4, group=2)] == [
        slice(0, 1),
        slice(1, 2),
        slice(2, 3),
        slice(3, 4),
    ]
    assert [h for _, h in units_of([[3, 3, 3, 3, 5, 5]], heads=6, group=3)] == [slice(0, 3), slice(3, 4), slice(4, 6)]


@examples(80)
@given(st.data())
def test_units_are_every_map_once(data):
    shape = data.draw(shapes(ranks=(4,)))
    mask, allowed = data.draw(masked(shape))
    b, h = batch_size(shape), shape.heads
    with engine_of(EAGER):
        found = plan_of(mask, b, h, shape.query_len, shape.key_len, kv_heads=shape.kv_heads)
    if not found.units:
        return
    times = torch.zeros(b, h, shape.query_len, shape.key_len, dtype=torch.long)
    for unit in found.units:
        group = h // shape.kv_heads
        heads = range(h)[unit.heads]
        # Some heads of one key head, or whole groups.
        assert len({n // group for n in heads}) == 1 or (heads[0] % group == 0 and len(heads) % group == 0)
        for tile in unit.tiles:
            for single in tile.singles():
                times[unit.batch, unit.heads, single.rows, single.keys] += single.allowed()
    assert torch.equal(times, allowed.long())
    assert found.entries == int(allowed.sum())
    assert found.share == found.entries / allowed.numel()


@pytest.mark.parametrize(
    ("mask", "query_len", "key_len", "compiled"),
    [
        (masks.causal(), 1025, 1024, True),
        (masks.causal(), 1024, 1024, False),  # 2^20 entries are few
        (None, 2048, 2048, False),
        (masks.where(lambda b, h, q, kv: (q + kv) % 2 == 0), 2048, 2048, False),  # no few intervals
        (masks.documents(torch.arange(4096) // 2), 4096, 4096, True),  # short rows are blocks, and these are few
        (masks.window(300), 16, 1024, True),  # decoding
        (masks.window(300), 17, 1024, False),
    ],
)
def test_what_is_compiled(mask, query_len, key_len, compiled):
    found = plan_of(mask, 1, 1, query_len, key_len)
    assert bool(found.units) == compiled
    assert bool(found.rectangles) == (not compiled)


def test_more_tiles_than_python_can_run_are_not_compiled():
    mask = masks.padding(torch.arange(100))
    with engine_of({**EAGER, (plan, "MOST_TILES"): 99}):  # the first sequence has none
        assert plan_of(mask, 100, 1, 300, 100).units
    with engine_of({**EAGER, (plan, "MOST_TILES"): 98}):
        assert not plan_of(mask, 100, 1, 300, 100).units


def test_tiles_that_save_less_than_their_calls_cost_are_not_compiled():
    # Causal over 100 x 100 saves 4950 entries of each head, and a triangle counts for three calls.
    for cost, compiled in ((2 * 4950 // 3, True), (2 * 4950 // 3 + 1, False)):
        with engine_of({(plan, "SMALL"): 1 << 14, (plan, "CALL"): cost}):
            assert bool(plan_of(masks.causal(), 1, 2, 100, 100).units) == compiled


def test_a_bias_that_forbids_something_is_looked_at():
    with engine_of(EAGER):
        for value, compiled in ((0.0, True), (-torch.inf, False)):
            bias = torch.zeros(1, 1, 1, 100)
            bias[..., 3] = value
            assert bool(plan_of(masks.window(60), 1, 1, 100, 100, bias=bias).units) == compiled


def test_tight_is_what_touches_nothing_unread():
    with engine_of(EAGER):
        assert plan_of(masks.window(60), 1, 1, 200, 200).tight
        assert not plan_of(masks.documents(torch.arange(200) // 7), 1, 1, 200, 200).tight
    # Small, but a mask of numbers, by which all is read; and one that leaves the first rows and the last keys alone.
    assert plan_of(masks.window(2), 1, 1, 4, 4).tight
    assert not plan_of(masks.causal(offset=-1), 1, 1, 4, 4).tight
    assert not plan_of(masks.prefix(3), 1, 1, 4, 4).tight
    assert not plan_of(masks.padding(torch.tensor([4])), 1, 1, 4, 4).tight


def test_a_mask_of_numbers_is_compiled_once():
    first = plan_of(masks.causal() & masks.window(700), 1, 1, 2000, 2000)
    again = plan_of(masks.causal() & masks.window(700), 1, 1, 2000, 2000)
    assert again.units is first.units
    more = plan_of(masks.causal() & masks.window(700), 2, 3, 2000, 2000)
    assert (more.units[0].batch, more.units[0].heads) == (slice(0, 2), slice(0, 3))


def test_a_mask_of_tensors_is_compiled_anew_when_they_are_written_to():
    lengths = torch.tensor([700, 900])
    mask = masks.padding(lengths)
    assert plan_of(mask, 2, 1, 1000, 1000).entries == 1000 * (700 + 900)
    lengths[0] = 5
    assert plan_of(mask, 2, 1, 1000, 1000).entries == 1000 * (5 + 900)


def test_it_says_what_ran():
    q = torch.zeros(1, 1, 2000, 2)
    assert str(regard.attention(q, q, q, masks.window(100))[1].plan) == (
        "fused: PyTorch's fused op on cpu, 1 causal + 1 band tiles, 5% of the entries"
    )
    assert str(regard.attention(q, q, q, masks.causal(offset=-2000))[1].plan) == (
        "fused: PyTorch's fused op on cpu, no tiles, 0% of the entries"
    )


def test_fused_where_there_is_no_fused_op():
    problem = problem_of(masks.causal(), 1, 1, 4, 4).with_options(softcap=1.0)
    assert make_plan(problem, problem.k, "auto").kernel == "rows"
    with pytest.raises(ValueError, match='impl="fused": softcap has no fused op; use impl="auto"'):
        make_plan(problem, problem.k, "fused")
