"""One call of the fused op over one rectangle of all sequences and heads of a unit: with a bias, or its own mask."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from regard.engine import kernels
from regard.engine.calls import Call, Run
from regard.engine.problem import compute_dtype, crop

__all__ = ["backward", "forward"]


class Operands(Protocol):
    """q (b, h, L, W), k and v (b, hkv, S, W), a bias (b or 1, h or 1, L or 1, S or 1) or None, and a positive scale."""

    @property
    def q(self) -> Tensor: ...
    @property
    def k(self) -> Tensor: ...
    @property
    def v(self) -> Tensor: ...
    @property
    def bias(self) -> Tensor | None: ...
    @property
    def scale(self) -> float: ...


def forward(some: Operands, call: Call) -> tuple[Tensor, Tensor]:
    """Output (b, h, R, W) and lse (b, h, R)."""
    additive = _additive(some, call)
    q, k, v = _span(some.q, call.rows), _span(some.k, call.keys), _span(some.v, call.keys)
    out, lse = kernels.rectangle(q, k, v, additive, causal=call.causal, scale=some.scale)
    if additive is not None and call.form is not None and call.form.kind == "partial":
        # The op gives a row that reads nothing here an lse of 0.
        lse = torch.where(additive.amax(-1) == -torch.inf, -torch.inf, lse)
    return out, lse


def backward(some: Operands, call: Call, grad: Tensor, out: Tensor, lse: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q (b, h, R, W), k and v (b, hkv, C, W), given the global out and lse, (b, h, L, 1)."""
    grad, q, out, lse = (_span(t, call.rows) for t in (grad, some.q, out, lse))
    k, v = _span(some.k, call.keys), _span(some.v, call.keys)
    return kernels.flash_backward(
        grad, q, k, v, out, lse[..., 0], _additive(some, call), causal=call.causal, scale=some.scale
    )


def _span(t: Tensor, run: Run) -> Tensor:
    return t[:, :, run.start : run.start + run.size]


def _additive(some: Operands, call: Call) -> Tensor | None:
    """What the fused op adds to the scores: (b or 1, h or 1, R or 1, C or 1)."""
    dtype = compute_dtype(some.q.dtype)
    allowed = None if call.form is None else call.form.allowed()  # (R, C)
    if some.bias is None:
        if allowed is None:
            return None
        zero = torch.zeros(allowed.shape, dtype=dtype, device=allowed.device)
        return zero.masked_fill_(~allowed, -torch.inf)[None, None]
    r, c = call.rows, call.keys
    bias = crop(some.bias, slice(r.start, r.start + r.size), slice(c.start, c.start + c.size)).to(dtype)
    if allowed is not None:
        bias = torch.where(allowed, bias, -torch.inf)
    # The op reads contiguous rows of its mask, and takes a size of 1 for broadcasting in any axis.
    return bias if bias.stride(-1) == 1 or bias.shape[-1] == 1 else bias.contiguous()
