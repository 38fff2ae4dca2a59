"""What can be asked of a whole map, streaming: never more than some rows of it at a time."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from typing import NamedTuple

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import blocks
from regard.products import times, widen

__all__ = ["TopK", "distance", "entropy", "max_logit", "pool", "topk"]

# torch.topk is several times slower than reading its input, so it is given the columns that can matter, this many a
# class.
CLASS = 64

# Beyond this, the rounding of a float32 lse is more than 1e-5, and an entropy made of a difference from it no better.
LARGE_LSE = 64.0

# A score so far below a row's largest that its weight is 0 in any dtype.
FAR = -1e4


class TopK(NamedTuple):
    """The largest weights of each row and their keys, (..., H, L, k) each."""

    values: Tensor
    indices: Tensor


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


@torch.no_grad()
def _entropy_by_blocks(problem: Problem) -> Tensor:
    """The same from each row's scores less their maximum, so that large scores cost no precision."""
    dtype = compute_dtype(problem.q.dtype)
    out = torch.zeros(problem.dims[:3], dtype=dtype, device=problem.q.device)
    for block in blocks(problem, None):
        top = block.log.amax(-1)  # (b, h, R)
        if problem.sinks is not None:
            top = torch.maximum(top, problem.sinks.to(dtype)[block.h, None])
        top = torch.where(top == -torch.inf, 0, top)
        below = block.log.sub_(top[..., None]).clamp_min_(FAR)  # no -inf: 0 * -inf is NaN
        weights = below.exp()  # unnormalised, (b, h, R, C)
        keys = weights.sum(-1)
        total = keys if problem.sinks is None else keys + torch.exp(problem.sinks.to(dtype)[block.h, None] - top)
        total = torch.where(total == 0, 1, total)
        mean = weights.mul_(below).sum(-1) / total
        out[block.b, block.h, block.rows] = (keys / total * total.log() - mean).clamp_min(0)
    return out


@torch.no_grad()
def distance(problem: Problem, lse: Tensor) -> Tensor:
    """``sum_j A_ij |p_i - j|``, (B, H, L), with p_i = S - L + i."""
    _, _, query_len, key_len = problem.dims
    out = torch.zeros_like(lse)
    for block in blocks(problem, lse):
        weights, shift = block.weights(), key_len - query_len
        rows = torch.arange(block.rows.start, block.rows.stop, dtype=lse.dtype, device=lse.device) + shift  # p_i, (R,)
        keys = torch.arange(block.keys.start, block.keys.stop, dtype=lse.dtype, device=lse.device)  # (C,)
        # Keys before every row of the block, keys between its rows, keys after: on the outer two |p - j| is linear in
        # j.
        left = min(max(block.rows.start + shift, block.keys.start), block.keys.stop) - block.keys.start
        right = min(max(block.rows.stop + shift, block.keys.start), block.keys.stop) - block.keys.start
        total = (weights[..., left:right] * (rows[:, None] - keys[left:right]).abs()).sum(-1)  # (b, h, R)
        for part, sign in ((slice(0, left), 1), (slice(right, None), -1)):
            # Counted from the block's first row: a position of 10^5 would round away the short distances.
            terms = torch.stack([torch.ones_like(keys[part]), keys[part] - rows[0]], dim=1)  # (C', 2)
            mass, moment = (weights[..., part] @ terms).unbind(-1)  # (b, h, R) each
            total += sign * ((rows - rows[0]) * mass - moment)
        out[block.b, block.h, block.rows] = total
    return out


@torch.no_grad()
def max_logit(problem: Problem) -> Tensor:
    """The largest score of each row, (B, H, L)."""
    dtype = compute_dtype(problem.q.dtype)
    out = torch.full(problem.dims[:3], -torch.inf, dtype=dtype, device=problem.q.device)
    for block in blocks(problem, None):
        out[block.b, block.h, block.rows] = block.log.amax(-1)
    return out


@torch.no_grad()
def topk(problem: Problem, lse: Tensor, k: int) -> TopK:
    """The k largest weights of each row, (B, H, L, k)."""
    values = torch.zeros(*problem.dims[:3], k, dtype=lse.dtype, device=lse.device)
    indices = torch.full(values.shape, -1, dtype=torch.long, device=lse.device)
    for block in blocks(problem, lse):
        found = _row_topk(block.log, min(k, block.log.shape[-1]))
        at = (block.b, block.h, block.rows, slice(0, found.values.shape[-1]))
        indices[at] = torch.where(found.values == -torch.inf, -1, found.indices + block.keys.start)
        values[at] = found.values.exp_()
    return TopK(values, indices)


def _row_topk(t: Tensor, k: int) -> TopK:
    """torch.topk over the last axis, exact, by way of the maxima of classes of columns where that is faster.

    Column j is in class ``j % classes``: the k largest lie in the k classes with the largest maxima, and a maximum over
    every classes-th column is a reduction that runs along memory.
    """
    width = t.shape[-1]
    classes = width // CLASS
    if classes < 4 * k:
        return TopK(*torch.topk(t, k, dim=-1))
    whole = t[..., : classes * CLASS].unflatten(-1, (CLASS, classes))  # (..., C) -> (..., CLASS, classes)
    best = torch.topk(whole.amax(-2), k, dim=-1, sorted=False).indices  # (..., k)
    at = best[..., None, :] + torch.arange(CLASS, device=t.device)[:, None] * classes  # (..., CLASS, k)
    at = at.flatten(-2)  # (..., CLASS * k)
    tail = torch.arange(classes * CLASS, width, device=t.device).expand(*at.shape[:-1], -1)
    at = torch.cat([at, tail], dim=-1)
    found = torch.topk(t.gather(-1, at), k, dim=-1)
    return TopK(found.values, at.gather(-1, found.indices))


def edges(length: int, cells: int) -> list[int]:
    """Where cells begin and end: cell c holds [edges[c], edges[c + 1])."""
    return [c * length // cells for c in range(cells + 1)]


@torch.no_grad()
def pool(problem: Problem, lse: Tensor, rows: int, cols: int, reduce: str) -> Tensor:
    """The map of rows x cols cells, (B, H, rows, cols): summed over keys and averaged over queries, or the largest
    weight.
    """
    b, h, query_len, key_len = problem.dims
    out = torch.zeros(b, h, rows, cols, dtype=lse.dtype, device=lse.device)
    ends = edges(query_len, rows)
    for block in blocks(problem, lse, ends):
        first = bisect_right(ends, block.rows.start) - 1  # the cell of the block's first row
        last = bisect_left(ends, block.rows.stop)
        cut = [min(max(e, block.rows.start), block.rows.stop) - block.rows.start for e in ends[first : last + 1]]
        by_query = _reduce_rows(block.weights(), cut, reduce)  # (b, h, cells, C)
        by_key = _reduce_keys(by_query, block.keys.start, key_len, cols, reduce)  # (b, h, cells, cols)
        part = out[block.b, block.h, first:last]
        if reduce == "max":
            torch.maximum(part, by_key, out=part)
        else:
            part += by_key
    if reduce == "mean":
        counts = torch.tensor([ends[c + 1] - ends[c] for c in range(rows)], dtype=lse.dtype, device=lse.device)
        out /= counts[:, None]
    return out


def _reduce_rows(weights: Tensor, cut: list[int], reduce: str) -> Tensor:
    """(b, h, R, C) to (b, h, cells, C): each cell's rows [cut[c], cut[c + 1]) summed or maximised."""
    cells, size = len(cut) - 1, cut[1] - cut[0]
    if all(cut[c + 1] - cut[c] == size for c in range(cells)):
        split: Tensor = weights.unflatten(2, (cells, size))  # (b, h, cells, size, C)
        return split.sum(3) if reduce == "mean" else split.amax(3)
    parts = [weights[:, :, cut[c] : cut[c + 1]] for c in range(cells)]
    return torch.stack([p.sum(2) if reduce == "mean" else p.amax(2) for p in parts], dim=2)


def _reduce_keys(weights: Tensor, low: int, key_len: int, cols: int, reduce: str) -> Tensor:
    """(b, h, cells, C) over the keys from ``low`` to (b, h, cells, cols)."""
    c = torch.arange(low, low + weights.shape[-1], device=weights.device)
    # The cell of key j is the c with c * S // cols <= j < (c + 1) * S // cols.
    cell = ((c + 1) * cols - 1).div(key_len, rounding_mode="floor")
    out = weights.new_zeros(*weights.shape[:-1], cols)
    if reduce == "mean":
        return out.index_add_(-1, cell, weights)
    return out.scatter_reduce_(-1, cell.expand_as(weights), weights, "amax")
