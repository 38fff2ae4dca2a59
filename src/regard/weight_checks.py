"""The error messages of AttentionWeights' methods, and the folding of their arguments."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from regard.engine.problem import Problem
from regard.layout import Layout

__all__ = ["IndexRangeError"]


class IndexRangeError(IndexError, ValueError):
    """An index out of range: an IndexError as on a tensor, and a ValueError like every bad argument of regard."""


def versions(problem: Problem) -> tuple[int, ...]:
    """How often query, key, bias, sinks and what the mask is made of have been written to; inference tensors do not
    count and are not watched.
    """
    tensors = (problem.q, problem.k, problem.bias, problem.sinks)
    return *(-1 if t is None or t.is_inference() else t._version for t in tensors), *problem.options.versions()


def check_unmodified(problem: Problem, before: tuple[int, ...]) -> None:
    now = versions(problem)
    names = ("query", "key", "bias", "sinks", *["mask"] * (len(now) - 4))
    for name, a, b in zip(names, before, now, strict=True):
        if a != b:
            raise RuntimeError(
                f"{name} was written to after regard.attention() returned these weights, which are computed from it "
                f"on demand; ask before the write, or pass {name}.clone()"
            )


def check_operand(x: Tensor, shape: torch.Size, kv_heads: int, *, axis_name: str, name: str) -> None:
    """The right-hand side of a product with (..., H, L, S): it has S rows, and axes before them that broadcast."""
    inner = shape[-1]
    if not isinstance(x, Tensor):
        raise TypeError(f"weights @ {name}: {name} must be a torch.Tensor, got {type(x).__name__}")
    if x.dtype.is_complex:
        raise TypeError(
            f"weights @ {name}: {name} must be real, got {str(x.dtype)[6:]}; multiply {name}.real and .imag"
        )
    rows = x.shape[0] if x.dim() == 1 else x.shape[-2] if x.dim() > 1 else None
    if rows != inner:
        raise ValueError(
            f"weights @ {name}: {name} must have {inner} rows ({axis_name}, axis -2), got shape {tuple(x.shape)} "
            f"for weights {tuple(shape)}"
        )
    lead, wanted = tuple(x.shape[:-2]), tuple(shape[:-2])
    fits = len(lead) <= len(wanted) and all(
        n in (1, m) or (i == 0 and n == kv_heads)
        for i, (n, m) in enumerate(zip(reversed(lead), reversed(wanted), strict=False))
    )
    if not fits:
        raise ValueError(
            f"weights @ {name}: the axes of {name} before the last two must broadcast to {wanted}, got {lead} "
            f"for weights {tuple(shape)}"
        )


def fold_operand(x: Tensor, layout: Layout) -> tuple[Tensor, bool]:
    """X as (B or 1, heads or 1, rows, N), and whether it was a vector (rows,)."""
    vector = x.dim() == 1
    x = x[:, None] if vector else x  # (rows, N)
    lead = len(layout.batch_shape) + (0 if layout.headless else 1)
    x = x.reshape((1,) * (lead + 2 - x.dim()) + tuple(x.shape))  # (..., heads, rows, N) with axes of 1 in front
    if layout.headless:
        x = x.unsqueeze(-3)
    if x.dim() == 3:
        return x[None], vector
    if x.dim() == 4:
        return x, vector
    if all(n == 1 for n in x.shape[:-3]):
        return x.reshape(1, *x.shape[-3:]), vector
    return x.expand(*layout.batch_shape, *x.shape[-3:]).reshape(prod(layout.batch_shape), *x.shape[-3:]), vector


def check_pool(rows: int, cols: int, reduce: str, shape: torch.Size) -> None:
    for name, n, axis, most in (("rows", rows, "L", shape[-2]), ("cols", cols, "S", shape[-1])):
        if isinstance(n, bool) or not isinstance(n, int):
            raise TypeError(f"pool({name}): {name} must be an integer, got {type(n).__name__}")
        if not 1 <= n <= most:
            raise ValueError(
                f"pool({name}): {name} must be in 1..{axis}={most}, got {n}; a cell holds at least one entry"
            )
    if reduce not in ("mean", "max"):
        raise ValueError(f"pool(reduce): reduce must be 'mean' or 'max', got {reduce!r}")


def check_topk(k: int, shape: torch.Size) -> None:
    if isinstance(k, bool) or not isinstance(k, int):
        raise TypeError(f"topk(k): k must be an integer, got {type(k).__name__}")
    if not 1 <= k <= shape[-1]:
        raise ValueError(f"topk(k): k must be in 1..S={shape[-1]}, got {k}")


def check_diagonal(offset: int, shape: torch.Size) -> None:
    if isinstance(offset, bool) or not isinstance(offset, int):
        raise TypeError(f"diagonal(offset): offset must be an integer, got {type(offset).__name__}")
    if not -shape[-2] < offset < shape[-1]:
        raise IndexRangeError(
            f"diagonal(offset): offset must be in {1 - shape[-2]}..{shape[-1] - 1} for weights {tuple(shape)}, "
            f"got {offset}"
        )


def key_set(keys: int | slice | list[int] | Tensor, key_len: int, device: torch.device) -> Tensor:
    """A set of keys as distinct integer indices (n,), in order."""
    if isinstance(keys, slice):
        return torch.arange(key_len, device=device)[keys]
    if isinstance(keys, bool):
        raise TypeError("mass(keys): keys must be an index, a slice, indices or booleans (S,), got bool")
    try:
        t = torch.as_tensor(keys, device=device)
    except (TypeError, ValueError, RuntimeError):
        raise TypeError(
            f"mass(keys): keys must be an index, a slice, indices or booleans (S,), got {type(keys).__name__} {keys!r}"
        ) from None
    if t.dtype == torch.bool:
        if tuple(t.shape) != (key_len,):
            raise ValueError(f"mass(keys): booleans must have shape (S,) = ({key_len},), got {tuple(t.shape)}")
        return t.nonzero()[:, 0]
    if t.numel() == 0:
        return t.new_zeros(0, dtype=torch.long)
    if t.dtype.is_floating_point or t.dtype.is_complex or t.dim() > 1:
        raise TypeError(
            "mass(keys): keys must be an index, a slice, indices (n,) or booleans (S,), "
            f"got {str(t.dtype)[6:]} of shape {tuple(t.shape)}"
        )
    t = t.reshape(-1).long()
    bad = t[(t < -key_len) | (t >= key_len)]
    if bad.numel():
        raise IndexRangeError(
            f"mass(keys): key {int(bad[0])} is out of range for S={key_len}; expected -{key_len}..{key_len - 1}"
        )
    distinct: Tensor = torch.unique(torch.where(t < 0, t + key_len, t))
    return distinct
