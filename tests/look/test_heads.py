from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

import regard
from regard import AttentionWeights, attention, masks
from regard.look import HeadScores, HeadTable, head_table, heads, induction

Make = Callable[..., AttentionWeights]


def only(table: HeadTable, head: int = 0) -> HeadScores:
    return table.heads[head]


def dense_induction(dense: Tensor, ids: list[int]) -> tuple[list[float], float]:
    """The induction score and its chance level, entry by entry."""
    scores, even = [], []
    for i, token in enumerate(ids):
        keys = [j + 1 for j in range(i) if ids[j] == token]
        if keys:
            scores.append(dense[:, i, keys].sum(-1))
            even.append(len(keys) / (i + 1))
    return torch.stack(scores).mean(0).tolist(), sum(even) / len(even)


def test_scores_of_a_head_that_one_can_compute_by_hand() -> None:
    # Keys of zeros: each of the three queries spreads evenly over the keys up to itself.
    query, key, value = torch.randn(1, 3, 4), torch.zeros(1, 3, 4), torch.randn(1, 3, 4)
    _, weights = attention(query, key, value, masks.causal())
    scores = only(head_table([weights], token_ids=[5, 5, 5]))
    assert scores.entropy == pytest.approx((0 + math.log(2) + math.log(3)) / 3, abs=1e-6)
    assert scores.previous_token == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-6)
    assert scores.first_token == pytest.approx((1 / 2 + 1 / 3) / 2, abs=1e-6)
    assert scores.distance == pytest.approx((0 + 1 / 2 + 1) / 3, abs=1e-6)
    assert scores.concentration == pytest.approx((1 + 1 / 2 + 1 / 3) / 3, abs=1e-6)
    assert scores.top_key == 0
    # Query 1 follows one earlier 5, and key 1 came after it; query 2 follows two, and keys 1 and 2 came after them.
    assert scores.induction == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-6)
    assert scores.induction_chance == pytest.approx(scores.induction, abs=1e-6)


def test_scores_equal_a_dense_computation(some_weights: Make) -> None:
    weights = some_weights(2, 3, 20, 20, mask=masks.causal() & masks.window(9))
    ids = [1, 2, 3, 1, 2, 3, 4, 4, 1, 7, 8, 1, 2, 9, 9, 9, 3, 1, 5, 2]
    dense = weights.to_dense()[1].double()  # (H, L, S)
    at = torch.arange(20)
    induction, chance = dense_induction(dense, ids)
    table = head_table([weights], token_ids=ids, batch=1)
    for head, scores in enumerate(table.heads):
        a = dense[head]
        assert scores.entropy == pytest.approx(float(-torch.xlogy(a, a).sum(-1).mean()), abs=1e-5)
        assert scores.previous_token == pytest.approx(float(a.diagonal(-1).mean()), abs=1e-5)
        assert scores.first_token == pytest.approx(float(a[1:, 0].mean()), abs=1e-5)
        assert scores.distance == pytest.approx(float((a * (at[:, None] - at).abs()).sum(-1).mean()), abs=1e-4)
        assert scores.concentration == pytest.approx(float(a.sum(0).max() / a.sum()), abs=1e-5)
        assert scores.top_key == int(a.sum(0).argmax())
        assert scores.induction == pytest.approx(induction[head], abs=1e-5)
        assert scores.induction_chance == pytest.approx(chance, abs=1e-9)
    assert torch.allclose(table.received[0], dense.sum(1).float(), atol=1e-5)


def test_induction_is_the_same_in_blocks_of_any_size(
    layers: list[AttentionWeights], monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = torch.tensor([1, 2, 3, 1, 2, 3, 1, 5, 5, 2, 3, 9])
    whole = [scores.induction for scores in head_table(layers, token_ids=ids).heads]
    monkeypatch.setattr(induction, "BLOCK_ENTRIES", 3 * 12 * 5)
    blocks = [scores.induction for scores in head_table(layers, token_ids=ids).heads]
    assert blocks == pytest.approx(whole, abs=1e-6)
    assert min(whole) > 0.01


@pytest.mark.parametrize("shape", [(2, 3, 40, 40), (3, 40, 40), (40, 40)], ids=str)
def test_induction_of_few_repetitions_is_read_from_single_weights(
    some_weights: Make, shape: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    valid = torch.arange(40) > 4
    weights = some_weights(*shape, mask=masks.causal() & masks.padding(valid))
    ids = torch.randint(0, 12, (40,), generator=torch.Generator().manual_seed(0))
    found = {}
    for cost in (0, 10**9):
        monkeypatch.setattr(induction, "SINGLE_COST", cost)
        for entries in (7, 1 << 20):
            monkeypatch.setattr(induction, "SINGLE_ENTRIES", entries)
            table = head_table([weights], token_ids=ids, batch=min(1, len(shape) - 3) if len(shape) > 3 else 0)
            found[cost, entries] = [(s.induction, s.induction_chance) for s in table.heads]
    whole = found[10**9, 7]
    assert all(share > 0.01 for share, _ in whole)
    for each in found.values():
        assert torch.allclose(torch.tensor(each), torch.tensor(whole), atol=1e-6)


def test_a_decoding_query_has_the_position_of_the_last_key(some_weights: Make) -> None:
    weights = some_weights(1, 2, 2, 6, mask=masks.causal())
    dense = weights.to_dense()[0]
    scores = only(head_table([weights]), 1)
    assert scores.previous_token == pytest.approx(float((dense[1, 0, 3] + dense[1, 1, 4]) / 2), abs=1e-6)
    assert scores.first_token == pytest.approx(float(dense[1, :, 0].mean()), abs=1e-6)
    assert math.isnan(scores.induction)


def test_queries_that_may_read_nothing_are_left_out(some_weights: Make) -> None:
    # The first four positions are padding: nobody reads them, and they read nothing.
    valid = torch.tensor([False] * 4 + [True] * 6)
    mask = masks.causal() & masks.padding(valid)
    whole = some_weights(1, 2, 10, 10, mask=mask, seed=3)
    dense = whole.to_dense()[0]
    assert float(dense[:, :4].abs().sum()) == 0
    scores = only(head_table([whole], token_ids=[0, 0, 0, 0, 1, 2, 1, 2, 1, 2]))
    a = dense[0, 4:].double()
    assert scores.entropy == pytest.approx(float(-torch.xlogy(a, a).sum(-1).mean()), abs=1e-5)
    induction, chance = dense_induction(dense.double(), [-1, -2, -3, -4, 1, 2, 1, 2, 1, 2])
    assert scores.induction == pytest.approx(induction[0], abs=1e-5)
    assert scores.induction_chance == pytest.approx(chance, abs=1e-6)


def test_tokens_stand_in_for_ids(layers: list[AttentionWeights]) -> None:
    ids = [1, 2, 3, 1, 2, 3, 1, 5, 5, 2, 3, 9]
    by_text = head_table(layers, tokens=[f"t{number}" for number in ids])
    by_id = head_table(layers, token_ids=ids)
    assert [scores.induction for scores in by_text.heads] == [scores.induction for scores in by_id.heads]


def test_a_token_id_of_minus_one_is_a_token_like_any_other(layers: list[AttentionWeights]) -> None:
    ids = torch.tensor([1, 2, 3, 1, 2, 3, 1, 5, 5, 2, 3, 9])
    shifted = head_table(layers, token_ids=ids - 2).heads
    assert [s.induction for s in shifted] == [s.induction for s in head_table(layers, token_ids=ids).heads]


def test_without_a_repeated_token_there_is_no_induction_score(layers: list[AttentionWeights]) -> None:
    assert all(math.isnan(scores.induction) for scores in head_table(layers, token_ids=list(range(12))).heads)
    assert all(math.isnan(scores.induction) for scores in head_table(layers).heads)


def test_one_token_alone_is_scored(some_weights: Make) -> None:
    scores = only(head_table([some_weights(1, 1, 1, 1, mask=masks.causal())], token_ids=[3]))
    assert (scores.entropy, scores.distance, scores.concentration) == pytest.approx((0, 0, 1), abs=1e-6)
    assert math.isnan(scores.previous_token)
    assert math.isnan(scores.first_token)


@pytest.mark.parametrize("shape", [(2, 5, 5), (5, 5)])
def test_weights_need_no_batch_and_no_heads(some_weights: Make, shape: tuple[int, ...]) -> None:
    weights = some_weights(*shape, mask=masks.causal())
    table = head_table([weights])
    assert len(table.heads) == (2 if len(shape) == 3 else 1)
    assert table.heads[0].entropy == pytest.approx(float(weights.entropy().reshape(-1, 5)[0].mean()), abs=1e-6)


def test_no_row_of_all_keys_is_ever_asked_for_at_once(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = some_weights(1, 2, 64, 64, mask=masks.causal())
    monkeypatch.setattr(induction, "BLOCK_ENTRIES", 2 * 64 * 8)
    asked: list[int] = []
    original = AttentionWeights.__getitem__

    def watched(self: AttentionWeights, index: object) -> Tensor:
        result = original(self, index)
        asked.append(result.numel())
        return result

    monkeypatch.setattr(AttentionWeights, "__getitem__", watched)
    head_table([weights], token_ids=[0, 1] * 32)
    assert asked
    assert max(asked) <= 2 * 64 * 8


def test_progress_is_told_of_every_layer(layers: list[AttentionWeights]) -> None:
    told: list[tuple[int, int]] = []
    head_table(layers, progress=lambda done, total: told.append((done, total)))
    assert told == [(1, 2), (2, 2)]


def scored(layer: int, head: int, **scores: float) -> HeadScores:
    values = dict.fromkeys(heads.SCORES, math.nan) | scores
    return HeadScores(layer=layer, head=head, top_key=0, **values)


def test_sorting_puts_the_telling_end_first_and_the_unknown_last() -> None:
    table = HeadTable(
        (
            scored(0, 0, induction=0.2, entropy=3.0),
            scored(0, 1, entropy=1.0),
            scored(1, 0, induction=0.7, entropy=2.0),
        ),
        None,
        (),
        (),
    )

    def order(by: str) -> list[tuple[int, int]]:
        return [(scores.layer, scores.head) for scores in table.sort(by).heads]

    assert order("induction") == [(1, 0), (0, 0), (0, 1)]
    assert order("entropy") == [(0, 1), (1, 0), (0, 0)]
    assert [(s.layer, s.head) for s in table.sort("induction").sort("layer").heads] == [(0, 0), (0, 1), (1, 0)]


def test_bad_input_is_named(layers: list[AttentionWeights]) -> None:
    with pytest.raises(ValueError, match=r"weights is empty; expected one AttentionWeights a layer"):
        head_table([])
    with pytest.raises(ValueError, match=r"token_ids holds 3 entries, but weights has 12 keys; expected one a key"):
        head_table(layers, token_ids=[1, 2, 3])
    with pytest.raises(ValueError, match=r"tokens holds 1 entries, but weights has 12 keys"):
        head_table(layers, tokens=["a"])
    with pytest.raises(ValueError, match=r"batch is 1, but weights holds 1 sequence\(s\): expected 0 to 0"):
        head_table(layers, batch=1)
    with pytest.raises(ValueError, match=r"by is 'size'; expected 'layer' or one of 'entropy', 'previous_token'"):
        head_table(layers).sort("size")


def test_a_table_is_of_what_the_page_takes(layers: list[AttentionWeights]) -> None:
    wanted = head_table(layers[:1]).heads
    dense = layers[0].to_dense()
    for given in (layers[0], dense, [dense], (dense.numpy(),), dense[None]):
        for found, scores in zip(head_table(given).heads, wanted, strict=True):
            assert (found.head, found.top_key) == (scores.head, scores.top_key)
            assert found.entropy == pytest.approx(scores.entropy, abs=1e-5)
            assert found.distance == pytest.approx(scores.distance, abs=1e-5)


def test_a_table_is_of_what_a_watch_gave() -> None:
    layer = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    with regard.watch(layer) as seen:
        layer(*[torch.randn(1, 5, 8)] * 3)
    assert len(head_table(seen).heads) == len(head_table(seen[0]).heads) == 2


def test_what_is_no_layer_is_named(layers: list[AttentionWeights]) -> None:
    with pytest.raises(
        TypeError, match=r"weights is of type str; expected AttentionWeights or dense tensors, a layer or"
    ):
        head_table("x")
    with pytest.raises(TypeError, match=r"weights is of type dict of 'a', 'b': pass one of them; expected Attention"):
        head_table({"a": layers, "b": layers})
    with pytest.raises(
        TypeError, match=r"weights\[1\] is of type str; expected AttentionWeights, a tensor or an array"
    ):
        head_table([layers[0], "x"])
    with pytest.raises(TypeError, match=r"batch is 'x'; expected the number of one sequence, from 0"):
        head_table(layers, batch="x")  # type: ignore[arg-type]


def test_sequences_are_counted_from_0(some_weights: Callable[..., AttentionWeights]) -> None:
    with pytest.raises(ValueError, match=r"batch is -1; expected the number of one sequence, from 0"):
        head_table([some_weights(2, 1, 4, 4)], batch=-1)
