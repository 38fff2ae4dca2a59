"""Tiles run forward and backward: each call writes its rows or merges them, and adds its gradients in place."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from regard.engine import kernels, many, one_rectangle
from regard.engine.calls import Call, Run, lower
from regard.engine.plan import Plan, Unit
from regard.engine.problem import Problem, compute_dtype
from regard.engine.views import add_at, cut, write_at

__all__ = ["backward", "forward"]

# Elements of the gradients of key blocks that may be in memory before they are added up: the blocks of a band overlap.
GRADIENTS = 1 << 21


@dataclass(frozen=True)
class _Operands:
    """What the calls of one unit read: q, k, v of one width (b, h, L, W), (b, hkv, S, W), and the bias."""

    q: Tensor
    k: Tensor
    v: Tensor
    bias: Tensor | None
    scale: float

    @property
    def group(self) -> int:
        return self.q.shape[1] // self.k.shape[1]

    def calls(self, unit: Unit) -> Iterator[Call]:
        in_blocks = self.q.dtype in (torch.float32, torch.float64)
        for tile in unit.tiles:
            yield from lower(tile, blocks=in_blocks, bias=self.bias is not None)


def forward(problem: Problem, v: Tensor, plan: Plan) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv), in float32 at least where it was put together, and lse (B, H, L); 0 and -inf for rows that
    no tile has.
    """
    b, h, query_len, _ = problem.dims
    dtype = compute_dtype(v.dtype)
    whole = _operands(problem, v)
    call = _only_call(whole, plan, query_len)
    if call is not None:
        only, only_lse = one_rectangle.forward(whole, call)
        return only[..., : v.shape[-1]], only_lse
    # Rows before heads in memory, as the fused op has it: a layer joins its heads without a copy.
    out = torch.empty(b, query_len, h, whole.v.shape[-1], dtype=dtype, device=v.device).transpose(1, 2)
    lse = torch.empty(b, h, query_len, 1, dtype=dtype, device=v.device)
    for unit in plan.units:
        some = _part(whole, unit)
        some_out, some_lse = out[unit.batch, unit.heads], lse[unit.batch, unit.heads]
        written = bytearray(query_len)
        for call in some.calls(unit):
            first = not any(1 in written[s] for s in call.rows.spans())
            if not first:
                _clear(some_out, some_lse, written, call.rows)  # what is merged with must be there
            into, into_lse = cut(some_out, call.rows), cut(some_lse, call.rows)  # (b, h, count, R, W), (..., R, 1)
            _call_forward(some, call, into, into_lse, first=first)
            for s in call.rows.spans():
                written[s] = b"\x01" * (s.stop - s.start)
        _clear(some_out, some_lse, written, Run(0, query_len))
    return out[..., : v.shape[-1]], lse[..., 0]


def backward(
    problem: Problem, v: Tensor, plan: Plan, out: Tensor, lse: Tensor, grad: Tensor, grad_lse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v, given the rows' global out and lse."""
    d, value_width, dtype = problem.q.shape[-1], v.shape[-1], compute_dtype(v.dtype)
    if grad_lse is not None:
        # The op knows no grad_lse. A column where grad is 1, out is -grad_lse and v is 0 puts it into rowsum(grad *
        # out).
        grad = torch.cat([grad, torch.ones_like(grad[..., :1])], dim=-1)  # (B, H, L, Dv + 1)
        out = torch.cat([out, -grad_lse[..., None].to(out.dtype)], dim=-1)
        v = F.pad(v, (0, 1))
    whole = _operands(problem, v)
    width = whole.q.shape[-1]
    grad, out = (_dense(t if t.shape[-1] == width else F.pad(t, (0, width - t.shape[-1]))) for t in (grad, out))
    lse = lse.masked_fill(lse == -torch.inf, 0)[..., None]  # a row without keys: exp(-inf - 0) is 0
    call = _only_call(whole, plan, problem.q.shape[2])
    if call is not None and call.keys.size == whole.k.shape[2] and problem.options.scale > 0:
        dq, dk, dv = one_rectangle.backward(whole, call, grad, out, lse)
        return dq[..., :d], dk[..., :d], dv[..., :value_width]
    delta = (grad.to(dtype) * out.to(dtype)).sum(-1, keepdim=True)  # (B, H, L, 1)
    dq, dk, dv = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (whole.q, whole.k, whole.v))
    for unit in plan.units:
        some, at = _part(whole, unit), (unit.batch, unit.heads)
        kv = unit.batch, _kv_heads(unit, whole)
        for call in some.calls(unit):
            _call_backward(some, call, [t[at] for t in (grad, out, lse, delta)], dq[at], dk[kv], dv[kv])
    if problem.options.scale <= 0:  # the operands were given a positive one
        dq = -dq if problem.options.scale < 0 else torch.zeros_like(dq)
    return (
        dq[..., :d].to(problem.q.dtype),
        dk[..., :d].to(problem.k.dtype),
        dv[..., :value_width].to(v.dtype),
    )


def _operands(problem: Problem, v: Tensor) -> _Operands:
    q, scale, _ = kernels.positive(problem.q, problem.options.scale)
    q, k, v = (_dense(t) for t in kernels.one_width(q, problem.k, v))
    return _Operands(q, k, v, problem.bias, scale)


def _only_call(whole: _Operands, plan: Plan, query_len: int) -> Call | None:
    """The call, if one call of the fused op over one rectangle of all rows is all there is: nothing to put together."""
    if len(plan.units) > 1 or len(plan.units[0].tiles) != 1:
        return None
    calls = list(whole.calls(plan.units[0]))
    alone = len(calls) == 1 and calls[0].kernel == "flash" and calls[0].rows == Run(0, query_len)
    return calls[0] if alone else None


def _dense(t: Tensor) -> Tensor:
    return t if t.stride(-1) == 1 else t.contiguous()


def _kv_heads(unit: Unit, whole: _Operands) -> slice:
    return slice(unit.heads.start // whole.group, -(-unit.heads.stop // whole.group))


def _part(whole: _Operands, unit: Unit) -> _Operands:
    kv = unit.batch, _kv_heads(unit, whole)
    bias = whole.bias
    if bias is not None:
        bias = bias if bias.shape[0] == 1 else bias[unit.batch]
        bias = bias if bias.shape[1] == 1 else bias[:, unit.heads]
    return _Operands(whole.q[unit.batch, unit.heads], whole.k[kv], whole.v[kv], bias, whole.scale)


def _clear(out: Tensor, lse: Tensor, written: bytearray, run: Run) -> None:
    """Make those rows of a run that nothing was written to rows without keys."""
    for span in run.spans():
        start = written.find(0, span.start, span.stop)
        while start >= 0:
            stop = written.find(1, start, span.stop)
            stop = span.stop if stop < 0 else stop
            out[:, :, start:stop] = 0
            lse[:, :, start:stop] = -torch.inf
            start = written.find(0, stop, span.stop)


def _call_forward(some: _Operands, call: Call, into: Tensor, into_lse: Tensor, *, first: bool) -> None:
    """One call, written or merged into the rows (b, h, count, R, W) and (b, h, count, R, 1) that it is for."""
    if call.rows.count == 1 and call.kernel == "flash":
        out, lse = one_rectangle.forward(some, call)
        write_at(into, into_lse, out.unsqueeze(2), lse[:, :, None, :, None], first=first)
        return
    for b in range(some.q.shape[0]):
        q, k, v = cut(some.q, call.rows)[b], cut(some.k, call.keys)[b], cut(some.v, call.keys)[b]
        if first:
            many.forward(call, q, k, v, some.scale, into[b], into_lse[b])
        else:
            out, lse = (torch.empty(t[b].shape, dtype=t.dtype, device=t.device) for t in (into, into_lse))
            many.forward(call, q, k, v, some.scale, out, lse)
            write_at(into[b], into_lse[b], out, lse, first=False)


def _call_backward(some: _Operands, call: Call, rows: list[Tensor], dq: Tensor, dk: Tensor, dv: Tensor) -> None:
    """Add the gradients of one call, given grad, out, lse and delta of all rows, (b, h, L, W or 1)."""
    if call.rows.count == 1 and call.kernel == "flash":
        found = one_rectangle.backward(some, call, *rows[:3])
        for total, run, part in zip((dq, dk, dv), (call.rows, call.keys, call.keys), found, strict=True):
            add_at(total, run, part.unsqueeze(2))
        return
    smaller = list(call.parts(GRADIENTS // dk[0, :, 0].numel()))
    for b in range(some.q.shape[0]):
        for one in smaller:
            by_row = [cut(t, one.rows)[b] for t in (*rows, some.q)]
            found = many.backward(one, by_row, cut(some.k, one.keys)[b], cut(some.v, one.keys)[b], some.scale)
            for total, run, gradient in zip((dq, dk, dv), (one.rows, one.keys, one.keys), found, strict=True):
                add_at(total[b : b + 1], run, gradient[None])
