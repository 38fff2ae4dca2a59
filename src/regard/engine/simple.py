"""The plan of a small problem, and of a mask that is no few intervals: rectangles, with the mask asked for each.

They may hold more than there is to do: rows go by blocks, each with one interval of keys.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.engine.problem import Problem

__all__ = ["Rectangle", "direct_bias", "rectangles"]

# With this few rows a triangle costs more in calls and merging than the mask of one block.
FEW_ROWS = 32

# What the float mask of one rectangle may hold: 16 MB in float32.
MASK_ELEMENTS = 1 << 22


@dataclass(frozen=True)
class Rectangle:
    """Rows [rows.start, rows.stop) x keys [keys.start, keys.stop), and what may be read of it.

    kind is "full" (all of it), "causal" (row r of it reads its first r + 1 keys) or "partial" (ask the mask).
    """

    rows: slice
    keys: slice
    kind: str

    @property
    def entries(self) -> int:
        """How many (query, key) pairs are computed, of one head."""
        r: int = self.rows.stop - self.rows.start
        c: int = self.keys.stop - self.keys.start
        if self.kind != "causal":
            return r * c
        corner = min(r, c)
        return corner * (corner + 1) // 2 + max(0, r - c) * c


def direct_bias(problem: Problem) -> bool:
    """Whether the bias can be given to the fused op as it is: its dtype fits, and no row of it can empty a row."""
    bias = problem.bias
    if bias is None:
        return True
    if problem.options.valid is not None or bias.dtype not in (problem.q.dtype, torch.float32):
        return False
    if bias.dtype == torch.float32 and problem.q.dtype == torch.float64:
        return False
    return bias.numel() == 0 or bool(bias.detach().amin() > -torch.inf)


def rectangles(problem: Problem) -> tuple[Rectangle, ...]:
    """The rectangles of a problem; several of one row are merged by their lse."""
    _, _, query_len, key_len = problem.dims
    if 0 in problem.dims:
        return ()
    causal = problem.options.causal
    if problem.options.rest is not None or not direct_bias(problem):
        return tuple(
            Rectangle(rows, keys, "partial") for rows, keys in problem.row_blocks(elements=_mask_elements(problem))
        )
    if problem.options.valid is not None:
        key_len = _last_valid(problem.options.valid)  # padding at the end, or all but a prefix, is no work
        if key_len == 0:
            return ()
    if causal is None or causal >= key_len - 1:
        return (Rectangle(slice(0, query_len), slice(0, key_len), "full"),)
    start = max(0, -causal)  # the rows before see no key
    if start >= query_len:
        return ()
    rows, past = slice(start, query_len), max(0, causal)
    triangle = Rectangle(rows, slice(past, min(key_len, past + query_len - start)), "causal")
    if past == 0:
        return (triangle,)
    if query_len == 1:
        return (Rectangle(rows, slice(0, past + 1), "full"),)
    if query_len <= FEW_ROWS:
        return (Rectangle(rows, slice(0, triangle.keys.stop), "partial"),)
    return Rectangle(rows, slice(0, past), "full"), triangle


def _last_valid(valid: Tensor) -> int:
    """One more than the last key that some sequence may read, for valid (B or 1, H or 1, 1, S)."""
    keys = valid.any(0).any(0)[0].nonzero()  # (n, 1)
    return int(keys[-1]) + 1 if len(keys) else 0


def _mask_elements(problem: Problem) -> int:
    """How many scores a block may have so that its mask, often one for all heads and batches, stays small."""
    b, h, query_len, key_len = problem.dims
    if b * h * query_len * key_len <= MASK_ELEMENTS:
        return MASK_ELEMENTS
    shared = 1
    rest, bias = problem.options.rest, problem.bias
    if rest is not None:
        probe = rest.block(slice(0, 1), slice(0, 1))
        shared = max(shared, probe.shape[0] * probe.shape[1])
    if bias is not None:
        shared = max(shared, bias.shape[0] * bias.shape[1])
    if problem.options.valid is not None:
        shared = max(shared, problem.options.valid.shape[0] * problem.options.valid.shape[1])
    return MASK_ELEMENTS * b * h // shared
