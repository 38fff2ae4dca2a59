"""Biases of low rank as columns of query and key: what they are asked for, and how the columns are put there.

``scale * <q, k> + <rows, cols>`` is ``scale * <[rows / scale, q], [cols, k]>``: what runs, what differentiates and what
answers for the weights sees scores like any others.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.lowering import lower

__all__ = ["Bias", "fold", "joined", "reads_ahead"]

# Products of the parts of two numbers in half precision, large ones first: with three parts each, as exact as float32.
PARTS = ((0, 0), (0, 1), (1, 0), (0, 2), (1, 1), (2, 0))


class Bias(ABC):
    """A bias of low rank, for ``bias=`` of :func:`regard.attention`."""

    @abstractmethod
    def columns(self, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
        """``rows / scale`` and ``cols``, which broadcast to (..., H, L, r) and (..., Hkv, S, r), float32 at least."""

    @abstractmethod
    def to_dense(self, query_len: int, key_len: int) -> Tensor:
        """The bias as a tensor that broadcasts to (..., H, L, S): L x S memory."""

    @abstractmethod
    def check_mask(self, mask: Mask | None, sizes: Sizes) -> None:
        """Raise if the columns are not the bias where this mask reads."""


def fold(
    bias: Bias, query: Tensor, key: Tensor, mask: Mask | None, scale: float | None, softcap: float | None
) -> tuple[Tensor, Tensor, float]:
    """Query (..., H, L, r + D), key (..., Hkv, S, r + D) and a scale whose scores have the bias in them."""
    if softcap is not None:
        raise ValueError(
            f"bias={bias!r} with softcap={softcap}: the cap comes before the bias, and would be applied to its columns "
            f"too; pass bias.to_dense({query.shape[-2]}, {key.shape[-2]})"
        )
    headless = query.dim() < 4
    heads, batch = (1, query.shape[:-2]) if headless else (query.shape[-3], query.shape[:-3])
    bias.check_mask(mask, Sizes(tuple(batch), heads, query.shape[-2], key.shape[-2], query.device, headless))
    scale = 1 / math.sqrt(query.shape[-1]) if scale is None else float(scale)
    if scale == 0:  # has no inverse; query keeps its gradient, which is 0
        query, scale = query.masked_fill(torch.ones((), dtype=torch.bool, device=query.device), 0), 1.0
    rows, cols = bias.columns(query, key, scale)
    return joined(rows, cols, query, key, scale)


def joined(rows: Tensor, cols: Tensor, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor, float]:
    """The columns of a bias before those of query and key, in their dtype, and the scale."""
    if rows.dtype != query.dtype:
        some, others = _parts(rows, query.dtype), _parts(cols, query.dtype)
        rows = torch.cat([some[i] for i, _ in PARTS], dim=-1)  # (..., 6 r)
        cols = torch.cat([others[i] for _, i in PARTS], dim=-1)
    return _in_front(rows, query), _in_front(cols, key), scale


def _parts(t: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Three tensors of a narrow dtype whose sum is t; the first has its gradient."""
    first = t.to(dtype)
    rest = t.detach() - first.detach()
    second = rest.to(dtype)
    return first, second, (rest - second).to(dtype)


def _in_front(columns: Tensor, t: Tensor) -> Tensor:
    """Columns, broadcast, before those of t: (..., r + D)."""
    # The smaller products of query and key are added when those of the bias have cancelled.
    columns = columns.reshape(columns.shape[max(0, columns.dim() - t.dim()) :])
    return torch.cat([columns.expand(*t.shape[:-1], -1), t], dim=-1)


def reads_ahead(mask: Mask | None, sizes: Sizes) -> bool:
    """Whether some query may read a key after its own position; while a graph is made, only what needs no look."""
    if sizes.query_len <= 1 or sizes.key_len == 0:
        return False
    if mask is None:
        return True
    if torch.compiler.is_compiling():
        return False
    lowered = lower(mask.bind(sizes), sizes)
    if lowered.get("causal", sizes.key_len) <= sizes.shift:
        return False
    intervals = lowered["view"].intervals()
    own = torch.arange(sizes.query_len, device=sizes.device) + sizes.shift  # (L,)
    if intervals is not None:
        ahead = (intervals.hi > own[:, None] + 1) & (intervals.hi > intervals.lo)  # (B or 1, H or 1, L, n)
        return bool(ahead.any())
    step = max(1, (1 << 22) // sizes.key_len)
    for start in range(0, sizes.query_len, step):
        rows = slice(start, min(start + step, sizes.query_len))
        block = lowered["view"].block(rows, slice(0, sizes.key_len))  # (B or 1, H or 1, R, S)
        if bool((block & (torch.arange(sizes.key_len, device=sizes.device) > own[rows, None])).any()):
            return True
    return False
