"""Derivatives: gradcheck over combinations of options, second derivatives, and what happens to tensors written to."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

import regard
from regard import masks

ALLOWED = torch.tensor([[1, 0, 1, 1, 0], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1], [0, 1, 1, 0, 1]]).bool()
COMBINATIONS = {
    "plain": (None, {}),
    "causal, L < S": (masks.causal(), {}),
    "causal from row 1, an empty row": (masks.causal(offset=-1), {}),
    "window": (masks.window(2), {}),
    "a tensor with an empty row": (ALLOWED, {}),
    "bias": (None, {"bias": (4, 5)}),
    "bias per head, causal": (masks.causal(), {"bias": (2, 1, 5)}),
    "bias per row, tensor": (ALLOWED, {"bias": (1, 1, 4, 1)}),
    "sinks": (None, {"sinks": (2,)}),
    "sinks, an empty row": (ALLOWED, {"sinks": (2,)}),
    "softcap": (None, {"softcap": 1.5}),
    "softcap, bias, sinks, scale, tensor": (ALLOWED, {"softcap": 1.5, "bias": (4, 5), "sinks": (2,), "scale": 0.7}),
    "negative scale": (masks.causal(), {"scale": -0.5}),
}
combinations = pytest.mark.parametrize(("mask", "options"), COMBINATIONS.values(), ids=COMBINATIONS.keys())


def leaves(options: dict, kv_heads: int = 1) -> tuple[list[Tensor], list[str], dict]:
    """query (1, 2, 4, 3), key and value (1, 1, 5, ...) and the tensors among the options; the other options."""
    torch.manual_seed(5)

    def leaf(*sizes: int) -> Tensor:
        return torch.randn(sizes, dtype=torch.float64, requires_grad=True)

    given = {name: sizes for name, sizes in options.items() if isinstance(sizes, tuple)}
    tensors = [leaf(1, 2, 4, 3), leaf(1, kv_heads, 5, 3), leaf(1, kv_heads, 5, 2), *(leaf(*s) for s in given.values())]
    return tensors, list(given), {name: x for name, x in options.items() if name not in given}


def outputs(mask, names, rest, impl="auto"):
    """A function of tensors alone: the output, and the lse of the rows that have one."""

    def function(q, k, v, *more):
        output, weights = regard.attention(q, k, v, mask, **dict(zip(names, more, strict=True)), **rest, impl=impl)
        return output, weights.lse[torch.isfinite(weights.lse)]

    return function


@combinations
def test_gradcheck(mask, options):
    tensors, names, rest = leaves(options)
    assert gradcheck(outputs(mask, names, rest), tensors)


QUESTIONS = {
    "weights @ x": lambda w: w @ torch.linspace(-1, 1, 10, dtype=torch.float64).view(5, 2),
    "entropy": lambda w: w.entropy(),
    "row": lambda w: w[0, 1, 2],
    "entries": lambda w: w[0, [0, 1, 1], [3, 2, 0], [0, 4, 2]],
    "to_dense": lambda w: w.to_dense(),
}


@pytest.mark.parametrize("question", QUESTIONS)
@pytest.mark.parametrize(
    "name", ["plain", "causal, L < S", "sinks", "sinks, an empty row", "a tensor with an empty row"]
)
def test_gradcheck_through_the_weights(question, name):
    mask, options = COMBINATIONS[name]
    tensors, names, rest = leaves(options)
    del tensors[2]

    def function(q, k, *more):
        weights = regard.attention(q, k, k, mask, **dict(zip(names, more, strict=True)), **rest)[1]
        return QUESTIONS[question](weights)

    assert gradcheck(function, tensors)


@pytest.mark.parametrize("question", ["weights @ x", "row", "entries", "to_dense"])
def test_gradcheck_through_the_weights_with_every_option(question):
    mask, options = COMBINATIONS["softcap, bias, sinks, scale, tensor"]
    tensors, names, rest = leaves(options)

    def function(q, k, v, *more):
        return QUESTIONS[question](regard.attention(q, k, v, mask, **dict(zip(names, more, strict=True)), **rest)[1])

    assert gradcheck(function, tensors)


@combinations
def test_second_derivatives_through_the_reference(mask, options):
    tensors, names, rest = leaves(options)
    assert gradgradcheck(outputs(mask, names, rest, impl="reference"), tensors, fast_mode=True)


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}], ids=["flash", "rows"])
def test_second_derivatives_elsewhere_say_where_to_find_them(options):
    (q, k, v), _, _ = leaves({})
    output = regard.attention(q, k, v, **options)[0]
    (first,) = torch.autograd.grad(output.square().sum(), q, create_graph=True)
    with pytest.raises(RuntimeError, match=r'first derivatives only; .* use impl="reference"'):
        first.sum().backward()


def test_a_first_derivative_with_create_graph_is_right():
    (q, k, v), _, _ = leaves({})
    output = regard.attention(q, k, v)[0]
    (want,) = torch.autograd.grad(output.sum(), q, retain_graph=True)
    (got,) = torch.autograd.grad(output.sum(), q, create_graph=True)
    assert torch.equal(got, want)


@pytest.mark.parametrize("wanted", range(3), ids=["query", "key", "value"])
def test_one_input_alone_may_require_grad(wanted):
    (q, k, v), _, _ = leaves({})
    want = torch.autograd.grad(regard.attention(q, k, v)[0].sum(), (q, k, v))[wanted]
    alone = [t.detach() for t in (q, k, v)]
    alone[wanted].requires_grad_()
    (got,) = torch.autograd.grad(regard.attention(*alone)[0].sum(), [alone[wanted]])
    assert torch.equal(got, want)


@pytest.mark.parametrize("name", ["query", "key", "bias", "sinks"])
def test_weights_refuse_inputs_that_were_written_to(name):
    torch.manual_seed(0)
    given = {"query": torch.randn(1, 2, 4, 3), "key": torch.randn(1, 2, 5, 3), "value": torch.randn(1, 2, 5, 3)}
    given |= {"bias": torch.zeros(4, 5), "sinks": torch.zeros(2)}
    weights = regard.attention(**given)[1]
    row = weights[0, 0, 0]
    given[name].add_(1)
    for ask in (
        lambda: weights[0, 0, 0],
        weights.entropy,
        weights.received,
        weights.to_dense,
        lambda: weights @ given["value"],
    ):
        with pytest.raises(
            RuntimeError, match=rf"{name} was written to after regard.attention\(\).*pass {name}.clone\(\)"
        ):
            ask()
    assert torch.isfinite(row).all()


def test_value_may_be_written_to():
    q, k, v = (torch.randn(1, 2, 4, 3) for _ in range(3))
    weights = regard.attention(q, k, v)[1]
    v.zero_()
    assert weights.entropy().all()


def test_autograd_notices_a_write_before_the_backward_pass():
    (q, k, v), _, _ = leaves({})
    output = regard.attention(q, k, v)[0]
    with torch.no_grad():
        k.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        output.sum().backward()
