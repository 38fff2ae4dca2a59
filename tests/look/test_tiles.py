"""Tiles and rows of the live page against dense weights in float64."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

import regard
from regard import masks, reference
from regard.look import tiles
from regard.look.tiles import Place, row, tile


class Case(NamedTuple):
    """Weights, and what they are by the definition."""

    weights: regard.AttentionWeights
    dense: np.ndarray
    allowed: np.ndarray


def case(kind: str) -> Case:
    generator = torch.Generator().manual_seed(3)
    q = 2 * torch.randn(2, 4, 33, 8, generator=generator)
    k, v = torch.randn(2, 2, 2, 41, 8, generator=generator)  # two key heads for four query heads
    options: dict[str, Any] = {}
    mask: masks.Mask | None = None
    if kind in ("causal", "padded"):
        mask = masks.causal()
    if kind == "padded":
        mask = masks.causal() & masks.padding(torch.tensor([41, 29])) & masks.window(12)
    if kind == "by head":
        mask = masks.where(lambda b, h, q, kv: kv <= q + h + b)
    if kind == "sinks":
        options = {"sinks": torch.randn(4, generator=generator), "softcap": 3.0}
    _, weights = regard.attention(q, k, v, mask, **options)
    allowed = torch.ones(2, 4, 33, 41, dtype=torch.bool)
    if mask is not None:
        allowed = mask.to_dense(33, 41, batch=2, num_heads=4).expand(2, 4, 33, 41).clone()
    doubled = {name: value.double() if name == "sinks" else value for name, value in options.items()}
    dense = reference.attention(q.double(), k.double(), v.double(), allowed, **doubled).weights
    return Case(weights, dense.numpy(), allowed.numpy())


@pytest.fixture(scope="module", params=["causal", "padded", "by head", "sinks"])
def some(request: pytest.FixtureRequest) -> Case:
    return case(request.param)


def decoded(codes: np.ndarray) -> np.ndarray:
    """Codes of 16 bits as weights; 0 for what is forbidden, and for what is too small to tell."""
    weights = 1e-9 * np.exp((codes.astype(float) - 1) / 65534 * math.log(1e9))
    return np.where(codes <= 1, 0.0, weights)


def same(found: np.ndarray, expected: np.ndarray) -> None:
    np.testing.assert_allclose(found, expected, rtol=3e-4, atol=2e-9)


def edges(length: int, cells: int) -> list[tuple[int, int]]:
    return [(c * length // cells, (c + 1) * length // cells) for c in range(cells)]


@pytest.mark.parametrize(
    ("queries", "keys", "cells"),
    [
        (range(33), range(41), (33, 41)),  # each pair
        (range(5, 29), range(3, 40), (7, 11)),
        (range(33), range(41), (1, 1)),
        (range(32, 33), range(40, 41), (1, 1)),
    ],
)
@pytest.mark.parametrize("block", [41, 200, 1 << 22])
def test_a_tile_is_the_pooled_rectangle(
    some: Case, queries: range, keys: range, cells: tuple[int, int], block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiles, "BLOCK_ENTRIES", block)  # one query, some, or all at a time
    rows, cols = cells
    for batch, head in ((0, 1), (1, 3)):
        content = tile(Place(some.weights, batch, head), queries=queries, keys=keys, cells=cells)
        first = np.frombuffer(content, "<f4", rows)
        means, most = np.frombuffer(content, "<u2", offset=4 * rows).reshape(2, rows, cols)
        dense = some.dense[batch, head][queries.start : queries.stop]
        allowed = some.allowed[batch, head][queries.start : queries.stop, keys.start : keys.stop]
        inside = dense[:, keys.start : keys.stop]
        want, largest, some_allowed = np.zeros((rows, cols)), np.zeros((rows, cols)), np.zeros((rows, cols), dtype=bool)
        for r, (q0, q1) in enumerate(edges(len(queries), rows)):
            for c, (k0, k1) in enumerate(edges(len(keys), cols)):
                cell = inside[q0:q1, k0:k1]
                want[r, c], largest[r, c] = cell.sum(1).mean(), cell.max()
                some_allowed[r, c] = allowed[q0:q1, k0:k1].any()
        on_first = [dense[q0:q1, 0].mean() for q0, q1 in edges(len(queries), rows)]
        np.testing.assert_allclose(first, on_first, rtol=1e-5, atol=1e-7)
        assert np.array_equal(means > 0, some_allowed)
        assert np.array_equal(most > 0, some_allowed)
        same(decoded(means), want)
        same(decoded(most), largest)


@pytest.mark.parametrize("query", [0, 17, 32])
def test_a_row_is_all_that_a_query_reads(some: Case, query: int) -> None:
    for batch, head in ((0, 2), (1, 0)):
        content = row(Place(some.weights, batch, head), query, 6)
        expected = some.dense[batch, head, query]
        positive = expected[expected > 0]
        entropy = -(positive * np.log(positive)).sum()
        np.testing.assert_allclose(
            np.frombuffer(content, "<f4", 3), [entropy, expected.sum(), expected[0]], rtol=1e-5, atol=1e-6
        )
        count = int(np.frombuffer(content, "<u4", 1, 12)[0])
        assert count == min(6, len(positive))
        keys = np.frombuffer(content, "<u4", count, 16)
        assert keys.tolist() == np.argsort(-expected, kind="stable")[:count].tolist()
        weights = np.frombuffer(content, "<f4", count, 16 + 4 * count)
        np.testing.assert_allclose(weights, expected[keys], rtol=1e-5, atol=1e-7)
        codes = np.frombuffer(content, "<u2", offset=16 + 8 * count)
        assert ((codes > 0) == some.allowed[batch, head, query]).all()
        same(decoded(codes), expected)


def test_a_query_that_reads_nothing() -> None:
    q = torch.ones(3, 4)
    weights = regard.attention_weights(q, q, masks.causal(offset=-1))
    content = row(Place(weights, 0, 0), 0, 5)
    assert np.frombuffer(content, "<f4", 3).tolist() == [0, 0, 0]
    assert np.frombuffer(content, "<u4", 1, 12).tolist() == [0]
    assert np.frombuffer(content, "<u2", offset=16).tolist() == [0, 0, 0]


def test_of_equal_weights_the_earlier_keys_are_named() -> None:
    weights = regard.attention_weights(torch.zeros(1, 2), torch.zeros(200, 2))
    content = row(Place(weights, 0, 0), 0, 5)
    assert np.frombuffer(content, "<u4", 6, 12).tolist() == [5, 0, 1, 2, 3, 4]


def test_what_is_allowed_and_has_no_weight_is_not_forbidden() -> None:
    q = torch.tensor([[0.0], [40.0]])
    k = torch.tensor([[-40.0], [40.0]])
    weights = regard.attention_weights(q, k)  # the second query gives its first key e^-3200
    content = tile(Place(weights, 0, 0), queries=range(2), keys=range(2), cells=(2, 2))
    codes = np.frombuffer(content, "<u2", offset=8).reshape(2, 4)
    assert codes[0, 2:].tolist() == codes[1, 2:].tolist() == [1, 65_535]
    assert codes.min() == 1


def test_memory_is_that_of_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    weights = Place.weights

    def noted(self: Place, queries: range, keys: range) -> Any:
        asked.append(len(queries) * len(keys))
        return weights(self, queries, keys)

    monkeypatch.setattr(Place, "weights", noted)
    monkeypatch.setattr(tiles, "BLOCK_ENTRIES", 100)
    place = Place(case("causal").weights, 0, 0)
    calls: list[None] = []
    tile(place, queries=range(33), keys=range(41), cells=(4, 4), between=lambda: calls.append(None))
    assert max(asked) <= 100
    assert len(calls) == 17  # two queries at a time
