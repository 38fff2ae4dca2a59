"""Inputs of any number of axes as (B, H, L, D), and results back to the axes that came."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import Tensor

__all__ = ["Layout"]


@dataclass(frozen=True)
class Layout:
    """The leading axes of a query: batch_shape (...), and whether it has an axis of heads: (N, L, D) and (L, D) have
    none.
    """

    batch_shape: tuple[int, ...]
    headless: bool

    @classmethod
    def of(cls, query: Tensor) -> Layout:
        headless = query.dim() < 4
        return cls(tuple(query.shape[:-2] if headless else query.shape[:-3]), headless)

    def fold(self, t: Tensor) -> Tensor:
        """(..., H, L, D), (N, L, D) or (L, D) to (B, H, L, D); no copy unless batch axes do not merge."""
        if not self.headless:
            return t if t.dim() == 4 else t.reshape(prod(t.shape[:-3]), *t.shape[-3:])
        return t.unsqueeze(-3) if t.dim() == 3 else t[None, None]

    def fold_bias(self, t: Tensor) -> Tensor:
        """A bias with explicit axes to (B or 1, H or 1, L or 1, S or 1)."""
        if t.dim() == 4:
            return t
        if t.dim() == 3:  # no batch axis at all: (1, L, S) of headless (L, D)
            return t[None]
        if all(n == 1 for n in t.shape[:-3]):
            return t.reshape(1, *t.shape[-3:])
        return t.expand(*self.batch_shape, *t.shape[-3:]).reshape(prod(self.batch_shape), *t.shape[-3:])

    def unfold(self, t: Tensor) -> Tensor:
        """(B, H, ...) to (..., H, ...), or without the axis of heads if there was none."""
        if not self.headless:
            return t if len(self.batch_shape) == 1 else t.reshape(*self.batch_shape, *t.shape[1:])
        return t.squeeze(1) if len(self.batch_shape) == 1 else t[0, 0]
