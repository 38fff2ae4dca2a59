"""Attention over many small rectangles at once, in plain PyTorch: batched products and an exponential in a core's
cache.

For short rows of keys this beats PyTorch's fused op, whose products are small, by a quarter: no maximum is taken, since
scores are rarely so large that an exponential overflows. Rows where they are are told by their lse (:func:`unsafe`),
and are the caller's to take from the fused op: those rows alone, so that no row depends on what only others read.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

__all__ = ["Room", "backward", "budget", "forward", "safe", "unsafe"]

# 2^20 float32 are 4 MB, about what a core has of its caches; half of it is little slower.
ELEMENTS_PER_THREAD = 1 << 20
# With a log-sum-exp within this, no exponential overflows, and what underflows is below e^-40 of its row.
SAFE_LSE = 40.0


def forward(q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the output (X, Y, R, Dv) and lse (X, Y, R, 1) of X * Y rectangles q (X, Y, R, D), k (X, Y, C, D), v (X, Y,
    C, Dv); of rows that are unsafe, nonsense.
    """
    edges, room, largest = _edges(allowed, q.dtype), Room(q), torch.finfo(q.dtype).max
    rows, keys, width = q.shape[2], k.shape[2], v.shape[3]
    for some_q, some_k, some_v, some_out, some_lse in _chunks(rows * keys, q, k, v, out, lse):
        n = some_q.shape[0]
        weights, part = room.take(0, n, rows, keys), room.take(1, n, rows, width)
        torch.baddbmm(weights, some_q, some_k.mT, beta=0, alpha=scale, out=weights).exp_()  # (n, R, C)
        for columns, keep in edges:
            weights[..., columns].clamp_(max=largest).mul_(keep)
        total = weights.sum(-1, keepdim=True)  # (n, R, 1)
        torch.bmm(weights, some_v, out=part)
        torch.div(part, total, out=some_out)
        torch.log(total, out=some_lse)


def safe(lse: Tensor) -> bool:
    """Whether these log-sum-exps came of exponentials that hold."""
    low, high = (float(t) for t in lse.aminmax())
    return low > -SAFE_LSE and high < SAFE_LSE  # NaN is not


def unsafe(lse: Tensor) -> Tensor | None:
    """Which rows came of exponentials that do not hold, booleans like lse; None if all hold."""
    return None if safe(lse) else ~(lse.abs() < SAFE_LSE)


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, allowed: Tensor | None, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k, v of each rectangle, given the rows' global lse and delta, (X, Y, R, 1) each:
    ``dS = P * (grad @ v.mT - delta)``.
    """
    edges, largest = _edges(allowed, q.dtype), torch.finfo(q.dtype).max
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    room = Room(q)
    rows, keys = q.shape[2], k.shape[2]
    for g, some_q, some_k, some_v, some_lse, some_delta, some_dq, some_dk, some_dv in _chunks(
        2 * rows * keys, grad, q, k, v, lse, delta, dq, dk, dv
    ):
        n = some_q.shape[0]
        weights, slopes = room.take(0, n, rows, keys), room.take(1, n, rows, keys)
        torch.baddbmm(weights, some_q, some_k.mT, beta=0, alpha=scale, out=weights).sub_(some_lse).exp_()  # (n, R, C)
        for columns, keep in edges:
            weights[..., columns].clamp_(max=largest).mul_(keep)
        torch.bmm(weights.mT, g, out=some_dv)
        torch.bmm(g, some_v.mT, out=slopes).sub_(some_delta).mul_(weights)
        torch.baddbmm(some_dq, slopes, some_k, beta=0, alpha=scale, out=some_dq)
        torch.baddbmm(some_dk, slopes.mT, some_q, beta=0, alpha=scale, out=some_dk)
    return dq, dk, dv


def budget() -> int:
    """Scores that may be in memory at once, so that every thread's share stays in its cache."""
    return ELEMENTS_PER_THREAD * torch.get_num_threads()


class Room:
    """Scratch memory that is used again from chunk to chunk: fresh pages cost as much as a pass over them."""

    def __init__(self, like: Tensor) -> None:
        self._like = like
        self._kept: dict[int, Tensor] = {}

    def take(self, name: int, *shape: int) -> Tensor:
        size = 1
        for n in shape:
            size *= n
        if name not in self._kept or self._kept[name].numel() < size:
            self._kept[name] = self._like.new_empty(size)
        return self._kept[name][:size].view(shape)


def _edges(allowed: Tensor | None, dtype: torch.dtype) -> list[tuple[slice, Tensor]]:
    """The columns of (R, C) booleans where something is forbidden, as runs, each with its numbers 0 and 1.

    An exponential may have overflowed there, and 0 * inf is NaN: clamping it and multiplying takes a sixth of the time
    of masked_fill_.
    """
    if allowed is None:
        return []
    mixed = (~allowed.all(0)).nonzero()[:, 0].tolist()
    runs: list[list[int]] = []
    for column in mixed:
        if runs and runs[-1][1] == column:
            runs[-1][1] = column + 1
        else:
            runs.append([column, column + 1])
    return [(slice(a, b), allowed[:, a:b].to(dtype)) for a, b in runs]


def _chunks(elements: int, *tensors: Tensor) -> Iterator[list[Tensor]]:
    """Tensors (X, Y, ...) as (n, ...), with so many n at once that their scores, ``elements`` each, stay in cache."""
    most = max(1, budget() // elements)
    if all(_flat(t) for t in tensors):
        tensors = tuple(t.flatten(0, 1)[None] for t in tensors)  # (X, Y, ...) -> (1, X * Y, ...)
    for x in range(tensors[0].shape[0]):
        for y in range(0, tensors[0].shape[1], most):
            yield [t[x, y : y + most] for t in tensors]


def _flat(t: Tensor) -> bool:
    return t.shape[0] == 1 or t.shape[1] == 1 or t.stride(0) == t.shape[1] * t.stride(1)
