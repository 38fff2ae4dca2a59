"""Attention over several ranks as one node of autograd: first derivatives by the same parts, exact as on one rank."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from regard.distributed import gathered, ring
from regard.distributed.sharded import Gradients, Sharding
from regard.distributed.traffic import Ranks
from regard.engine.merge import with_sinks
from regard.engine.problem import compute_dtype

__all__ = ["Strategy", "attend"]

#: How keys reach the queries of other ranks.
Strategy = Literal["ring", "gather", "heads"]
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
        WAYS[strategy].forward(sharding, ranks, q, k, v, out, lse)
        empty = lse == -torch.inf
        if sinks is not None:
            out, lse = with_sinks(out, lse, sinks)
        out = out.to(v.dtype)
        ctx.save_for_backward(q, k, v, sinks, out, lse, empty)
        ctx.sharding, ctx.ranks, ctx.strategy = sharding, ranks, strategy
        ctx.versions = sharding.versions()
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Tensor | None, ...]:
        q, k, v, sinks, out, lse, empty = ctx.saved_tensors
        if ctx.sharding.versions() != ctx.versions:
            raise RuntimeError("mask was written to between attention() and its backward pass; pass mask.clone()")
        grad = torch.zeros_like(out) if grad is None else grad.masked_fill(empty[..., None], 0)
        if grad_lse is not None and sinks is None:
            grad_lse = grad_lse.masked_fill(empty, 0)
        with torch.autocast(v.device.type, enabled=False):
            gradients = Gradients(ctx.sharding, q, out, lse, grad, grad_lse)
            dk, dv = WAYS[ctx.strategy].backward(ctx.sharding, ctx.ranks, gradients, k, v)
            dsinks = None
            if sinks is not None and ctx.needs_input_grad[3]:
                rowsum = -gradients.delta[..., 0] if grad_lse is None else grad_lse - gradients.delta[..., 0]
                safe = lse.masked_fill(lse == -torch.inf, 0)
                share = torch.exp(sinks.to(lse.dtype)[:, None] - safe)  # the weight of the sink, (B, H, R)
                dsinks = (share * rowsum).sum((0, 2)).to(sinks.dtype)
        return gradients.dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dsinks, None, None, None
