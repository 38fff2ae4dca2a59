"""Which keys each row reads, as intervals: the form in which a mask is compiled without ever being an L x S matrix.

A row of most masks reads one interval of keys, or a few: causal ``[0, i + 1)``, a window ``[i + 1 - n, i + 1)``, a
document its own. Intervals are closed under ``&``, ``|`` and ``~``, exactly, at a cost that grows with L alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Intervals"]

# A row of more pieces than this is not compiled from its intervals: its blocks are looked at one by one.
MOST_PIECES = 8


@dataclass(frozen=True, eq=False)
class Intervals:
    """The keys ``lo <= j < hi`` of each row: ``lo`` and ``hi`` integers (B or 1, H or 1, L or 1, n).

    Normalised: the n intervals of a row are in order, apart from each other by a key at least, and those that hold
    nothing are last, at ``[key_len, key_len)``.
    """

    lo: Tensor
    hi: Tensor
    key_len: int

    @classmethod
    def of(cls, lo: Tensor, hi: Tensor, key_len: int) -> Intervals | None:
        """Intervals from one [lo, hi) a row and piece, (B or 1, H or 1, L or 1, n), cut to the keys that there are;
        None if a row has too many pieces.
        """
        lo, hi = torch.broadcast_tensors(lo.clamp(0, key_len), hi.clamp(0, key_len))
        return _sorted(lo, hi, key_len).trimmed()

    @classmethod
    def everything(cls, key_len: int, device: torch.device) -> Intervals:
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=device)
        return cls(zero, zero + key_len, key_len)

    @classmethod
    def of_blocks(cls, blocks: Iterable[Tensor], key_len: int) -> Intervals | None:
        """Intervals from consecutive blocks of rows of the mask itself, (B or 1, H or 1, R, S) booleans each."""
        parts = []
        for block in blocks:
            part = _runs(block, key_len)
            if part is None:
                return None
            parts.append(part)
        width = max(p.lo.shape[-1] for p in parts)
        lo = torch.cat([_widen(p.lo, width, key_len) for p in parts], 2)  # (B or 1, H or 1, L, width)
        hi = torch.cat([_widen(p.hi, width, key_len) for p in parts], 2)
        return cls(lo, hi, key_len)

    def __and__(self, other: Intervals | None) -> Intervals | None:
        return None if other is None else self._met(other).trimmed()

    def __or__(self, other: Intervals | None) -> Intervals | None:
        if other is None:
            return None
        neither = (~self)._met(~other)
        return (~neither).trimmed()

    def __invert__(self) -> Intervals:
        """The gaps: before the first, between, and after the last."""
        end = torch.full_like(self.lo[..., :1], self.key_len)
        start = torch.zeros_like(end)
        return _sorted(torch.cat([start, self.hi], -1), torch.cat([self.lo, end], -1), self.key_len)

    def trimmed(self) -> Intervals | None:
        """The same, or None if some row has too many pieces."""
        return None if self.lo.shape[-1] > MOST_PIECES else self

    def _met(self, other: Intervals) -> Intervals:
        # Every piece with every piece: (..., n, 1) with (..., 1, m) to (..., n * m).
        lo = torch.maximum(self.lo[..., :, None], other.lo[..., None, :]).flatten(-2)
        hi = torch.minimum(self.hi[..., :, None], other.hi[..., None, :]).flatten(-2)
        return _sorted(lo, hi, self.key_len)


def _sorted(lo: Tensor, hi: Tensor, key_len: int) -> Intervals:
    """Disjoint pieces in any order, put in order; places that no row needs are dropped."""
    empty = lo >= hi
    lo, hi = torch.where(empty, key_len, lo), torch.where(empty, key_len, hi)
    if lo.shape[-1] > 1:
        lo, order = lo.sort(dim=-1, stable=True)
        hi = hi.gather(-1, order)
        # An interval that begins at key_len holds nothing, so that what is used comes first.
        used = (lo < key_len).flatten(0, -2).any(0)
        lo, hi = lo[..., : max(1, int(used.sum()))], hi[..., : max(1, int(used.sum()))]
    return Intervals(lo, hi, key_len)


def _widen(t: Tensor, width: int, key_len: int) -> Tensor:
    return torch.nn.functional.pad(t, (0, width - t.shape[-1]), value=key_len)


def _runs(block: Tensor, key_len: int) -> Intervals | None:
    """The runs of True of each row of (B or 1, H or 1, R, S)."""
    edge = torch.zeros_like(block[..., :1])
    before, after = torch.cat([edge, block[..., :-1]], -1), torch.cat([block[..., 1:], edge], -1)
    starts, ends = block & ~before, block & ~after  # (b, h, R, S)
    count = starts.sum(-1)  # (b, h, R)
    width = max(1, int(count.max())) if count.numel() else 1
    if width > MOST_PIECES:
        return None
    lo = torch.full((*count.shape, width), key_len, dtype=torch.long, device=block.device)
    hi = lo.clone()
    place = torch.arange(width, device=block.device) < count[..., None]  # (b, h, R, width)
    lo[place], hi[place] = starts.nonzero()[:, -1], ends.nonzero()[:, -1] + 1
    return Intervals(lo, hi, key_len)
