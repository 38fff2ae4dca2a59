"""Attention as one node of autograd: (q, k, v, bias, sinks) to (out, lse), first derivatives at fused cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.engine import execute
from regard.engine.plan import Plan
from regard.engine.problem import Options, Problem

__all__ = ["attend"]

TWICE = 'regard.attention() has first derivatives only; for a second derivative use impl="reference"'


def attend(problem: Problem, v: Tensor, plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) and lse (B, H, L) of a problem, differentiable in every tensor of it."""
    tensors = (problem.q, problem.k, v, problem.bias, problem.sinks)
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        out, lse = _Attend.apply(*tensors, problem.options, plan, seed)  # type: ignore[no-untyped-call]
        return out, lse
    return execute.forward(problem, v, plan, seed)


class _Attend(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        bias: Tensor | None,
        sinks: Tensor | None,
        options: Options,
        plan: Plan,
        seed: int,
    ) -> tuple[Tensor, Tensor]:
        out, lse = execute.forward(Problem(q, k, bias, sinks, options), v, plan, seed)
        ctx.save_for_backward(q, k, v, bias, sinks, out, lse)
        ctx.options, ctx.plan, ctx.seed = options, plan, seed
        ctx.mask_versions = options.versions()
        ctx.set_materialize_grads(False)
        return out, lse

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad, grad_lse = grads
        saved = ctx.saved_tensors
        if torch.is_grad_enabled():  # create_graph=True: a second derivative may be asked for, and would be wrong
            given = [t for t in (*saved[:5], grad, grad_lse) if t is not None and t.requires_grad]
            with torch.no_grad():
                first = _gradients(ctx, saved, grad, grad_lse)
            return tuple(t if t is None else _Once.apply(t, *given) for t in first)  # type: ignore[no-untyped-call]
        return _gradients(ctx, saved, grad, grad_lse)


def _gradients(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, bias, sinks, out, lse = saved
    problem = Problem(q, k, bias, sinks, ctx.options)
    if grad is None:
        grad = torch.zeros_like(out)
    if ctx.options.versions() != ctx.mask_versions:
        raise RuntimeError("mask was written to between regard.attention() and its backward pass; pass mask.clone()")
    if problem.masked or bias is not None:
        empty = execute.empty_rows(problem, lse)  # passes no gradient, whatever the loss says of its constant output
        if bool(empty.any()):
            grad = grad.masked_fill(empty[..., None], 0)
            # With sinks the lse of an empty row is the sink's logit, and its gradient the sink's.
            grad_lse = None if grad_lse is None else grad_lse.masked_fill(empty, 0) if sinks is None else grad_lse
    needs = ctx.needs_input_grad
    dq, dk, dv, dbias = execute.backward(
        problem, v, ctx.plan, out, lse, grad, grad_lse, ctx.seed, bias_too=bool(bias is not None and needs[3])
    )
    dsinks = None
    if sinks is not None and needs[4]:
        rowsum = (grad.to(lse.dtype) * out).sum(-1)  # (B, H, L)
        rowsum = -rowsum if grad_lse is None else grad_lse - rowsum
        share = torch.exp(sinks.to(lse.dtype)[:, None] - lse.masked_fill(lse == -torch.inf, 0))  # its weight, (B, H, L)
        dsinks = (share * rowsum).sum((0, 2)).to(sinks.dtype)
    dbias = None if dbias is None else dbias.to(bias.dtype)
    return dq, dk, dv, dbias, dsinks, None, None, None


class _Once(torch.autograd.Function):
    """A first derivative that says, if it is differentiated, where second derivatives are to be had."""

    @staticmethod
    def forward(ctx: Any, gradient: Tensor, *given: Tensor) -> Tensor:
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(TWICE)
