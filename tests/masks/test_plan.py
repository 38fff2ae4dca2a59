"""mask.plan(): what is left to do, counted by hand, printed and drawn."""

from __future__ import annotations

import textwrap

import pytest
import torch
from matplotlib.figure import Figure

import regard
from regard import masks

WINDOW = """\
window(512), 16 384 queries x 16 384 keys: 3.08% of the entries left, 1 causal + 1 band tiles; 3.26% computed, \
as 497 rectangles in 2 calls

         rows         keys  kind      entries
     0 to 511     0 to 511  causal    131 328
512 to 16 383  1 to 16 383  band    8 126 464

▒▒······························
·▒▒▒····························
···▒▒▒··························
"""


def test_a_window_printed():
    printed = str(masks.window(512).plan(16384))
    assert printed.startswith(WINDOW)
    assert len(printed.splitlines()) == 6 + 16


def test_a_window_counted_by_hand():
    plan = masks.window(512).plan(16384)
    # The first 512 rows read 1, 2, .. 512 keys, all others 512.
    assert plan.entries == 512 * 513 // 2 + (16384 - 512) * 512
    assert plan.share == plan.entries / 16384**2
    # Blocks of 32 rows read 32 + 511 columns.
    blocks = [box for box in plan.boxes() if box.kind == "band"]
    assert len(blocks) == (16384 - 512) // 32
    assert {box.computed for box in blocks} == {32 * (32 + 511)}
    assert (blocks[1].rows, blocks[1].keys) == (slice(544, 576), slice(33, 576))
    assert plan.computed == pytest.approx((512 * 513 // 2 + len(blocks) * 32 * 543) / 16384**2)


MASKS = {
    "causal": masks.causal(),
    "window": masks.window(300),
    "band": masks.band(100, 200),
    "not": ~masks.causal(),
    "prefix": masks.prefix(300) | masks.causal(),
    "documents": masks.causal() & masks.documents(torch.arange(1500) // 250),
    "short documents": masks.documents(torch.arange(1500) // 7),
    "sequences": masks.padding(torch.tensor([200, 1500, 0])),
    "heads": masks.where(lambda b, h, q, kv: kv < 400 * (h + 1)),
    "looked at": masks.where(lambda b, h, q, kv: (q + kv) % 2 == 0) & masks.causal(),
}


@pytest.mark.parametrize("name", MASKS)
def test_it_is_what_runs(name):
    mask = MASKS[name]
    q = torch.randn(3, 2, 1500, 4)
    plan = mask.plan(1500, batch=3, num_heads=2)
    assert plan.share == regard.attention(q, q, q, mask)[1].plan.share
    assert len(plan.tiles) == len(regard.attention(q, q, q, mask)[1].plan.tiles)


@pytest.mark.parametrize("name", MASKS)
def test_every_entry_lies_in_a_box_and_the_share_counts_them(name):
    mask = MASKS[name]
    plan = mask.plan(1500, batch=3, num_heads=2)
    allowed = mask.to_dense(1500, batch=3, num_heads=2).expand(3, 2, 1500, 1500)
    seen = torch.zeros(3, 2, 1500, 1500, dtype=torch.bool)
    for box in plan.boxes():
        seen[box.batch, box.heads, box.rows, box.keys] = True
    assert not (allowed & ~seen).any()
    assert plan.compiled == (name != "looked at")
    if plan.compiled:
        assert plan.entries == int(allowed.sum())
        # A block of 64 rows reads whole grains of 64 keys: for documents of 7 that is three grains.
        assert plan.share <= plan.computed <= 1.2 * plan.share + 3 * 64 / 1500
    assert 0 < plan.share <= 1


@pytest.mark.parametrize("name", ["causal", "window", "band", "not", "prefix", "documents", "short documents"])
@pytest.mark.parametrize("width", [64, 17])
def test_its_picture_is_that_of_the_mask(name, width):
    assert MASKS[name].plan(1500).picture(width=width) == MASKS[name].picture(1500, width=width)


def test_sequences_and_heads_with_maps_of_their_own_are_parts():
    plan = masks.padding(torch.tensor([200, 200, 1500])).plan(1500, num_heads=4)
    assert [(part.batch, part.heads) for part in plan.parts] == [
        (slice(0, 2), slice(0, 4)),
        (slice(2, 3), slice(0, 4)),
    ]
    assert [part.maps for part in plan.parts] == [8, 4]
    assert plan.share == pytest.approx((8 * 200 + 4 * 1500) / (12 * 1500))
    assert "0 to 199  full    300 000  sequence 0 to 1, head 0 to 3" in str(plan)


def test_documents_of_one_length_are_one_line():
    plan = masks.documents(torch.arange(8192) // 512).plan(8192)
    assert "0 to 511  0 to 511  full  4 194 304  16 times, 512 rows further each" in str(plan)
    assert repr(plan) == (
        "MaskPlan(documents(ids (8192,)), 8 192 queries x 8 192 keys: 6.25% of the entries left, 1 full tile; "
        "6.25% computed, as 16 rectangles in 1 call)"
    )


def test_many_tiles_are_a_short_table():
    plan = masks.documents(torch.arange(6000) // 7).plan(6000)
    _, table, picture = str(plan).split("\n\n")
    lines = table.splitlines()
    assert lines[1].split() == ["0", "to", "63", "0", "to", "69", "partial", "448"]
    assert lines[13:] == [f"... and {len(plan.tiles) - 12} more tiles"]
    assert len(picture.splitlines()) == 16


def test_what_is_no_few_intervals_is_looked_at():
    allowed = torch.rand(2048, 2048) > 0.5
    plan = masks.dense(allowed).plan(2048)
    assert not plan.compiled
    assert {tile.kind for tile in plan.tiles} == {"partial"}
    assert plan.share == plan.computed == 1.0
    assert "no few intervals of keys a row, looked at block by block, 100% of the entries in 4 rectangles" in str(plan)
    assert set(plan.picture()) == {"▒", "\n"}


def test_too_small_for_tiles():
    assert str(masks.window(2).plan(4)) == textwrap.dedent(
        """\
        window(2), 4 queries x 4 keys: too small to be worth tiles, 100% of the entries in 1 rectangle

          rows    keys  kind     entries
        0 to 3  0 to 3  partial       16

        ▒▒▒▒
        ▒▒▒▒
        ▒▒▒▒
        ▒▒▒▒"""
    )
    assert masks.causal().plan(4).picture() == masks.causal().picture(4)


@pytest.mark.parametrize(("query_len", "key_len"), [(0, 5), (5, 0), (0, 0), (3000, 3000)])
def test_nothing_to_do(query_len, key_len):
    plan = masks.causal(offset=-3000).plan(query_len, key_len)
    assert plan.share == plan.computed == 0.0
    assert list(plan.boxes()) == []
    assert "nothing to do" in str(plan)


def test_lengths_are_checked():
    with pytest.raises(ValueError, match="key_len must be at least 0, got -1"):
        masks.causal().plan(3, -1)
    with pytest.raises(ValueError, match="num_heads: the number of heads must be at least 1, got 0"):
        masks.causal().plan(3, num_heads=0)


def test_no_mask_is_made_of_a_long_text():
    plan = masks.window(1024).plan(1 << 20)
    assert plan.share == pytest.approx(1024 / (1 << 20), rel=1e-2)
    assert len(plan.tiles) == 2


def corners(figure: Figure) -> list[list[tuple[float, float]]]:
    found = []
    for collection in figure.axes[0].collections:
        found += [[tuple(corner) for corner in path.vertices[:-1]] for path in collection.get_paths()]
    return found


def test_a_plan_draws_its_rectangles_by_form():
    plan = (masks.prefix(1024) | masks.causal()).plan(4096)
    figure = plan.plot()
    labels = [text.get_text() for text in figure.axes[0].get_legend().get_texts()]
    assert labels == ["full", "causal", "not computed"]
    assert sorted(corners(figure)) == sorted(
        [
            [(-0.5, -0.5), (1023.5, -0.5), (1023.5, 1023.5), (-0.5, 1023.5)],
            [(-0.5, 1023.5), (1023.5, 1023.5), (1023.5, 4095.5), (-0.5, 4095.5)],
            [(1023.5, 1023.5), (4095.5, 4095.5), (4095.5, 4095.5), (1023.5, 4095.5)],
        ]
    )
    assert figure.axes[0].get_ylim() == (4095.5, -0.5)
    colours = {tuple(c.get_facecolor()[0]) for c in figure.axes[0].collections}
    assert len(colours) == 2


def test_a_plan_draws_the_part_that_is_asked_for():
    plan = masks.padding(torch.tensor([200, 1500])).plan(1500)
    axes = Figure().subplots()
    assert plan.plot(part=1, ax=axes) is axes.figure
    assert corners(axes.figure) == [[(-0.5, -0.5), (1499.5, -0.5), (1499.5, 1499.5), (-0.5, 1499.5)]]
    with pytest.raises(ValueError, match=r"part is 2, but the plan has 2 part\(s\); expected 0 to 1"):
        plan.plot(part=2)
