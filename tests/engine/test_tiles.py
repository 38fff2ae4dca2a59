"""From intervals to tiles: together they hold every entry that may be read, each once, and visit no block in vain."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.mask_strategies import masked
from tests.shapes import shapes
from tests.small_tiles import engine_of, thresholds
from tests.strategies import examples
from torch import Tensor

from regard import masks
from regard.engine import tiles
from regard.engine.tiles import Tile, compile_tiles
from regard.masks import Mask, Sizes


def tiles_of(mask: Mask, query_len: int, key_len: int) -> tuple[Tile, ...]:
    sizes = Sizes((1,), 1, query_len, key_len)
    found = mask.bind(sizes).intervals(sizes)
    return compile_tiles(*(t.expand(1, 1, query_len, -1)[0, 0] for t in (found.lo, found.hi)))


def tile(rows: tuple[int, int], keys: tuple[int, int], kind: str, width: int, **more: int) -> Tile:
    return Tile(slice(*rows), slice(*keys), kind, width, **more)


LONG_AND_SHORT = torch.repeat_interleave(torch.arange(4), torch.tensor([100, 5, 3, 60]))

BY_HAND = {
    "causal": (masks.causal(), 100, 100, [tile((0, 100), (0, 100), "causal", 1)]),
    "causal after a cache": (masks.causal(), 100, 150, [tile((0, 100), (0, 150), "causal", 51)]),
    "causal, L > S": (masks.causal(), 100, 60, [tile((40, 100), (0, 60), "causal", 1)]),
    "a window grows and then moves": (
        masks.window(60), 200, 200, [tile((0, 60), (0, 60), "causal", 1), tile((60, 200), (1, 200), "band", 60)],
    ),
    "the future": (~masks.causal(), 100, 100, [tile((0, 99), (1, 100), "anticausal", 99)]),
    "a prefix, full above the triangle": (
        masks.prefix(60) | masks.causal(), 150, 150,
        [tile((0, 60), (0, 60), "full", 60), tile((60, 150), (0, 150), "causal", 61)],
    ),
    "what is before the window is one more": (
        masks.prefix(2) | masks.window(60), 200, 200,
        # Up to row 61 the two touch.
        [Tile(slice(0, 2), slice(0, 2), "full", 2), tile((2, 62), (0, 62), "causal", 3),
         tile((62, 200), (0, 2), "full", 2), tile((62, 200), (3, 200), "band", 60)],
    ),
    "documents of one length are one": (
        masks.causal() & masks.documents(torch.arange(240) // 60), 240, 240,
        [tile((0, 60), (0, 60), "causal", 1, count=4, row_step=60, key_step=60)],
    ),
    "all padding": (masks.padding(torch.tensor([0])), 100, 100, []),
    "padding": (masks.padding(torch.tensor([30])), 100, 100, [tile((0, 100), (0, 30), "full", 30)]),
    "short rows between long ones": (
        masks.documents(LONG_AND_SHORT), 168, 168,
        [tile((0, 100), (0, 100), "full", 100), tile((100, 108), (100, 108), "partial", 0),
         tile((108, 168), (108, 168), "full", 60)],
    ),
    "decoding": (masks.causal(), 1, 50, [tile((0, 1), (0, 50), "full", 50)]),
    "no keys": (masks.causal(), 3, 0, []),
    "no queries": (masks.causal(), 0, 3, []),
}  # fmt: skip


@pytest.mark.parametrize("name", BY_HAND)
def test_by_hand(name):
    mask, query_len, key_len, want = BY_HAND[name]
    assert list(tiles_of(mask, query_len, key_len)) == want


def test_two_forms_in_a_row_shorter_than_a_tile_are_one_block():
    # Six documents of 20 rows: blocks of 64 rows, and the keys of all documents that lie in them.
    found = tiles_of(masks.documents(torch.arange(120) // 20), 120, 120)
    assert [(t.rows, t.keys, t.kind) for t in found] == [
        (slice(0, 64), slice(0, 80), "partial"),
        (slice(64, 120), slice(60, 120), "partial"),
    ]
    assert sum(t.entries for t in found) == 6 * 20 * 20


@st.composite
def maps(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, dict]:
    """lo and hi (b, h, L, n) of a mask to depth 4, its booleans (b, h, L, S), and thresholds."""
    while True:
        shape = draw(shapes())
        mask, allowed = draw(masked(shape, depth=4))
        sizes = Sizes(shape.batch, shape.heads or 1, shape.query_len, shape.key_len, headless=not shape.heads)
        found = mask.bind(sizes).intervals(sizes)
        if found is not None:
            break
    b, h = found.lo.shape[:2]
    lo, hi = (t.expand(b, h, shape.query_len, -1) for t in (found.lo, found.hi))
    return lo, hi, allowed[:b, :h], draw(thresholds())


SEEN = {"full": 0, "causal": 0, "band": 0, "anticausal": 0, "partial": 0, "repeated": 0}


@examples(250)
@given(maps())
def test_tiles_hold_every_allowed_entry_once(given_maps):
    lo, hi, allowed, chosen = given_maps
    with engine_of(chosen):
        for want, some_lo, some_hi in zip(allowed.flatten(0, 1), lo.flatten(0, 1), hi.flatten(0, 1), strict=True):
            times = torch.zeros(want.shape, dtype=torch.long)
            for t in compile_tiles(some_lo, some_hi):
                held = sum(int(single.allowed().sum()) for single in t.singles())
                assert held == t.entries > 0
                for single in t.singles():
                    times[single.rows, single.keys] += single.allowed()
                SEEN["repeated" if t.count > 1 else t.kind] += 1
            assert torch.equal(times, want.long())


def test_the_examples_had_tiles_of_every_kind():
    test_tiles_hold_every_allowed_entry_once()
    assert min(SEEN.values()) >= 20, SEEN


@examples(250)
@given(maps(), st.integers(1, 9))
def test_the_blocks_visited_are_those_with_an_allowed_entry(given_maps, rows):
    lo, hi, allowed, chosen = given_maps
    with engine_of(chosen):
        for want, some_lo, some_hi in zip(allowed.flatten(0, 1), lo.flatten(0, 1), hi.flatten(0, 1), strict=True):
            visited = torch.zeros_like(want)
            for t in compile_tiles(some_lo, some_hi):
                if t.kind == "partial":  # from the first key read to the last, with an entry in every grain between
                    read, grain = want[t.rows].any(0), tiles.BLOCK_KEYS
                    assert read[t.keys.start]
                    assert read[t.keys.stop - 1]
                    for start in range(t.keys.start // grain * grain, t.keys.stop, grain):
                        assert read[max(start, t.keys.start) : start + grain].any(), t
                    visited[t.rows, t.keys] = True
                    continue
                for r, c in t.boxes(rows):
                    assert r.stop - r.start <= rows
                    assert want[r, c].any(0).all(), f"{t}: a column of {r}, {c} that no row of it reads"
                    assert want[r, c].any(1).all(), f"{t}: a row of {r}, {c} that reads nothing"
                    visited[r, c] = True
            assert not (want & ~visited).any()


@pytest.mark.parametrize("kind", tiles.KINDS.values())
@pytest.mark.parametrize(("first", "last"), [(0, 9), (0, 3), (2, 9), (4, 5)])
def test_a_part_of_a_tile_is_its_rows(kind, first, last):
    _, b = tiles.SLOPES[kind]
    whole = tile((5, 14), (20, 20 + 9 + 8 * b), kind, 9)
    part = whole.part(first, last)
    assert part.rows == slice(5 + first, 5 + last)
    want = whole.allowed()[first:last]
    assert torch.equal(part.allowed(), want[:, part.keys.start - 20 : part.keys.stop - 20])
    assert want[:, : part.keys.start - 20].sum() == want[:, part.keys.stop - 20 :].sum() == 0
    assert part.entries == want.sum()


def test_repetitions_are_even_and_apart():
    # Three documents of 60, one of 70, two of 60: five of one form, but only three at even steps.
    found = tiles_of(
        masks.documents(torch.repeat_interleave(torch.arange(6), torch.tensor([60, 60, 60, 70, 60, 60]))), 370, 370
    )
    assert [(t.rows.start, t.num_rows, t.count, t.row_step) for t in found] == [
        (0, 60, 3, 60),
        (180, 70, 1, 0),
        (250, 60, 2, 60),
    ]
    assert [t.keys for t in found[0].singles()] == [slice(0, 60), slice(60, 120), slice(120, 180)]


def test_the_number_of_tiles_does_not_grow_with_the_text():
    for mask in (masks.causal(), masks.window(64), masks.documents(torch.arange(1 << 14) // 64)):
        assert len(tiles_of(mask, 1 << 14, 1 << 14)) <= 2
