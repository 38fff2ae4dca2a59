"""What can be asked of a whole map, streaming: never more than some rows of it at a time."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype
from regard.products import times, weight_blocks, widen

__all__ = ["TopK", "distance", "entropy", "max_logit", "pool", "topk"]

# torch.topk is several times slower than reading its input; the k largest lie in the k chunks with the largest maxima.
CHUNK = 64


class TopK(NamedTuple):
    """The largest weights of each row and their keys, (..., H, L, k) each."""

    values: Tensor
    indices: Tensor


def entropy(problem: Problem, lse: Tensor) -> Tensor:
    """``-sum_j A_ij log A_ij``, (B, H, L).

    Without bias and cap, ``log A_ij = scale * q_i k_j - lse_i``, so that it is ``mass_i * lse_i - scale * <q_i, (A @ K)_i>``
    with mass 1, or what sinks leave of it: one fused pass, differentiable. Otherwise blocks of rows, not differentiable.
    """
    if problem.bias is not None or problem.options.softcap is not None:
        return _entropy_by_rows(problem, lse)
    b, h, _, _ = problem.dims
    wide = widen(problem, lse.dtype)
    mean_key = times(wide, wide.k)  # (B, H, L, D)
    score = (wide.q * mean_key).sum(-1) * problem.options.scale  # (B, H, L)
    empty = lse == -torch.inf
    safe = torch.where(empty, 0, lse)
    if problem.sinks is None:
        out = safe - score
    else:
        sink = torch.exp(problem.sinks.to(lse.dtype)[:, None] - safe)  # the weight of the sink, (B, H, L)
        out = (1 - sink) * safe - score
    # Rounding can leave a row with one key at -1e-7; an entropy is not negative.
    return torch.where(empty, 0, out).clamp_min(0)


@torch.no_grad()
def _entropy_by_rows(problem: Problem, lse: Tensor) -> Tensor:
    out = torch.zeros_like(lse)
    for rows, _, weights in weight_blocks(problem, lse):
        out[:, :, rows] = torch.special.entr(weights).sum(-1)
    return out


@torch.no_grad()
def distance(problem: Problem, lse: Tensor) -> Tensor:
    """``sum_j A_ij |p_i - j|``, (B, H, L), with p_i = S - L + i."""
    _, _, query_len, key_len = problem.dims
    out = torch.zeros_like(lse)
    for rows, keys, weights in weight_blocks(problem, lse):
        position = torch.arange(rows.start, rows.stop, device=lse.device)[:, None] + (key_len - query_len)
        apart = (position - torch.arange(keys.start, keys.stop, device=lse.device)).abs()  # (R, C)
        out[:, :, rows] = weights.mul_(apart.to(weights.dtype)).sum(-1)
    return out


@torch.no_grad()
def max_logit(problem: Problem) -> Tensor:
    """The largest score of each row, (B, H, L)."""
    b, h, query_len, _ = problem.dims
    out = torch.full((b, h, query_len), -torch.inf, dtype=compute_dtype(problem.q.dtype), device=problem.q.device)
    for rows, keys in problem.row_blocks():
        out[:, :, rows] = problem.block(rows, keys).amax(-1)
    return out


@torch.no_grad()
def topk(problem: Problem, lse: Tensor, k: int) -> TopK:
    """The k largest weights of each row, (B, H, L, k)."""
    b, h, query_len, _ = problem.dims
    values = torch.full((b, h, query_len, k), -torch.inf, dtype=lse.dtype, device=lse.device)
    indices = torch.full((b, h, query_len, k), -1, dtype=torch.long, device=lse.device)
    for rows, keys in problem.row_blocks():
        scores = problem.block(rows, keys)  # (B, H, R, C)
        found = _row_topk(scores, min(k, scores.shape[-1]))
        width = found.values.shape[-1]
        values[:, :, rows, :width] = found.values
        indices[:, :, rows, :width] = torch.where(found.values == -torch.inf, -1, found.indices + keys.start)
    safe = torch.where(lse == -torch.inf, 0, lse)
    return TopK((values - safe[..., None]).exp_(), indices)


def _row_topk(scores: Tensor, k: int) -> TopK:
    """torch.topk over the last axis, exact, by way of the maxima of chunks where that is faster."""
    width = scores.shape[-1]
    chunks = width // CHUNK
    if chunks < 4 * k:
        return TopK(*torch.topk(scores, k, dim=-1))
    whole = scores[..., : chunks * CHUNK].unflatten(-1, (chunks, CHUNK))  # (..., C) -> (..., chunks, CHUNK)
    best = torch.topk(whole.amax(-1), k, dim=-1, sorted=False).indices  # (..., k)
    picked = whole.gather(-2, best[..., None].expand(*best.shape, CHUNK)).flatten(-2)  # (..., k * CHUNK)
    at = (best[..., None] * CHUNK + torch.arange(CHUNK, device=scores.device)).flatten(-2)
    if chunks * CHUNK < width:
        tail = scores[..., chunks * CHUNK :]
        picked = torch.cat([picked, tail], dim=-1)
        at = torch.cat([at, torch.arange(chunks * CHUNK, width, device=scores.device).expand_as(tail)], dim=-1)
    found = torch.topk(picked, k, dim=-1)
    return TopK(found.values, at.gather(-1, found.indices))


def edges(length: int, cells: int) -> list[int]:
    """Where cells begin and end: cell c holds [edges[c], edges[c + 1])."""
    return [c * length // cells for c in range(cells + 1)]


@torch.no_grad()
def pool(problem: Problem, lse: Tensor, rows: int, cols: int, reduce: str) -> Tensor:
    """The map of rows x cols cells, (B, H, rows, cols): summed over keys and averaged over queries, or the largest weight."""
    b, h, query_len, key_len = problem.dims
    out = torch.zeros(b, h, rows, cols, dtype=lse.dtype, device=lse.device)
    ends = edges(query_len, rows)
    safe = torch.where(lse == -torch.inf, 0, lse)
    for first, last, start, stop in _cell_groups(problem, ends):
        low, high = problem.key_range(start, stop)
        if low >= high:
            continue
        r = slice(start, stop)
        keys = slice(low, high)
        weights = problem.block(r, keys).sub_(safe[:, :, r, None]).exp_()  # (B, H, R, C)
        cut = [max(ends[c], start) - start for c in range(first, last + 1)] + [stop - start]
        by_query = _reduce_rows(weights, cut, reduce)  # (B, H, cells, C)
        by_key = _reduce_keys(by_query, low, key_len, cols, reduce)  # (B, H, cells, cols)
        part = out[:, :, first : last + 1]
        if reduce == "max":
            torch.maximum(part, by_key, out=part)
        else:
            part += by_key
    if reduce == "mean":
        counts = torch.tensor([ends[c + 1] - ends[c] for c in range(rows)], dtype=lse.dtype, device=lse.device)
        out /= counts[:, None]
    return out


def _cell_groups(problem: Problem, ends: list[int]) -> list[tuple[int, int, int, int]]:
    """Blocks of rows that hold whole cells, or a part of one cell: (first cell, last cell, start, stop)."""
    b, h, _, key_len = problem.dims
    most = max(1, (1 << 21) // max(1, b * h * key_len))
    groups, c = [], 0
    while c < len(ends) - 1:
        last = c
        while last + 2 < len(ends) and ends[last + 2] - ends[c] <= most:
            last += 1
        for start in range(ends[c], ends[last + 1], max(most, ends[last + 1] - ends[c] if last > c else most)):
            groups.append((c, last, start, min(start + most, ends[last + 1]) if last == c else ends[last + 1]))
        c = last + 1
    return groups


def _reduce_rows(weights: Tensor, cut: list[int], reduce: str) -> Tensor:
    """(B, H, R, C) to (B, H, cells, C): each cell's rows [cut[c], cut[c + 1]) summed or maximised."""
    cells, size = len(cut) - 1, cut[1] - cut[0]
    if all(cut[c + 1] - cut[c] == size for c in range(cells)):
        split = weights.unflatten(2, (cells, size))  # (B, H, cells, size, C)
        return split.sum(3) if reduce == "mean" else split.amax(3)
    parts = [weights[:, :, cut[c] : cut[c + 1]] for c in range(cells)]
    return torch.stack([p.sum(2) if reduce == "mean" else p.amax(2) for p in parts], dim=2)


def _reduce_keys(weights: Tensor, low: int, key_len: int, cols: int, reduce: str) -> Tensor:
    """(B, H, cells, C) over the keys from ``low`` to (B, H, cells, cols)."""
    c = torch.arange(low, low + weights.shape[-1], device=weights.device)
    # The cell of key j is the c with c * S // cols <= j < (c + 1) * S // cols.
    cell = ((c + 1) * cols - 1).div(key_len, rounding_mode="floor")
    out = weights.new_zeros(*weights.shape[:-1], cols)
    if reduce == "mean":
        return out.index_add_(-1, cell, weights)
    return out.scatter_reduce_(-1, cell.expand_as(weights), weights, "amax")
