from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, attention, masks
from regard.look import exact, head_table
from regard.look.exact import chosen_queries
from regard.look.measure import measure

MODULE = import_module("regard.look.measure")  # the package has a function of that name
Make = Callable[..., AttentionWeights]
IDS = [1, 2, 3, 1, 2, 3, 1, 5, 5, 2, 3, 9]


def test_the_table_is_that_of_the_scores_alone(layers: list[AttentionWeights]) -> None:
    measured = measure(layers, token_ids=IDS)
    assert measured.table.heads == head_table(layers, token_ids=IDS).heads
    assert repr(measured) == "Measured(2 layers, 6 heads, 12 x 12)"
    assert (measured.batch, measured.sequences) == (0, 1)


def test_the_queries_kept_are_those_asked_for_the_latest_and_an_even_spread() -> None:
    assert chosen_queries(1000, [17], 4).tolist() == [0, 17, 250, 500, 750, *range(992, 1000)]
    assert chosen_queries(6, [1], 8).tolist() == list(range(6))
    assert chosen_queries(1000, [17], 0).tolist() == [17]
    for fewer, more in ((16, 64), (64, 1024)):
        kept = set(chosen_queries(9_973, [5], fewer).tolist())
        assert kept <= set(chosen_queries(9_973, [5], more).tolist())


def test_rows_are_looked_at_a_few_at_a_time(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "ROWS_OF_ALL", 0)
    monkeypatch.setattr(MODULE, "QUERIES", 32)
    monkeypatch.setattr(exact, "BLOCK_ENTRIES", 2 * 300 * 4)
    weights = some_weights(1, 2, 300, 300, mask=masks.causal())
    original, asked = AttentionWeights.__getitem__, []

    def watched(self: AttentionWeights, index: object) -> Tensor:
        result = original(self, index)
        asked.append(result.numel())
        return result

    monkeypatch.setattr(AttentionWeights, "__getitem__", watched)
    measured = measure([weights], queries=[7])
    (group,), (found,) = measured.groups, measured.groups[0].measures
    assert max(asked) <= max(2 * 300 * 4, 2 * 64 * 64)
    assert len(group.queries) == 41
    assert found.top_keys.shape == (2, 41, 8)
    swept = weights.topk(8)
    assert torch.equal(found.top_keys, swept.indices[0][:, group.queries])
    assert torch.allclose(found.top_weights, swept.values[0][:, group.queries], atol=1e-6)


def test_half_precision_is_measured_in_more() -> None:
    query, key, value = torch.randn(3, 1, 2, 50, 8, generator=torch.Generator().manual_seed(0)).bfloat16()
    weights = attention(query, key, value, masks.causal())[1]
    (found,) = measure([weights]).groups[0].measures
    dense = torch.softmax(
        (query.double() @ key.double().mT / 8**0.5).masked_fill(~masks.causal().to_dense(50), -1e9), -1
    )
    assert torch.allclose(
        found.top_weights.double(), dense[0].topk(8).values * (found.top_keys >= 0), atol=5e-4
    )  # bfloat16: 4e-3


def test_a_sequence_of_a_batch(some_weights: Make) -> None:
    weights = some_weights(3, 2, 10, 10, mask=masks.padding(torch.tensor([10, 4, 7])))
    measured = measure([weights], batch=1)
    (found,) = measured.groups[0].measures
    assert measured.sequences == 3
    assert torch.allclose(found.mean, weights.to_dense()[1], atol=1e-6)
    assert found.allowed[0].sum(-1).tolist() == [4] * 10
    with pytest.raises(ValueError, match=r"batch is 3, but weights holds 3 sequence\(s\): expected 0 to 2"):
        measure([weights], batch=3)


def test_progress_is_told_of_every_layer_of_every_group(some_weights: Make) -> None:
    told: list[tuple[int, int]] = []
    layers = [some_weights(1, 1, 4, 4), some_weights(1, 1, 6, 6), some_weights(1, 1, 4, 4)]
    measure(layers, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


def test_very_many_heads_have_smaller_maps(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MODULE, "MOST_CELLS", 4 * 64 * 64)
    (found,) = measure([some_weights(1, 4, 200, 200)]).groups[0].measures
    assert found.mean.shape == (4, 64, 64)


def test_what_was_asked_for_wrongly_is_named(layers: list[AttentionWeights]) -> None:
    with pytest.raises(ValueError, match=r"queries holds 12, but there are 12 queries; expected 0 to 11"):
        measure(layers, queries=[12])
    with pytest.raises(TypeError, match=r"queries holds 1.5; expected integers, the numbers of queries from 0"):
        measure(layers, queries=[1.5])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"windows holds \(3, -1\), but there are 12 keys; expected 0 to 11"):
        measure(layers, windows=[(3, -1)])
    with pytest.raises(TypeError, match=r"windows holds 3; expected \(query, key\) pairs, each a number or a slice"):
        measure(layers, windows=[3])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"expected slices of step 1 that hold 1 to 64 of 12 queries"):
        measure(layers, windows=[(slice(5, 5), 3)])
    with pytest.raises(ValueError, match=r"side is 100; expected a power of two up to 512"):
        measure(layers, side=100)
