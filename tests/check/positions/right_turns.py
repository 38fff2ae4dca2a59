"""Rotary encodings that are right, in the styles in which people write them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def llama(x: Tensor) -> Tensor:
    """Neighbours as complex numbers, (B, L, H, D), as in Llama's reference code."""
    dim, length = x.shape[-1], x.shape[1]
    freqs = 1.0 / (10000.0 ** (torch.arange(0, dim, 2)[: (dim // 2)].float() / dim))
    angle = torch.outer(torch.arange(length).float(), freqs)
    cis = torch.polar(torch.ones_like(angle), angle)[None, :, None]
    xc = torch.view_as_complex(x.float().reshape(*x.shape[:-1], -1, 2))
    return torch.view_as_real(xc * cis).flatten(3).type_as(x)


def apply_rotary_emb(xq: Tensor, xk: Tensor, freqs_cis: Tensor) -> tuple[Tensor, Tensor]:
    """The same, handed the complex numbers."""
    cis = freqs_cis[None, :, None]
    q = torch.view_as_complex(xq.float().reshape(*xq.shape[:-1], -1, 2))
    k = torch.view_as_complex(xk.float().reshape(*xk.shape[:-1], -1, 2))
    return torch.view_as_real(q * cis).flatten(3).type_as(xq), torch.view_as_real(k * cis).flatten(3).type_as(xk)


def rotate_half(x: Tensor) -> Tensor:
    x1, x2 = x[..., : x.shape[-1] // 2], x[..., x.shape[-1] // 2 :]
    return torch.cat((-x2, x1), dim=-1)


def apply_rotary_pos_emb(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1):
    """Hugging Face's: halves, (B, H, L, D), cosines and sines (B, L, D)."""
    cos, sin = cos.unsqueeze(unsqueeze_dim), sin.unsqueeze(unsqueeze_dim)
    return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


class Halves(nn.Module):
    """Hugging Face's form, the table inside, in float32 whatever comes."""

    def __init__(self, head_dim: int, rope_theta: float = 10000.0) -> None:
        super().__init__()
        self.head_dim, self.rope_theta = head_dim, rope_theta

    def forward(self, q: Tensor, k: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        inv_freq = 1.0 / (self.rope_theta ** (torch.arange(0, self.head_dim, 2, dtype=torch.float32) / self.head_dim))
        freqs = position_ids[:, None, :, None].float() * inv_freq
        emb = torch.cat((freqs, freqs), dim=-1)
        cos, sin = emb.cos().to(q.dtype), emb.sin().to(q.dtype)
        return q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin


class Cached(nn.Module):
    """A table that grows, in float64, rounded when it is used."""

    def __init__(self, dim: int, base: float = 500_000.0) -> None:
        super().__init__()
        self.dim, self.base = dim, base
        self.angle = torch.zeros(0, dim // 2, dtype=torch.float64)

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        end = offset + x.shape[-2]
        if end > len(self.angle):
            steps = torch.arange(0, self.dim, 2, dtype=torch.float64) / self.dim
            self.angle = torch.arange(end, dtype=torch.float64)[:, None] * self.base**-steps
        angle = self.angle[offset:end]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        a, b = x[..., 0::2], x[..., 1::2]
        return torch.stack([a * cos - b * sin, a * sin + b * cos], dim=-1).flatten(-2)


class Plain:
    """A class that is no module, with a method by the name of rotary-embedding-torch's, and a fixed table."""

    def __init__(self, dim: int, max_seq_len: int = 2048, theta: int = 10000) -> None:
        angle = torch.arange(max_seq_len).double()[:, None] / theta ** (torch.arange(0, dim, 2).double() / dim)
        self.cos, self.sin = angle.cos().repeat_interleave(2, -1), angle.sin().repeat_interleave(2, -1)

    def rotate_queries_or_keys(self, t: Tensor, offset: int = 0) -> Tensor:
        end = offset + t.shape[-2]
        if end > len(self.cos):
            raise ValueError(f"{end} positions, the table has {len(self.cos)}")
        turned = torch.stack([-t[..., 1::2], t[..., 0::2]], dim=-1).flatten(-2)
        return t * self.cos[offset:end].to(t.dtype) + turned * self.sin[offset:end].to(t.dtype)


def single(x, positions):
    """One sequence of one head, (L, D), any base; an odd last column stays."""
    if x.dim() != 2:
        raise ValueError("expected (L, D)")
    half = x.shape[-1] // 2
    angle = positions.double()[:, None] * 100.0 ** (-torch.arange(half, dtype=torch.float64) / half)
    cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
    a, b = x[:, :half], x[:, half : 2 * half]
    return torch.cat([a * cos - b * sin, a * sin + b * cos, x[:, 2 * half :]], dim=-1)


RIGHT = {
    "llama": llama,
    "llama, applied": apply_rotary_emb,
    "hugging face, applied": apply_rotary_pos_emb,
    "halves": Halves,
    "cached": Cached,
    "cached, an instance": Cached(16),
    "plain": Plain,
    "plain, an instance": Plain(16, 3000),
    "single": single,
}
NOTES = {
    "llama": "pairs (2i, 2i + 1), base 10000",
    "llama, applied": "pairs (2i, 2i + 1), base 10000",
    "hugging face, applied": "pairs (i, i + D/2), base 10000",
    "halves": "pairs (i, i + D/2), base 10000",
    "cached": "pairs (2i, 2i + 1), base 500000",
    "cached, an instance": "pairs (2i, 2i + 1), base 500000",
    "plain": "pairs (2i, 2i + 1), base 10000",
    "plain, an instance": "pairs (2i, 2i + 1), base 10000",
    "single": "pairs (i, i + D/2), base 100",
}
