"""The formulas of rotary positions in float64, written out once more, and what float32 may change."""

from __future__ import annotations

import torch
from torch import Tensor

EPS = torch.finfo(torch.float32).eps


def plain(dim: int, base: float = 10000.0) -> Tensor:
    return torch.tensor([base ** (-2 * i / dim) for i in range(dim // 2)], dtype=torch.float64)


def turned(x: Tensor, positions: Tensor, frequencies: Tensor, pairing: str = "halves", factor: float = 1.0) -> Tensor:
    """x (..., L, D) at positions (..., L), in float64, pair by pair."""
    out, half = x.double().clone(), frequencies.shape[-1]
    for i in range(half):
        one, other = (i, i + half) if pairing == "halves" else (2 * i, 2 * i + 1)
        angle = positions.double() * frequencies[..., i]
        a, b = x[..., one].double(), x[..., other].double()
        out[..., one] = factor * (a * angle.cos() - b * angle.sin())
        out[..., other] = factor * (b * angle.cos() + a * angle.sin())
    return out


def budget(x: Tensor, factor: float = 1.0) -> float:
    """Table and two products and their sum are rounded once each: four halves of eps, of at most two entries."""
    return 2 * 2 * EPS * factor * float(x.detach().abs().max())
