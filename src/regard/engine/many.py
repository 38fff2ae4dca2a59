"""One call over many rectangles of one sequence: grouped heads are folded, and the kernel chosen that can."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.engine import blocks, kernels, triangles
from regard.engine.calls import Call
from regard.engine.problem import compute_dtype
from regard.engine.views import fold_rows, unfold_rows

__all__ = ["backward", "forward"]


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float, out: Tensor, lse: Tensor) -> None:
    """Write the output (h, count, R, W) and lse (h, count, R, 1) of rows q (h, count, R, W) over keys k, v (hkv, count,
    C, W).
    """
    group = q.shape[0] // k.shape[0]
    if group > 1 and call.causal:
        # Rows of several heads are no triangle when folded into one: head by head, with one key head for all of them.
        for h in range(k.shape[0]):
            at = slice(h * group, (h + 1) * group)
            forward(call, q[at], _shared(k, h, group), _shared(v, h, group), scale, out[at], lse[at])
        return
    allowed = None if call.form is None else call.form.allowed().repeat(group, 1)  # (R, C) -> (G * R, C)
    if group > 1:
        folded = fold_rows(q, k.shape[0])  # (hkv, count, G * R, W)
        found = out.new_empty(folded.shape), lse.new_empty(*folded.shape[:3], 1)
        _run(call, folded, k, v, allowed, scale, *found)
        out.copy_(unfold_rows(found[0], q.shape[0]))
        lse.copy_(unfold_rows(found[1], q.shape[0]))
    else:
        _run(call, q, k, v, allowed, scale, out, lse)


def _run(
    call: Call, q: Tensor, k: Tensor, v: Tensor, allowed: Tensor | None, scale: float, out: Tensor, lse: Tensor
) -> None:
    bad: Tensor | None = None
    if call.kernel != "flash":
        if call.kernel == "blocks":
            blocks.forward(q, k, v, allowed, scale, out, lse)
        else:
            triangles.forward(q, k, v, scale, out, lse)
        bad = blocks.unsafe(lse)
        if bad is None:
            return
    found, found_lse = kernels.flash(q, k, v, _additive(allowed, q.dtype), causal=call.causal, scale=scale)
    out.copy_(found if bad is None else torch.where(bad, found, out))
    lse.copy_(found_lse[..., None] if bad is None else torch.where(bad, found_lse[..., None], lse))


def backward(call: Call, by_row: list[Tensor], k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of q, k and v: ``by_row`` are grad, out, lse, delta (all keys counted) and q, (h, count, R, W or
    1); k and v (hkv, count, C, W).
    """
    heads = by_row[0].shape[0]
    group = heads // k.shape[0]
    if group > 1 and call.causal:
        found = []
        for h in range(k.shape[0]):
            some = [t[h * group : (h + 1) * group] for t in by_row]
            dq, dk, dv = backward(call, some, _shared(k, h, group), _shared(v, h, group), scale)
            found.append((dq, dk.sum(0, keepdim=True), dv.sum(0, keepdim=True)))
        return tuple(torch.cat(parts) for parts in zip(*found, strict=True))  # type: ignore[return-value]
    allowed = None if call.form is None else call.form.allowed().repeat(group, 1)  # (R, C) -> (G * R, C)
    grad, out, lse, delta, q = (fold_rows(t, k.shape[0]) for t in by_row)
    if call.kernel == "blocks":
        dq, dk, dv = blocks.backward(grad, q, k, v, lse, delta, allowed, scale)
    elif call.kernel == "triangles":
        dq, dk, dv = triangles.backward(grad, q, k, v, lse, delta, scale)
    else:
        additive = _additive(allowed, q.dtype)
        dq, dk, dv = kernels.flash_backward(grad, q, k, v, out, lse[..., 0], additive, causal=call.causal, scale=scale)
    return unfold_rows(dq, heads), dk, dv


def _shared(t: Tensor, head: int, group: int) -> Tensor:
    """One key head (1, count, C, W) as that of each head of its group, (G, count, C, W), without a copy."""
    return t[head : head + 1].expand(group, -1, -1, -1)


def _additive(allowed: Tensor | None, dtype: torch.dtype) -> Tensor | None:
    """Booleans (R, C) as what is added to scores, (1, 1, R, C)."""
    if allowed is None:
        return None
    zero = torch.zeros(allowed.shape, dtype=compute_dtype(dtype), device=allowed.device)
    return zero.masked_fill_(~allowed, -torch.inf)[None, None]
