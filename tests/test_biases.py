"""Biases of low rank: the same as the dense bias, for every option and question, and without its memory."""

from __future__ import annotations

import math

import pytest
import torch
from tests.allocations import largest_of
from tests.compiling import fresh, whole
from tests.properties import assert_near, budget, largest, rms
from torch import Tensor

import regard
from regard import biases, masks, reference

__all__ = ["fresh"]

IDS = torch.arange(40) // 15
CAUSAL = {
    "causal": masks.causal(),
    "earlier": masks.causal(offset=-3),
    "window": masks.window(5),
    "padding": masks.causal() & masks.padding(torch.tensor([40, 17])),
    "documents": masks.causal() & masks.documents(IDS),
    "rule": masks.where(lambda b, h, q, kv: (kv <= q + 16) & ((q + kv + h) % 3 > 0)),
    "holes": masks.causal() & masks.dense(torch.rand(24, 40, generator=torch.Generator().manual_seed(3)) > 0.4),
}
OPEN = {"none": None, "band": masks.band(4, 9), "prefix": masks.prefix(30) | masks.causal(), "not": ~masks.causal()}
SHAPES = {
    "heads": ((2, 4, 24, 8), (2, 4, 40, 8)),
    "grouped": ((2, 4, 24, 8), (2, 2, 40, 8)),
    "one key head": ((2, 4, 24, 8), (2, 1, 40, 8)),
    "two batch axes": ((1, 2, 4, 24, 8), (1, 2, 2, 40, 8)),
}


def inputs(shape: str, dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(7)
    rows, keys = SHAPES[shape]
    return tuple(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype) for s in (rows, keys, keys))


def thin(heads: int, kv_heads: int, dtype: torch.dtype = torch.float64) -> biases.LowRank:
    generator = torch.Generator().manual_seed(9)
    rows = torch.randn(heads, 24, 3, generator=generator, dtype=torch.float64).to(dtype)
    return biases.low_rank(rows, torch.randn(kv_heads, 40, 3, generator=generator, dtype=torch.float64).to(dtype))


def truth(q: Tensor, k: Tensor, v: Tensor, mask: masks.Mask | None, bias: Tensor, **options: object):
    """The definition in float64, with the dense bias."""
    allowed = None
    if mask is not None:
        allowed = mask.to_dense(q.shape[-2], k.shape[-2], batch=q.shape[:-3].numel(), num_heads=q.shape[-3])
    return reference.attention(q.double(), k.double(), v.double(), allowed, bias=bias.double(), **options)


def test_alibi_by_hand():
    # Scores of 0, slope log 2: each step back halves a weight.
    q = k = torch.zeros(1, 1, 3, 2)
    weights = regard.attention(q, k, k, masks.causal(), bias=biases.alibi(torch.tensor([math.log(2)])))[1]
    want = torch.tensor([[1, 0, 0], [1 / 3, 2 / 3, 0], [1 / 7, 2 / 7, 4 / 7]])
    torch.testing.assert_close(weights.to_dense()[0, 0], want)
    assert weights.lse[0, 0].tolist() == pytest.approx([math.log(n) for n in (1, 1.5, 1.75)], abs=1e-6)


def test_low_rank_by_hand():
    q = k = torch.zeros(1, 1, 2, 2)
    rows, cols = torch.tensor([[1.0], [2.0]]), torch.tensor([[0.0], [math.log(3)]])
    weights = regard.attention(q, k, k, bias=biases.low_rank(rows, cols))[1]
    torch.testing.assert_close(weights.to_dense()[0, 0], torch.tensor([[1 / 4, 3 / 4], [1 / 10, 9 / 10]]))


def test_the_slopes_of_the_paper():
    assert biases.alibi(8).slopes == tuple(2.0**-n for n in range(1, 9))
    assert biases.alibi(16).slopes == tuple(2.0 ** (-n / 2) for n in range(1, 17))
    # Twelve heads: those of eight, and every other of sixteen.
    assert biases.alibi(12).slopes == (*biases.alibi(8).slopes, *(2.0 ** (-n / 2) for n in (1, 3, 5, 7)))
    assert biases.alibi(1).slopes == (2.0**-8,)


def test_the_distance_is_that_of_positions():
    # The last query stands at the last key, whatever L is; both directions in the dense form.
    dense = biases.alibi(torch.tensor([2.0])).to_dense(2, 3)
    assert dense.tolist() == [[[-2.0, 0.0, -2.0], [-4.0, -2.0, 0.0]]]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CAUSAL)
def test_alibi_is_the_dense_bias(name, shape):
    (q, k, v), bias = inputs(shape), biases.alibi(4)
    output, weights = regard.attention(q, k, v, CAUSAL[name], bias=bias)
    want = truth(q, k, v, CAUSAL[name], bias.to_dense(24, 40))
    for what, got, exact in (("output", output, want.output), ("lse", weights.lse, want.lse)):
        assert_near(what, got, exact, budget(torch.float64, largest(exact)))
    assert_near("weights", weights.to_dense(), want.weights, budget(torch.float64, 1))


@pytest.mark.parametrize("kv_heads", [1, 0])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", CAUSAL | OPEN)
def test_low_rank_is_the_dense_bias(name, shape, kv_heads):
    q, k, v = inputs(shape)
    bias, mask = thin(4, kv_heads or k.shape[-3]), (CAUSAL | OPEN)[name]
    output, weights = regard.attention(q, k, v, mask, bias=bias)
    want = truth(q, k, v, mask, bias.to_dense(24, 40))
    for what, got, exact in (("output", output, want.output), ("lse", weights.lse, want.lse)):
        assert_near(what, got, exact, budget(torch.float64, largest(exact)))


@pytest.mark.parametrize("options", [{"scale": 0.0}, {"scale": -0.7}, {"scale": 3}, {"sinks": torch.randn(4).double()}])
@pytest.mark.parametrize("impl", ["auto", "reference", "fused"])
def test_options(options, impl):
    q, k, v = inputs("grouped")
    for bias in (biases.alibi(4), thin(4, 2)):
        output = regard.attention(q, k, v, masks.causal(), bias=bias, impl=impl, **options)[0]
        want = truth(q, k, v, masks.causal(), bias.to_dense(24, 40), **options).output
        assert_near("output", output, want, budget(torch.float64, largest(want)))


def test_dropout_drops_the_weights_of_the_dense_bias():
    q, k, v = inputs("heads")
    results = []
    for bias in (biases.alibi(4), biases.alibi(4).to_dense(24, 40).double()):
        torch.manual_seed(1)
        results.append(regard.attention(q, k, v, masks.causal(), bias=bias, dropout=0.4)[0])
    assert_near("output", *results, budget(torch.float64, largest(v)))


@pytest.mark.parametrize("shape", [(3, 24, 8), (24, 8)])
def test_inputs_without_heads(shape):
    q, k, v = torch.randn(3, *shape, dtype=torch.float64)
    generator = torch.Generator().manual_seed(2)
    rows, cols = torch.randn(2, *shape[:-1], 2, generator=generator, dtype=torch.float64)
    for bias in (biases.alibi(torch.tensor([0.3], dtype=torch.float64)), biases.low_rank(rows, cols)):
        output = regard.attention(q, k, v, masks.causal(), bias=bias)[0]
        dense = bias.to_dense(24, 24).double()
        dense = dense if dense.dim() == len(shape) or len(shape) == 3 else dense[0]
        want = reference.attention(q, k, v, torch.ones(24, 24, dtype=torch.bool).tril(), bias=dense).output
        assert_near("output", output, want, budget(torch.float64, largest(want)))


def test_one_query_against_a_cache():
    q, k, v = inputs("grouped")
    every = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(4))[0]
    last = regard.attention(q[..., -1:, :], k, v, bias=biases.alibi(4))[0]  # no mask: nothing is ahead of it
    assert_near("output", last, every[..., -1:, :], budget(torch.float64, largest(v)))


def by_definition(query, key, value, mask=None, *, slopes):
    """The definition, as a function of slopes."""
    allowed = None if mask is None else mask.to_dense(query.shape[-2], key.shape[-2])
    bias = biases.alibi(slopes).to_dense(query.shape[-2], key.shape[-2])
    return reference.attention(query, key, value, allowed, bias=bias).output


def long(length: int, *, rows: Tensor, slopes: Tensor, dtype: torch.dtype = torch.float32):
    """Output and lse of some rows of causal ALiBi, and the float64 truth of them."""
    generator = torch.Generator().manual_seed(7)
    q, k, v = torch.randn(3, 1, len(slopes), length, 16, generator=generator).to(dtype)
    output, weights = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(slopes))
    back = rows[:, None] - torch.arange(length)
    scores = q[:, :, rows].double() @ k.double().mT / 4 - slopes.double()[:, None, None] * back
    scores = scores.masked_fill(back < 0, -torch.inf)
    return output[:, :, rows], weights, scores.softmax(-1) @ v.double(), scores.logsumexp(-1), v


@pytest.mark.parametrize("length", [1000, 8192])
def test_the_terms_that_cancel_leave_no_error(length):
    # slope * position is 5800, and a rounding of it 2^-12, thirty times the budget of the output.
    rows = torch.cat([torch.arange(0, length, length // 50), torch.arange(length - 20, length)])
    slopes = torch.tensor([2**-0.5, 0.5, 2**-3.3, 2**-8])
    output, weights, want, lse, v = long(length, rows=rows, slopes=slopes)
    assert_near("output", output, want, budget(torch.float32, largest(v)) / 20)
    assert_near("lse", weights.lse[:, :, rows], lse, budget(torch.float32, largest(lse)) / 20)
    row = weights[0, :, length // 8, : length // 8 + 1]  # adds in an order of its own
    assert_near("a row", row.sum(-1), torch.ones(4), budget(torch.float32, 1) / 4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_cannot_hold_positions_and_need_not(dtype):
    length = 3000
    rows = torch.arange(0, length, 60)
    output, _, want, _, _ = long(length, rows=rows, slopes=torch.tensor([2**-0.5, 0.5, 2**-3.3, 2**-8]), dtype=dtype)
    worst = (rms(output.double() - want) / rms(want.to(dtype).double() - want)).max()
    assert worst <= 2, f"{worst:.2f} times the error of rounding the right answer"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_rank_in_half_precision(dtype):
    q, k, v = inputs("grouped", dtype)
    bias = biases.low_rank(thin(4, 2).rows.float() * 9, thin(4, 2).cols.float())  # far from what 8 bits hold
    output = regard.attention(q, k, v, bias=bias)[0]
    want = truth(q, k, v, None, bias.to_dense(24, 40)).output
    assert_near("output", output, want, budget(dtype, largest(v)))


@pytest.mark.parametrize("mask", [masks.causal(), masks.window(3)])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_gradients_in_float64(mask, impl):
    sizes = (1, 4, 5, 3), (1, 2, 6, 3), (1, 2, 6, 2)
    tensors = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes]
    slopes = torch.rand(4, dtype=torch.float64, requires_grad=True)
    rows = torch.randn(4, 5, 2, dtype=torch.float64, requires_grad=True)
    cols = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)

    def alibi(q, k, v, s):
        output, weights = regard.attention(q, k, v, mask, bias=biases.alibi(s), impl=impl)
        return output, weights.lse

    def low_rank(q, k, v, r, c):
        return regard.attention(q, k, v, mask, bias=biases.low_rank(r, c), impl=impl)[0]

    assert torch.autograd.gradcheck(alibi, (*tensors, slopes))
    assert torch.autograd.gradcheck(low_rank, (*tensors, rows, cols))


@pytest.mark.parametrize(("dtype", "within"), [(torch.float32, 1e-4), (torch.float16, 0.02), (torch.bfloat16, 0.1)])
def test_gradients_of_slopes_in_other_precisions(dtype, within):
    # Sums over the distances of all pairs, a product of which is rounded like slope * L.
    q, k, v = inputs("heads", dtype)
    slopes = torch.tensor([0.7, 0.5, 0.1, 0.01])
    found = []
    for cast in (dtype, torch.float64):
        s = slopes.to(torch.promote_types(cast, torch.float32)).requires_grad_()
        output = regard.attention(*(t.to(cast) for t in (q, k, v)), masks.causal(), bias=biases.alibi(s))[0]
        (gradient,) = torch.autograd.grad(output.double().square().sum(), s)
        found.append(gradient)
    assert_near("gradient of slopes", *found, within * largest(found[1]))


def test_scale_zero_has_gradients_of_zero():
    q, k, v = (t.requires_grad_() for t in inputs("heads"))
    output = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(4), scale=0)[0]
    dq, dk, dv = torch.autograd.grad(output.sum() + output.square().sum(), (q, k, v))
    assert not dq.any()
    assert not dk.any()
    assert dv.any()


QUESTIONS = {
    "a product": lambda w: w @ torch.arange(80.0, dtype=torch.float64).view(40, 2),
    "a transposed product": lambda w: w.mT @ torch.arange(48.0, dtype=torch.float64).view(24, 2),
    "entropy": lambda w: w.entropy(),
    "received": lambda w: w.received(),
    "pool": lambda w: w.pool(5, 7),
    "largest": lambda w: w.pool(5, 7, reduce="max"),
    "topk": lambda w: w.topk(3).values,
    "diagonal": lambda w: w.diagonal(3),
    "distance": lambda w: w.distance(),
    "mass": lambda w: w.mass([3, 9]),
    "max_logit": lambda w: w.max_logit(),
    "a row": lambda w: w[1, 2, 17],
    "entries": lambda w: w[1, 2, [17, 18], [3, 9]],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_weights_answer_as_those_of_the_dense_bias(name):
    q, k, v = inputs("grouped")
    for bias in (biases.alibi(4), thin(4, 2)):
        ours = regard.attention(q, k, v, CAUSAL["padding"], bias=bias)[1]
        theirs = regard.attention(q, k, v, CAUSAL["padding"], bias=bias.to_dense(24, 40).double())[1]
        got, want = QUESTIONS[name](ours), QUESTIONS[name](theirs)
        assert_near(name, got, want, 10 * budget(torch.float64, largest(want)))


def test_entropy_has_the_gradient_that_a_dense_bias_takes_from_it():
    q, k, v = inputs("heads")
    slopes = torch.tensor([0.7, 0.5, 0.1, 0.01], dtype=torch.float64, requires_grad=True)
    regard.attention(q, k, v, masks.causal(), bias=biases.alibi(slopes))[1].entropy().sum().backward()
    other = slopes.detach().requires_grad_()
    weights = truth(q, k, v, masks.causal(), biases.alibi(other).to_dense(24, 40)).weights
    torch.special.entr(weights[weights > 0]).sum().backward()
    assert_near("gradient", slopes.grad, other.grad, 1e-9 * largest(other.grad))


def test_no_tensor_of_all_scores_is_made():
    length = 4096
    q, k, v = (torch.randn(1, 1, length, 8, requires_grad=True) for _ in range(3))
    slopes = torch.tensor([0.1], requires_grad=True)

    def ask():
        output, weights = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(slopes))
        output.sum().backward()
        weights = weights.detach()
        return weights.received(), weights.pool(32, 32), weights.entropy(), weights[0, 0, 7]

    seen = largest_of(ask)
    assert seen.elements <= 3 * (1 << 21) < length * length, seen.operation
    assert largest_of(lambda: biases.alibi(1).to_dense(length, length)).elements >= length * length


def test_compiled_in_one_graph():
    q, k, v = (t.float().requires_grad_() for t in inputs("grouped"))
    slopes = torch.tensor([0.7, 0.5, 0.1, 0.01], requires_grad=True)
    thin_one = thin(4, 2, torch.float32)

    def attend(q, k, v, slopes):
        first = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(slopes))[0]
        second = regard.attention(q, k, v, masks.window(5), bias=biases.alibi(4))[0]
        third, weights = regard.attention(q, k, v, bias=thin_one)
        return first + second + third, weights.lse

    want = attend(q, k, v, slopes)
    gradients = torch.autograd.grad(want[0].sum() + want[1].sum(), (q, k, v, slopes))
    for backend in ("eager", "aot_eager"):
        got = whole(attend, backend=backend)(q, k, v, slopes)
        found = torch.autograd.grad(got[0].sum() + got[1].sum(), (q, k, v, slopes))
        for a, b in zip((*got, *found), (*want, *gradients), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_compiled_without_a_mask_is_refused_too():
    q, k, v = (t.float() for t in inputs("grouped"))
    with pytest.raises(Exception, match="past its own position"):
        whole(lambda q: regard.attention(q, k, v, bias=biases.alibi(4))[0], backend="eager")(q)


def test_under_autocast_the_columns_keep_their_precision():
    q, k, v = inputs("heads", torch.float32)
    want = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(4))[0]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        got = regard.attention(q, k, v, masks.causal(), bias=biases.alibi(4))[0]
    assert torch.equal(got, want)
