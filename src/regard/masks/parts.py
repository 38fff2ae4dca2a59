"""A rectangle of a mask as a mask of its own: what one rank of several asks of its queries and the keys it holds."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.intervals import Intervals
from regard.masks.rules import Band, Causal, Dense, Documents, Padding, Prefix, Where

__all__ = ["SameDocument", "of_heads", "part"]


def part(mask: Mask, rows: slice, keys: slice, sizes: Sizes) -> Mask:
    """The rectangle rows x keys of a mask that is bound to ``sizes``: entry (i, j) is that of (rows.start + i,
    keys.start + j).

    >>> from regard import masks
    >>> from regard.masks.algebra import Sizes
    >>> part(masks.causal(), slice(2, 4), slice(1, 4), Sizes((1,), 1, 4, 4)).to_dense(2, 3)
    tensor([[ True,  True, False],
            [ True,  True,  True]])
    """
    query_len, key_len = rows.stop - rows.start, keys.stop - keys.start
    if isinstance(mask, And | Or):
        return type(mask)(part(mask.left, rows, keys, sizes), part(mask.right, rows, keys, sizes))
    if isinstance(mask, Not):
        return Not(part(mask.inner, rows, keys, sizes))
    if isinstance(mask, Causal):
        return Causal(mask.resolved(sizes) + rows.start - keys.start)
    if isinstance(mask, Band):
        # A band counts from a position among the keys, and the part's own stand elsewhere by so much.
        moved = rows.start + sizes.shift - keys.start - (key_len - query_len)
        return Band(mask.left - moved, mask.right + moved, "band")
    if isinstance(mask, Prefix):
        return Prefix(max(0, mask.length - keys.start))
    if isinstance(mask, Padding):
        if mask.valid is not None:
            return Padding(None, mask.valid[..., keys])
        assert mask.lengths is not None
        return Padding((mask.lengths - keys.start).clamp(min=0), None)
    if isinstance(mask, Dense):
        t = mask.tensor if mask.tensor.shape[-2] == 1 else mask.tensor[..., rows, :]
        return Dense(t if t.shape[-1] == 1 else t[..., keys])
    if isinstance(mask, Documents):
        at = torch.arange(rows.start, rows.stop, device=mask.ids.device) + sizes.shift
        # With L > S the first queries stand before every key: they belong to no document.
        return SameDocument(mask.ids[..., at.clamp(min=0)], mask.ids[..., keys], at >= 0)
    return Within(mask, rows, keys, sizes)


def of_heads(mask: Mask, heads: slice) -> Mask:
    """A mask for some heads: its head h is that of ``heads.start + h``."""
    if isinstance(mask, And | Or):
        return type(mask)(of_heads(mask.left, heads), of_heads(mask.right, heads))
    if isinstance(mask, Not):
        return Not(of_heads(mask.inner, heads))
    if isinstance(mask, Dense):
        if mask.tensor.dim() < 3 or mask.tensor.shape[-3] == 1:
            return mask
        some = mask.tensor[..., heads, :, :]
        # With an axis of sequences, so that as many heads as there are sequences are not taken for those.
        return Dense(some[None] if some.dim() == 3 else some)
    if isinstance(mask, Within):
        return replace(mask, whole=of_heads(mask.whole, heads))
    if isinstance(mask, Where):
        rule = mask.rule
        return Where(lambda b, h, q, kv: rule(b, h + heads.start, q, kv))
    return mask


@dataclass(frozen=True, eq=False)
class SameDocument(Mask):
    """Query and key of the same document: ids of the queries (B, L) or (L,), of the keys (B, S) or (S,), and which
    queries belong to one, (L,).
    """

    query_ids: Tensor
    key_ids: Tensor
    real: Tensor

    def tensors(self) -> tuple[Tensor, ...]:
        return self.query_ids, self.key_ids

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        if self.key_ids.dim() == 1:
            return self.real[q] & (self.query_ids[q] == self.key_ids[kv])
        return self.real[q] & (self.query_ids[b, q] == self.key_ids[b, kv])

    def intervals(self, sizes: Sizes) -> Intervals | None:
        if sizes.key_len == 0 or sizes.query_len == 0:
            return Intervals.everything(sizes.key_len, sizes.device)
        found = []
        for queries, keys in zip(_two(self.query_ids), _two(self.key_ids), strict=True):
            ids, counts = torch.unique_consecutive(keys, return_counts=True)  # one a run
            ordered, order = ids.sort()
            if bool((ordered[1:] == ordered[:-1]).any()):
                return super().intervals(sizes)  # a document in several pieces
            ends = counts.cumsum(0)
            at = torch.searchsorted(ordered, queries).clamp(max=len(ordered) - 1)  # (L,)
            run = order[at]
            hi = torch.where(self.real & (ordered[at] == queries), ends[run], 0)
            found.append(torch.stack([ends[run] - counts[run], hi], -1))
        lo, hi = torch.stack(found)[:, None].to(sizes.device).unbind(-1)  # (B or 1, 1, L) each
        return Intervals.of(lo[..., None], hi[..., None], sizes.key_len)

    def __repr__(self) -> str:
        return f"documents(part {tuple(self.query_ids.shape)}, {tuple(self.key_ids.shape)})"

    def _batch(self, default: int) -> int:
        return self.key_ids.shape[0] if self.key_ids.dim() == 2 else default


@dataclass(frozen=True, eq=False)
class Within(Mask):
    """A rectangle of a mask that has no form of its own there."""

    whole: Mask
    rows: slice
    keys: slice
    sizes: Sizes

    def tensors(self) -> tuple[Tensor, ...]:
        return self.whole.tensors()

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return self.whole.allowed(b, h, q + self.rows.start, kv + self.keys.start, self._of(sizes))

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        return self.whole.block(_moved(rows, self.rows.start), _moved(keys, self.keys.start), self._of(sizes))

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        found = self.whole.key_range(start + self.rows.start, stop + self.rows.start, self._of(sizes))
        low, high = (min(max(at - self.keys.start, 0), sizes.key_len) for at in found)
        return low, max(low, high)

    def _of(self, sizes: Sizes) -> Sizes:
        """The sizes of the whole for the sequences and heads that are asked."""
        return replace(sizes, query_len=self.sizes.query_len, key_len=self.sizes.key_len)

    def __repr__(self) -> str:
        return f"{self.whole!r}[{self.rows.start}:{self.rows.stop}, {self.keys.start}:{self.keys.stop}]"

    def _batch(self, default: int) -> int:
        return self.whole._batch(default)

    def _heads(self, default: int) -> int:
        return self.whole._heads(default)


def _two(ids: Tensor) -> Tensor:
    """(B or 1, n)."""
    return ids if ids.dim() == 2 else ids[None]


def _moved(at: slice, by: int) -> slice:
    return slice(at.start + by, at.stop + by)
