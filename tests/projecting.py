"""What the tests of Projection share: the op as on a machine whose MKL is slow, inputs, and how near is right."""

from __future__ import annotations

import platform
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from regard import projection

ROWS, K, N = 128, 128, 128  # the smallest problem that is worth it: ROWS * K * N = WORTH
UNIT = torch.finfo(torch.float32).eps / 2


class Spy:
    """The private op, and what it was called with."""

    def __init__(self, op: Any) -> None:
        self.op, self.rows, self.read = op, [], None

    def __call__(self, x: Tensor, *rest: Any) -> Tensor:
        self.rows.append(x.shape[0])
        self.read = x
        return self.op(x, *rest)


@pytest.fixture
def spy(monkeypatch: pytest.MonkeyPatch) -> Spy:
    """As on a machine whose MKL is slow."""
    if platform.machine().lower() not in ("x86_64", "amd64"):
        pytest.skip("the op is oneDNN's only on x86")
    if not torch.backends.mkldnn.is_available() or projection._op() is None:
        pytest.skip("this PyTorch has no mkldnn::_linear_pointwise of the signature that is known")
    spied = Spy(projection._op())
    monkeypatch.setattr(projection, "_mkl_is_slow", lambda: True)
    monkeypatch.setattr(projection, "_op", lambda: spied)
    return spied


def given(*shape: int, bias: bool = True) -> tuple[Tensor, Tensor, Tensor | None]:
    return torch.randn(*(shape or (4, 32)), K), torch.randn(N, K), torch.randn(N) if bias else None


def assert_right(got: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> None:
    """Each of K products and sums rounds by a unit at most, in no common direction: sqrt(K) units of what is added."""
    x, weight, bias = (None if t is None else t.detach().double() for t in (x, weight, bias))
    exact, added = F.linear(x, weight, bias), F.linear(x.abs(), weight.abs(), None if bias is None else bias.abs())
    assert got.shape == exact.shape
    assert got.dtype == torch.float32
    assert bool(((got - exact).abs() <= max(x.shape[-1], 4) ** 0.5 * UNIT * added).all())
