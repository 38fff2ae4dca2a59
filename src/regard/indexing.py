"""Rows, windows, diagonals and single entries of the weights: ``exp(s_ij - lse_i)`` for what is asked for, and nothing
else.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype, pick
from regard.layout import Layout
from regard.weight_checks import IndexRangeError

__all__ = ["diagonal", "get", "orthogonal"]

Part = slice | Tensor  # an axis of the result: a slice of step >= 1 with both ends, or indices (n,)

# Gathered queries and keys that may be in memory at once, in elements.
GATHER = 1 << 22


def get(problem: Problem, lse: Tensor, layout: Layout, shape: torch.Size, index: Any) -> Tensor:
    """``weights[index]`` with the semantics of a tensor of this shape."""
    items = _expand(index, shape)
    lead = len(layout.batch_shape)
    tensors = [i for i in items if isinstance(i, Tensor)]
    if len(tensors) > 1 or any(t.dim() != 1 for t in tensors):
        return _pointwise(problem, lse, layout, shape, items)
    axes = [i for i in items if i is not None]
    rest: list[Part] = [slice(i, i + 1) if isinstance(i, int) else i for i in axes[lead:]]
    if layout.headless:
        rest.insert(0, slice(0, 1))
    # Several batch axes count as one: which of its entries are asked for, and in what shape.
    every = all(isinstance(i, slice) and i == slice(0, n, 1) for i, n in zip(axes, layout.batch_shape, strict=False))
    batch = torch.arange(problem.dims[0], device=lse.device).view(layout.batch_shape)[tuple(axes[:lead])]
    some: Part = slice(0, problem.dims[0]) if every else batch.reshape(-1)
    if lead == 1 and isinstance(axes[0], int | slice):
        some = slice(axes[0], axes[0] + 1) if isinstance(axes[0], int) else axes[0]  # a view, where indices would copy
    block = orthogonal(problem, lse, (some, rest[0], rest[1], rest[2])).to(problem.q.dtype)  # (b, h, r, c)
    if layout.headless:
        block = block[:, 0]  # (b, 1, r, c) -> (b, r, c)
    out = block.reshape(*batch.shape, *block.shape[1:])
    # Integers drop their axis: those of the batch have, and now those of heads, rows and keys.
    out = out[(..., *(0 if isinstance(i, int) else slice(None) for i in axes[lead:]))]
    at = 0
    for i in items:
        if i is None:
            out = out.unsqueeze(at)
        at += 0 if isinstance(i, int) else 1
    return out


def orthogonal(problem: Problem, lse: Tensor, parts: tuple[Part, Part, Part, Part]) -> Tensor:
    """The block of weights of these batches, heads, rows and keys, (b, h, r, c): at least float32, differentiable."""
    bs, hs, rows, keys = parts
    dtype = compute_dtype(problem.q.dtype)
    o, (_, heads, _, _) = problem.options, problem.dims
    kv_heads = problem.k.shape[1]
    q = _take(_take(_take(problem.q, 0, bs), 1, hs), 2, rows).to(dtype)  # (b, h, r, D)
    # Contiguous, as heads cut from one projection are not: the product would copy them, and the transposed k slowly.
    q = (q * o.scale).contiguous()
    k = _take(_take(problem.k, 0, bs), 2, keys)  # (b, Hkv, c, D)
    if kv_heads == heads:
        k = _take(k, 1, hs)  # (b, h, c, D)
    elif kv_heads > 1 or q.shape[1] != heads:
        k = k[:, _indices(hs, heads, k.device) // (heads // kv_heads)]  # (b, h, c, D)
    scores = q @ k.to(dtype).contiguous().mT  # (b, h, r, c)
    if o.softcap is not None:
        scores = torch.tanh(scores / o.softcap) * o.softcap
    sizes = problem.dims
    b, h, i, j = (_indices(part, n, q.device) for part, n in zip(parts, sizes, strict=True))
    grid = b.view(-1, 1, 1, 1), h.view(1, -1, 1, 1), i.view(1, 1, -1, 1), j.view(1, 1, 1, -1)
    if problem.bias is not None:
        scores = scores + pick(problem.bias, *grid)
    allowed = problem.allowed_at(*grid) if problem.masked else None
    row_lse = _take(_take(_take(lse, 0, bs), 1, hs), 2, rows)[..., None]  # (b, h, r, 1)
    return _weight(scores, row_lse, allowed)


def _weight(scores: Tensor, lse: Tensor, allowed: Tensor | None) -> Tensor:
    """``exp(score - lse)``, 0 where not allowed; overwrites the scores unless autograd needs them."""
    lse = torch.where(lse == -torch.inf, 0, lse)  # a row without keys: every score is -inf, and so its weights 0
    if not (torch.is_grad_enabled() and (scores.requires_grad or lse.requires_grad)):
        scores = scores.sub_(lse)
        return (scores if allowed is None else scores.masked_fill_(~allowed, -torch.inf)).exp_()
    if allowed is not None:
        scores = torch.where(allowed, scores, -torch.inf)
    return torch.exp(scores - lse)


def diagonal(problem: Problem, lse: Tensor, offset: int) -> Tensor:
    """``A[..., i, i + offset]``, (B, H, length)."""
    b, h, query_len, key_len = problem.dims
    start = max(0, -offset)
    length = min(query_len - start, key_len - start - offset)
    rows = torch.arange(start, start + length, device=lse.device)
    heads = torch.arange(h, device=lse.device)
    batch = torch.arange(b, device=lse.device)
    grid = batch.view(-1, 1, 1), heads.view(1, -1, 1), rows.view(1, 1, -1), (rows + offset).view(1, 1, -1)
    return _entries(problem, lse, *torch.broadcast_tensors(*grid)).to(problem.q.dtype)


def _pointwise(problem: Problem, lse: Tensor, layout: Layout, shape: torch.Size, items: list[Any]) -> Tensor:
    """The coordinates of each entry of the result, by indexing the coordinates themselves; then those entries."""
    index = tuple(items)
    grid = []
    for axis, n in enumerate(shape):
        view = [1] * len(shape)
        view[axis] = n
        grid.append(torch.arange(n, device=lse.device).view(view).expand(shape)[index])
    lead = grid[:-2] if layout.headless else grid[:-3]
    b = torch.zeros_like(grid[-1])
    for coordinate, n in zip(lead, layout.batch_shape, strict=True):
        b = b * n + coordinate  # several batch axes count as one
    h = torch.zeros_like(b) if layout.headless else grid[-3]
    return _entries(problem, lse, b, h, grid[-2], grid[-1]).to(problem.q.dtype)


def _entries(problem: Problem, lse: Tensor, b: Tensor, h: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Single weights: index tensors of one shape to weights of that shape."""
    shape = b.shape
    width, group = problem.q.shape[-1], problem.dims[1] // problem.k.shape[1]
    dtype = compute_dtype(problem.q.dtype)
    flat = [t.reshape(-1) for t in (b, h, i, j)]  # (n,)
    step = max(1, GATHER // width)
    parts = []
    for at in range(0, flat[0].numel(), step):
        fb, fh, fi, fj = (t[at : at + step] for t in flat)
        q, k = problem.q[fb, fh, fi].to(dtype), problem.k[fb, fh // group, fj].to(dtype)  # (n, D)
        scores = (q * k).sum(-1) * problem.options.scale  # (n,)
        if problem.options.softcap is not None:
            scores = torch.tanh(scores / problem.options.softcap) * problem.options.softcap
        if problem.bias is not None:
            scores = scores + pick(problem.bias, fb, fh, fi, fj)
        allowed = problem.allowed_at(fb, fh, fi, fj) if problem.masked else None
        parts.append(_weight(scores, lse[fb, fh, fi], allowed))
    return torch.cat(parts).reshape(shape) if parts else lse.new_zeros(shape)


def _expand(index: Any, shape: torch.Size) -> list[Any]:
    """The index as one item an axis and None for new axes: integers, slices with both ends, tensors of integers."""
    given = [_as_index(i) for i in (index if isinstance(index, tuple) else (index,))]
    axes = sum(_axes(i) for i in given)
    if sum(i is Ellipsis for i in given) > 1:
        raise IndexRangeError("weights[index]: an index can hold only one ellipsis ('...')")
    if axes > len(shape):
        raise IndexRangeError(f"weights[index]: {axes} indices for weights of {len(shape)} axes, {tuple(shape)}")
    if not any(i is Ellipsis for i in given):
        given.append(Ellipsis)
    at = next(n for n, i in enumerate(given) if i is Ellipsis)
    given[at : at + 1] = [slice(None)] * (len(shape) - axes)
    out: list[Any] = []
    axis = 0
    for i in given:
        if i is None:
            out.append(None)
            continue
        items = _item(i, axis, shape)
        out.extend(items)
        axis += len(items)
    return out


def _as_index(i: Any) -> Any:
    """Lists and arrays as tensors, so that booleans among them are seen for what they are."""
    if isinstance(i, list) or (hasattr(i, "__array__") and not isinstance(i, Tensor)):
        try:
            i = torch.as_tensor(i)
        except (TypeError, ValueError, RuntimeError):
            raise TypeError(f"weights[index]: an index must hold integers or booleans, got {i!r}") from None
    if isinstance(i, bool) or (isinstance(i, Tensor) and i.dtype == torch.bool and i.dim() == 0):
        raise TypeError("weights[index]: an index must be an integer, slice, tensor, list, None or ..., got bool")
    return i


def _axes(i: Any) -> int:
    """How many axes one item of an index takes."""
    if i is None or i is Ellipsis:
        return 0
    if isinstance(i, Tensor) and i.dtype == torch.bool:
        return i.dim()
    return 1


def _item(i: Any, axis: int, shape: torch.Size) -> list[Any]:
    n = shape[axis]
    if isinstance(i, slice):
        start, stop, step = i.indices(n)
        if step < 0:
            raise ValueError(f"weights[index]: a slice must have a positive step, got {step}; flip the result instead")
        return [slice(start, max(start, stop), step)]
    if isinstance(i, Tensor) and i.dim() == 0 and not (i.dtype.is_floating_point or i.dtype.is_complex):
        i = int(i)
    elif hasattr(i, "__index__") and not isinstance(i, Tensor):
        i = int(i.__index__())
    if isinstance(i, int):
        if not -n <= i < n:
            raise IndexRangeError(
                f"weights[index]: index {i} is out of range for axis {axis} of weights {tuple(shape)}; "
                f"expected {-n}..{n - 1}"
            )
        return [i % n]
    if not isinstance(i, Tensor):
        raise TypeError(
            f"weights[index]: an index must be an integer, slice, tensor, list, None or ..., got {type(i).__name__}"
        )
    t = i
    if t.dtype == torch.bool:
        if tuple(t.shape) != tuple(shape[axis : axis + t.dim()]):
            raise IndexRangeError(
                f"weights[index]: a boolean index of shape {tuple(t.shape)} does not fit axis {axis} "
                f"of weights {tuple(shape)}"
            )
        return list(t.nonzero(as_tuple=True))
    if t.numel() == 0:
        return [t.long()]
    if t.dtype.is_floating_point or t.dtype.is_complex:
        raise TypeError(f"weights[index]: an index tensor must be integer or boolean, got {str(t.dtype)[6:]}")
    t = t.long()
    bad = t[(t < -n) | (t >= n)]
    if bad.numel():
        raise IndexRangeError(
            f"weights[index]: index {int(bad.reshape(-1)[0])} is out of range for axis {axis} "
            f"of weights {tuple(shape)}; expected {-n}..{n - 1}"
        )
    return [torch.where(t < 0, t + n, t)]


def _take(t: Tensor, axis: int, part: Part) -> Tensor:
    if isinstance(part, Tensor):
        return t.index_select(axis, part.to(t.device))
    return t[(slice(None),) * axis + (part,)]


def _indices(part: Part, n: int, device: torch.device) -> Tensor:
    return part.to(device) if isinstance(part, Tensor) else torch.arange(n, device=device)[part]
