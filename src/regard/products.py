"""Products with the weights, A @ x and A^T @ y, each one fused pass where there is a fused op."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from regard.engine.autograd import attend
from regard.engine.plan import make_plan
from regard.engine.problem import Options, Problem, compute_dtype

__all__ = ["mass", "received", "times", "transposed_times", "weight_blocks"]

# A score so low that its weight is 0 next to any other, and that is still finite when a lse of it is taken.
NOTHING = -1e30

# Up to this many keys, their scores alone are cheaper than a pass over all.
FEW_KEYS = 64


def widen(problem: Problem, dtype: torch.dtype) -> Problem:
    """The same problem in a dtype at least as wide as ``dtype``."""
    wide = torch.promote_types(problem.q.dtype, dtype)
    return problem if wide == problem.q.dtype else replace(problem, q=problem.q.to(wide), k=problem.k.to(wide))


def times(problem: Problem, x: Tensor) -> Tensor:
    """``A @ x``: x (B or 1, H, Hkv or 1, S, N) to (B, H, L, N), before dropout."""
    b, h, _, _ = problem.dims
    kv_heads = problem.k.shape[1]
    if not x.dtype.is_floating_point:
        x = x.to(problem.q.dtype)
    problem = widen(problem, x.dtype)
    x = x.to(problem.q.dtype)
    if x.shape[1] == h != kv_heads:
        problem = replace(problem, k=problem.k.repeat_interleave(h // kv_heads, 1))  # (B, H, S, D): each head has its own x
        kv_heads = h
    x = x.expand(b, kv_heads, -1, -1)
    if x.shape[-1] == 0:
        return x.new_zeros(*problem.q.shape[:3], 0)
    if problem.options.dropout:
        problem = problem.with_options(dropout=0.0)
    return attend(problem, x, make_plan(problem, x, "auto"), 0)[0]


@torch.no_grad()
def weight_blocks(problem: Problem, lse: Tensor, most: int = 512) -> Iterator[tuple[slice, slice, Tensor]]:
    """Rows, keys and weights (B, H, rows, keys) of each block of rows, float32 at least; keys left out have weight 0."""
    safe = lse.masked_fill(lse == -torch.inf, 0)
    for rows, keys in problem.row_blocks(most=most):
        yield rows, keys, problem.block(rows, keys).sub_(safe[:, :, rows, None]).exp_()


def _transposes(problem: Problem) -> bool:
    """Whether A^T is itself a problem that one fused call solves."""
    o = problem.options
    return o.softcap is None and o.rest is None and problem.bias is None


def _transpose(problem: Problem, lse: Tensor) -> Problem:
    """The problem whose scores are ``s_ij - lse_i``, transposed: its queries are the keys, (B, H, S, L).

    Both sequences are flipped, so that "this key is read by later queries" is causal again, and ``-lse_i`` is one more
    column. Queries that read nothing get a score that weighs nothing.
    """
    b, h, query_len, key_len = problem.dims
    dtype = compute_dtype(problem.q.dtype)
    empty = lse == -torch.inf  # (B, H, L)
    shift = torch.where(empty, NOTHING, -lse).to(dtype)
    q = torch.where(empty[..., None], 0, problem.q.to(dtype) * problem.options.scale)
    q = torch.cat([q, shift[..., None]], dim=-1).flip(2)  # (B, H, L, D) -> (B, H, L, D + 1)
    k = problem.k.to(dtype)
    k = torch.cat([k, torch.ones_like(k[..., :1])], dim=-1).flip(2)  # (B, Hkv, S, D + 1)
    if k.shape[1] != h:
        k = k.repeat_interleave(h // k.shape[1], 1)  # the new queries are per head anyway: (B, H, S, D + 1)
    causal = problem.options.causal
    # kv <= q + o becomes, with both flipped, q' <= kv' + (L - S + o).
    return Problem(k, q, options=Options(1.0, causal=None if causal is None else query_len - key_len + causal))


@torch.no_grad()
def received(problem: Problem, lse: Tensor) -> Tensor:
    """``A^T 1``, (B, H, S)."""
    b, h, query_len, key_len = problem.dims
    if not _transposes(problem):
        total = torch.zeros(b, h, key_len, dtype=lse.dtype, device=lse.device)
        for _, keys, weights in weight_blocks(problem, lse):
            total[:, :, keys] += weights.sum(2)
        return total
    flipped = _transpose(problem.detach(), lse)
    # The value is not needed, but the op wants one: a view of a single zero costs no memory.
    value = flipped.k.new_zeros(()).expand(flipped.k.shape[:3] + (flipped.q.shape[-1],))
    found = attend(flipped, value, make_plan(flipped, value, "auto"), 0)[1]  # log of the column sums, (B, H, S)
    return _readable(problem, found.flip(2).exp(), 0)


@torch.no_grad()
def transposed_times(problem: Problem, lse: Tensor, y: Tensor) -> Tensor:
    """``A^T @ y``: y (B or 1, H or 1, L, N) to (B, H, S, N)."""
    b, h, query_len, key_len = problem.dims
    if not y.dtype.is_floating_point:
        y = y.to(problem.q.dtype)
    dtype = torch.promote_types(problem.q.dtype, y.dtype)
    wide = torch.promote_types(compute_dtype(problem.q.dtype), y.dtype)
    problem, lse, y = widen(problem.detach(), wide), lse.to(wide), y.to(wide).expand(b, h, -1, -1)
    if y.shape[-1] == 0 or 0 in problem.dims:
        return y.new_zeros(b, h, key_len, y.shape[-1])
    if not _transposes(problem):
        total = torch.zeros(b, h, key_len, y.shape[-1], dtype=wide, device=lse.device)
        for rows, keys, weights in weight_blocks(problem, lse):
            total[:, :, keys] += weights.mT @ y[:, :, rows]
        return total.to(dtype)
    flipped = _transpose(problem, lse)
    value = torch.where((lse == -torch.inf)[..., None], 0, y).flip(2)  # (B, H, L, N)
    out, total = attend(flipped, value, make_plan(flipped, value, "auto"), 0)
    out = (out * total.exp()[..., None]).flip(2)  # the op normalises each key's column to sum to 1: undo it
    return _readable(problem, out, 1).to(dtype)


def _readable(problem: Problem, t: Tensor, extra: int) -> Tensor:
    """t (B, H, S, ...) with zeros for the keys that a per-key mask forbids."""
    valid = problem.options.valid
    if valid is None:
        return t
    keys = valid[:, :, 0]  # (B or 1, H or 1, S)
    return torch.where(keys[..., None] if extra else keys, t, 0)


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
