from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, masks
from regard.look import maps

Make = Callable[..., AttentionWeights]
Define = Callable[[Tensor, int, int], Tensor]


@pytest.mark.parametrize(("query_len", "key_len", "size"), [(7, 7, 16), (7, 11, 4), (16, 16, 4), (5, 40, 12)])
def test_dense_and_lazy_weights_pool_alike_and_by_the_definition(
    some_weights: Make, by_definition: Define, query_len: int, key_len: int, size: int
) -> None:
    weights = some_weights(2, 3, query_len, key_len, mask=masks.causal())
    dense = weights.to_dense()
    lazy, eager = maps.pooled(weights, size, batch=1), maps.pooled(dense, size, batch=1)
    expected = by_definition(dense[1].double(), min(size, query_len), min(size, key_len))
    assert torch.allclose(lazy.values.double(), expected, atol=1e-6)
    assert torch.allclose(eager.values.double(), expected, atol=1e-6)
    assert torch.allclose(lazy.values.sum(-1), torch.ones(3, min(size, query_len)), atol=1e-5)


def test_what_a_mask_forbids_is_known_apart_from_what_is_zero(some_weights: Make) -> None:
    # Scores this far apart leave weights that float32 cannot tell from zero, where the mask allows them.
    weights = some_weights(1, 2, 12, 12, mask=masks.causal(), sharp=2000.0)
    pooled = maps.pooled(weights, 12)
    allowed = torch.ones(12, 12, dtype=torch.bool).tril().expand(2, 12, 12)
    assert torch.equal(pooled.allowed, allowed)
    assert bool(((pooled.values == 0) & allowed).any())


def test_a_cell_is_allowed_if_any_pair_in_it_is(some_weights: Make) -> None:
    pooled = maps.pooled(some_weights(1, 1, 8, 8, mask=masks.causal() & masks.window(1)), 4)
    assert torch.equal(pooled.allowed[0], torch.eye(4, dtype=torch.bool))


def test_without_a_mask_everything_is_allowed(some_weights: Make) -> None:
    assert bool(maps.pooled(some_weights(1, 2, 6, 6), 3).allowed.all())


def test_a_mask_may_differ_by_sequence(some_weights: Make) -> None:
    weights = some_weights(2, 2, 4, 4, mask=masks.padding(torch.tensor([4, 2])))
    assert bool(maps.pooled(weights, 4, batch=0).allowed.all())
    assert maps.pooled(weights, 4, batch=1).allowed.float().mean(dim=(0, 1)).tolist() == [1, 1, 0, 0]


def test_equal_masks_are_asked_once(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[masks.Mask] = []
    pool = masks.Mask.pool
    monkeypatch.setattr(
        masks.Mask, "pool", lambda self, *args, **given: asked.append(self) or pool(self, *args, **given)
    )
    known: dict[object, Tensor] = {}
    for seed in range(3):  # a mask of its own in each layer, as models make them
        weights = some_weights(1, 2, 12, 12, mask=masks.causal() & masks.window(5), seed=seed)
        found = maps.allowed_cells(weights, 4, 4, known=known)
    assert len(asked) == 1
    other = some_weights(1, 2, 12, 12, mask=masks.causal() & masks.window(6))
    wide, narrow = maps.allowed_cells(other, 12, 12, known=known), maps.allowed_cells(weights, 12, 12, known=known)
    assert torch.equal(wide[0], other.mask.to_dense(12))
    assert torch.equal(narrow[0], weights.mask.to_dense(12))
    assert len(asked) == 3
    assert found.shape == (1, 4, 4)


def test_a_long_mask_is_not_made_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(masks.Mask, "to_dense", None)
    share = maps.mask_cells(masks.causal(), 100_000, 100_000, 4)
    assert torch.allclose(share.diagonal(), torch.tensor(0.5), atol=1e-4)


@pytest.mark.parametrize(("lengths", "fine"), [((40, 40), 16), ((64, 50), 16), ((12, 9), 16)])
def test_a_coarser_map_is_the_one_that_pooling_gives(
    some_weights: Make, by_definition: Define, lengths: tuple[int, int], fine: int
) -> None:
    weights = some_weights(1, 2, *lengths, mask=masks.causal())
    sides = min(fine, lengths[0]), min(fine, lengths[1])
    pooled, most = weights.pool(*sides)[0], weights.pool(*sides, "max")[0]
    dense = weights.to_dense()[0].double()
    for cells in (8, 4, 2, 1):
        found = maps.coarser(pooled, lengths, (cells, cells))
        assert torch.allclose(found.double(), by_definition(dense, cells, cells), atol=1e-6)
        assert torch.allclose(maps.largest(most, lengths, (cells, cells)), weights.pool(cells, cells, "max")[0])
        assert torch.allclose(
            maps.max_dense(dense, cells, cells), weights.pool(cells, cells, "max")[0].double(), atol=1e-6
        )


def test_the_peak_of_a_margin() -> None:
    assert maps.peaks(torch.tensor([[1.0, 3.0, 9.0, 7.0, 5.0]]), 2).tolist() == [[3.0, 9.0]]


def test_a_cell_says_how_many_tokens_it_covers(some_weights: Make) -> None:
    assert maps.pooled(some_weights(1, 1, 6, 12), 3).cell == "1 cell = 2 × 4 tokens"
    assert maps.pooled(some_weights(1, 1, 8, 8), 3).cell == "1 cell = 2–3 × 2–3 tokens"
    assert maps.pooled(some_weights(1, 1, 8, 8), 8).cell == ""


def test_the_share_of_a_mask_in_each_cell() -> None:
    expected = torch.tensor([[0.75, 0.0], [1.0, 0.75]])
    assert torch.equal(maps.mask_cells(masks.causal(), 4, 4, 2), expected)
    assert torch.equal(maps.mask_cells(torch.ones(2, 3, 4, 4, dtype=torch.bool).tril(), 4, 4, 2), expected)
    with pytest.raises(ValueError, match=r"mask has shape \(2, 2\); expected \(\.\.\., 4, 4\)"):
        maps.mask_cells(torch.ones(2, 2, dtype=torch.bool), 4, 4, 2)


def test_a_margin_is_averaged_over_the_same_cells() -> None:
    assert maps.average(torch.tensor([[1.0, 3.0, 5.0, 7.0, 9.0]]), 2).tolist() == [[2.0, 7.0]]


def test_more_dimensions_than_batch_and_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"weights has 5 dimensions; expected \(B, H, L, S\), \(H, L, S\) or \(L, S\)"):
        maps.pooled(torch.zeros(1, 1, 1, 2, 2), 2)
