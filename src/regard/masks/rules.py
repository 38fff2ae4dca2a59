"""The rules that masks are made of, one class each: they answer for any index, and know where their keys lie."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from regard import validation
from regard.masks.algebra import Mask, Sizes
from regard.masks.intervals import Intervals

__all__ = ["Band", "Causal", "Dense", "Documents", "Padding", "Prefix", "Where"]


@dataclass(frozen=True)
class Causal(Mask):
    offset: int | None

    def resolved(self, sizes: Sizes) -> int:
        """The offset o of ``kv <= q + o``."""
        return sizes.shift if self.offset is None else self.offset

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return kv <= q + self.resolved(sizes)

    def intervals(self, sizes: Sizes) -> Intervals | None:
        hi = _rows(sizes) + self.resolved(sizes) + 1  # (1, 1, L, 1)
        return Intervals.of(torch.zeros_like(hi), hi, sizes.key_len)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        return 0, min(max(stop + self.resolved(sizes), 0), sizes.key_len)

    def __repr__(self) -> str:
        return "causal()" if self.offset is None else f"causal(offset={self.offset})"


@dataclass(frozen=True)
class Band(Mask):
    left: int
    right: int
    name: str  # what it was asked for as: "window" or "band"

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        position = q + sizes.shift
        return (kv >= position - self.left) & (kv <= position + self.right)

    def intervals(self, sizes: Sizes) -> Intervals | None:
        position = _rows(sizes) + sizes.shift  # (1, 1, L, 1)
        return Intervals.of(position - self.left, position + self.right + 1, sizes.key_len)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        low = min(max(start + sizes.shift - self.left, 0), sizes.key_len)
        return low, max(low, min(stop + sizes.shift + self.right, sizes.key_len))

    def __repr__(self) -> str:
        return f"window({self.left + 1})" if self.name == "window" else f"band({self.left}, {self.right})"


@dataclass(frozen=True, eq=False)
class Padding(Mask):
    """Keys that hold something: ``lengths`` (B,) or () integers, or ``valid`` (B, S) or (S,) booleans."""

    lengths: Tensor | None
    valid: Tensor | None

    def tensors(self) -> tuple[Tensor, ...]:
        return tuple(t for t in (self.lengths, self.valid) if t is not None)

    def bind(self, sizes: Sizes) -> Mask:
        validation.check_padding(self.lengths, self.valid, sizes)
        return self

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        if self.lengths is not None:
            return kv < (self.lengths[b] if self.lengths.dim() else self.lengths)
        assert self.valid is not None
        return self.valid[b, kv] if self.valid.dim() == 2 else self.valid[kv]

    def intervals(self, sizes: Sizes) -> Intervals | None:
        if self.valid is not None:
            valid = self.valid.to(sizes.device)
            return Intervals.of_blocks([valid.view(-1, 1, 1, sizes.key_len)], sizes.key_len)
        assert self.lengths is not None
        hi = self.lengths.to(sizes.device, torch.long).view(-1, 1, 1, 1)  # (B or 1, 1, 1, 1)
        return Intervals.of(torch.zeros_like(hi), hi, sizes.key_len)

    def __repr__(self) -> str:
        given = self.lengths if self.lengths is not None else self.valid
        return f"padding({'lengths' if self.lengths is not None else 'valid'} {tuple(given.shape)})"  # type: ignore[union-attr]

    def _batch(self, default: int) -> int:
        given = self.lengths if self.lengths is not None else self.valid
        assert given is not None
        return given.shape[0] if given.dim() == (1 if self.lengths is not None else 2) else default


@dataclass(frozen=True, eq=False)
class Documents(Mask):
    """Query and key of the same document: ``ids`` (B, S) or (S,), one document id a key position."""

    ids: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.ids,)

    def bind(self, sizes: Sizes) -> Mask:
        validation.check_documents(self.ids, sizes)
        return self

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        position = q + sizes.shift
        real = position >= 0  # with L > S the first queries stand before every key: they belong to no document
        at = position.clamp(min=0)
        if self.ids.dim() == 1:
            return real & (self.ids[at] == self.ids[kv])
        return real & (self.ids[b, at] == self.ids[b, kv])

    def intervals(self, sizes: Sizes) -> Intervals | None:
        ids = self.ids.to(sizes.device).view(-1, sizes.key_len)  # (B or 1, S)
        if sizes.key_len == 0:
            return Intervals.everything(0, sizes.device)
        begins = torch.cat([torch.ones_like(ids[:, :1], dtype=torch.bool), ids[:, 1:] != ids[:, :-1]], -1)
        if bool((begins.sum(-1) != torch.tensor([len(row.unique()) for row in ids], device=ids.device)).any()):
            return super().intervals(sizes)  # a document in several pieces
        at = torch.arange(sizes.key_len, device=ids.device).expand_as(ids)
        lo = torch.where(begins, at, 0).cummax(-1).values
        ends = torch.cat([begins[:, 1:], torch.ones_like(begins[:, :1])], -1)
        hi = torch.where(ends, at + 1, sizes.key_len).flip(-1).cummin(-1).values.flip(-1)
        position = torch.arange(sizes.query_len, device=ids.device) + sizes.shift  # (L,)
        seat = position.clamp(min=0)
        lo, hi = lo[:, seat], torch.where(position >= 0, hi[:, seat], 0)  # (B or 1, L)
        return Intervals.of(lo[:, None, :, None], hi[:, None, :, None], sizes.key_len)

    def __repr__(self) -> str:
        return f"documents(ids {tuple(self.ids.shape)})"

    def _batch(self, default: int) -> int:
        return self.ids.shape[0] if self.ids.dim() == 2 else default


@dataclass(frozen=True)
class Prefix(Mask):
    length: int

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return kv < self.length

    def intervals(self, sizes: Sizes) -> Intervals | None:
        zero = torch.zeros(1, 1, 1, 1, dtype=torch.long, device=sizes.device)
        return Intervals.of(zero, zero + self.length, sizes.key_len)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        return 0, min(self.length, sizes.key_len)

    def __repr__(self) -> str:
        return f"prefix({self.length})"


@dataclass(frozen=True, eq=False)
class Where(Mask):
    rule: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return self.rule(b, h, q, kv)

    def __repr__(self) -> str:
        return f"where({getattr(self.rule, '__name__', type(self.rule).__name__)})"


@dataclass(frozen=True, eq=False)
class Dense(Mask):
    tensor: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return (self.tensor,)

    def bind(self, sizes: Sizes) -> Mask:
        t = validation.check_dense(self.tensor, sizes)  # (batch_shape or 1s, H or 1, L or 1, S or 1)
        if len(sizes.batch_shape) != 1:
            leading = t.shape[:-3]
            if any(n != 1 for n in leading):
                t = t.expand(*sizes.batch_shape, *t.shape[-3:])
            t = t.reshape(prod(t.shape[:-3]), *t.shape[-3:])  # (..., H, L, S) -> (B, H, L, S)
        return replace(self, tensor=t)

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        index = (b, h, q, kv)
        return self.tensor[tuple(i if n > 1 else i * 0 for i, n in zip(index, self.tensor.shape, strict=True))]

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        t = self.tensor
        t = t if t.shape[2] == 1 else t[:, :, rows]
        t = t if t.shape[3] == 1 else t[:, :, :, keys]
        return t.expand(t.shape[0], t.shape[1], rows.stop - rows.start, keys.stop - keys.start)

    def __repr__(self) -> str:
        return f"dense({tuple(self.tensor.shape)})"

    def _batch(self, default: int) -> int:
        return self.tensor.shape[-4] if self.tensor.dim() > 3 and self.tensor.shape[-4] > 1 else default

    def _heads(self, default: int) -> int:
        return self.tensor.shape[-3] if self.tensor.dim() > 2 and self.tensor.shape[-3] > 1 else default


def _rows(sizes: Sizes) -> Tensor:
    """0 .. L-1 as (1, 1, L, 1)."""
    return torch.arange(sizes.query_len, device=sizes.device).view(1, 1, -1, 1)
