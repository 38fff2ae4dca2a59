"""weights.ask() gives what the methods give, in one sweep; attention_weights() gives the weights without an output."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import operator_properties as properties
from tests.properties import assert_near, largest
from tests.strategies import Case, cases, examples

import regard
from regard import masks, sweep

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def alone(query, key, value, mask=None, **options) -> tuple[None, regard.AttentionWeights]:
    """The weights as attention() would return them beside an output, made by attention_weights()."""
    return None, regard.attention_weights(query, key, mask, **options)


def asked_together(made: Any) -> Any:
    """A function like attention() whose weights answer by ask(), all questions that a sweep can answer at once."""

    class Asking:
        def __init__(self, make):
            self.make = make

        def __getattr__(self, name):
            def method(*args):
                others = ["entropy", "received", "distance", "max_logit", ("mass", 0), ("topk", 1), ("pool", 1, 1)]
                # Weights anew: the first sweep leaves the lse behind, and the next one is another.
                return self.make()[1].ask(*others, (name, *args))[-1]

            return method

    def attention(*args, **options):
        return None, Asking(lambda: made(*args, **options))

    return attention


MADE = {"beside an output": regard.attention, "alone": alone}


@pytest.mark.parametrize("made", MADE.values(), ids=MADE)
@examples(25)
@given(cases(dtypes=DTYPES), st.integers(1, 9), st.integers(1, 9), st.sampled_from((1, 3, 8)))
def test_asked_together_the_answers_are_those_of_the_definition(made, case: Case, rows: int, cols: int, k: int):
    together = asked_together(made)
    weights, truth = case.run(together)[1], case.truth()
    near = properties.tolerance(case.query.dtype)
    entropy = torch.special.entr(truth.weights).sum(-1)
    assert_near("entropy", weights.entropy(), entropy, near * 8 * largest(truth.lse))
    assert_near("received", weights.received(), truth.weights.sum(-2), near * truth.weights.shape[-2])
    properties.max_logit_matches_the_definition(together, case)
    apart = torch.arange(truth.weights.shape[-2])[:, None] + truth.weights.shape[-1] - truth.weights.shape[-2]
    apart = (apart - torch.arange(truth.weights.shape[-1])).abs()
    assert_near("distance", weights.distance(), (truth.weights * apart).sum(-1), near * largest(apart.double()))
    assert_near("mass", weights.mass([0]), truth.weights[..., 0], near)
    rows, cols = min(rows, truth.weights.shape[-2]), min(cols, truth.weights.shape[-1])
    for reduce in ("mean", "max"):
        pooled = properties.pooled(truth.weights, rows, cols, reduce)
        assert_near(f"pool {reduce}", weights.pool(rows, cols, reduce), pooled, near)
    k = min(k, truth.weights.shape[-1])
    assert_near("topk", weights.topk(k).values, truth.weights.topk(k, -1).values, near)


@examples(25)
@given(cases(dtypes=DTYPES))
def test_weights_alone_are_those_of_the_definition(case: Case):
    properties.weights_match_the_definition(alone, case)
    properties.products_match_the_definition(alone, case)
    properties.statistics_match_the_definition(alone, case)


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 2, 4, 40, 8, generator=generator)
    return q, k


def test_answers_come_in_the_order_of_the_questions():
    q, k = problem()
    weights = regard.attention_weights(q, k, masks.causal())
    lse, top, entropy, diagonal = weights.ask(lambda w: w.lse, ("topk", 2), "entropy", ("diagonal", -1))
    assert torch.equal(lse, weights.lse)
    assert torch.equal(top.indices, weights.topk(2).indices)
    torch.testing.assert_close(entropy, weights.entropy())
    assert torch.equal(diagonal, weights.diagonal(-1))


def test_a_row_by_hand():
    # Scores 0 and log 3: weights 1/4 and 3/4.
    q, k = torch.ones(1, 1), torch.tensor([[0.0], [3.0]]).log().nan_to_num(neginf=0.0)
    weights = regard.attention_weights(q, k, scale=1.0)
    received, top, mass = weights.ask("received", ("topk", 1), ("mass", [0]))
    torch.testing.assert_close(received, torch.tensor([0.25, 0.75]))
    assert top.indices.tolist() == [[1]]
    torch.testing.assert_close(mass, torch.tensor([0.25]))


def test_a_sink_far_above_all_scores_takes_all_weight():
    q, k = problem()
    weights = regard.attention_weights(q, k, sinks=torch.tensor([500.0, 0.0, 0.0, 0.0]))
    received, entropy, top = weights.ask("received", "entropy", ("topk", 1))
    assert torch.equal(received[:, 0], torch.zeros(2, 40))
    assert torch.equal(entropy[:, 0], torch.zeros(2, 40))
    assert torch.equal(top.values[:, 0], torch.zeros(2, 40, 1))
    assert (received[:, 1:] > 0).all()


def test_all_of_it_is_one_sweep(monkeypatch):
    calls, right = [], sweep.blocks
    monkeypatch.setattr(sweep, "blocks", lambda *args: calls.append(args) or right(*args))
    q, k = problem()
    regard.attention_weights(q, k).ask("entropy", "received", "distance", "max_logit", ("pool", 4, 4), ("topk", 3))
    assert len(calls) == 1


def test_weights_alone_cost_nothing_before_they_are_asked(monkeypatch):
    from regard import products

    def never(*args):
        raise AssertionError("computed something")

    monkeypatch.setattr(products, "attend", never)
    q, k = problem()
    weights = regard.attention_weights(q, k, masks.causal())
    assert weights.shape == (2, 4, 40, 40)
    assert "causal" in repr(weights)
    with pytest.raises(AssertionError, match="computed something"):
        _ = weights.lse


def test_the_lse_that_a_sweep_finds_is_kept(monkeypatch):
    from regard import products

    q, k = problem()
    weights = regard.attention_weights(q, k, masks.causal())
    weights.ask("received")
    monkeypatch.setattr(products, "attend", None)
    want = regard.reference.attention(q.double(), k.double(), k.double(), masks.causal().to_dense(40, 40)).lse
    torch.testing.assert_close(weights.lse.double(), want, rtol=1e-5, atol=1e-5)


def test_weights_alone_are_differentiable():
    q, k = (t.double().requires_grad_() for t in problem())
    weights = regard.attention_weights(q, k, masks.causal())
    for ask in (lambda w: w.lse, lambda w: w.entropy(), lambda w: w @ k):
        beside = regard.attention(q, k, k, masks.causal())[1]
        ours, theirs = (torch.autograd.grad(ask(w).square().sum(), (q, k)) for w in (weights, beside))
        torch.testing.assert_close(ours, theirs)
    assert not weights.detach().lse.requires_grad


@pytest.mark.parametrize(
    ("question", "error", "message"),
    [
        ("entropie", ValueError, r"'entropie' cannot be asked; expected one of entropy, .*did you mean 'entropy'"),
        ("pool", ValueError, r"pool takes 2 to 3 arguments, as \('pool', \.\.\.\), got 'pool'"),
        (("entropy", 1), ValueError, r"entropy takes 0 arguments"),
        (("topk", 41), ValueError, r"topk\(k\): k must be in 1\.\.S=40, got 41"),
        (3, TypeError, r"a question is a name, a tuple of a name and its arguments, or a function"),
        ((), TypeError, r"a question is a name"),
    ],
)
def test_a_question_that_cannot_be_asked(question, error, message):
    q, k = problem()
    with pytest.raises(error, match=message):
        regard.attention_weights(q, k).ask(question)


def test_no_question():
    q, k = problem()
    with pytest.raises(ValueError, match=r"expected at least one question, of entropy, received"):
        regard.attention_weights(q, k).ask()


def test_weights_alone_refuse_what_attention_refuses():
    q, k = problem()
    with pytest.raises(ValueError, match="query and key must have the same width"):
        regard.attention_weights(q, k[..., :4])
    with pytest.raises(TypeError, match="bias="):
        regard.attention_weights(q, k, torch.zeros(40, 40))
    weights = regard.attention_weights(q, k)
    q.zero_()
    with pytest.raises(RuntimeError, match="query was written to"):
        weights.ask("entropy")
