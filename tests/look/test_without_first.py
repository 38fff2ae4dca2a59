"""What is left without key 0: entropies and scores beside the definition in float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from regard import AttentionWeights, attention, masks, reference
from regard.look import head_table, without_first
from regard.look.dense import DenseWeights
from regard.look.margins import Margins, layer_margins

Make = Callable[..., AttentionWeights]
IDS = [1, 2, 3, 1, 2, 3, 4, 4, 1, 7, 8, 1, 2, 9, 9, 9, 3, 1, 5, 2]


def margins_of(weights: object, ids: Tensor | None = None, **options: object) -> Margins:
    return layer_margins(weights, 0, ids, **options)[0]  # type: ignore[arg-type]


def others_of(dense: Tensor) -> tuple[Tensor, Tensor]:
    """By definition, w / (1 - w_0) over the other keys (..., L, S), and which queries have something left."""
    left = dense.clone()
    left[..., 0] = 0
    some = (left.sum(-1) >= 1e-6) & (1 - dense[..., 0] >= 1e-6)
    return torch.where(some[..., None], left / (1 - dense[..., :1]), 0.0), some


def resting_on_first(
    length: int, mask: masks.Mask | None, *, least: float, most: float
) -> tuple[AttentionWeights, Tensor]:
    """Weights of two heads that rest on key 0, more from query to query; and what they are in float64."""
    generator = torch.Generator().manual_seed(3)
    q, k, v = torch.randn(3, 1, 2, length, 9, generator=generator)
    q[..., 8], k[..., 8] = torch.linspace(least, most, length), -3.0
    k[..., 0, :] *= 0.1
    k[..., 0, 8] = 0.1
    allowed = None if mask is None else mask.to_dense(length)
    dense = reference.attention(q.double(), k.double(), v.double(), allowed).weights[0]
    return attention(q, k, v, mask)[1], dense


def distances(want: Tensor) -> Tensor:
    """By definition, of square weights (..., L, L)."""
    at = torch.arange(want.shape[-1])
    return (want * (at[:, None] - at).abs()).sum(-1)


def test_what_is_left_of_rows_that_one_can_compute_by_hand() -> None:
    rows = [[1.0, 0, 0, 0], [0.5, 0.25, 0.25, 0], [0, 0.5, 0.5, 0], [0.25, 0, 0, 0.25]]  # the last with a sink of 1/2
    left = margins_of(DenseWeights(torch.tensor([rows]))).left
    assert left.some.tolist() == [[False, True, True, True]]
    assert left.share[0].tolist() == pytest.approx([0, 0.5, 1, 0.75])
    third = -math.log(1 / 3) / 3  # one weight of 1/3, and no other
    assert left.entropy[0].tolist() == pytest.approx([0, math.log(2), math.log(2), third], abs=1e-6)
    assert left.distance[0].tolist() == pytest.approx([0, 0.5, 0.5, 0], abs=1e-6)
    scores = head_table(torch.tensor([rows]), hide_first=True).heads[0]
    assert scores.entropy == pytest.approx((2 * math.log(2) + third) / 3, abs=1e-6)
    assert scores.previous_token == pytest.approx((0.5 + 0) / 2)  # of the queries 2 and 3; query 1 has key 0 before it
    assert scores.distance == pytest.approx(1 / 3)
    assert (scores.concentration, scores.top_key) == (pytest.approx(0.75 / 1.75), 1)
    assert math.isnan(scores.first_token)


@pytest.mark.parametrize("lengths", [(20, 20), (6, 17), (17, 6)], ids=str)
@pytest.mark.parametrize("name", ["none", "causal", "padding", "window", "sinks"])
def test_rows_without_key_0_are_the_definition(name: str, lengths: tuple[int, int]) -> None:
    query_len, key_len = lengths
    valid = torch.arange(key_len) >= 3  # key 0 is the first, read or not
    masked = {"none": None, "padding": masks.padding(valid), "window": masks.band(3, 2)}
    mask = masked.get(name, masks.causal())
    sinks = torch.tensor([0.0, 3.0, -9.0]) if name == "sinks" else None
    generator = torch.Generator().manual_seed(5)
    q, k, v = (2 * torch.randn(1, 3, n, 8, generator=generator) for n in (query_len, key_len, key_len))
    allowed = None if mask is None else mask.to_dense(query_len, key_len)
    wide = None if sinks is None else sinks.double()
    dense = reference.attention(q.double(), k.double(), v.double(), allowed, sinks=wide).weights[0]  # (H, L, S)
    want, some = others_of(dense)
    found = margins_of(attention(q, k, v, mask, sinks=sinks)[1])
    assert torch.equal(found.left.some, some)
    # A float32 sweep is within 3e-7 of a row of 1, and the difference is divided by what is left, 0.002 at least.
    np.testing.assert_allclose(found.left.entropy, -torch.special.xlogy(want, want).sum(-1), atol=3e-4)
    away = (torch.arange(query_len)[:, None] + key_len - query_len - torch.arange(key_len)).abs()
    np.testing.assert_allclose(found.left.distance, (want * away).sum(-1), atol=5e-3)
    for head, scores in enumerate(found.scores_left):
        rows = want[head][some[head]]
        assert scores.entropy == pytest.approx(float(-torch.special.xlogy(rows, rows).sum(-1).mean()), abs=1e-4)
        received = dense[head, :, 1:].sum(0)
        assert scores.top_key == int(received.argmax()) + 1
        assert scores.concentration == pytest.approx(float(received.max() / received.sum()), abs=1e-5)


def test_it_is_attention_that_may_not_read_key_0(some_weights: Make) -> None:
    mask = masks.causal() & masks.window(9)
    whole = some_weights(2, 3, 20, 20, mask=mask)
    forbidden = some_weights(2, 3, 20, 20, mask=mask & masks.padding(torch.arange(20) > 0))
    hidden = head_table(whole, token_ids=IDS, batch=1, hide_first=True)
    without = head_table(forbidden, token_ids=IDS, batch=1)
    assert torch.allclose(hidden.entropy[0], without.entropy[0], atol=1e-4)
    for found, want in zip(hidden.heads, without.heads, strict=True):
        assert found.entropy == pytest.approx(want.entropy, abs=1e-4)
        assert found.induction == pytest.approx(want.induction, abs=1e-5)
        assert found.distance == pytest.approx(want.distance, abs=1e-4)
        assert found.induction_chance > want.induction_chance  # of one key fewer
        assert math.isnan(found.first_token)


def test_the_key_before_a_query_is_not_key_0(some_weights: Make) -> None:
    for lengths in ((12, 12), (5, 6), (4, 9)):
        weights = some_weights(1, 2, *lengths, mask=masks.causal())
        want, some = others_of(weights.to_dense()[0].double())
        shift = lengths[1] - lengths[0]
        places = [(q, q + shift - 1) for q in range(lengths[0]) if q + shift - 1 >= 1]
        for head, scores in enumerate(margins_of(weights).scores_left):
            mean = sum(float(want[head, q, key]) for q, key in places if some[head, q]) / len(places)
            assert scores.previous_token == pytest.approx(mean, abs=1e-5)


@pytest.mark.parametrize("stored", [False, True])
def test_a_row_that_is_nearly_all_key_0_is_summed_itself(stored: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    length = 200
    weights, dense = resting_on_first(length, masks.causal(), least=2, most=22)
    given = DenseWeights(dense) if stored else weights
    want, some = others_of(dense)
    assert float(dense[..., 0][some].max()) > 1 - 4e-6
    assert bool((~some[:, 1:]).any())
    entropy = -torch.special.xlogy(want, want).sum(-1)
    sure = ((1 - dense[..., 0]) / 1e-6 - 1).abs() > 1e-3  # the threshold of 1e-6 itself is not in the balance
    found = margins_of(given).left
    assert torch.equal(found.some[sure], some[sure])
    # The weight on key 0 is known to 3e-8, of which 1e-4 or more is left where it is taken off.
    assert float((found.entropy - entropy)[sure].abs().max()) < 5e-4
    assert float((found.distance - distances(want))[sure].abs().max()) < 2e-2
    monkeypatch.setattr(without_first, "BLOCK_ENTRIES", 3 * length)
    assert torch.allclose(margins_of(given).left.entropy, found.entropy, atol=1e-6)
    if not stored:
        monkeypatch.setattr(without_first, "UNSURE", 0.0)
        assert float((margins_of(given).left.entropy - entropy)[sure].abs().max()) > 1e-2


@pytest.mark.parametrize("mask", [masks.causal(), None], ids=str)
def test_distances_are_no_differences_of_long_ways(mask: masks.Mask | None, monkeypatch: pytest.MonkeyPatch) -> None:
    weights, dense = resting_on_first(300, mask, least=12, most=16)
    want, some = others_of(dense)
    away = torch.where(some, distances(want), 0.0).sum(-1) / some.sum(-1)

    def off() -> float:
        scores = margins_of(weights).scores_left
        return max(abs(each.distance - float(true)) for each, true in zip(scores, away, strict=True))

    assert bool(some[:, 1:].all())
    assert off() < 1e-3
    monkeypatch.setattr(without_first, "TOKENS", 1e9)
    monkeypatch.setattr(without_first, "UNSURE", 0.0)
    assert off() > 4e-2


def test_a_head_that_rests_on_key_0_alone_has_no_scores() -> None:
    dense = torch.zeros(1, 6, 6)
    dense[..., 0] = 1
    margins = margins_of(DenseWeights(dense), torch.tensor([1, 1, 2, 2, 1, 1]))
    (scores,) = margins.scores_left
    assert not margins.left.some.any()
    assert float(margins.left.entropy.abs().sum()) == 0
    means = (scores.entropy, scores.previous_token, scores.induction, scores.distance, scores.concentration)
    assert all(math.isnan(each) for each in means)


def test_one_key_leaves_nothing() -> None:
    (scores,) = margins_of(DenseWeights(torch.ones(1, 1, 1))).scores_left
    assert math.isnan(scores.entropy)
    assert math.isnan(scores.concentration)


def test_a_table_without_key_0_says_what_the_others_receive(some_weights: Make) -> None:
    weights = some_weights(1, 2, 12, 12, mask=masks.causal())
    whole, hidden = head_table(weights), head_table(weights, hide_first=True)
    assert torch.equal(hidden.received[0][:, 1:], whole.received[0][:, 1:])
    assert hidden.received[0][:, 0].tolist() == [0, 0]
    assert [scores.top_key for scores in hidden.heads] == (whole.received[0][:, 1:].argmax(-1) + 1).tolist()
