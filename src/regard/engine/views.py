"""Views of rows and keys at even steps, folded to the four axes that kernels take, and what comes back."""

from __future__ import annotations

from torch import Tensor

from regard.engine.calls import Run
from regard.engine.merge import merge

__all__ = ["add_at", "cut", "fold_rows", "unfold_rows", "write_at"]


def cut(t: Tensor, run: Run) -> Tensor:
    """The intervals of a run: (B, H, L, W) to (B, H, count, size, W), without a copy."""
    b, h, length, w = t.stride()
    sizes = (t.shape[0], t.shape[1], run.count, run.size, t.shape[3])
    return t.as_strided(sizes, (b, h, length * run.step, length, w), t.storage_offset() + length * run.start)


def fold_rows(part: Tensor, kv_heads: int) -> Tensor:
    """Rows of one sequence, (H, count, size, W), to those of its key heads: (Hkv, count, G * size, W); a copy only
    where heads are grouped.
    """
    group = part.shape[0] // kv_heads
    if group == 1:
        return part
    part = part.unflatten(0, (kv_heads, group)).transpose(1, 2)  # (Hkv, count, G, size, W)
    return part.flatten(2, 3)  # (Hkv, count, G * size, W)


def unfold_rows(t: Tensor, heads: int) -> Tensor:
    """(Hkv, count, G * size, W) back to (H, count, size, W)."""
    group = heads // t.shape[0]
    if group == 1:
        return t
    t = t.unflatten(2, (group, t.shape[2] // group)).transpose(1, 2)  # (Hkv, G, count, size, W)
    return t.flatten(0, 1)


def write_at(into: Tensor, into_lse: Tensor, part: Tensor, part_lse: Tensor, *, first: bool) -> None:
    """Put a part (..., Dv) and its lse (..., 1) into their place, or merge them with what is there."""
    if not first:
        part, merged = merge(into, into_lse[..., 0], part, part_lse[..., 0])
        part_lse = merged[..., None]
    into.copy_(part)
    into_lse.copy_(part_lse)


def add_at(total: Tensor, run: Run, part: Tensor) -> None:
    """Add (B, H, count, size, W) to the intervals of a run of ``total`` (B, H, S, W), which may overlap."""
    if run.count > 1 and run.step == 0:
        part, run = part.sum(2, keepdim=True), Run(run.start, run.size)
    # Every n-th interval lies apart from the next, so that one addition takes them all.
    apart = -(-run.size // run.step) if run.count > 1 else 1
    for i in range(min(apart, run.count)):
        some = part[:, :, i::apart]
        cut(total, Run(run.start + i * run.step, run.size, some.shape[2], apart * run.step)).add_(some)
