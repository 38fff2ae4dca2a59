"""Projection where MKL is slow: what it computes, what it keeps, its gradients."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.projecting import ROWS, K, N, assert_right, given, spy
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard import projection
from regard.projection import Projection, linear

__all__ = ["spy"]


# What it computes


def test_it_is_a_linear_layer():
    torch.manual_seed(3)
    ours = Projection(5, 3)
    torch.manual_seed(3)
    theirs = nn.Linear(5, 3)
    assert isinstance(ours, nn.Linear)
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    x = torch.randn(2, 5)
    assert torch.equal(ours(input=x), theirs(input=x))
    assert Projection(5, 3, bias=False).bias is None
    assert ours.extra_repr() == theirs.extra_repr()


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(ROWS,), (4, 32), (2, 2, 32), (1, 131), (3, 7, 23), (1000,)])
def test_equals_the_definition(spy, shape, bias):
    inputs = given(*shape, bias=bias)
    before = [None if t is None else t.clone() for t in inputs]
    got = linear(*inputs)
    assert len(spy.rows) == 1
    assert got.is_contiguous()
    assert_right(got, *inputs)
    assert_right(F.linear(*inputs), *inputs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


def test_a_single_row_without_an_axis(spy, monkeypatch):
    monkeypatch.setattr(projection, "FEW_ROWS", 0)  # on more than one core it would go by blocks of the weight
    x, weight = torch.randn(K), torch.randn(projection.WORTH // K, K)
    assert_right(linear(x, weight), x, weight, None)
    assert spy.rows == [1]


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(lambda: torch.randn(32, 4, K).transpose(0, 1), id="transposed"),
        pytest.param(lambda: torch.randn(4, K, 32).mT, id="strided"),
        pytest.param(lambda: torch.randn(4, 33, 2 * K)[..., ::2], id="every second, and padded"),
        pytest.param(lambda: torch.randn(1, 32, K).expand(4, 32, K), id="expanded"),
        pytest.param(lambda: torch.ones(()).expand(4, 32, K), id="one number"),
        pytest.param(lambda: torch.randn(4 * 32 * K + 1)[1:].view(4, 32, K), id="misaligned"),
        pytest.param(lambda: torch._neg_view(torch.randn(4, 33, K)), id="negated lazily"),
    ],
)
def test_any_strides_of_x(spy, x):
    x, (_, weight, bias) = x(), given()
    assert_right(linear(x, weight, bias), x, weight, bias)
    assert len(spy.rows) == 1


@pytest.mark.parametrize(
    ("weight", "fast"),
    [
        pytest.param(lambda: torch.randn(3 * N, K)[N : 2 * N], True, id="some rows"),
        pytest.param(lambda: torch.randn(K, N).mT, True, id="transposed"),
        pytest.param(lambda: torch.randn(2 * N, K)[::2], False, id="every second row"),
        pytest.param(lambda: torch.randn(N, 2 * K)[:, :K], False, id="some columns"),
        pytest.param(lambda: torch.randn(1, K).expand(N, K), False, id="expanded"),
        pytest.param(lambda: torch.randn(N + K).as_strided((N, K), (1, 1)), False, id="overlapping"),
    ],
)
def test_any_strides_of_the_weight(spy, weight, fast):
    weight, (x, _, bias) = weight(), given()
    assert_right(linear(x, weight, bias), x, weight, bias)
    assert len(spy.rows) == fast


@pytest.mark.parametrize(
    "bias",
    [
        pytest.param(lambda: torch.randn(N, 2)[:, 0], id="strided"),
        pytest.param(lambda: torch.randn(1).expand(N), id="expanded"),
        pytest.param(lambda: torch.randn(1), id="one number"),
        pytest.param(lambda: torch.randn(1, N), id="one row"),
    ],
)
def test_a_bias_that_the_op_would_misread(spy, bias):
    bias, (x, weight, _) = bias(), given()
    assert_right(linear(x, weight, bias), x, weight, bias)
    assert spy.rows == []


def test_what_is_in_a_row_stays_in_it(spy):
    x, weight, bias = given(4, 33)
    clean = linear(x, weight, bias)
    x[1, 5], x[2, 7, 3] = float("nan"), float("inf")
    got = linear(x, weight, bias)
    assert len(spy.rows) == 2
    assert bool(got[1, 5].isnan().all())
    assert not bool(got[2, 7].isfinite().any())
    others = torch.ones(4, 33, dtype=torch.bool)
    others[1, 5] = others[2, 7] = False
    assert torch.equal(got[others], clean[others])


# What is kept between calls: nothing


@torch.no_grad()
def test_written_parameters_take_effect(spy):
    layer, x = Projection(K, N), given()[0]
    layer(x)
    layer.weight.mul_(2)
    layer.bias.data.add_(1)
    assert_right(layer(x), x, layer.weight, layer.bias)
    layer.load_state_dict({name: torch.randn_like(p) for name, p in layer.state_dict().items()})
    assert_right(layer(x), x, layer.weight, layer.bias)
    layer.weight = nn.Parameter(torch.randn(2 * N, K)[::2])
    assert_right(layer(x), x, layer.weight, layer.bias)
    assert len(spy.rows) == 3


@torch.no_grad()
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_copies(spy, copied):
    layer, x = Projection(K, N), given()[0]
    twin = copied(layer)
    assert type(twin) is Projection
    assert torch.equal(twin(x), layer(x))
    layer.weight.zero_()
    assert_right(twin(x), x, twin.weight, twin.bias)
    assert len(spy.rows) == 3


def test_hooks_see_the_call(spy):
    layer, seen = Projection(K, N), []
    layer.register_forward_hook(lambda module, args, out: seen.append(out))
    assert layer(given()[0]) is seen[0]
    assert len(spy.rows) == 1


# Rows that are added


def test_few_numbers_of_rows_reach_the_op(spy):
    weight = torch.randn(1024, K)
    lengths = [*range(16, 2048, 13), 2048]
    for rows in lengths:
        linear(torch.empty(rows, K), weight)
    assert len(spy.rows) == len(lengths)
    assert all(n <= padded <= n * 9 / 8 for n, padded in zip(lengths, spy.rows, strict=True))
    assert len(set(spy.rows)) <= 8 * 7 + 1  # 7 octaves from 16 to 2048


def test_rows_that_are_added_hold_zeros(spy):
    # Not what was in the memory before, which differs from run to run and may be slow to multiply.
    torch.use_deterministic_algorithms(True)  # new memory is filled with NaN
    try:
        linear(*given(ROWS + 1))
    finally:
        torch.use_deterministic_algorithms(False)
    assert spy.read.shape == (144, K)
    assert torch.equal(spy.read[ROWS + 1 :], torch.zeros(15, K))


def test_numbers_of_rows():
    assert [projection._padded(n) for n in (0, 1, 15, 16, 17, 33, 129, 1000, 1024, 1025)] == [
        *(0, 1, 15, 16, 18, 36, 144, 1024, 1024, 1152)
    ]


@pytest.mark.parametrize("shape", [(ROWS,), (4, 32), (4, 33)])
def test_the_result_may_be_written_to_with_gradients(spy, shape):
    # A view that was made without gradients refuses this; F.linear's result is none.
    x, weight, bias = given(*shape)
    with torch.no_grad():
        out = linear(x, weight, bias)
    assert len(spy.rows) == 1
    factor = torch.ones((), requires_grad=True)
    out.mul_(factor).sum().backward()
    assert factor.grad is not None


def test_in_inference_mode(spy):
    layer, x = Projection(K, N), given(4, 33)[0]
    with torch.inference_mode():
        out = layer(x)
        again = layer(out)
    assert out.is_inference()
    assert len(spy.rows) == 2
    assert_right(out, x, layer.weight, layer.bias)
    assert_right(again, out, layer.weight, layer.bias)


# Gradients

SUBSETS = [tuple(bool(i >> n & 1) for n in range(3)) for i in range(1, 8)]


def graded(subset: tuple[bool, ...], *shape: int) -> list[Tensor]:
    return [t.requires_grad_(wants) for t, wants in zip(given(*shape), subset, strict=True)]


def gradients(function: Any, inputs: list[Tensor], direction: Tensor) -> list[Tensor]:
    wanting = [t for t in inputs if t.requires_grad]
    return list(torch.autograd.grad((function(*inputs) * direction).sum(), wanting))


def in_double(inputs: list[Tensor]) -> list[Tensor]:
    return [t.detach().double().requires_grad_(t.requires_grad) for t in inputs]


def assert_near(got: Tensor, exact: Tensor) -> None:
    # Sums of up to 165 terms that are normal: sqrt(165) * UNIT = 8e-7 of the largest, and some for a sum of sums.
    torch.testing.assert_close(got.double(), exact, rtol=0, atol=4e-6 * float(exact.abs().max()))


@pytest.mark.parametrize("shape", [(4, 32), (5, 33)], ids=["as it is", "padded"])
@pytest.mark.parametrize("subset", SUBSETS)
def test_gradients(spy, subset, shape):
    inputs, direction = graded(subset, *shape), torch.randn(*shape, N)
    got = gradients(linear, inputs, direction)
    padded = shape == (5, 33)
    assert len(spy.rows) == 1 + subset[0] + (subset[1] and not padded)
    for ours, exact in zip(got, gradients(F.linear, in_double(inputs), direction.double()), strict=True):
        assert ours.is_contiguous()
        assert_near(ours, exact)


@pytest.mark.parametrize("subset", [s for s in SUBSETS if s[0] or s[1]])
def test_gradients_of_gradients(spy, subset):
    def twice(function: Any, inputs: list[Tensor]) -> list[Tensor | None]:
        wanting = [t for t in inputs if t.requires_grad]
        first = torch.autograd.grad(function(*inputs).square().sum(), wanting, create_graph=True)
        return list(torch.autograd.grad(sum(g.square().sum() for g in first), wanting))

    inputs = graded(subset)
    got = twice(linear, inputs)
    assert len(spy.rows) > 3
    for ours, exact in zip(got, twice(F.linear, in_double(inputs)), strict=True):
        assert_near(ours, exact)


def test_batched_gradients(spy):
    inputs = graded((True, True, True))
    directions = torch.randn(3, 4, 32, N)
    got = torch.autograd.grad(linear(*inputs), inputs, directions, is_grads_batched=True)
    assert len(spy.rows) == 1
    for i, direction in enumerate(directions):
        for ours, exact in zip(got, gradients(F.linear, in_double(inputs), direction.double()), strict=True):
            assert_near(ours[i], exact)


@pytest.mark.parametrize("subset", SUBSETS)
def test_only_what_a_gradient_reads_is_kept(spy, subset):
    inputs, kept = graded(subset), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()), lambda t: t):
        linear(*inputs)
    x, weight, _ = inputs
    wants_x, wants_weight, _ = subset
    assert sorted(kept) == sorted([x.data_ptr()] * wants_weight + [weight.data_ptr()] * wants_x)
    assert len(spy.rows) == 1


def test_no_graph_where_none_is_asked(spy):
    inputs = graded((True, True, True))
    with torch.no_grad():
        assert not linear(*inputs).requires_grad
    assert linear(*inputs).requires_grad
    assert not linear(*(t.detach() for t in inputs)).requires_grad
    assert len(spy.rows) == 3


def test_a_weight_written_to_before_its_gradient_is_an_error(spy):
    inputs = graded((True, True, True))
    out = linear(*inputs)
    assert len(spy.rows) == 1
    with torch.no_grad():
        inputs[1].mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpointed(spy, reentrant):
    layer, x = Projection(K, N), given()[0].requires_grad_()
    checkpoint(layer, x, use_reentrant=reentrant).square().sum().backward()
    assert len(spy.rows) == 4  # twice forward, once for each of x and weight
    inputs = in_double([x, layer.weight, layer.bias])
    F.linear(*inputs).square().sum().backward()
    for ours, exact in zip((x, layer.weight, layer.bias), inputs, strict=True):
        assert_near(ours.grad, exact.grad)
