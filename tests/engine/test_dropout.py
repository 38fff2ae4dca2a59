"""Which weights dropout keeps: by place, as often as it should, and each for itself."""

from __future__ import annotations

import pytest
import torch
from tests.engine.test_rows import small_blocks
from tests.properties import problem, seeded
from torch import Tensor

import regard
from regard import masks
from regard.engine.blocks import Room
from regard.engine.dropout import factor, keep_block

ROWS, KEYS = 200, 301


def kept(seed: int, dropout: float, *spans: slice, rows: slice = slice(0, ROWS), dtype=torch.float32) -> Tensor:
    """What is kept of some rows of two heads."""
    lines = (torch.arange(2)[:, None] * ROWS + torch.arange(rows.start, rows.stop))[None, ..., None]  # (1, 2, R, 1)
    spans = spans or (slice(0, KEYS),)
    into = torch.empty(*lines.shape[:3], sum(s.stop - s.start for s in spans), dtype=dtype)
    return keep_block(seed, dropout, lines, spans, KEYS, Room(lines.new_empty(0)), into)


# 0.1 is met in 16 bits, 0.003 in 32.
@pytest.mark.parametrize("dropout", [0.1, 0.003])
def test_a_part_is_what_the_whole_has_there(dropout):
    whole = kept(5, dropout)
    spans = slice(3, 10), slice(12, 13), slice(50, KEYS)
    part = kept(5, dropout, *spans, rows=slice(17, 90), dtype=torch.float64)
    assert torch.equal(part.float(), torch.cat([whole[:, :, 17:90, s] for s in spans], -1))
    assert set(whole.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("dropout", [1e-9, 0.003, 0.1, 0.25, 0.5, 0.9, 0.9995, 1.0 - 1e-12])
def test_the_share_that_is_kept(dropout):
    keep = torch.cat([kept(seed, dropout) for seed in range(8)])
    # Some 960,000 draws; a tenth of one more, for a share of nearly none.
    deviation = (dropout * (1 - dropout) / keep.numel()) ** 0.5
    assert abs(keep.double().mean() - (1 - dropout)) <= 5 * deviation + 0.1 / keep.numel()
    by_key = keep.double().mean((0, 1, 2))  # (S,): four or two keys are drawn together
    assert (by_key - (1 - dropout)).abs().max() <= 6 * deviation * KEYS**0.5 + 5 / keep[..., 0].numel()


@pytest.mark.parametrize("dropout", [0.5, 0.501])
def test_draws_are_uncorrelated(dropout):
    """Neighbours by key, by row, by head and by seed, and the keys that are drawn together."""
    signs = torch.cat([kept(seed, dropout) for seed in (0, 1, 1 << 20, (1 << 62) - 1)]).double() - (1 - dropout)
    signs /= signs.square().mean().sqrt()
    pairs = {f"{n} keys on": (signs[..., n:], signs[..., :-n]) for n in (1, 2, 3, 4, 8, 76)}
    pairs |= {f"{n} rows on": (signs[:, :, n:], signs[:, :, :-n]) for n in (1, 2, 64)}
    pairs |= {"another head": (signs[:, 0], signs[:, 1])}
    pairs |= {f"seeds {a}, {b}": (signs[a], signs[b]) for a in range(4) for b in range(a)}
    for name, (a, b) in pairs.items():
        assert abs((a * b).mean()) < 5 / a.numel() ** 0.5, name


def test_a_weight_that_is_kept_is_scaled():
    assert factor(0.0) == 1.0
    assert factor(0.75) == 4.0
    assert factor(1.0) == 0.0


MASK = (masks.prefix(2) | masks.window(7)) & masks.causal()


def dropped(mask: masks.Mask | None = MASK) -> tuple[Tensor, ...]:
    """An output that shows which weights are left, and gradients."""
    q, k, _ = (t.requires_grad_() for t in problem(2, 4, query_len=40, key_len=40, kv_heads=2))
    v = torch.eye(40, dtype=q.dtype).expand(2, 2, 40, 40)
    output = seeded(regard.attention, q, k, v, mask, dropout=0.3)[0]
    return output, *torch.autograd.grad(output.sin().sum(), (q, k))


def test_blocks_do_not_matter():
    want = dropped()
    for elements in (40, 300, 5000):
        with small_blocks(elements):
            found = dropped()
        assert torch.equal(found[0] != 0, want[0] != 0)
        torch.testing.assert_close(found, want, rtol=0, atol=1e-13)


def test_threads_do_not_matter():
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(dropped())
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(f[0] != 0, found[0][0] != 0) for f in found)


def test_a_mask_does_not_change_what_is_dropped():
    masked, open_ = dropped()[0] != 0, dropped(None)[0] != 0
    allowed = MASK.to_dense(40)
    assert torch.equal(masked, open_ & allowed)
    assert 0.6 < masked[..., allowed].double().mean() < 0.8  # 2,700 weights: a standard deviation of 0.009
