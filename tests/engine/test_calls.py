"""From tiles to calls: few calls, that together do every entry of a tile once and nothing besides."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.engine.test_tiles import maps
from tests.small_tiles import engine_of
from tests.strategies import examples
from torch import Tensor

from regard.engine import calls
from regard.engine.calls import Call, Run, lower
from regard.engine.tiles import SLOPES, Tile, compile_tiles


def band(rows: int, width: int) -> Tile:
    return Tile(slice(0, rows), slice(0, rows + width - 1), "band", width)


def causal(rows: int, width: int = 1, **more: int) -> Tile:
    return Tile(slice(0, rows), slice(0, rows + width - 1), "causal", width, **more)


def done(call: Call, shape: torch.Size | tuple[int, int]) -> Tensor:
    """How often a call does each entry of a map (L, S)."""
    times = torch.zeros(shape, dtype=torch.int8)
    for i in range(call.rows.count):
        one = torch.ones(call.rows.size, call.keys.size, dtype=torch.bool)
        if call.causal:
            assert call.form is None
            one = one.tril()
        elif call.form is not None:
            one = call.form.allowed()
        row, key = call.rows.start + i * call.rows.step, call.keys.start + i * call.keys.step
        times[row : row + call.rows.size, key : key + call.keys.size] += one
    return times


def test_a_long_window_is_one_call_over_overlapping_keys():
    (call,) = lower(band(640, 100), blocks=True, bias=False)
    assert call.kernel == "blocks"
    assert (call.rows, call.keys) == (Run(0, 32, 20, 32), Run(0, 131, 20, 32))
    assert torch.equal(call.form.allowed(), torch.ones(32, 131).tril(99).triu().bool())


def test_rows_that_no_whole_block_has_are_a_call_of_their_own():
    first, last = lower(band(650, 100), blocks=True, bias=False)
    assert first.rows == Run(0, 32, 20, 32)
    assert (last.rows, last.keys, last.kernel) == (Run(640, 10), Run(640, 109), "flash")


@pytest.mark.parametrize(
    ("width", "blocks", "rows", "kernel"),
    [(512, True, 32, "blocks"), (513, True, 64, "blocks"), (1025, True, 256, "flash"), (100, False, 128, "flash")],
)
def test_wider_bands_have_larger_blocks(width, blocks, rows, kernel):
    call = next(iter(lower(band(4096, width), blocks=blocks, bias=False)))
    assert (call.rows.size, call.rows.count, call.kernel) == (rows, 4096 // rows, kernel)


def test_a_triangle_is_halved_where_it_is_short_and_the_kernels_where_it_is_long():
    (short,) = lower(causal(96), blocks=True, bias=False)
    assert (short.kernel, short.causal, short.rows) == ("triangles", True, Run(0, 96))
    (long,) = lower(causal(4096), blocks=True, bias=False)
    assert (long.kernel, long.causal) == ("flash", True)
    (half,) = lower(causal(96), blocks=False, bias=False)
    assert (half.kernel, half.causal) == ("flash", True)
    (tiny,) = lower(causal(20), blocks=True, bias=False)
    assert (tiny.kernel, tiny.causal, tiny.form.kind) == ("flash", False, "causal")


def test_the_keys_before_a_triangle_are_a_rectangle():
    before, triangle = lower(causal(96, width=11), blocks=True, bias=False)
    assert (before.rows, before.keys, before.kernel, before.form) == (Run(0, 96), Run(0, 10), "flash", None)
    assert (triangle.rows, triangle.keys) == (Run(0, 96), Run(10, 96))


def test_documents_of_one_length_are_one_call():
    (call,) = lower(causal(96, count=10, row_step=100, key_step=96), blocks=True, bias=False)
    assert (call.rows, call.keys) == (Run(0, 96, 10, 100), Run(0, 96, 10, 96))


def test_with_a_bias_every_rectangle_is_a_call():
    tile = Tile(slice(0, 60), slice(0, 60), "full", 60, count=3, row_step=60, key_step=60)
    assert [call.rows for call in lower(tile, blocks=True, bias=True)] == [Run(0, 60), Run(60, 60), Run(120, 60)]
    for tile in (band(640, 100), causal(96, count=2, row_step=96, key_step=96)):
        for call in lower(tile, blocks=True, bias=True):
            assert (call.kernel, call.rows.count) == ("flash", 1)


@examples(250)
@given(maps(), st.booleans(), st.booleans())
def test_calls_do_every_entry_once(given_maps, blocks, bias):
    lo, hi, allowed, chosen = given_maps
    with engine_of(chosen):
        for want, some_lo, some_hi in zip(allowed.flatten(0, 1), lo.flatten(0, 1), hi.flatten(0, 1), strict=True):
            times = torch.zeros(want.shape, dtype=torch.int8)
            for tile in compile_tiles(some_lo, some_hi):
                for call in lower(tile, blocks=blocks, bias=bias):
                    times += done(call, want.shape)
                    assert not (bias and call.rows.count > 1)
                    assert blocks or call.kernel == "flash"
                    assert call.causal == (call.kernel == "triangles") or not blocks or call.kernel == "flash"
            assert torch.equal(times, want.to(times.dtype))


@examples(40)
@given(
    st.sampled_from(sorted(SLOPES)),
    st.integers(33, 700),
    st.integers(1, 1100),
    st.booleans(),
    st.integers(1, 3),
)
def test_calls_of_long_tiles_do_every_entry_once(kind, rows, width, blocks, count):
    _, b = SLOPES[kind]
    width = width + rows if kind == "anticausal" else width
    keys = width + b * (rows - 1)
    tile = Tile(
        slice(0, rows), slice(0, keys), kind, width, None, count, rows if count > 1 else 0, 5 if count > 1 else 0
    )
    times = torch.zeros(rows * count, keys + 5 * count, dtype=torch.int8)
    found = list(lower(tile, blocks=blocks, bias=False))
    for call in found:
        times += done(call, times.shape)
    want = torch.zeros_like(times)
    for single in tile.singles():
        want[single.rows, single.keys] += single.allowed()
    assert torch.equal(times, want)
    assert len(found) <= count * (3 + rows // calls.BOX_ROWS + 8)


@examples(60)
@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 200))
def test_parts_of_a_call_are_the_call(size, keys, count, step, most):
    call = Call(Run(3, size, count, size), Run(2, keys, count, step), "blocks")
    shape = (3 + size * count, 2 + keys + step * count)
    parts = list(call.parts(most))
    assert torch.equal(sum(done(part, shape) for part in parts), done(call, shape))
    assert all(part.rows.count == 1 or part.rows.count * keys <= most for part in parts)


@pytest.mark.parametrize(
    ("run", "want"),
    [
        (Run(3, 4), [slice(3, 7)]),
        (Run(3, 4, 2, 4), [slice(3, 11)]),
        (Run(3, 4, 2, 5), [slice(3, 7), slice(8, 12)]),
        (Run(3, 4, 2, 1), [slice(3, 7), slice(4, 8)]),
    ],
)
def test_spans_of_a_run(run, want):
    assert run.spans() == want
