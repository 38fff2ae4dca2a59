"""What the tests of torch.compile and torch.export share: masks, layers, and the comparison with eager."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import masks

# The operators run the eager engine on the same numbers; the layers around them may find rows in another order in
# memory, which is a rounding or two of float32.
NEAR = {"rtol": 1e-5, "atol": 1e-6}

BATCH, LENGTH = 2, 10
IDS = torch.arange(LENGTH) // 3
generator = torch.Generator().manual_seed(1)

MASKS = {
    "none": None,
    "causal": masks.causal(),
    "offset": masks.causal(offset=1),
    "window": masks.window(3),
    "band": masks.band(1, 2),
    "prefix": masks.prefix(2),
    "composed": (masks.prefix(2) | ~masks.window(3)) & masks.causal(),
    "lengths": masks.padding(torch.tensor([5, 10])) & masks.causal(),
    "valid": masks.padding(torch.rand(BATCH, LENGTH, generator=generator) > 0.3),
    "documents": masks.causal() & masks.documents(IDS),
    "dense": masks.dense(torch.rand(LENGTH, LENGTH, generator=generator) > 0.3),
    "tensor": torch.rand(BATCH, 1, LENGTH, LENGTH, generator=generator) > 0.3,
    "where": masks.where(lambda b, h, q, kv: (q - kv) % 2 == h % 2),
}
STATIC = ("none", "causal", "composed", "where")


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    """No graph of an earlier test."""
    torch._dynamo.reset()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=DeprecationWarning, module="torch")  # of its own parts
        warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf")  # asked for by dynamo
        yield
    torch._dynamo.reset()


def whole(function: Callable[..., Any], **options: Any) -> Any:
    """Compiled in one graph; aot_eager traces forward and backward as inductor does, and generates no code."""
    return torch.compile(function, fullgraph=True, **{"backend": "aot_eager", **options})


def layer(**options: Any) -> regard.MultiHeadAttention:
    return regard.MultiHeadAttention(16, 4, num_kv_heads=2, **options)


def inputs(batch: int = BATCH, length: int = LENGTH) -> Tensor:
    return torch.randn(batch, length, 16, requires_grad=True)


def qkv(key_len: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """4 heads over 2 of width 8, values of width 6."""
    sizes = ((2, 4, LENGTH, 8), (2, 2, key_len, 8), (2, 2, key_len, 6))
    return tuple(torch.randn(s, requires_grad=True) for s in sizes)  # type: ignore[return-value]


def same(function: Callable[..., Tensor], *given: Tensor, tolerance: Any = NEAR, **options: Any) -> None:
    """Output and every gradient of the compiled function are those of the function."""
    torch.manual_seed(5)
    got = whole(function, **options)(*given)
    torch.manual_seed(5)
    want = function(*given)
    torch.testing.assert_close(got, want, **tolerance)
    wanting = [t for t in given if t.requires_grad]
    direction = torch.randn_like(want)
    ours, theirs = (torch.autograd.grad((t * direction).sum(), wanting, allow_unused=True) for t in (got, want))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, **tolerance)


def causal(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, regard.AttentionWeights]:
    return regard.attention(q, k, v, masks.causal())
