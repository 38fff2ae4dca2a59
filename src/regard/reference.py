"""What attention is: the definition, on one screen.

Everything else in regard is a faster way to say this. It stores the whole (..., H, L, S) matrix, works in whatever
dtype it is given, and is the oracle of the tests in float64. Letters: B batch, H query heads, Hkv key/value heads, L
queries, S keys, D key width, Dv value width.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Definition", "attention"]


class Definition(NamedTuple):
    """Output (..., H, L, Dv), weights before dropout (..., H, L, S) and log-sum-exp (..., H, L) of attention."""

    output: Tensor
    weights: Tensor
    lse: Tensor


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    scale: float | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
    keep: Tensor | None = None,
) -> Definition:
    """Attention by its definition, with every option and an L x S matrix in memory.

    ``softmax(mask(cap(scale * query @ key.mT) + bias)) @ value`` where ``cap(x) = softcap * tanh(x / softcap)``.

    >>> q = torch.tensor([[1.0], [0.0]])
    >>> attention(q, q, torch.tensor([[2.0], [4.0]]), torch.tensor([[True, False], [True, True]])).output
    tensor([[2.],
            [3.]])

    Args:
        query: (..., H, L, D), or (N, L, D) or (L, D) without heads.
        key: (..., Hkv, S, D); H is a multiple of Hkv, query head h reads key/value head ``h // (H // Hkv)``.
        value: (..., Hkv, S, Dv).
        mask: boolean, broadcasts to (..., H, L, S); True = may attend. A row with no key gives output 0, weights 0,
            lse -inf (with sinks, the sink's logit).
        bias: added to the scores after the cap, broadcasts to (..., H, L, S).
        scale: multiplies ``query @ key.mT``; ``1 / sqrt(D)`` if None.
        softcap: the cap, in units of a score.
        sinks: (H,) logits that join the denominator alone; a row then sums to less than 1.
        dropout: probability of dropping a weight; what is kept is scaled by ``1 / (1 - dropout)``.
        keep: boolean (..., H, L, S), the weights that dropout keeps; drawn here if None.

    Returns:
        A :class:`Definition`: output, weights (before dropout) and lse.

    References:
        Vaswani et al., Attention Is All You Need, 2017, equation 1.
    """
    q, k, v = query, key, value
    if q.dim() > 3 and q.shape[-3] != k.shape[-3]:
        group = q.shape[-3] // k.shape[-3]
        k = k.repeat_interleave(group, dim=-3)  # (..., Hkv, S, D) -> (..., H, S, D)
        v = v.repeat_interleave(group, dim=-3)  # (..., Hkv, S, Dv) -> (..., H, S, Dv)
    if mask is not None:
        # A key that nobody may read can hold anything: 0 * NaN is NaN, in the output and in every gradient.
        allowed = mask.expand(*q.shape[:-1], k.shape[-2])  # (..., H, L, S)
        k, v = (torch.where(allowed.any(-2)[..., None], t, 0) for t in (k, v))
        q = torch.where(allowed.any(-1)[..., None], q, 0)
    scores = q @ k.mT * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)  # (..., H, L, S)
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    if bias is not None:
        scores = scores + bias
    if mask is not None:
        scores = torch.where(mask, scores, -torch.inf)
    if sinks is not None:
        column = sinks.view(-1, 1, 1) if q.dim() > 2 else sinks.view(1, 1)
        scores = torch.cat([scores, column.expand(*scores.shape[:-1], 1)], dim=-1)  # (..., H, L, S + 1)
    if scores.shape[-1] == 0:
        empty = scores.new_zeros(scores.shape[:-1], dtype=torch.bool)[..., None].logical_not()  # (..., H, L, 1)
    else:
        empty = (scores.detach() == -torch.inf).all(-1, keepdim=True)  # (..., H, L, 1)
    # The softmax of a row of -inf is NaN in the value and in the gradient: such a row is replaced before and zeroed
    # after.
    lse = torch.logsumexp(torch.where(empty, 0, scores), dim=-1)  # (..., H, L)
    weights = torch.where(empty, 0, torch.softmax(torch.where(empty, 0, scores), dim=-1))
    lse = torch.where(empty[..., 0], -torch.inf, lse)
    if sinks is not None:
        weights = weights[..., :-1]  # (..., H, L, S)
    kept = weights
    if dropout > 0 or keep is not None:
        keep = torch.rand_like(weights) >= dropout if keep is None else keep
        kept = torch.where(keep, weights / (1 - dropout), 0) if dropout < 1 else torch.zeros_like(weights)
    # An empty row is 0 whatever comes back through it: the gradient of a constant is not multiplied by a weight of 0.
    return Definition(torch.where(empty, 0, kept @ v), weights, lse)
