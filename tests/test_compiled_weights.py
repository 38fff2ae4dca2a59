"""The weights of an attention that ran in a compiled graph."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from tests.compiling import LENGTH, MASKS, NEAR, causal, fresh, qkv, same, whole

import regard
from regard import masks

__all__ = ["fresh"]

QUESTIONS = {
    "lse": lambda w, v: w.lse,
    "entropy": lambda w, v: w.entropy(),
    "received": lambda w, v: w.received(),
    "pool": lambda w, v: w.pool(2, 3),
    "topk": lambda w, v: w.topk(2).values,
    "diagonal": lambda w, v: w.diagonal(),
    "distance": lambda w, v: w.distance(),
    "mass": lambda w, v: w.mass([0, 1]),
    "max_logit": lambda w, v: w.max_logit(),
    "one row": lambda w, v: w[0, 1, 2],
    "dense": lambda w, v: w.to_dense(),
    "product": lambda w, v: w @ v,
    "transposed": lambda w, v: w.mT @ torch.ones(LENGTH),
    "detached": lambda w, v: w.detach().to_dense(),
}


@pytest.mark.parametrize("name", ["none", "causal", "documents"])
def test_weights_that_a_graph_returns_answer_everything(name):
    mask, (q, k, v) = MASKS[name], qkv(LENGTH)
    sinks = torch.randn(4)
    attend = whole(lambda q, k, v: regard.attention(q, k, v, mask, sinks=sinks))
    (_, got), (_, want) = attend(q, k, v), regard.attention(q, k, v, mask, sinks=sinks)
    assert isinstance(got, regard.AttentionWeights)
    assert (got.shape, got.dtype, got.device, got.ndim) == (want.shape, want.dtype, want.device, want.ndim)
    assert repr(got) == repr(want)
    for question in QUESTIONS.values():
        torch.testing.assert_close(question(got, v), question(want, v), **NEAR)


def test_gradients_through_weights_that_a_graph_returned():
    q, k, v = qkv()
    attend = whole(lambda q, k, v: regard.attention(q, k, v, masks.causal()))

    def loss(output, weights):
        return output.square().sum() + weights.lse.square().sum() + weights.entropy().sum() + weights[:, 0, 3].sum()

    got, want = (torch.autograd.grad(loss(*f(q, k, v)), (q, k, v)) for f in (attend, causal))
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, **NEAR)


def test_weights_made_without_gradients_have_none():
    q, k, v = qkv()
    with torch.no_grad():
        _, weights = whole(causal)(q, k, v)
    assert not weights.lse.requires_grad
    assert not weights.entropy().requires_grad
    assert not weights[0, 0, 0].requires_grad


def test_weights_that_a_graph_returned_notice_a_write():
    q, k, v = (t.detach() for t in qkv())
    _, weights = whole(causal)(q, k, v)
    weights.received()
    k.zero_()
    with pytest.raises(RuntimeError, match=r"key was written to after regard.attention\(\) returned these weights"):
        weights.received()


@pytest.mark.parametrize("how", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))], ids=["copy", "pickle"])
def test_weights_that_a_graph_returned_can_be_copied(how):
    given = tuple(t.detach() for t in qkv())
    _, weights = whole(causal)(*given)
    torch.testing.assert_close(how(weights).received(), causal(*given)[1].received(), **NEAR)


def test_lse_and_entropy_are_answered_in_the_graph():
    sinks = torch.randn(4, requires_grad=True)

    def questions(q, k, v, sinks):
        output, weights = regard.attention(q, k, v, masks.window(4) | masks.prefix(1), sinks=sinks)
        return output.sum(-1) + weights.lse.square() + weights.entropy()

    same(questions, *qkv(), sinks, dynamic=True)


def test_a_product_with_the_weights_is_answered_in_the_graph():
    x = torch.randn(4, 12, 3, requires_grad=True)
    # Called by its name: torch 2.13 cannot trace `@` between an object that is no tensor and a tensor.
    same(lambda q, k, v, x: causal(q, k, v)[1].__matmul__(x), *qkv(), x)
    same(lambda q, k, v: causal(q, k, v)[1].__matmul__(torch.arange(12)), *qkv())


def test_other_questions_in_one_graph_say_what_to_do():
    with pytest.raises(torch._dynamo.exc.Unsupported, match=r"return the weights from the compiled function"):
        whole(lambda q, k, v: causal(q, k, v)[1].received())(*qkv())


@pytest.mark.parametrize("name", ["received", "topk", "one row", "dense", "product"])
def test_other_questions_break_a_graph_that_may_be_broken(name):
    q, k, v = qkv()
    ask = QUESTIONS[name]
    compiled = torch.compile(lambda q, k, v: ask(causal(q, k, v)[1], v) * 2, backend="aot_eager")
    torch.testing.assert_close(compiled(q, k, v), ask(causal(q, k, v)[1], v) * 2, **NEAR)
