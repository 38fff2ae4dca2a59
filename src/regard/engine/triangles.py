"""Causal triangles, many at once: squares that halve, and a last row of small triangles on the diagonal.

A triangle of n rows is a square of n / 2 under two triangles of n / 2, and so on: all that is left of the half that a
mask would throw away is the upper half of the small ones. No maximum is taken (see :mod:`regard.engine.blocks`), so
that what two squares give to one row is added, not merged.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from regard.engine.blocks import Room, budget

__all__ = ["backward", "forward", "halvings"]

# Rows of the triangles on the diagonal, about, and what they are a multiple of.
SMALLEST = 48
GRAIN = 4


def halvings(rows: int) -> tuple[int, int]:
    """How often a triangle of so many rows is halved, and how many rows it then is taken to have: 2^n small ones, whose
    sizes divide by GRAIN.
    """
    times = max(0, round(math.log2(rows / SMALLEST)))
    return times, -(-rows // (GRAIN << times)) * (GRAIN << times)


def forward(q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the output (H, T, n, Dv) and lse (H, T, n, 1) of T triangles a head, row r of which reads keys 0..r: q and
    k (H, T, n, D), v (H, T, n, Dv); of rows that are unsafe, nonsense.
    """
    times, padded = halvings(q.shape[2])
    n, room = q.shape[2], Room(q)
    for at in _chunks(q):
        # Rows and keys of padding come last: no row before them reads them.
        a, b, c = (_copy(room, i, t[at], padded) for i, t in enumerate((q, k, v)))  # (m, padded, W)
        part, total = room.take(3, *c.shape), room.take(4, *c.shape[:2], 1)
        for x, y, weights, diagonal in _levels(room, times, a):
            torch.baddbmm(weights, x(a), y(b).mT, beta=0, alpha=scale, out=weights).exp_()
            if diagonal:
                weights.tril_()
                torch.sum(weights, -1, keepdim=True, out=x(total))
                torch.bmm(weights, y(c), out=x(part))
            else:
                x(total).add_(weights.sum(-1, keepdim=True))
                # baddbmm_ into rows that are not all of the tensor would go one product at a time.
                x(part).add_(torch.bmm(weights, y(c), out=room.take(12, *x(part).shape)))
        into = out[at]
        found, sums = (t.view(*into.shape[:2], padded, t.shape[-1])[:, :, :n] for t in (part, total))
        torch.div(found, sums, out=into)
        torch.log(sums, out=lse[at])


def backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, lse: Tensor, delta: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given the rows' global lse and delta, (H, T, n, 1) each."""
    times, padded = halvings(q.shape[2])
    dq, dk, dv = (t.new_empty(t.shape) for t in (q, k, v))
    n, room = q.shape[2], Room(q)
    for at in _chunks(q):
        # A row of padding has grad 0 and delta 0, and so adds nothing to any key.
        tensors = (_copy(room, i, t[at], padded) for i, t in enumerate((grad, lse, delta, q, k, v)))
        g, row_lse, row_delta, a, b, c = tensors  # (m, padded, W or 1) each
        gq, gk, gv = (room.take(6 + i, *t.shape) for i, t in enumerate((a, b, c)))
        for x, y, weights, diagonal in _levels(room, times, a):
            slopes = room.take(11, *weights.shape)
            torch.baddbmm(weights, x(a), y(b).mT, beta=0, alpha=scale, out=weights).sub_(x(row_lse)).exp_()
            if diagonal:
                weights.tril_()
            torch.bmm(x(g), y(c).mT, out=slopes).sub_(x(row_delta)).mul_(weights)
            for total, left, right in (
                (y(gv), weights.mT, x(g)),
                (x(gq), slopes, y(b)),
                (y(gk), slopes.mT, x(a)),
            ):
                # baddbmm_ into rows that are not all of the tensor would go one product at a time.
                if diagonal:  # it comes first, and has every row and key
                    torch.bmm(left, right, out=total)
                else:
                    total.add_(torch.bmm(left, right, out=room.take(12, *total.shape)))
        gq.mul_(scale)
        gk.mul_(scale)
        for into, found in zip((dq, dk, dv), (gq, gk, gv), strict=True):
            into[at] = found.view(*into[at].shape[:2], padded, found.shape[-1])[:, :, :n]
    return dq, dk, dv


def _levels(room: Room, times: int, q: Tensor) -> Iterator[tuple]:  # type: ignore[type-arg]
    """The diagonal, then squares from small to large: how to cut rows and keys out of a tensor (m, n, W), room for the
    scores, and whether this is the diagonal.
    """
    m, n = q.shape[:2]
    size = n >> times

    def diagonal(t: Tensor) -> Tensor:
        return t.view(m << times, size, t.shape[-1])

    yield diagonal, diagonal, room.take(10, m << times, size, size), True
    for level in range(times):
        side = size << level
        count = m << (times - 1 - level)

        def lower(t: Tensor, side: int = side, count: int = count) -> Tensor:
            return t.view(count, 2, side, t.shape[-1])[:, 1]

        def left(t: Tensor, side: int = side, count: int = count) -> Tensor:
            return t.view(count, 2, side, t.shape[-1])[:, 0]

        yield lower, left, room.take(10, count, side, side), False


def _copy(room: Room, name: int, t: Tensor, padded: int) -> Tensor:
    """A dense copy (m, padded, W) of (h, T, n, W), with zeros past its end."""
    h, count, n, width = t.shape
    into = room.take(name, h, count, padded, width)
    into[:, :, :n].copy_(t)
    into[:, :, n:].zero_()
    return into.flatten(0, 1)


def _chunks(t: Tensor) -> Iterator[tuple[slice, slice]]:
    """Heads and triangles of (H, T, n, W), so many at once that a level's scores stay in cache."""
    heads, triangles, n = t.shape[:3]
    most = max(1, 4 * budget() // (n * n))
    step = min(heads, most)
    for h in range(0, heads, step):
        for first in range(0, triangles, most // step):
            yield slice(h, h + step), slice(first, first + most // step)
