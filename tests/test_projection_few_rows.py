"""Projection of a few rows: by blocks of the weight's rows, where nobody would see the difference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.projecting import assert_right
from tests.test_projection_elsewhere import ELSEWHERE, quiet
from torch import Tensor, nn

from regard import projection
from regard.projection import Projection, linear

__all__ = ["quiet"]

K, N = 512, 1024  # the smallest weight that is worth it


class Spy:
    def __init__(self) -> None:
        self.rows: list[int] = []
        self.product = projection._in_blocks

    def __call__(self, x: Tensor, *rest: Any) -> Tensor:
        self.rows.append(x.numel() // x.shape[-1])
        return self.product(x, *rest)


@pytest.fixture
def blocks(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """As on a machine of two cores whose MKL is not slow."""
    if not projection._known():
        pytest.skip("this PyTorch lacks what tells where F.linear must be left alone")
    spied = Spy()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(projection, "_mkl_is_slow", lambda: False)
    monkeypatch.setattr(projection, "_in_blocks", spied)
    return spied


def given(*shape: int, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    torch.manual_seed(0)
    return torch.randn(*shape, K), torch.randn(N, K), torch.randn(N) if bias else None


def test_by_hand(blocks):
    weight = torch.zeros(N, K)
    weight[0, 0], weight[63, 1], weight[64, 1], weight[N - 1, K - 1] = 2, 3, 5, 7  # either side of a block's end
    x = torch.zeros(1, 1, K)
    x[0, 0, 0], x[0, 0, 1], x[0, 0, -1] = 1, 10, 100
    out = linear(x, weight, torch.ones(N))
    assert blocks.rows == [1]
    assert out.shape == (1, 1, N)
    assert out[0, 0, [0, 1, 63, 64, N - 1]].tolist() == [3, 1, 31, 51, 701]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (3,), (4, 1), (2, 2)])
def test_equals_the_definition(blocks, shape, bias):
    inputs = given(*shape, bias=bias)
    before = [None if t is None else t.clone() for t in inputs]
    out = linear(*inputs)
    assert len(blocks.rows) == 1
    assert out.is_contiguous()
    assert not out._is_view()
    assert_right(out, *inputs)
    assert all(a is b is None or torch.equal(a, b) for a, b in zip(inputs, before, strict=True))


@pytest.mark.parametrize(
    "x",
    [
        pytest.param(lambda: torch.randn(K, 3).mT, id="transposed"),
        pytest.param(lambda: torch.randn(4, 2 * K)[:, ::2], id="every second"),
        pytest.param(lambda: torch.ones(()).expand(2, K), id="one number"),
        pytest.param(lambda: torch._neg_view(torch.randn(2, K)), id="negated lazily"),
    ],
)
def test_any_strides_of_x(blocks, x):
    x, (_, weight, bias) = x(), given()
    assert_right(linear(x, weight, bias), x, weight, bias)
    assert len(blocks.rows) == 1


@pytest.mark.parametrize(
    ("shape", "weight"),
    [
        ((5,), (N, K)),
        ((0,), (N, K)),
        ((1,), (N // 2, K)),
        ((1,), (N + 1, K)),
        ((1,), (K, N)),
    ],
    ids=["many rows", "no rows", "a small weight", "no 16 blocks", "transposed"],
)
def test_where_it_is_not_worth_it_or_does_not_divide(blocks, shape, weight):
    x = torch.randn(*shape, K)
    weight = torch.randn(weight).mT if weight == (K, N) else torch.randn(weight)
    assert torch.equal(linear(x, weight), F.linear(x, weight))
    assert blocks.rows == []


def test_with_gradients_it_is_the_linear_layer(blocks):
    x, weight, bias = given(1)
    for which in ("x", "weight", "bias"):
        inputs = {"x": x, "weight": weight, "bias": bias}
        inputs[which] = inputs[which].clone().requires_grad_()
        assert torch.equal(linear(*inputs.values()), F.linear(*inputs.values()))
    assert blocks.rows == []
    with torch.no_grad():
        linear(*inputs.values())
    assert blocks.rows == [1]


def test_on_one_core_it_is_the_linear_layer(blocks, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    inputs = given(1)
    assert torch.equal(linear(*inputs), F.linear(*inputs))
    assert blocks.rows == []


@pytest.mark.parametrize("name", [n for n in ELSEWHERE if n not in ("export", "compile")])
def test_steps_aside(blocks, quiet, name):
    layer, theirs = Projection(K, N).requires_grad_(False), nn.Linear(K, N).requires_grad_(False)
    theirs.load_state_dict(layer.state_dict())
    x = given(1)[0]
    got = ELSEWHERE[name](layer, x)
    assert blocks.rows == [], name
    assert torch.equal(got, ELSEWHERE[name](theirs, x))
    layer(x)
    assert blocks.rows == [1]  # it would have been used


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_dtypes(blocks, dtype):
    layer, x = Projection(K, N).to(dtype), given(1)[0].to(dtype)
    with torch.no_grad():
        assert torch.equal(layer(x), F.linear(x, layer.weight, layer.bias))
    assert blocks.rows == []


def test_the_result_may_be_written_to_with_gradients(blocks):
    factor = torch.ones((), requires_grad=True)
    for shape in ((1,), (3,)):
        with torch.no_grad():
            out = linear(*given(*shape, bias=False))
        out.mul_(factor).sum().backward()
    assert len(blocks.rows) == 2
    assert factor.grad is not None


def test_in_inference_mode(blocks):
    layer, x = Projection(K, N), given(1)[0]
    with torch.inference_mode():
        out = layer(x)
    assert out.is_inference()
    assert blocks.rows == [1]
    assert_right(out, x, layer.weight, layer.bias)
