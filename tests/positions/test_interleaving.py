"""From one pairing to the other, by the rows of a projection."""

from __future__ import annotations

import pytest
import torch

from regard.positions import Rotary, interleave


def test_by_hand():
    rows = torch.arange(12.0).view(6, 2)  # one head of width 6, of which 4 columns turn
    assert interleave(rows, 6, rotary_dim=4)[:, 0].tolist() == [0, 4, 2, 6, 8, 10]


@pytest.mark.parametrize("rotary_dim", [None, 4])
def test_the_scores_stay(rotary_dim):
    x = torch.randn(2, 5, 16, dtype=torch.float64)
    wq, wk = torch.randn(3 * 8, 16, dtype=torch.float64), torch.randn(8, 16, dtype=torch.float64)
    bias = torch.randn(3 * 8, dtype=torch.float64)

    def scores(wq, wk, bias, pairing):
        q = (x @ wq.T + bias).unflatten(-1, (3, 8)).transpose(1, 2)
        k = (x @ wk.T).unflatten(-1, (1, 8)).transpose(1, 2)
        q, k = Rotary(8, pairing=pairing, rotary_dim=rotary_dim).rotate(q, k, offset=9)
        return q @ k.mT

    for pairing, other in (("halves", "interleaved"), ("interleaved", "halves")):
        moved = (interleave(w, 8, rotary_dim=rotary_dim, to=other) for w in (wq, wk, bias))
        torch.testing.assert_close(scores(*moved, other), scores(wq, wk, bias, pairing), rtol=0, atol=1e-12)
        assert not torch.allclose(scores(wq, wk, bias, other), scores(wq, wk, bias, pairing))


def test_there_and_back_is_a_copy():
    weight = torch.randn(3 * 10, 4)
    back = interleave(interleave(weight, 10, rotary_dim=6), 10, rotary_dim=6, to="halves")
    assert torch.equal(back, weight)
    assert back.data_ptr() != weight.data_ptr()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (([1.0], 4), {}, TypeError, "weight must be a torch.Tensor, got list"),
        (
            (torch.ones(6, 2), 4),
            {},
            ValueError,
            "weight must have rows for whole heads, a multiple of head_dim=4, got ",
        ),
        ((torch.ones(()), 4), {}, ValueError, "weight must have rows for whole heads"),
        ((torch.ones(6, 2), 3), {}, ValueError, "head_dim must be an even number of at least 2, got 3"),
        (
            (torch.ones(6, 2), 6),
            {"rotary_dim": 3},
            ValueError,
            "rotary_dim must be an even number of at least 2, got 3",
        ),
        ((torch.ones(6, 2), 6), {"rotary_dim": 8}, ValueError, "rotary_dim must be at most dim=6, the width of a head"),
        ((torch.ones(6, 2), 6), {"to": "thirds"}, ValueError, "to must be 'halves' or 'interleaved', got 'thirds'"),
    ],
)
def test_bad_arguments(arguments, options, error, message):
    with pytest.raises(error, match=message):
        interleave(*arguments, **options)
