"""One pass over the weights, block by block, for any number of statistics: the products and exponentials are shared."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype
from regard.engine.stream import blocks
from regard.folds import Fold, Rows

__all__ = ["sweep"]


@torch.no_grad()
def sweep(problem: Problem, lse: Tensor | None, folds: Sequence[Fold]) -> tuple[list[Any], Tensor]:
    """What the folds add up to, in their order, and the lse (B, H, L).

    Without an lse each row's is made of the scores themselves, a maximum and a sum more, instead of a pass before.
    """
    dtype = compute_dtype(problem.q.dtype)
    for fold in folds:
        fold.begin(problem, dtype)
    found = torch.empty(0) if lse is None else lse
    if lse is None:
        found = torch.full(problem.dims[:3], -torch.inf, dtype=dtype, device=problem.q.device)
        if problem.sinks is not None:
            found[:] = problem.sinks.to(dtype)[:, None]  # of a row without keys: (H,) -> (B, H, L)
    both = any(fold.reads_log for fold in folds) and any(fold.reads_weights for fold in folds)
    only_log = not any(fold.reads_weights for fold in folds)
    cuts = next((fold.cuts for fold in folds if fold.cuts is not None), None)
    scratch = torch.empty(0, dtype=dtype, device=problem.q.device)
    for block in blocks(problem, lse, cuts):
        log, at = block.log, (block.b, block.h, block.rows)
        if lse is None:
            base = log.amax(-1, keepdim=True)  # (b, h, R, 1)
            if problem.sinks is not None:
                base = torch.maximum(base, problem.sinks.to(dtype)[block.h, None, None])
            base.masked_fill_(base == -torch.inf, 0)  # a row without keys: exp(-inf - 0) is 0
            log.sub_(base)
        else:
            base = lse[at][..., None]
        if only_log and lse is not None:
            weights = log
        elif both or (lse is None and only_log):
            if scratch.numel() < log.numel():
                scratch = torch.empty(log.numel(), dtype=dtype, device=log.device)
            weights = torch.exp(log, out=scratch[: log.numel()].view(log.shape))
        else:
            weights = log.exp_()
        if lse is None:
            total = weights.sum(-1, keepdim=True)  # (b, h, R, 1)
            if problem.sinks is not None:
                total += torch.exp(problem.sinks.to(dtype)[block.h, None, None] - base)
            found[at] = (total.log() + base)[..., 0]
            total.masked_fill_(total == 0, 1)
            if not only_log:
                weights.div_(total)
            shift = total.log_()
        else:
            shift = torch.zeros_like(base)
        rows = Rows(block, log, weights, shift, base)
        for fold in folds:
            fold.add(rows)
    return [fold.result() for fold in folds], found
