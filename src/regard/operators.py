"""regard::attend and regard::attend_backward: attention as operators that torch.compile and torch.export can hold.

An operator takes no objects: the mask comes as words, numbers and tensors (:mod:`regard.masks.codec`), and everything
that depends on what tensors hold is decided when the operator runs, in the code that runs eagerly too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from regard.engine import autograd, execute
from regard.engine.plan import Plan, make_plan
from regard.engine.problem import Options, Problem, compute_dtype
from regard.masks.algebra import Mask, Sizes
from regard.masks.codec import decode
from regard.masks.lowering import lower
from regard.precision import outside_autocast

__all__ = ["Call", "attend"]

# PyTorch's caches on disk know a compiled graph by the operators' names: where the arguments below, their order or the
# words of a mask change their meaning, a name has to change with them.
_ARGUMENTS = (
    "Tensor q, Tensor k, Tensor v, Tensor? bias, Tensor? sinks, Tensor? seed, Tensor[] tensors, SymInt[] numbers, "
    "SymInt[] batch_shape, str words, bool headless, float? scale, float? softcap, float dropout, str impl"
)


class Call(NamedTuple):
    """The arguments of the operators after q (B, H, L, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv), bias and sinks."""

    seed: Tensor | None
    tensors: Sequence[Tensor]
    numbers: Sequence[int]
    batch_shape: Sequence[int]
    words: str
    headless: bool
    scale: float | None
    softcap: float | None
    dropout: float
    impl: str

    def mask(self, sizes: Sizes) -> Mask | None:
        """The mask, bound."""
        mask = decode(self.words, self.numbers, self.tensors)
        return None if mask is None else mask.bind(sizes)

    def prepare(
        self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sinks: Tensor | None
    ) -> tuple[Problem, Tensor, Plan]:
        """The problem, its values and the plan for them."""
        sizes = Sizes(tuple(self.batch_shape), q.shape[1], q.shape[2], k.shape[2], q.device, self.headless)
        scale = 1 / math.sqrt(q.shape[-1]) if self.scale is None else self.scale
        options = Options(scale, self.softcap, dropout=self.dropout, **lower(self.mask(sizes), sizes))
        problem = Problem(q, k, bias, sinks, options)
        plan = make_plan(problem, v, self.impl)
        if problem.masked and not plan.tight:
            problem, v = execute.sanitize(problem, v)
        return problem, v, plan

    def drawn(self) -> int:
        """The seed of the dropout of this run."""
        return 0 if self.seed is None else int(self.seed.item())


@torch.library.custom_op("regard::attend", mutates_args=(), schema=f"({_ARGUMENTS}) -> (Tensor, Tensor)")
@outside_autocast
@torch.no_grad()
def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sinks: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) and lse (B, H, L)."""
    call = Call(*rest)
    problem, v, plan = call.prepare(q, k, v, bias, sinks)
    out, lse = autograd.attend(problem, v, plan, call.drawn())
    return _rows_first(out), lse.contiguous()


@attend.register_fake
def _attend_fake(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, sinks: Tensor | None, *rest: Any
) -> tuple[Tensor, Tensor]:
    lse = q.new_empty(q.shape[:3], dtype=compute_dtype(q.dtype))  # (B, H, L)
    return _empty_rows_first(q, v.shape[-1]), lse


@torch.library.custom_op(
    "regard::attend_backward",
    mutates_args=(),
    schema=f"(Tensor out, Tensor lse, Tensor? grad, Tensor? grad_lse, bool[] needs, {_ARGUMENTS}) "
    "-> (Tensor, Tensor, Tensor, Tensor, Tensor)",
)
@outside_autocast
@torch.no_grad()
def attend_backward(
    out: Tensor, lse: Tensor, grad: Tensor | None, grad_lse: Tensor | None, needs: Sequence[bool], *inputs: Any
) -> tuple[Tensor, ...]:
    """The gradients of q, k, v, bias and sinks, of which the last two are empty where they are not needed."""
    q, k, v, bias, sinks, *rest = inputs
    call = Call(*rest)
    problem, v, plan = call.prepare(q, k, v, bias, sinks)
    dq, dk, dv, dbias, dsinks = autograd.gradients(problem, v, plan, out, lse, grad, grad_lse, call.drawn(), needs)
    none = [q.new_empty(0) for _ in range(2)]  # outputs of an operator are not each other
    return (
        *(_rows_first(t) for t in (dq, dk, dv)),
        none[0] if dbias is None else dbias.contiguous(),
        none[1] if dsinks is None else dsinks.contiguous(),
    )


@attend_backward.register_fake
def _attend_backward_fake(
    out: Tensor, lse: Tensor, grad: Tensor | None, grad_lse: Tensor | None, needs: Sequence[bool], *inputs: Any
) -> tuple[Tensor, ...]:
    q, _, _, bias, sinks, *_ = inputs
    return (
        *(_empty_rows_first(t, t.shape[-1]) for t in inputs[:3]),
        bias.new_empty(bias.shape) if bias is not None and needs[3] else q.new_empty(0),
        sinks.new_empty(sinks.shape) if sinks is not None and needs[4] else q.new_empty(0),
    )


def _save(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    q, k, v, bias, sinks, *rest = inputs
    call = Call(*rest)
    ctx.save_for_backward(q, k, v, bias, sinks, call.seed, *output, *call.tensors)
    ctx.call = call._replace(seed=None, tensors=())
    ctx.set_materialize_grads(False)


def _backward(ctx: Any, grad: Tensor | None, grad_lse: Tensor | None) -> tuple[Any, ...]:
    q, k, v, bias, sinks, seed, out, lse, *tensors = ctx.saved_tensors
    call: Call = ctx.call._replace(seed=seed, tensors=tensors)
    needs = list(ctx.needs_input_grad[:5])
    grads = attend_backward(out, lse, grad, grad_lse, needs, q, k, v, bias, sinks, *call)
    given = (q, k, v, bias, sinks)
    found = [g if n and t is not None else None for g, n, t in zip(grads, needs, given, strict=True)]
    # An empty list of numbers is taken for one of tensors, and is answered in kind.
    return *found, None, [None] * len(tensors), *([] if part == [] else None for part in call[2:])


def _second(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
    raise RuntimeError(autograd.TWICE)


attend.register_autograd(_backward, setup_context=_save)
attend_backward.register_autograd(_second)


def _rows_first(t: Tensor) -> Tensor:
    """(B, H, L, D) in the order (B, L, H, D) in memory, as heads split from one projection lie."""
    return t.transpose(1, 2).contiguous().transpose(1, 2)


def _empty_rows_first(like: Tensor, width: int) -> Tensor:
    b, h, length, _ = like.shape
    return like.new_empty(b, length, h, width).transpose(1, 2)
