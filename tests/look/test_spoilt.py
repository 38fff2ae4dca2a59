"""Weights that are NaN in some queries: said, drawn as what reads nothing, and in no score."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest
import torch
from tests.look import decoded
from tests.look.pages import shown
from torch import Tensor

import regard
from regard import AttentionWeights, masks, reference
from regard.look import spoilt
from regard.look.measure import measure

NOTE = (
    "weights are NaN in {where}. Those queries, and the cells of a map that hold one, are shown as if they might "
    "attend to nothing, and no score counts them; look at the inputs and parameters of the layers"
)


def some(length: int, *bad: tuple[int, int], seed: int = 0) -> tuple[AttentionWeights, Tensor]:
    """Causal weights of two heads whose queries (head, query) are NaN, and by definition those of zeros there."""
    generator = torch.Generator().manual_seed(seed)
    q, k, v = 2 * torch.randn(3, 1, 2, length, 8, generator=generator)
    allowed = masks.causal().to_dense(length)
    want = reference.attention(q.double(), k.double(), v.double(), allowed).weights[0]  # (H, L, S)
    for head, query in bad:
        q[0, head, query] = torch.nan
        want[head, query] = 0
    return regard.attention(q, k, v, masks.causal())[1], want


def read(page: Any) -> tuple[dict[str, Any], list[decoded.Head]]:
    (group,) = shown(page)["groups"]
    return group, [decoded.head(group, head) for head in range(len(group["heads"]))]


def test_a_query_reads_as_nothing_and_not_as_zeros() -> None:
    weights, want = some(12, (0, 7))
    page = regard.look(weights)
    group, heads = read(page)
    assert page.data.notes == (NOTE.format(where="layer 0 (head 0: 1 of 12 queries)"),)
    for head in range(2):
        bad = [7] if head == 0 else []
        assert np.flatnonzero(np.isnan(heads[head].mean).all(-1)).tolist() == bad
        assert np.flatnonzero((heads[head].keys == decoded.NONE).all(-1)).tolist() == bad
        assert np.flatnonzero(np.isnan(heads[head].first)).tolist() == bad
        np.testing.assert_allclose(np.nan_to_num(heads[head].mean), want[head], rtol=3e-4, atol=2e-9)
        order = np.argsort(-want[head].sum(0).numpy(), kind="stable")[:8]
        assert heads[head].most_read.tolist() == order.tolist()
        np.testing.assert_allclose(heads[head].receives, want[head].sum(0)[order.copy()], rtol=1e-5)
        assert heads[head].total_of.tolist() == pytest.approx(want[head].sum(-1).tolist())
        scores = group["heads"][head]["scores"]
        entropy = torch.special.entr(want[head]).sum(-1)
        assert scores["entropy"] == pytest.approx(float(entropy.sum() / (12 - len(bad))), rel=1e-4)
        received = want[head].sum(0)
        assert scores["concentration"] == pytest.approx(float(received.max() / received.sum()), rel=1e-4)
        assert group["heads"][head]["top_key"] == int(received.argmax())
        left = group["heads"][head]["without_first"]
        assert left["scores"]["concentration"] == pytest.approx(
            float(received[1:].max() / received[1:].sum()), rel=1e-4
        )
        assert left["top_key"] == 1 + int(received[1:].argmax())
        rows = want[head, 1:, 1:] / (1 - want[head, 1:, :1])  # query 0 has nothing left
        entropy = torch.special.entr(rows).sum(-1)
        assert left["scores"]["entropy"] == pytest.approx(float(entropy.sum() / (11 - len(bad))), rel=1e-3)
        assert heads[head].entropy_left_of.tolist() == pytest.approx([0, *entropy.tolist()], abs=2e-3)
    assert not any(re.search("nan", sentence) for sentence in page.data.guide)
    assert any(sentence.startswith("Most attended-to tokens") for sentence in page.data.guide)


def test_without_a_mask_there_is_hatching_all_the_same() -> None:
    q = torch.randn(1, 6, 4, generator=torch.Generator().manual_seed(0))
    q[0, 2] = torch.nan
    group, (head,) = read(regard.look(regard.attention_weights(q, torch.ones(1, 6, 4))))
    assert group["masked"] is True
    assert np.isnan(head.mean).all(-1).tolist() == [False, False, True, False, False, False]


def test_the_cells_and_windows_that_hold_one() -> None:
    length = 1100
    weights, want = some(length, (1, 3), (1, length - 5))
    group, heads = read(regard.look(weights))
    assert (group["rows"], group["cols"]) == (512, 512)
    edges = [row * length // 512 for row in range(513)]
    bad = [row for row in range(512) if any(edges[row] <= at < edges[row + 1] for at in (3, length - 5))]
    for codes in (heads[1].mean, heads[1].max):
        assert np.flatnonzero(np.isnan(codes).all(-1)).tolist() == bad
    assert not np.isnan(heads[0].mean).all(-1).any()
    diagonal = next(at for at, each in enumerate(group["heads"][1]["windows"]) if each["name"] == "diagonal")
    window = heads[1].windows[diagonal]
    assert np.flatnonzero(np.isnan(window).all(-1)).tolist() == [len(window) - 5]
    np.testing.assert_allclose(np.nan_to_num(window), want[1, -64:, -64:], rtol=3e-4, atol=2e-9)


def test_what_keys_receive_is_summed_some_queries_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spoilt, "BLOCK_ENTRIES", 2 * 30 * 4)
    weights, want = some(30, (0, 0), (1, 29), (1, 4))
    (found,) = measure([weights]).groups[0].measures
    torch.testing.assert_close(found.margins.received.double(), want.sum(-2), rtol=1e-5, atol=1e-6)


def test_the_note_names_layers_heads_and_queries(monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = some(6, (0, 1), (1, 2), (1, 3))[0], some(6)[0]
    where = "layer 0 (all 2 heads: 1 to 2 of 6 queries), layer 2 (all 2 heads: 1 to 2 of 6 queries)"
    assert regard.look([one, two, one]).data.notes == (NOTE.format(where=where),)
    tabs = {"a": one, "b": two, "c": some(6, (1, 0))[0]}
    assert regard.look(tabs).data.notes[1] == "c: " + NOTE.format(where="layer 0 (head 1: 1 of 6 queries)")
    monkeypatch.setattr(spoilt, "NAMED", 1)
    where = "layer 0 (all 2 heads: 1 to 2 of 6 queries) and 2 more layers"
    assert regard.look([one] * 3).data.notes == (NOTE.format(where=where),)
    assert regard.look([two]).data.notes == ()


@pytest.mark.parametrize("value", [float("nan"), 1e30])
def test_nothing_but_nan_is_refused(value: float) -> None:
    q = torch.full((1, 2, 5, 4), value)
    weights = regard.attention(q, q, q, masks.causal())[1]
    with pytest.raises(ValueError, match="weights are NaN in every layer and head, for every query that may attend"):
        regard.look(weights)
    page = regard.look([weights, some(5)[0]])
    assert page.data.notes == (NOTE.format(where="layer 0 (all 2 heads: 5 of 5 queries)"),)
    assert any(sentence.startswith("Most attended-to tokens") for sentence in page.data.guide)
    assert not any("Layer 0" in sentence for sentence in page.data.guide)
