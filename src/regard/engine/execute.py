"""A plan run forward and backward: tiles of the fused op merged by their lse, or blocks of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.engine import kernels, rows, tiled
from regard.engine.merge import merge, with_sinks
from regard.engine.plan import Plan
from regard.engine.problem import Problem, compute_dtype, crop
from regard.engine.simple import Rectangle

__all__ = ["backward", "empty_rows", "forward", "readable", "sanitize"]

# Past this, a product of two finite numbers may overflow float32 on the way, and inf + -inf is NaN.
LARGEST = 1e12


def sanitize(problem: Problem, v: Tensor) -> tuple[Problem, Tensor]:
    """The same problem with zeros in keys and values that nobody may read and in queries that read nothing, if these
    hold anything that could leak: a weight of 0 times NaN is NaN, and so is a score of NaN plus -inf.

    Padding and the unwritten end of a cache hold anything; finding out costs one pass over q, k and v.
    """
    q, k = problem.q, problem.k
    b, _, _, key_len = problem.dims
    if q.is_meta or _all_read(problem) or 0 in problem.dims or v.shape[-1] == 0 or (_tame(k) and _tame(v) and _tame(q)):
        return problem, v
    read, reads = readable(problem)
    by_group = read.view(b, k.shape[1], -1, key_len).any(2)[..., None]  # (B, H, S) -> (B, Hkv, S, 1)
    q, k = torch.where(reads[..., None], q, 0), torch.where(by_group, k, 0)
    return Problem(q, k, problem.bias, problem.sinks, problem.options), torch.where(by_group, v, 0)


def readable(problem: Problem) -> tuple[Tensor, Tensor]:
    """Which keys some query may read, (B, H, S), and which queries may read some key, (B, H, L), by the mask alone."""
    b, h, query_len, key_len = problem.dims
    read = torch.zeros(b, h, key_len, dtype=torch.bool, device=problem.q.device)
    reads = torch.zeros(b, h, query_len, dtype=torch.bool, device=problem.q.device)
    for r, c in problem.row_blocks():
        allowed = problem.allowed(r, c)
        read[:, :, c] |= True if allowed is None else allowed.any(2)
        reads[:, :, r] |= True if allowed is None else allowed.any(3)
    return read, reads


def empty_rows(problem: Problem, lse: Tensor) -> Tensor:
    """Which rows have no key to read, (B, H, L); with sinks that does not show in lse (B, H, L)."""
    if problem.sinks is None:
        return lse == -torch.inf
    return ~readable(problem)[1] if problem.masked else torch.zeros_like(lse, dtype=torch.bool)


def _all_read(problem: Problem) -> bool:
    """Whether it is plain from the mask's form alone that every key is read by a query and every query reads a key."""
    o, (_, _, query_len, key_len) = problem.options, problem.dims
    if o.valid is not None or o.rest is not None:
        return False
    return o.causal is None or (o.causal >= 0 and o.causal >= key_len - query_len)


def _tame(t: Tensor) -> bool:
    # The 2-norm bounds every element, propagates NaN, and is the one such reduction that PyTorch vectorises on CPU.
    return float(torch.linalg.vector_norm(t.detach())) <= LARGEST  # False for NaN


def forward(problem: Problem, v: Tensor, plan: Plan, seed: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) in v's dtype and lse (B, H, L), at least float32."""
    if plan.kernel == "rows":
        return rows.forward(problem, v, seed)
    b, h, query_len, _ = problem.dims
    if plan.units:
        out, lse = tiled.forward(problem, v, plan)
    elif len(plan.rectangles) == 1 and plan.rectangles[0].rows == slice(0, query_len):
        out, lse = _tile_forward(problem, v, plan.rectangles[0])
    else:
        # Parts are summed in float32: rounded at each merge, half precision would miss its budget.
        out = v.new_zeros(b, h, query_len, v.shape[-1], dtype=compute_dtype(v.dtype))
        lse = torch.full((b, h, query_len), -torch.inf, dtype=compute_dtype(v.dtype), device=v.device)
        written = 0  # tiles come in order of rows; those of the same rows follow each other
        for tile in plan.rectangles:
            part, part_lse = _tile_forward(problem, v, tile)
            if tile.rows.start < written:
                part, part_lse = merge(out[:, :, tile.rows], lse[:, :, tile.rows], part, part_lse)
            out[:, :, tile.rows], lse[:, :, tile.rows] = part, part_lse
            written = tile.rows.stop
    if problem.sinks is not None:
        out, lse = with_sinks(out, lse, problem.sinks)
    return out.to(v.dtype), lse


def backward(
    problem: Problem,
    v: Tensor,
    plan: Plan,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    seed: int,
    *,
    bias_too: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of q, k, v and, if ``bias_too``, of the bias: the same tiles, with the rows' global out and lse."""
    if plan.kernel == "rows" or bias_too:
        return rows.backward(problem, v, out, lse, grad, grad_lse, seed, bias_too=bias_too)
    if plan.units:
        return *tiled.backward(problem, v, plan, out, lse, grad, grad_lse), None
    if len(plan.rectangles) == 1 and plan.rectangles[0].rows == slice(0, problem.q.shape[2]):
        tile = plan.rectangles[0]
        dq, dk_part, dv_part = _tile_backward(problem, v, tile, out, lse, grad, grad_lse)
        if tile.keys == slice(0, v.shape[2]):
            return dq, dk_part, dv_part, None
        dk, dv = torch.zeros_like(problem.k), torch.zeros_like(v)
        dk[:, :, tile.keys], dv[:, :, tile.keys] = dk_part, dv_part
        return dq, dk, dv, None
    dtype = compute_dtype(v.dtype)  # sums over many tiles are kept in float32
    dq, dk, dv = (torch.zeros(t.shape, dtype=dtype, device=t.device) for t in (problem.q, problem.k, v))
    for tile in plan.rectangles:
        r, c = tile.rows, tile.keys
        part_lse = None if grad_lse is None else grad_lse[:, :, r]
        parts = _tile_backward(problem, v, tile, out[:, :, r], lse[:, :, r], grad[:, :, r], part_lse)
        dq[:, :, r] += parts[0]
        dk[:, :, c] += parts[1]
        dv[:, :, c] += parts[2]
    return dq.to(problem.q.dtype), dk.to(problem.k.dtype), dv.to(v.dtype), None


def _crop_rows(t: Tensor, s: slice) -> Tensor:
    return t if s.start == 0 and s.stop == t.shape[2] else t[:, :, s]


def _tile_mask(problem: Problem, tile: Rectangle) -> Tensor | None:
    """What the fused op adds to the scores of this tile."""
    if tile.kind == "partial":
        return problem.additive(tile.rows, tile.keys)
    if problem.options.valid is not None:
        valid = problem.options.valid[..., tile.keys]  # (B or 1, H or 1, 1, C)
        return torch.zeros(valid.shape, dtype=problem.q.dtype, device=valid.device).masked_fill_(~valid, -torch.inf)
    if problem.bias is None:
        return None
    # The op reads contiguous rows of its mask, and takes a size of 1 for broadcasting in any axis.
    bias = crop(problem.bias, tile.rows, tile.keys)
    return bias if bias.stride(-1) == 1 or bias.shape[-1] == 1 else bias.contiguous()


def _tile_forward(problem: Problem, v: Tensor, tile: Rectangle) -> tuple[Tensor, Tensor]:
    additive, causal = _tile_mask(problem, tile), tile.kind == "causal"
    q, k, v = _crop_rows(problem.q, tile.rows), _crop_rows(problem.k, tile.keys), _crop_rows(v, tile.keys)
    out, lse = kernels.rectangle(q, k, v, additive, causal=causal, scale=problem.options.scale)
    if additive is None or (problem.options.valid is None and tile.kind != "partial"):
        return out, lse
    # The largest addend among the keys of each row: -inf means that the row reads nothing.
    if causal:
        last = torch.arange(q.shape[2], device=q.device).clamp(max=k.shape[2] - 1)
        best = additive.cummax(-1).values[..., 0, :][..., last]  # (B or 1, H or 1, 1, C) -> (B or 1, H or 1, R)
    else:
        best = additive.amax(-1)  # (B or 1, H or 1, R or 1)
    return out, torch.where(best == -torch.inf, -torch.inf, lse)


def _tile_backward(
    problem: Problem, v: Tensor, tile: Rectangle, out: Tensor, lse: Tensor, grad: Tensor, grad_lse: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    return kernels.flash_backward(
        grad,
        _crop_rows(problem.q, tile.rows),
        _crop_rows(problem.k, tile.keys),
        _crop_rows(v, tile.keys),
        out,
        lse,
        _tile_mask(problem, tile),
        causal=tile.kind == "causal",
        scale=problem.options.scale,
        grad_lse=grad_lse,
    )
