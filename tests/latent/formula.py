"""Latent attention written out in float64, and a layer to hold it against."""

from __future__ import annotations

import torch
from torch import Tensor

import regard
from regard import LatentAttention, LatentCache

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, another order of summing
HEADS, NOPE, ROTARY, VALUE, RANK = 3, 4, 6, 5, 8


def small(**options) -> LatentAttention:
    """A layer of sizes that all differ, in float64, with norms that do something."""
    torch.manual_seed(0)
    given = {"q_rank": 9, "kv_rank": RANK, "nope_dim": NOPE, "rotary_dim": ROTARY, "v_dim": VALUE, "d_out": 7}
    layer = LatentAttention(10, HEADS, **{**given, "dtype": torch.float64, **options})
    for name, p in layer.named_parameters():
        if name.endswith("bias") or "norm" in name:
            torch.nn.init.uniform_(p, 0.5, 1.5)
    return layer


def text(*shape: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(*shape, 10, generator=generator, dtype=torch.float64)


def fill(cache: LatentCache) -> LatentCache:
    """NaN wherever nothing has been written: reading it shows."""
    cache._store._whole.fill_(torch.nan)
    return cache


def rms(c: Tensor, weight: Tensor, eps: float) -> Tensor:
    return c / (c.square().mean(-1, keepdim=True) + eps).sqrt() * weight


def turned(x: Tensor, positions: Tensor) -> Tensor:
    """Columns (2i, 2i + 1) of x (..., L, P) turned by position * 10000^(-2i / P)."""
    angle = positions[:, None] * 10000.0 ** (-torch.arange(0, x.shape[-1], 2, dtype=torch.float64) / x.shape[-1])
    even, odd = x[..., 0::2], x[..., 1::2]
    return torch.stack(
        [even * angle.cos() - odd * angle.sin(), odd * angle.cos() + even * angle.sin()], dim=-1
    ).flatten(-2)


def by_formula(p: dict[str, Tensor], x: Tensor, allowed: Tensor, *, scale: float, eps: float = 1e-6, start: int = 0):
    """Output (B, L, d_out) and weights (B, H, L, S) from parameters by name, of the sizes above, for x (B, L, d_in)."""

    def linear(t: Tensor, name: str) -> Tensor:
        return t @ p[f"{name}.weight"].T + p.get(f"{name}.bias", torch.zeros((), dtype=torch.float64))

    def heads(t: Tensor) -> Tensor:
        return t.unflatten(-1, (HEADS, -1)).transpose(1, 2)

    if "q_proj.weight" in p:
        q = heads(linear(x, "q_proj"))
    else:
        q = heads(linear(rms(linear(x, "q_down"), p["q_norm.weight"], eps), "q_up"))
    down = linear(x, "kv_down")
    up = heads(linear(rms(down[..., :RANK], p["kv_norm.weight"], eps), "kv_up"))
    at = torch.arange(start, start + x.shape[1], dtype=torch.float64)
    scores = q[..., :NOPE] @ up[..., :NOPE].mT + turned(q[..., NOPE:], at) @ turned(down[:, None, :, RANK:], at).mT
    weights = (scale * scores).masked_fill(~allowed, -torch.inf).softmax(-1)
    return linear((weights @ up[..., NOPE:]).transpose(1, 2).flatten(-2), "out_proj"), weights


def parameters(layer: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().double() for name, p in layer.named_parameters()}


def causal(length: int) -> Tensor:
    return regard.masks.causal().to_dense(length)
