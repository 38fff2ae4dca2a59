"""Partial results of one row, merged by their log-sum-exp."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["merge", "with_sinks"]


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> tuple[Tensor, Tensor]:
    """The attention over two disjoint sets of keys from the attention over each: outputs (..., R, Dv), lse (..., R).

    ``lse = log(e^lse_a + e^lse_b)``, ``out = e^(lse_a - lse) out_a + e^(lse_b - lse) out_b``; a part without keys has
    lse -inf and output 0.
    """
    lse = torch.logaddexp(lse_a, lse_b)  # -inf with -inf gives -inf
    base = torch.where(lse == -torch.inf, 0, lse)
    a, b = torch.exp(lse_a - base)[..., None], torch.exp(lse_b - base)[..., None]  # (..., R, 1)
    out = (out_a * a + out_b * b).to(out_a.dtype)
    return out, lse


def with_sinks(out: Tensor, lse: Tensor, sinks: Tensor) -> tuple[Tensor, Tensor]:
    """The attention (B, H, L, Dv), (B, H, L) after one more logit a head, sinks (H,), joined each row's denominator."""
    column = sinks.to(lse.dtype)[:, None]  # (H, 1)
    joined = torch.logaddexp(lse, column)
    base = torch.where(joined == -torch.inf, 0, joined)  # a sink of -inf is no sink: an empty row has nothing to join
    return out * torch.exp(lse - base)[..., None], joined
