"""How far an answer may be from the truth: a yardstick in the same precision, a floor of rounding, and a grade."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import allowed_by, grouped, scale_of
from regard.check.request import Request

__all__ = ["budget", "grade", "naive"]

SLACK = 2.0
FLOOR = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 32, torch.float64: 1024}


def naive(r: Request, contract: Contract) -> Tensor:
    """Attention as the formula reads, every step in the precision of the inputs: the yardstick, not the truth.

    Rows that may read no key are 0.
    """
    heads = r.query.shape[1]
    k, v = grouped(r.key, heads, contract), grouped(r.value, heads, contract)
    scores = r.query @ k.mT * scale_of(r)  # (B, H, L, S)
    if r.softcap is not None:
        scores = r.softcap * torch.tanh(scores / r.softcap)
    if r.bias is not None:
        scores = scores + r.bias
    allowed = allowed_by(r, contract)
    if allowed is not None:
        scores = scores.masked_fill(~allowed, -math.inf)
    weights = torch.softmax(scores, -1)
    if allowed is not None:
        weights = torch.where(allowed.any(-1, keepdim=True), weights, 0)
    return weights @ v


def budget(truth: Tensor, yardstick: Tensor, dtype: torch.dtype, *, slack: float = SLACK) -> Tensor:
    """``slack * (error of the yardstick + floor * eps * max|truth|)``, for each sequence and head: (B, H, 1, 1).

    The floor is 1 in half precision: one rounding. In float32 it is 32 and in float64 1024, since right answers that
    sum in another order differ by some dozen eps, while whatever passes through the next lower precision on its way is
    off by 2^13 eps (TF32, float16) and 2^29 eps (float32 within float64).

    The error of the yardstick is its largest over the whole batch: how an error falls on one head is chance, and a
    budget of chance would raise false alarms. The largest of the truth is each head's own.

    Args:
        truth: (B, H, L, Dv), float64.
        yardstick: the naive answer in the precision of the subject.
        dtype: that precision.
        slack: how much worse than the yardstick is still right: 2, and 3 for gradients, which pass twice through it.
    """
    error = (yardstick.double() - truth).abs().nan_to_num(nan=0.0).amax() if truth.numel() else torch.zeros(())
    floor = FLOOR[dtype] * torch.finfo(dtype).eps * truth.abs().amax((-2, -1), keepdim=True)  # (B, H, 1, 1)
    return slack * (error + floor)


def grade(got: Tensor, truth: Tensor, dtype: torch.dtype) -> float:
    """RMS error over that of the correctly rounded truth, the worst of all sequences and heads: 1 is perfect."""
    floor = _rms(truth.to(dtype).double() - truth)
    return float((_rms(got.double() - truth) / floor.clamp_min(1e-30)).max())


def _rms(t: Tensor) -> Tensor:
    return t.detach().pow(2).mean((-1, -2)).sqrt()
