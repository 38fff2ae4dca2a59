"""Products with the weights: A @ x in one fused pass, A^T @ y and column sums block by block."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.engine.autograd import attend
from regard.engine.execute import empty_rows, sanitize
from regard.engine.plan import make_plan
from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import blocks

__all__ = ["lse", "mass", "received", "times", "transposed_times"]

# Up to this many keys, their scores alone are cheaper than a pass over all.
FEW_KEYS = 64


def widen(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same problem in a dtype at least as wide as ``dtype``."""
    wide = torch.promote_types(problem.q.dtype, dtype)
    return problem if wide == problem.q.dtype else replace(problem, q=problem.q.to(wide), k=problem.k.to(wide))


def lse(problem: Problem) -> Tensor:
    """The log-sum-exp of each row, (B, H, L): one fused pass with the keys as values."""
    if problem.options.dropout:
        problem = problem.with_options(dropout=0.0)
    problem, k = sanitize(problem, problem.k)
    return attend(problem, k, make_plan(problem, k, "auto"), 0)[1]


def times(problem: Problem, x: Tensor) -> Tensor:
    """``A @ x``: x (B or 1, H, Hkv or 1, S, N) to (B, H, L, N), before dropout."""
    b, h, _, _ = problem.dims
    kv_heads = problem.k.shape[1]
    if not x.dtype.is_floating_point:
        x = x.to(compute_dtype(problem.q.dtype))  # a position of 70,000 is none of float16's numbers
    problem = widen(problem, x.dtype)
    x = x.to(problem.q.dtype)
    if x.shape[1] == h != kv_heads:
        # Each head has its own x, and so needs its own key head beside it: a copy of k, O(H S D).
        problem = replace(problem, k=problem.k.repeat_interleave(h // kv_heads, 1))  # (B, Hkv, S, D) -> (B, H, S, D)
        kv_heads = h
    x = x.expand(b, kv_heads, -1, -1)
    if x.shape[-1] == 0:
        return x.new_zeros(*problem.q.shape[:3], 0)
    if problem.options.dropout:
        problem = problem.with_options(dropout=0.0)
    problem, x = sanitize(problem, x)
    return attend(problem, x, make_plan(problem, x, "auto"), 0)[0]


@torch.no_grad()
def received(problem: Problem, lse: Tensor) -> Tensor:
    """``A^T 1``, (B, H, S)."""
    b, h, _, key_len = problem.dims
    total = torch.zeros(b, h, key_len, dtype=lse.dtype, device=lse.device)
    for block in blocks(problem, lse):
        total[block.b, block.h, block.keys] += block.weights().sum(2)
    return total


@torch.no_grad()
def transposed_times(problem: Problem, lse: Tensor, y: Tensor) -> Tensor:
    """``A^T @ y``: y (B or 1, H or 1, L, N) to (B, H, S, N)."""
    b, h, _, key_len = problem.dims
    y = y if y.dtype.is_floating_point else y.to(lse.dtype)
    dtype = torch.promote_types(problem.q.dtype, y.dtype)
    wide = torch.promote_types(lse.dtype, dtype)
    # A row without keys adds nothing, whatever y holds there: 0 * NaN is NaN.
    y = torch.where(empty_rows(problem, lse)[..., None], 0, y.to(wide))  # (B, H, L, N)
    total = torch.zeros(b, h, key_len, y.shape[-1], dtype=wide, device=lse.device)
    for block in blocks(widen(problem, wide), lse.to(wide)):
        total[block.b, block.h, block.keys] += block.weights().mT @ y[block.b, block.h, block.rows]
    return total.to(dtype)


def mass(problem: Problem, lse: Tensor, keys: Tensor) -> Tensor:
    """``sum of A_ij over j in keys``, (B, H, L), for distinct indices (n,)."""
    b, h, query_len, key_len = problem.dims
    total = torch.zeros(b, h, query_len, dtype=lse.dtype, device=lse.device)
    if keys.numel() == 0 or query_len == 0:
        return total
    if keys.numel() <= FEW_KEYS:
        from regard.indexing import orthogonal

        step = max(1, (1 << 22) // max(1, b * h * keys.numel()))
        with torch.no_grad():
            for start in range(0, query_len, step):
                rows = slice(start, min(start + step, query_len))
                total[:, :, rows] = orthogonal(problem, lse, (slice(0, b), slice(0, h), rows, keys)).sum(-1)
        return total
    indicator = torch.zeros(key_len, 1, dtype=lse.dtype, device=lse.device)
    indicator[keys] = 1
    with torch.no_grad():
        return times(widen(problem, lse.dtype), indicator[None, None])[..., 0]
