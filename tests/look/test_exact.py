"""The keys that are kept exactly, and their order."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from regard import AttentionWeights, attention, masks
from regard.look.dense import DenseWeights
from regard.look.exact import by_weight, strongest
from regard.look.margins import layer_margins

Make = Callable[..., AttentionWeights]


def test_equal_weights_are_in_the_order_of_their_keys() -> None:
    values = torch.tensor([[0.2, 0.1, 0.2, 0.5], [0.0, 0.3, 0.3, 0.0]])
    indices = torch.tensor([[7, 1, 3, 9], [-1, 8, 2, -1]])
    most = by_weight(values, indices)
    assert most.indices.tolist() == [[9, 3, 7, 1], [2, 8, -1, -1]]
    assert torch.equal(most.values, torch.tensor([[0.5, 0.2, 0.2, 0.1], [0.3, 0.3, 0.0, 0.0]]))


@pytest.mark.parametrize("swept", [False, True])
@pytest.mark.parametrize("stored", [False, True])
def test_a_head_that_spreads_evenly_names_its_keys_in_order(swept: bool, stored: bool) -> None:
    query, value = torch.randn(2, 1, 2, 40, 4, generator=torch.Generator().manual_seed(0))
    _, lazy = attention(query, torch.zeros(1, 2, 40, 4), value, masks.causal())
    weights = DenseWeights(lazy.to_dense(), masks.causal()) if stored else lazy
    queries = torch.arange(40)
    answer = weights.ask(("topk", 8))[0] if swept else None
    margins = layer_margins(weights, 0, None)[0]  # type: ignore[arg-type]
    keys, found, rest = strongest(weights, queries, 8, margins=margins, batch=0, swept=answer)  # type: ignore[arg-type]
    for query_at in (0, 3, 39):
        row = [key for key in keys[1, query_at].tolist() if key >= 0]
        assert len(row) == min(8, query_at + 1)
        assert row == sorted(row)
        assert torch.allclose(found[1, query_at, : len(row)], torch.tensor(1 / (query_at + 1)))
        others = set(range(1, query_at + 1)) - set(row)
        assert float(rest[1, query_at]) == pytest.approx(len(others) / (query_at + 1), abs=1e-6)
