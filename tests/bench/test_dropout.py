from __future__ import annotations

import pytest
import torch

import regard
from regard.bench import dropout
from regard.bench.case import Disagreement
from regard.bench.timing import interleave


def small():
    # Longer than wide, and no multiple of it: the dropped weights are read off in several pieces.
    return dropout.dropout_duel(70, num_heads=2, width=16)


def test_a_small_step_agrees_and_can_be_timed():
    duel = small()
    assert "that it dropped, against float64" in duel.check()
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def test_the_check_leaves_the_generator_as_it_was():
    before = torch.get_rng_state()
    small().check()
    assert torch.equal(before, torch.get_rng_state())


def test_weights_that_are_not_scaled_are_refused(monkeypatch: pytest.MonkeyPatch):
    right = regard.attention
    duel = small()

    def unscaled(q, k, v, dropout):
        output, weights = right(q, k, v, dropout=dropout)
        return output * (1 - dropout), weights

    monkeypatch.setattr(regard, "attention", unscaled)
    with pytest.raises(Disagreement, match="weights after dropout: off by"):
        duel.check()


def test_dropping_too_few_is_refused(monkeypatch: pytest.MonkeyPatch):
    duel, right = small(), regard.attention

    def rarely(q, k, v, dropout):
        output, weights = right(q, k, v, dropout=dropout / 4)
        return output * (1 - dropout / 4) / (1 - dropout), weights

    monkeypatch.setattr(regard, "attention", rarely)
    with pytest.raises(Disagreement, match=r"dropped: a share of 0\.02.*; expected 0\.1 within"):
        duel.check()


def test_a_backward_pass_that_drops_others_is_refused(monkeypatch: pytest.MonkeyPatch):
    right = regard.attention

    class Other(torch.autograd.Function):
        """The output of one draw with the gradients of another."""

        @staticmethod
        def forward(ctx, q, k, v, p):
            ctx.save_for_backward(q, k, v)
            ctx.p = p
            return right(q, k, v, dropout=p)[0]

        @staticmethod
        def backward(ctx, grad):
            with torch.enable_grad():
                given = [x.detach().requires_grad_() for x in ctx.saved_tensors]
                output = right(*given, dropout=ctx.p)[0]
            return *torch.autograd.grad(output, given, grad), None

    duel = small()
    monkeypatch.setattr(regard, "attention", lambda q, k, v, dropout: (Other.apply(q, k, v, dropout), None))
    with pytest.raises(Disagreement, match="gradient of query: off by"):
        duel.check()
