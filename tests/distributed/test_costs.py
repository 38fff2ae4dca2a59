"""The bytes that a way sends are those that are counted, and the model of time is the arithmetic that it says."""

from __future__ import annotations

import pytest
import torch
from tests.distributed import asked

from regard import masks
from regard.distributed import sharded
from regard.distributed.costs import Attention, Machine, Step, crossings, sent
from regard.masks.algebra import Sizes

ASKED = Attention(asked.LENGTH, asked.HEADS, asked.KV_HEADS, asked.WIDTH, batch=asked.BATCH, element_size=4)


@pytest.mark.parametrize("way", ["ring", "gather", "heads"])
@pytest.mark.parametrize("world", [1, 2, 4])
def test_bytes_sent_are_those_predicted(crew, way, world):
    for found in crew(asked.on, world, asked.traffic, way, "zigzag", masks.causal())[:world]:
        assert found[:2] == sent(way, ASKED, world)


def test_keys_that_no_rank_needs_are_not_sent(crew):
    window = masks.causal() & masks.window(5)  # it reaches one rank back
    for forward, backward, hops in crew(asked.on, 4, asked.traffic, "ring", "contiguous", window):
        assert hops == 1
        assert (forward, backward) == sent("ring", ASKED, 4, hops=1)
        assert forward < sent("ring", ASKED, 4)[0] / 2


def test_hops_are_found_once_for_a_mask_of_numbers(monkeypatch):
    monkeypatch.setattr(sharded, "_HOPS", {})
    sizes = Sizes((1,), 1, 64, 64, torch.device("cpu"), False)

    def hops(mask, world, order):
        return sharded.Sharding(0, world, order, mask.bind(sizes), sizes, 1.0).hops

    narrow, wide = masks.causal() & masks.window(5), masks.causal() & masks.window(12)
    for _ in range(2):
        # Pieces of 8 tokens: a window of 5 reaches one back, of 12 two; in zigzag, with pieces of 4, all the way round.
        assert [hops(m, 8, "contiguous") for m in (narrow, wide, masks.causal())] == [1, 2, 7]
        assert [hops(narrow, 4, "contiguous"), hops(narrow, 8, "zigzag")] == [1, 7]
        assert len(sharded._HOPS) == 5
    ids = torch.arange(64) // 8
    assert hops(masks.documents(ids), 8, "contiguous") == 0
    ids[7:9] = 9  # a document over two ranks: what is of tensors is looked at each time
    assert hops(masks.documents(ids), 8, "contiguous") == 7
    assert len(sharded._HOPS) == 5


def test_bytes_by_hand():
    # 8 tokens over 2 ranks, one head of width 4, two bytes: key and value of a rank are 2 * 4 * 4 elements.
    small = Attention(8, 1, 1, 4)
    agreed = sent("ring", small, 2, hops=0)[0]
    assert sent("ring", small, 2) == (agreed + 64, 64 + 2 * 128)
    assert sent("gather", small, 2) == (agreed + 64, 64 + 128)
    assert sent("heads", small, 2) == (agreed + (16 + 32 + 16) + 8, 64)
    assert sent("ring", small, 1) == (0, 0)


def test_time_by_hand():
    machine = Machine(flops=1e12, bandwidth=1e9, latency=0.0)
    step = Step("ring", Attention(1 << 20, 32, 8, 128), machine, 8)
    assert step.compute == pytest.approx(3.5 * 4 * 32 * 128 * 0.5 * 2**40 / 8 / 1e12)
    assert step.seconds == max(step.compute, step.transfer)
    slow = Step("gather", step.attention, machine, 8)
    assert slow.seconds == slow.compute + slow.transfer


def test_ways_change_places_where_heads_run_out_and_where_sending_takes_the_time():
    attention, machine = Attention(1 << 20, 32, 8, 128), Machine(4e14, 4e10, 1e-5)
    assert crossings(attention, machine, (8, 16, 1024))[0] == (8, "ring")
    assert "heads" not in dict(crossings(attention, machine, (16, 1024))).values()
    slow = Machine(4e14, 1e9, 1e-5)  # where sending is what takes the time, what sends least is fastest
    assert crossings(attention, slow, (8, 16))[0] == (8, "heads")


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"strategy must be 'ring', 'gather' or 'heads', got 'star'"):
        sent("star", ASKED, 2)
    with pytest.raises(ValueError, match=r"length must be a multiple of world=3, got 32"):
        sent("ring", ASKED, 3)
