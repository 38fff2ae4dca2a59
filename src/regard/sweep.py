"""One pass over the weights, block by block, for any number of statistics: the products and exponentials are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import Block, blocks
from regard.folds import Fold, Rows

__all__ = ["sweep"]


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
    for block in blocks(problem, lse, cuts):
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
