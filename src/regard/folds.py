"""What a sweep over the weights adds up: one class a statistic, each fed block by block.

A block holds ``log`` and ``weights`` (b, h, R, C), with ``A = weights = exp(log - shift)`` and ``score = log + base``,
where shift and base are (b, h, R, 1): whole rows, but in a text that is cut over ranks. A fold reads them and writes to
neither.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.engine.problem import Problem
from regard.engine.stream import Block

__all__ = ["Distance", "Entropy", "Fold", "Mass", "MaxLogit", "Pool", "Received", "Rows", "TopK", "TopRows"]

# torch.topk is several times slower than reading its input, so it is given the columns that can matter. It keeps a
# heap, and no sorted copy, where a row has 64 entries for each that is asked: twice as many classes are fastest.
CLASSES, MOST_IN_CLASS = 128, 64

# A score so far below a row's largest that its weight is 0 in any dtype.
FAR = -1e4


class TopK(NamedTuple):
    """The largest weights of each row and their keys, (..., H, L, k) each."""

    values: Tensor
    indices: Tensor


class Rows(NamedTuple):
    """A block of a sweep."""

    at: Block
    log: Tensor
    weights: Tensor
    shift: Tensor
    base: Tensor


class Fold:
    """A statistic that is added up over the blocks of a sweep."""

    reads_log = False  # the log beside the weights, which are then not made in its place
    reads_weights = True
    cuts: list[int] | None = None  # where blocks of rows had better end

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        raise NotImplementedError

    def add(self, rows: Rows) -> None:
        raise NotImplementedError

    def result(self) -> Any:
        raise NotImplementedError


class _PerRow(Fold):
    """One number a row, (B, H, L); ``empty`` for a row that no block holds."""

    empty = 0.0

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        self.key_len = problem.dims[3]
        self.shift = problem.dims[3] - problem.dims[2]
        self.out = torch.full(problem.dims[:3], self.empty, dtype=dtype, device=problem.q.device)

    def add(self, rows: Rows) -> None:
        at = rows.at
        part = self.out[at.b, at.h, at.rows]
        self.join(part, self.of(rows))

    def join(self, part: Tensor, more: Tensor) -> None:
        """Of a row whose keys come in several blocks, what they add up to."""
        part += more

    def of(self, rows: Rows) -> Tensor:
        raise NotImplementedError

    def result(self) -> Tensor:
        return self.out


class Entropy(_PerRow):
    """``-sum_j A_ij log A_ij = shift_i * sum_j A_ij - sum_j A_ij log_ij``."""

    reads_log = True

    def of(self, rows: Rows) -> Tensor:
        # 0 * -inf is NaN: a weight of 0 adds nothing, however far below the score is.
        terms = rows.log.clamp_min(FAR).mul_(rows.weights)  # (b, h, R, C)
        return (rows.shift[..., 0] * rows.weights.sum(-1) - terms.sum(-1)).clamp_min_(0)


class MaxLogit(_PerRow):
    """The largest score of each row."""

    empty = -torch.inf
    reads_log = True
    reads_weights = False

    def of(self, rows: Rows) -> Tensor:
        return rows.log.amax(-1) + rows.base[..., 0]

    def join(self, part: Tensor, more: Tensor) -> None:
        torch.maximum(part, more, out=part)


class Mass(_PerRow):
    """``sum of A_ij over j in keys`` for distinct indices (n,)."""

    def __init__(self, keys: Tensor) -> None:
        self.keys = keys

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        super().begin(problem, dtype)
        self.chosen = torch.zeros(self.key_len, dtype=dtype, device=problem.q.device)
        self.chosen[self.keys] = 1

    def of(self, rows: Rows) -> Tensor:
        return rows.weights @ self.chosen[rows.at.keys]


class Distance(_PerRow):
    """``sum_j A_ij |p_i - j|`` with p_i = S - L + i."""

    def of(self, rows: Rows) -> Tensor:
        at, weights, shift, dtype, device = rows.at, rows.weights, self.shift, self.out.dtype, self.out.device
        place = torch.arange(at.rows.start, at.rows.stop, dtype=dtype, device=device) + shift  # p_i, (R,)
        keys = torch.arange(at.keys.start, at.keys.stop, dtype=dtype, device=device)  # (C,)
        # Keys before every row of the block, keys between its rows, keys after: on the outer two |p - j| is linear in
        # j.
        left = min(max(at.rows.start + shift, at.keys.start), at.keys.stop) - at.keys.start
        right = min(max(at.rows.stop + shift, at.keys.start), at.keys.stop) - at.keys.start
        total = (weights[..., left:right] * (place[:, None] - keys[left:right]).abs()).sum(-1)  # (b, h, R)
        for part, sign in ((slice(0, left), 1), (slice(right, None), -1)):
            # Counted from the block's first row: a position of 10^5 would round away the short distances.
            terms = torch.stack([torch.ones_like(keys[part]), keys[part] - place[0]], dim=1)  # (C', 2)
            mass, moment = (weights[..., part] @ terms).unbind(-1)  # (b, h, R) each
            total += sign * ((place - place[0]) * mass - moment)
        return total


class Received(Fold):
    """``A^T 1``, (B, H, S)."""

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        b, h, _, key_len = problem.dims
        self.total = torch.zeros(b, h, key_len, dtype=dtype, device=problem.q.device)

    def add(self, rows: Rows) -> None:
        at = rows.at
        self.total[at.b, at.h, at.keys] += rows.weights.sum(2)

    def result(self) -> Tensor:
        return self.total


class TopRows(Fold):
    """The k largest weights of each row, (B, H, L, k)."""

    reads_log = True
    reads_weights = False

    def __init__(self, k: int) -> None:
        self.k = k

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        self.values = torch.zeros(*problem.dims[:3], self.k, dtype=dtype, device=problem.q.device)
        self.indices = torch.full(self.values.shape, -1, dtype=torch.long, device=problem.q.device)

    def add(self, rows: Rows) -> None:
        found = row_topk(rows.log, min(self.k, rows.log.shape[-1]))
        at = (rows.at.b, rows.at.h, rows.at.rows, slice(0, found.values.shape[-1]))
        self.join(at, torch.where(found.values == -torch.inf, -1, found.indices + rows.at.keys.start), found, rows)

    def join(self, at: tuple[slice, ...], indices: Tensor, found: TopK, rows: Rows) -> None:
        """Put in what a block found."""
        self.indices[at] = indices
        self.values[at] = (found.values - rows.shift).exp_()

    def result(self) -> TopK:
        return TopK(self.values, self.indices)


class Pool(Fold):
    """The map of rows x cols cells, (B, H, rows, cols): summed over keys and averaged over queries, or the largest
    weight.
    """

    def __init__(self, rows: int, cols: int, reduce: str) -> None:
        self.rows, self.cols, self.reduce = rows, cols, reduce

    def begin(self, problem: Problem, dtype: torch.dtype) -> None:
        b, h, query_len, self.key_len = problem.dims
        self.out = torch.zeros(b, h, self.rows, self.cols, dtype=dtype, device=problem.q.device)
        self.cuts = self.ends = edges(query_len, self.rows)

    def add(self, rows: Rows) -> None:
        at, ends = rows.at, self.ends
        first = bisect_right(ends, at.rows.start) - 1  # the cell of the block's first row
        last = bisect_left(ends, at.rows.stop)
        cut = [min(max(e, at.rows.start), at.rows.stop) - at.rows.start for e in ends[first : last + 1]]
        by_query = _reduce_rows(rows.weights, cut, self.reduce)  # (b, h, cells, C)
        by_key = _reduce_keys(by_query, at.keys.start, self.key_len, self.cols, self.reduce)  # (b, h, cells, cols)
        part = self.out[at.b, at.h, first:last]
        if self.reduce == "max":
            torch.maximum(part, by_key, out=part)
        else:
            part += by_key

    def result(self) -> Tensor:
        if self.reduce == "mean":
            counts = [self.ends[c + 1] - self.ends[c] for c in range(self.rows)]
            self.out /= torch.tensor(counts, dtype=self.out.dtype, device=self.out.device)[:, None]
        return self.out


def edges(length: int, cells: int) -> list[int]:
    """Where cells begin and end: cell c holds [edges[c], edges[c + 1])."""
    return [c * length // cells for c in range(cells + 1)]


def row_topk(t: Tensor, k: int) -> TopK:
    """torch.topk over the last axis, exact, by way of the maxima of classes of columns where that is faster.

    Column j is in class ``j % classes``: the k largest lie in the k classes with the largest maxima, and a maximum over
    every classes-th column is a reduction that runs along memory.
    """
    width = t.shape[-1]
    size = min(width // (CLASSES * k), MOST_IN_CLASS)
    if size < 2:
        return TopK(*torch.topk(t, k, dim=-1))
    classes = width // size
    whole = t[..., : classes * size].unflatten(-1, (size, classes))  # (..., C) -> (..., size, classes)
    best = torch.topk(whole.amax(-2), k, dim=-1, sorted=False).indices  # (..., k)
    at = best[..., None, :] + torch.arange(size, device=t.device)[:, None] * classes  # (..., size, k)
    at = at.flatten(-2)  # (..., size * k)
    tail = torch.arange(classes * size, width, device=t.device).expand(*at.shape[:-1], -1)
    at = torch.cat([at, tail], dim=-1)
    found = torch.topk(t.gather(-1, at), k, dim=-1)
    return TopK(found.values, at.gather(-1, found.indices))


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
