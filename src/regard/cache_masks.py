"""Masks of sequences that have come to different lengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.intervals import Intervals
from regard.masks.rules import Band, Causal, Documents, Where

__all__ = ["Placed", "Ragged", "counts_rows", "moves_along"]


@dataclass(frozen=True, eq=False)
class Ragged(Mask):
    """Row r of sequence b reads the keys ``[starts[b] + r + 1 - window, starts[b] + r + 1)`` that are before ends[b].

    ``starts`` and ``ends`` are (B,) integers, and a window of None is all keys. Rows of padding, which stand past
    ends[b], so read nothing that was not written.
    """

    starts: Tensor
    ends: Tensor
    window: int | None
    reach: tuple[int, int, int]  # the smallest and the largest of starts, and the largest of ends

    @classmethod
    def of(cls, starts: Sequence[int], counts: Sequence[int], window: int | None, device: torch.device) -> Ragged:
        """The rule for ``counts[b]`` new keys at ``starts[b]``."""
        ends = [a + n for a, n in zip(starts, counts, strict=True)]
        start, end = torch.tensor([starts, ends], device=device)
        return cls(start, end, window, (min(starts), max(starts), max(ends)))

    def _bounds(self, b: Tensor, q: Tensor) -> tuple[Tensor, Tensor]:
        past = self.starts[b] + q + 1
        low = torch.zeros_like(past) if self.window is None else past - self.window
        return low, torch.minimum(past, self.ends[b])

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:  # noqa: D102
        low, high = self._bounds(b, q)
        return (kv >= low) & (kv < high)

    def intervals(self, sizes: Sizes) -> Intervals | None:  # noqa: D102
        b = torch.arange(len(self.starts), device=self.starts.device).view(-1, 1, 1, 1)
        q = torch.arange(sizes.query_len, device=self.starts.device).view(1, 1, -1, 1)
        low, high = self._bounds(b, q)  # (B, 1, L, 1)
        return Intervals.of(low, high, sizes.key_len)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:  # noqa: D102
        least, most, end = self.reach
        low = 0 if self.window is None else min(max(least + start + 1 - self.window, 0), sizes.key_len)
        return low, max(low, min(most + stop, end, sizes.key_len))

    def __repr__(self) -> str:
        window = "" if self.window is None else f", window {self.window}"
        return f"cached(lengths {tuple(self.starts.shape)}{window})"

    def _batch(self, default: int) -> int:
        return len(self.starts)


@dataclass(frozen=True, eq=False)
class Placed(Mask):
    """A mask of the whole text, asked about keys that are a part of it and rows that stand at places of their own.

    Row 0 of sequence b stands at ``starts[b]`` and key 0 at ``firsts[b]``, (B,) integers, in a text of ``text_len``.
    Every rule gets the places in the text, as if all of it had been asked about at once; only a dense mask, whose rows
    are those that are asked for, gets the row.
    """

    inner: Mask
    starts: Tensor
    firsts: Tensor
    text_len: int

    @classmethod
    def of(
        cls, inner: Mask, starts: Sequence[int], firsts: Sequence[int], text_len: int, device: torch.device
    ) -> Placed:
        """The mask for rows that begin at ``starts[b]`` and keys that begin at ``firsts[b]``."""
        start, first = torch.tensor([starts, firsts], device=device)
        return cls(inner, start, first, text_len)

    def _text(self, sizes: Sizes) -> Sizes:
        return replace(sizes, key_len=self.text_len)

    def tensors(self) -> tuple[Tensor, ...]:  # noqa: D102
        return self.inner.tensors()

    def bind(self, sizes: Sizes) -> Mask:  # noqa: D102
        return replace(self, inner=self.inner.bind(self._text(sizes)))

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:  # noqa: D102
        text = self._text(sizes)
        # Rows and keys past the end of the text are padding, which is not to be looked up in anything.
        place = (q + self.starts[b]).clamp(max=text.key_len - 1)
        return _ask(self.inner, b, h, q, place, (kv + self.firsts[b]).clamp(max=text.key_len - 1), text)

    def __repr__(self) -> str:
        return repr(self.inner)

    def _batch(self, default: int) -> int:
        return len(self.starts)

    def _heads(self, default: int) -> int:
        return self.inner._heads(default)


def _ask(mask: Mask, b: Tensor, h: Tensor, row: Tensor, place: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
    if isinstance(mask, And | Or):
        left, right = (_ask(m, b, h, row, place, kv, sizes) for m in (mask.left, mask.right))
        return left & right if isinstance(mask, And) else left | right
    if isinstance(mask, Not):
        return ~_ask(mask.inner, b, h, row, place, kv, sizes)
    if _by_place(mask):
        return mask.allowed(b, h, place, kv, sizes)
    if isinstance(mask, Band | Documents | Causal):
        return mask.allowed(b, h, place - sizes.shift, kv, sizes)  # they add the shift to a row
    return mask.allowed(b, h, row, kv, sizes)


def _by_place(mask: Mask) -> bool:
    return isinstance(mask, Where) or (isinstance(mask, Causal) and mask.offset is not None)


def counts_rows(mask: Mask) -> bool:
    """Whether a mask counts rows from the first that is asked about: in a text that grows, another one each time."""
    if isinstance(mask, And | Or):
        return counts_rows(mask.left) or counts_rows(mask.right)
    return counts_rows(mask.inner) if isinstance(mask, Not) else _by_place(mask)


def moves_along(mask: Mask) -> bool:
    """Whether a mask depends on the distance of query and key alone, so that it is the same without the first keys."""
    if isinstance(mask, And | Or):
        return moves_along(mask.left) and moves_along(mask.right)
    if isinstance(mask, Not):
        return moves_along(mask.inner)
    return isinstance(mask, Band) or (isinstance(mask, Causal) and mask.offset is None)
