"""Modules that attend through one function each, and their weights by definition, in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard import reference

NEAR = {"rtol": 0, "atol": 1e-12}


class Attention(nn.Module):
    """Self-attention of some heads that calls ``function(q, k, v, **options)``."""

    def __init__(
        self,
        width: int = 16,
        heads: int = 4,
        kv_heads: int | None = None,
        function: Callable[..., Any] = F.scaled_dot_product_attention,
    ) -> None:
        super().__init__()
        self.heads, self.kv_heads = heads, heads if kv_heads is None else kv_heads
        head = width // heads
        self.q = nn.Linear(width, heads * head)
        self.k, self.v = (nn.Linear(width, self.kv_heads * head) for _ in range(2))
        self.function = function

    def projected(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """q (B, H, L, D), k and v (B, Hkv, L, D)."""
        q, k, v = self.q(x), self.k(x), self.v(x)
        q = q.unflatten(-1, (self.heads, -1)).transpose(1, 2)
        k, v = (t.unflatten(-1, (self.kv_heads, -1)).transpose(1, 2) for t in (k, v))
        return q, k, v

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        output = self.function(*self.projected(x), **options)
        output = output[0] if isinstance(output, tuple) else output
        return output.transpose(1, 2).flatten(2)


class Tower(nn.Module):
    """A few layers, one after another."""

    def __init__(self, layers: int = 2, **options: Any) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(**options) for _ in range(layers))

    def forward(self, x: Tensor, **options: Any) -> Tensor:
        for layer in self.layers:
            x = x + layer(x, **options)
        return x


def by_definition(query: Tensor, key: Tensor, mask: Tensor | None = None, **options: Any) -> Tensor:
    """The weights (..., H, L, S) in float64."""
    q, k = query.detach().double(), key.detach().double()
    bias = options.pop("bias", None)
    return reference.attention(q, k, k, mask, bias=None if bias is None else bias.double(), **options).weights


def same(found: Any, expected: Tensor, **tolerance: float) -> None:
    """The weights are finite and as expected, entry by entry."""
    dense = found.to_dense().detach().double()
    assert dense.isfinite().all()
    torch.testing.assert_close(dense, expected.detach().double(), **(tolerance or NEAR))
