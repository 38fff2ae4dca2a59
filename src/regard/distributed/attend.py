"""Attention over several ranks as one node of autograd: first derivatives by the same parts, exact as on one rank."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import torch
from torch import Tensor

from regard.distributed import gathered, ring
from regard.distributed.once import once
from regard.distributed.sharded import Gradients, Sharding
from regard.distributed.traffic import Ranks
from regard.engine.merge import with_sinks
from regard.engine.problem import compute_dtype

__all__ = ["Strategy", "attend"]

#: How keys reach the queries of other ranks.
Strategy = Literal["ring", "gather", "heads"]
# Keys and values that go out together, in bytes: what is on its way, and its gradients, are in memory besides.
MESSAGE = 1 << 23
WAYS = {"ring": ring, "gather": gathered}


def attend(
    q: Tensor, k: Tensor, v: Tensor, sinks: Tensor | None, sharding: Sharding, ranks: Ranks, strategy: Strategy
) -> tuple[Tensor, Tensor]:
    """Output (B, H, R, Dv) and lse (B, H, R) of this rank's queries, differentiable in q, k, v and sinks."""
    found: tuple[Tensor, Tensor] = _Attend.apply(q, k, v, sinks, sharding, ranks, strategy)  # type: ignore[no-untyped-call]
    return found


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        sinks: Tensor | None,
        sharding: Sharding,
        ranks: Ranks,
        strategy: Strategy,
    ) -> tuple[Tensor, Tensor]:
        dtype = compute_dtype(v.dtype)
        # Parts are summed in float32: rounded at each merge, half precision would miss its budget.
        out = torch.zeros(*q.shape[:3], v.shape[-1], dtype=dtype, device=v.device)
        lse = torch.full(q.shape[:3], -torch.inf, dtype=dtype, device=v.device)
        for some, h, kv in _groups(sharding, k, v):
            WAYS[strategy].forward(some, ranks, q[:, h], k[:, kv], v[:, kv], out[:, h], lse[:, h])
        empty = lse == -torch.inf
        if sinks is not None:
            out, lse = with_sinks(out, lse, sinks)
        ctx.save_for_backward(q, k, v, sinks, out, lse, empty)
        ctx.sharding, ctx.ranks, ctx.strategy = sharding, ranks, strategy
        ctx.versions = sharding.versions()
        ctx.set_materialize_grads(False)
        return out.to(v.dtype), lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        with torch.no_grad():
            saved = ctx.saved_tensors  # once: a checkpoint computes them again each time
            first = _gradients(ctx, saved, *grads)
        return *once(first, (*saved[:4], *grads)), None, None, None


def _gradients(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, sinks, out, lse, empty = saved
    if ctx.sharding.versions() != ctx.versions:
        raise RuntimeError("mask was written to between attention() and its backward pass; pass mask.clone()")
    grad = torch.zeros_like(out) if grad is None else grad
    if bool(empty.any()):  # such a row passes no gradient, whatever the loss says of its constant output
        grad = grad.masked_fill(empty[..., None], 0)
        grad_lse = None if grad_lse is None else grad_lse.masked_fill(empty, 0) if sinks is None else grad_lse
    with torch.autocast(v.device.type, enabled=False):
        dq, dk, dv = (torch.empty_like(t) for t in (q, k, v))
        for some, h, kv in _groups(ctx.sharding, k, v):
            more = None if grad_lse is None else grad_lse[:, h]
            gradients = Gradients(some, q[:, h], out[:, h], lse[:, h], grad[:, h], more)
            dk[:, kv], dv[:, kv] = WAYS[ctx.strategy].backward(some, ctx.ranks, gradients, k[:, kv], v[:, kv])
            dq[:, h] = gradients.dq
        dsinks = None
        if sinks is not None and ctx.needs_input_grad[3]:
            rowsum = -(grad.to(lse.dtype) * out).sum(-1)  # (B, H, R)
            rowsum = rowsum if grad_lse is None else rowsum + grad_lse
            safe = lse.masked_fill(lse == -torch.inf, 0)
            share = torch.exp(sinks.to(lse.dtype)[:, None] - safe)  # the weight of the sink, (B, H, R)
            dsinks = (share * rowsum).sum((0, 2)).to(sinks.dtype)
    return dq, dk, dv, dsinks


def _groups(sharding: Sharding, k: Tensor, v: Tensor) -> Iterator[tuple[Sharding, slice, slice]]:
    """Key heads with their query heads, as many at a time as make one message of at most MESSAGE bytes."""
    heads, kv_heads = sharding.sizes.heads, k.shape[1]
    size = sum(t.numel() * t.element_size() for t in (k, v))
    count = next(n for n in range(1, kv_heads + 1) if kv_heads % n == 0 and (size // n <= MESSAGE or n == kv_heads))
    step, group = kv_heads // count, heads // kv_heads
    for first in range(0, kv_heads, step):
        h = slice(first * group, (first + step) * group)
        yield replace(sharding, heads=h), h, slice(first, first + step)
