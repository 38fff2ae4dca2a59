"""What can be asked of a whole map, streaming: never more than some rows of it at a time."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import blocks
from regard.folds import Distance, Entropy, Fold, Pool, TopK, TopRows
from regard.products import times, widen
from regard.sweep import sweep

__all__ = ["TopK", "distance", "entropy", "max_logit", "pool", "topk"]

# Beyond this, the rounding of a float32 lse is more than 1e-5, and an entropy made of a difference from it no better.
LARGE_LSE = 64.0


def entropy(problem: Problem, lse: Tensor) -> Tensor:
    """``-sum_j A_ij log A_ij``, (B, H, L).

    Without bias and cap, ``log A_ij = scale * q_i k_j - lse_i``, so that it is ``mass_i * lse_i - scale * <q_i, (A @
    K)_i>`` with mass 1, or what sinks leave of it: one fused pass, differentiable. Otherwise, and where the scores are
    so large that this difference would be rounding, block by block, not differentiable.
    """
    q, k = problem.q, problem.k
    differentiable = torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)
    nonlinear = problem.bias is not None or problem.options.softcap is not None
    if nonlinear or (not differentiable and bool((torch.where(lse == -torch.inf, 0, lse).abs() > LARGE_LSE).any())):
        return _entropy_by_blocks(problem)
    wide = widen(problem, lse.dtype)
    mean_key = times(wide, wide.k)  # (B, H, L, D)
    terms = wide.q * mean_key  # (B, H, L, D)
    cancelling = (
        terms.numel() > 0 and float(terms.detach().abs().sum(-1).max()) * abs(problem.options.scale) > LARGE_LSE
    )
    if cancelling and not differentiable:
        return _entropy_by_blocks(problem)  # columns of a bias cancel only in their sum
    score = terms.sum(-1) * problem.options.scale  # (B, H, L)
    empty = lse == -torch.inf
    safe = torch.where(empty, 0, lse)
    if problem.sinks is None:
        out = safe - score
    else:
        sink = torch.exp(problem.sinks.to(lse.dtype)[:, None] - safe)  # the weight of the sink, (B, H, L)
        out = (1 - sink) * safe - score
    # Rounding can leave a row with one key at -1e-7; an entropy lies between 0 and log S, a sink counting as a key.
    choices = k.shape[2] + (0 if problem.sinks is None else 1)
    return torch.where(empty, 0, out).clamp(0, math.log(max(1, choices)))


def _entropy_by_blocks(problem: Problem) -> Tensor:
    """The same from each row's scores less their maximum, so that large scores cost no precision."""
    return _one(problem, None, Entropy())


def distance(problem: Problem, lse: Tensor) -> Tensor:
    """``sum_j A_ij |p_i - j|``, (B, H, L), with p_i = S - L + i."""
    return _one(problem, lse, Distance())


@torch.no_grad()
def max_logit(problem: Problem) -> Tensor:
    """The largest score of each row, (B, H, L)."""
    dtype = compute_dtype(problem.q.dtype)
    out = torch.full(problem.dims[:3], -torch.inf, dtype=dtype, device=problem.q.device)
    for block in blocks(problem, None):
        out[block.b, block.h, block.rows] = block.log.amax(-1)
    return out


def topk(problem: Problem, lse: Tensor, k: int) -> TopK:
    """The k largest weights of each row, (B, H, L, k)."""
    found: TopK = sweep(problem, lse, [TopRows(k)])[0][0]
    return found


def pool(problem: Problem, lse: Tensor, rows: int, cols: int, reduce: str) -> Tensor:
    """The map of rows x cols cells, (B, H, rows, cols): summed over keys and averaged over queries, or the largest
    weight.
    """
    return _one(problem, lse, Pool(rows, cols, reduce))


def _one(problem: Problem, lse: Tensor | None, fold: Fold) -> Tensor:
    answer: Tensor = sweep(problem, lse, [fold])[0][0]
    return answer
