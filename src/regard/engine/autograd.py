"""Attention as one node of autograd: (q, k, v, bias, sinks) to (out, lse), first derivatives at fused cost."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard.engine import execute, flex
from regard.engine.plan import Plan
from regard.engine.problem import Options, Problem

__all__ = ["TWICE", "attend", "gradients", "once"]

TWICE = 'regard.attention() has first derivatives only; for a second derivative use impl="reference"'


def attend(problem: Problem, v: Tensor, plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) and lse (B, H, L) of a problem, differentiable in every tensor of it."""
    if plan.kernel == "flex":
        return flex.attend(problem, v)
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
            with torch.no_grad():
                first = _gradients(ctx, saved, grad, grad_lse)
            return once(first, (*saved[:5], grad, grad_lse), TWICE)
        return _gradients(ctx, saved, grad, grad_lse)


def _gradients(
    ctx: Any, saved: tuple[Any, ...], grad: Tensor | None, grad_lse: Tensor | None
) -> tuple[Tensor | None, ...]:
    q, k, v, bias, sinks, out, lse = saved
    if ctx.options.versions() != ctx.mask_versions:
        raise RuntimeError("mask was written to between regard.attention() and its backward pass; pass mask.clone()")
    problem, needs = Problem(q, k, bias, sinks, ctx.options), ctx.needs_input_grad[:5]
    return *gradients(problem, v, ctx.plan, out, lse, grad, grad_lse, ctx.seed, needs), None, None, None


def gradients(
    problem: Problem,
    v: Tensor,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    grad: Tensor | None,
    grad_lse: Tensor | None,
    seed: int,
    needs: Sequence[bool],
) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
    """The gradients of q, k, v, bias and sinks, given the rows' out (B, H, L, Dv) and lse (B, H, L) and what comes back
    through them; of bias and sinks only where they are needed.
    """
    if torch.is_autocast_enabled(v.device.type):  # products of float32 would be rounded to half precision
        with torch.autocast(v.device.type, enabled=False):
            return gradients(problem, v, plan, out, lse, grad, grad_lse, seed, needs)
    if plan.kernel == "flex":
        dq, dk, dv, dbias, dsinks = flex.gradients(problem, v, grad, grad_lse, [True] * 3 + list(needs[3:]))
        assert dq is not None
        assert dk is not None
        assert dv is not None
        return dq, dk, dv, dbias, dsinks
    grad = torch.zeros_like(out) if grad is None else grad
    bias, sinks = problem.bias, problem.sinks
    if problem.masked or bias is not None:
        empty = execute.empty_rows(problem, lse)  # passes no gradient, whatever the loss says of its constant output
        if bool(empty.any()):
            grad = grad.masked_fill(empty[..., None], 0)
            # With sinks the lse of an empty row is the sink's logit, and its gradient the sink's.
            grad_lse = None if grad_lse is None else grad_lse.masked_fill(empty, 0) if sinks is None else grad_lse
    bias_too = bias is not None and needs[3]
    dq, dk, dv, dbias = execute.backward(problem, v, plan, out, lse, grad, grad_lse, seed, bias_too=bias_too)
    dsinks = None
    if sinks is not None and needs[4]:
        rowsum = (grad.to(lse.dtype) * out).sum(-1)  # (B, H, L)
        rowsum = -rowsum if grad_lse is None else grad_lse - rowsum
        share = torch.exp(sinks.to(lse.dtype)[:, None] - lse.masked_fill(lse == -torch.inf, 0))  # its weight, (B, H, L)
        dsinks = (share * rowsum).sum((0, 2)).to(sinks.dtype)
    return dq, dk, dv, dbias.to(bias.dtype) if bias is not None and bias_too and dbias is not None else None, dsinks


def once(found: Sequence[Tensor | None], given: Sequence[Tensor | None], said: str) -> tuple[Tensor | None, ...]:
    """First derivatives that depend on what is ``given``, and raise what is ``said`` if they are differentiated."""
    leaves = [t for t in given if t is not None and t.requires_grad]
    return tuple(t if t is None else _Once.apply(said, t, *leaves) for t in found)  # type: ignore[no-untyped-call]


class _Once(torch.autograd.Function):
    """A first derivative that says, if it is differentiated, where second derivatives are to be had."""

    @staticmethod
    def forward(ctx: Any, said: str, gradient: Tensor, *given: Tensor) -> Tensor:
        ctx.said = said
        return gradient.view_as(gradient)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(ctx.said)
