"""mask.pool() and parts of a mask, against the whole mask."""

from __future__ import annotations

import pytest
import torch
from tests.look.decoded import edges

from regard import masks
from regard.masks import pooling

BATCH, HEADS = 2, 3


def some_masks(query_len: int, key_len: int) -> dict[str, masks.Mask]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, 3, (BATCH, key_len), generator=generator)
    valid = torch.rand(BATCH, key_len, generator=generator) > 0.5
    table = torch.rand(BATCH, HEADS, query_len, key_len, generator=generator) > 0.5
    return {
        "causal": masks.causal(),
        "offset": masks.causal(offset=1),
        "window": masks.window(3),
        "band": masks.band(2, 1),
        "lengths": masks.padding(torch.tensor([key_len // 2, key_len])),
        "holes": masks.padding(valid),
        "documents": masks.documents(ids.sort(-1).values),
        "scattered documents": masks.documents(ids),
        "prefix": masks.prefix(2) | masks.causal(),
        "not": ~masks.window(2),
        "nothing": masks.prefix(0),
        "everything": masks.prefix(key_len),
        "causal and holes": masks.causal() & masks.padding(valid),
        "rule": masks.where(lambda b, h, q, kv: (q * 7 + kv * 3 + h) % 5 < 2),
        "dense": masks.dense(table),
        "causal and scattered documents": masks.causal() & masks.documents(ids),
        "window or scattered documents": masks.window(2) | masks.documents(ids),
        "not scattered documents": ~masks.documents(ids),
        "holes and scattered documents": masks.padding(valid) & ~(masks.documents(ids) | masks.window(1)),
        "rule and causal": masks.where(lambda b, h, q, kv: (q + kv + h) % 3 < 2) & masks.causal(),
        "rule or window": masks.window(3) | masks.where(lambda b, h, q, kv: (q + kv + b) % 3 < 1),
        "rule and rule": masks.dense(table) & ~masks.where(lambda b, h, q, kv: (q + kv + h) % 3 < 2),
    }


@pytest.mark.parametrize("lengths", [(12, 12), (7, 11), (11, 7), (40, 23), (1, 1)], ids=str)
@pytest.mark.parametrize("name", list(some_masks(2, 2)))
def test_the_share_of_each_cell(name, lengths):
    mask = some_masks(*lengths)[name]
    whole = mask.to_dense(*lengths, batch=BATCH, num_heads=HEADS).double()
    for rows, cols in ((1, 1), (min(5, lengths[0]), min(4, lengths[1])), lengths):
        r, c = edges(lengths[0], rows), edges(lengths[1], cols)
        found = mask.pool(*lengths, rows, cols, batch=BATCH, num_heads=HEADS)
        # A rule that turns out to be met everywhere no longer differs between sequences.
        found = found.expand(*whole.shape[:-2], rows, cols)
        for i in range(rows):
            for j in range(cols):
                want = whole[..., r[i] : r[i + 1], c[j] : c[j + 1]].mean((-1, -2))
                assert torch.allclose(found[..., i, j], want, atol=1e-12)
                assert torch.equal(found[..., i, j] == 0, want == 0)
                assert torch.equal(found[..., i, j] == 1, want == 1)


def test_a_mask_of_no_few_intervals_is_looked_at_in_blocks(monkeypatch):
    mask = masks.where(lambda b, h, q, kv: (q + kv) % 2 == 0)
    whole = mask.pool(60, 60, 7, 7)
    monkeypatch.setattr(pooling, "LOOKED_AT", 60 * 4)
    seen = []
    block = masks.Mask.block
    monkeypatch.setattr(masks.Mask, "block", lambda self, *a: seen.append(a[0].stop - a[0].start) or block(self, *a))
    monkeypatch.setattr(masks.Mask, "intervals", lambda self, sizes: None)
    assert torch.equal(mask.pool(60, 60, 7, 7), whole)
    assert max(seen) <= 4


def test_a_hundred_thousand_tokens_are_never_a_matrix(monkeypatch):
    monkeypatch.setattr(masks.Mask, "block", None)
    for mask, share in ((masks.causal(), 0.500005), (masks.window(1000), 0.0099501)):
        assert float(mask.pool(100_000, 100_000, 1, 1)) == pytest.approx(share, rel=1e-4)


def test_documents_of_a_hundred_thousand_tokens_are_counted(monkeypatch):
    ids = torch.arange(100_000) % 7
    seen = []
    block = masks.Mask.block
    monkeypatch.setattr(masks.Mask, "block", lambda self, *a: seen.append(block(self, *a).numel()) or block(self, *a))
    share = masks.documents(ids).pool(100_000, 100_000, 1, 1)
    assert not seen
    assert float(share) == pytest.approx(float((torch.bincount(ids).double() / 100_000).square().sum()), rel=1e-12)
    assert float((~masks.documents(ids)).pool(100_000, 100_000, 1, 1)) == pytest.approx(1 - float(share), rel=1e-12)
    some = torch.arange(20_000) % 7
    lower = (masks.causal() & masks.documents(some)).pool(20_000, 20_000, 100, 100)
    assert sum(seen) < 20_000 * 20_000 / 20  # the cells on the diagonal, of both masks
    of_a_document = torch.bincount(some).double()
    assert float(lower.mean()) * 20_000**2 == pytest.approx(float((of_a_document * (of_a_document + 1) / 2).sum()))


@pytest.mark.parametrize("most", [1, 40])
def test_what_is_looked_at_and_counted_at_a_time_changes_nothing(monkeypatch, most):
    sizes = {"batch": BATCH, "num_heads": HEADS}
    whole = {name: mask.pool(23, 31, 5, 4, **sizes) for name, mask in some_masks(23, 31).items()}
    for name in ("LOOKED_AT", "LOOKED_AT_FEW", "COUNTED"):
        monkeypatch.setattr(pooling, name, most)
    for name, mask in some_masks(23, 31).items():
        assert torch.equal(mask.pool(23, 31, 5, 4, **sizes), whole[name]), name


@pytest.mark.parametrize("name", list(some_masks(2, 2)))
def test_a_part_is_that_part_of_the_whole(name):
    mask = some_masks(12, 15)[name]
    sizes = {"batch": BATCH, "num_heads": HEADS}
    whole = mask.to_dense(12, 15, **sizes)
    assert torch.equal(mask.to_dense(12, 15, rows=slice(3, 7), keys=slice(2, 9), **sizes), whole[..., 3:7, 2:9])
    assert torch.equal(mask.to_dense(12, 15, rows=slice(-4, None), **sizes), whole[..., -4:, :])
    assert torch.equal(mask.to_dense(12, 15, keys=slice(5, 99), **sizes), whole[..., 5:])


def test_what_cannot_be_asked_is_refused():
    with pytest.raises(ValueError, match=r"mask.pool\(rows\) must be in 1..L=4, got 5; a cell holds at least one pair"):
        masks.causal().pool(4, 6, 5, 2)
    with pytest.raises(ValueError, match=r"mask.pool\(cols\) must be in 1..S=6, got 0"):
        masks.causal().pool(4, 6, 2, 0)
    with pytest.raises(TypeError, match=r"mask.pool\(cols\) must be an integer, got float"):
        masks.causal().pool(4, 6, 2, 2.0)
    with pytest.raises(TypeError, match=r"mask.to_dense\(rows\): rows must be a slice or None, got int"):
        masks.causal().to_dense(4, rows=2)
    with pytest.raises(ValueError, match=r"mask.to_dense\(keys\): a slice must have step 1, got 2; index the result"):
        masks.causal().to_dense(4, keys=slice(0, 4, 2))
