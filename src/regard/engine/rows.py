"""Attention in blocks of rows, in plain PyTorch: for what no fused op can do (softcap, dropout, the gradient of a
bias).
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype

__all__ = ["backward", "forward", "keep_block"]


def keep_block(seed: int, start: int, shape: torch.Size, dropout: float, device: torch.device) -> Tensor:
    """Which weights of the block of rows from ``start`` dropout keeps; the same in the forward and the backward."""
    generator = torch.Generator(device).manual_seed((seed + start) % (1 << 63))
    return torch.rand(shape, generator=generator, device=device) >= dropout


def forward(problem: Problem, v: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) in v's dtype and lse (B, H, L)."""
    b, h, query_len, _ = problem.dims
    dtype, p = compute_dtype(v.dtype), problem.options.dropout
    out = v.new_zeros(b, h, query_len, v.shape[-1])
    lse = torch.full((b, h, query_len), -torch.inf, dtype=dtype, device=v.device)
    if problem.sinks is not None:
        lse = problem.sinks.to(dtype)[:, None].expand(b, h, query_len).clone()  # what a row without keys has
    if 0 in problem.dims:
        return out, lse
    values = v.to(dtype)
    for rows, keys in problem.row_blocks():
        scores = problem.block(rows, keys)  # (B, H, R, C)
        part = torch.logsumexp(scores, dim=-1)  # (B, H, R)
        if problem.sinks is not None:
            part = torch.logaddexp(part, problem.sinks.to(dtype)[:, None])
        lse[:, :, rows] = part
        weights = scores.sub_(_finite(part)[..., None]).exp_()
        if p > 0:
            keep = keep_block(seed, rows.start, weights.shape, p, v.device)
            weights = weights.mul_(keep).mul_(1 / (1 - p) if p < 1 else 0)
        out[:, :, rows] = _times(weights, values[:, :, keys]).to(out.dtype)
    return out, lse


def backward(
    problem: Problem, v: Tensor, out: Tensor, lse: Tensor, grad: Tensor, grad_lse: Tensor | None, seed: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of q, k, v and the bias, from ``dS = P * (dP - rowsum(grad * out) + grad_lse)``."""
    q, k, o = problem.q, problem.k, problem.options
    dtype, p = compute_dtype(v.dtype), o.dropout
    b, h, _, d = q.shape
    kv_heads = k.shape[1]
    dq, dk, dv = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (q, k, v))
    dbias = None if problem.bias is None else torch.zeros(problem.bias.shape, dtype=dtype, device=q.device)
    grad, values, wide_k, wide_q = grad.to(dtype), v.to(dtype), k.to(dtype), q.to(dtype)
    delta = (grad * out).sum(-1)  # (B, H, L)
    if grad_lse is not None:
        delta = delta - grad_lse
    safe = _finite(lse)
    for rows, keys in problem.row_blocks():
        capped = problem.products(rows, keys)  # (B, H, R, C)
        slope = None if o.softcap is None else 1 - (capped / o.softcap).square_()
        weights = problem.finish(capped, rows, keys).sub_(safe[:, :, rows, None]).exp_()
        g = grad[:, :, rows]  # (B, H, R, Dv)
        dweights = _times(g, values[:, :, keys].mT)  # (B, H, R, C)
        kept = weights
        if p > 0:
            keep = keep_block(seed, rows.start, weights.shape, p, v.device).to(dtype).mul_(1 / (1 - p) if p < 1 else 0)
            kept, dweights = weights * keep, dweights.mul_(keep)
        dv[:, :, keys] += _grouped(kept, kv_heads).mT @ _grouped(g, kv_heads)
        dscores = dweights.sub_(delta[:, :, rows, None]).mul_(weights)
        if dbias is not None:
            _add_reduced(dbias, dscores, rows, keys)
        if slope is not None:
            dscores = dscores.mul_(slope)
        folded = _grouped(dscores, kv_heads)  # (B, Hkv, G * R, C)
        dq[:, :, rows] = (folded @ wide_k[:, :, keys]).view(b, h, -1, d) * o.scale
        dk[:, :, keys] += folded.mT @ _grouped(wide_q[:, :, rows], kv_heads) * o.scale
    return dq.to(q.dtype), dk.to(k.dtype), dv.to(v.dtype), dbias


def _finite(lse: Tensor) -> Tensor:
    """Lse with 0 for rows without keys: exp(-inf - 0) is 0, exp(-inf - -inf) is NaN."""
    return lse.masked_fill(lse == -torch.inf, 0)


def _grouped(t: Tensor, kv_heads: int) -> Tensor:
    """(B, H, R, C) to (B, Hkv, G * R, C): the heads of a group become rows of their key head."""
    return t.reshape(t.shape[0], kv_heads, -1, t.shape[-1])


def _times(rows: Tensor, keys: Tensor) -> Tensor:
    """(B, H, R, C) @ (B, Hkv, C, N) to (B, H, R, N), query head h with key head h // G."""
    out = _grouped(rows, keys.shape[1]) @ keys
    return out.view(*rows.shape[:-1], keys.shape[-1])


def _add_reduced(total: Tensor, block: Tensor, rows: slice, keys: slice) -> None:
    """Add a block (B, H, R, C) to a tensor (B|1, H|1, L|1, S|1), summed over the axes that broadcast."""
    for axis in range(4):
        if total.shape[axis] == 1 and block.shape[axis] != 1:
            block = block.sum(axis, keepdim=True)
    r = slice(0, 1) if total.shape[2] == 1 else rows
    c = slice(0, 1) if total.shape[3] == 1 else keys
    total[:, :, r, c] += block
