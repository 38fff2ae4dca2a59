"""One pass over the weights, block by block, for any number of statistics: the products and exponentials are shared."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from regard.engine.problem import MaskView, Problem, compute_dtype, crop
from regard.engine.stream import Block, blocks
from regard.folds import Fold, Rows

__all__ = ["sweep"]

# Where rows read few keys, a block is as many rows as make so many entries with them, and never fewer than LEAST_ROWS.
# A block costs as much as some 2^16 entries, whatever is in it: with fewer rows a long text would be all blocks.
ENTRIES, LEAST_ROWS = 1 << 16, 64

# Keys are few where they are at most this part of all.
FEW = 1 / 8


@torch.no_grad()
def sweep(problem: Problem, lse: Tensor | None, folds: Sequence[Fold]) -> tuple[list[Any], Tensor]:
    """What the folds add up to, in their order, and the lse (B, H, L).

    Without an lse each row's is made of the scores themselves, a maximum and a sum more, instead of a pass before.
    """
    dtype, device = compute_dtype(problem.q.dtype), problem.q.device
    for fold in folds:
        fold.begin(problem, dtype)
    normalise = _Given(problem, lse) if lse is not None else _Found(problem, dtype)
    reads_log, reads_weights = any(fold.reads_log for fold in folds), any(fold.reads_weights for fold in folds)
    cuts = next((fold.cuts for fold in folds if fold.cuts is not None), None)
    scratch = torch.empty(0, dtype=dtype, device=device)
    for block in _blocks(problem, lse, cuts):
        log = block.log
        base = normalise.base(block)  # (b, h, R, 1)
        if not reads_log:
            weights = log.exp_()
        elif reads_weights or lse is None:
            if scratch.numel() < log.numel():
                scratch = torch.empty(log.numel(), dtype=dtype, device=device)
            weights = torch.exp(log, out=scratch[: log.numel()].view(log.shape))
        else:
            weights = log  # nobody reads it
        rows = Rows(block, log, weights, normalise.shift(block, weights, base), base)
        for fold in folds:
            fold.add(rows)
    return [fold.result() for fold in folds], normalise.lse


class _Given:
    """Blocks of ``log A_ij``: they are normalised as they come."""

    def __init__(self, problem: Problem, lse: Tensor) -> None:
        self.lse = lse

    def base(self, block: Block) -> Tensor:
        return self.lse[block.b, block.h, block.rows, None]

    def shift(self, block: Block, weights: Tensor, base: Tensor) -> Tensor:
        return torch.zeros_like(base)


class _Found:
    """Blocks of scores: the largest of a row is taken off before the exponential, and its sum divided by after."""

    def __init__(self, problem: Problem, dtype: torch.dtype) -> None:
        self.sinks = None if problem.sinks is None else problem.sinks.to(dtype)[:, None, None]  # (H, 1, 1)
        self.lse = torch.full(problem.dims[:3], -torch.inf, dtype=dtype, device=problem.q.device)
        if self.sinks is not None:
            self.lse[:] = self.sinks[..., 0]  # of a row without keys

    def base(self, block: Block) -> Tensor:
        base = block.log.amax(-1, keepdim=True)  # (b, h, R, 1)
        if self.sinks is not None:
            base = torch.maximum(base, self.sinks[block.h])
        base.masked_fill_(base == -torch.inf, 0)  # a row without keys: exp(-inf - 0) is 0
        block.log.sub_(base)
        return base

    def shift(self, block: Block, weights: Tensor, base: Tensor) -> Tensor:
        total = weights.sum(-1, keepdim=True)  # (b, h, R, 1)
        if self.sinks is not None:
            total += torch.exp(self.sinks[block.h] - base)
        self.lse[block.b, block.h, block.rows] = (total.log() + base)[..., 0]
        total.masked_fill_(total == 0, 1)
        weights.div_(total)
        return total.log_()


def _blocks(problem: Problem, lse: Tensor | None, cuts: list[int] | None) -> Iterator[Block]:
    """The blocks of a problem; where its rows read few keys, those of its parts, so that they are no more than rows
    over a constant.
    """
    query_len, key_len = problem.dims[2:]
    few = FEW * key_len
    middle, last = query_len // 2, max(0, query_len - LEAST_ROWS)
    if any(_width(problem, start, min(start + LEAST_ROWS, query_len)) > few for start in (middle, last)):
        yield from blocks(problem, lse, cuts)
        return
    for rows in _parts(problem):
        keys = slice(*problem.key_range(rows.start, rows.stop))
        part = None if lse is None else lse[..., rows]
        inside = [c - rows.start for c in cuts or () if rows.start < c < rows.stop]
        ends = None if cuts is None else [0, *inside, rows.stop - rows.start]
        for at in blocks(_cropped(problem, rows, keys), part, ends):
            yield Block(at.b, at.h, _moved(at.rows, rows.start), _moved(at.keys, keys.start), at.log)


def _parts(problem: Problem) -> Iterator[slice]:
    """All rows, as many at a time as make ENTRIES with the keys that they read."""
    start, query_len = 0, problem.dims[2]
    while start < query_len:
        rows = LEAST_ROWS
        while rows < query_len and 2 * rows * _width(problem, start, min(start + 2 * rows, query_len)) <= ENTRIES:
            rows *= 2
        yield slice(start, min(start + rows, query_len))
        start += rows


def _width(problem: Problem, start: int, stop: int) -> int:
    low, high = problem.key_range(start, stop)
    return high - low


def _cropped(problem: Problem, rows: slice, keys: slice) -> Problem:
    """The problem of some rows and keys alone."""
    o = problem.options
    options = replace(
        o,
        causal=None if o.causal is None else o.causal + rows.start - keys.start,
        valid=None if o.valid is None else o.valid[..., keys],
        rest=None if o.rest is None else _Moved(o.rest, rows.start, keys.start),
        view=None,
    )
    bias = None if problem.bias is None else crop(problem.bias, rows, keys)
    return Problem(problem.q[:, :, rows], problem.k[:, :, keys], bias, problem.sinks, options)


def _moved(at: slice, by: int) -> slice:
    return slice(at.start + by, at.stop + by)


@dataclass(frozen=True, eq=False)
class _Moved:
    """A mask as a part of it sees it, whose rows and keys begin somewhere within."""

    whole: MaskView
    row: int
    key: int
    remembered = False

    def intervals(self) -> None:
        return None

    def block(self, rows: slice, keys: slice) -> Tensor:
        return self.whole.block(_moved(rows, self.row), _moved(keys, self.key))

    def versions(self) -> tuple[int, ...]:
        return self.whole.versions()

    def at(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return self.whole.at(b, h, q + self.row, kv + self.key)

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        low, high = self.whole.key_range(start + self.row, stop + self.row)
        return max(0, low - self.key), max(0, high - self.key)
