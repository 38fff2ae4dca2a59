"""One attention problem: the score matrix as a rule, (B, H, L, S), of which only blocks are ever made."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import reduce
from typing import Protocol

import torch
from torch import Tensor

__all__ = ["KeyIntervals", "MaskView", "Options", "Problem", "compute_dtype", "crop", "pick"]

# Scores that may be in memory at once, over all batches and heads. 2^21 float32 are 8 MB: about a core's private
# cache, and measured on CPU no slower than anything larger.
BLOCK_ELEMENTS = 1 << 21
MOST_ROWS = 512


class KeyIntervals(Protocol):
    """The keys that each row reads, as intervals: integers ``lo`` and ``hi``, (B or 1, H or 1, L or 1, n)."""

    @property
    def lo(self) -> Tensor: ...

    @property
    def hi(self) -> Tensor: ...


class MaskView(Protocol):
    """What the engine asks of a mask: blocks of it, and where the keys of some rows lie."""

    @property
    def remembered(self) -> bool:
        """Whether the intervals are those of a mask made of numbers alone, found once and the same object each time."""
        ...

    def intervals(self) -> KeyIntervals | None:
        """The keys of each row as a few intervals; None if they are not."""
        ...

    def block(self, rows: slice, keys: slice) -> Tensor:
        """(B or 1, H or 1, rows, keys) booleans, True = may attend."""
        ...

    def versions(self) -> tuple[int, ...]:
        """How often the tensors that the mask is made of have been written to."""
        ...

    def at(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        """Single entries: index tensors that broadcast, to booleans."""
        ...

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """An interval of keys that holds all that rows [start, stop) may read."""
        ...


@dataclass(frozen=True, eq=False)
class Options:
    """All of a problem that is not a differentiable tensor.

    The mask is the conjunction of three parts, each None if absent: ``causal`` (key <= query + causal), ``valid``
    (per key, (B or 1, H or 1, 1, S)) and ``rest`` (anything); ``view`` is all of it at once.
    """

    scale: float
    softcap: float | None = None
    causal: int | None = None
    valid: Tensor | None = None
    rest: MaskView | None = None
    view: MaskView | None = None
    dropout: float = 0.0

    def versions(self) -> tuple[int, ...]:
        """How often the tensors of the mask have been written to: its intervals may be asked for again at any time."""
        return () if self.view is None else self.view.versions()


@dataclass(frozen=True, eq=False)
class Problem:
    """Scores ``cap(scale * q @ k.mT) + bias`` under a mask: q (B, H, L, D), k (B, Hkv, S, D), bias (B|1, H|1, L|1,
    S|1).
    """

    q: Tensor
    k: Tensor
    bias: Tensor | None = None
    sinks: Tensor | None = None
    options: Options = field(default_factory=lambda: Options(1.0))

    @property
    def dims(self) -> tuple[int, int, int, int]:
        """B, H, L, S."""
        return self.q.shape[0], self.q.shape[1], self.q.shape[2], self.k.shape[2]

    @property
    def masked(self) -> bool:
        o = self.options
        return o.causal is not None or o.valid is not None or o.rest is not None

    @property
    def requires_grad(self) -> bool:
        """Whether any of its tensors does."""
        return any(t is not None and t.requires_grad for t in (self.q, self.k, self.bias, self.sinks))

    def detach(self) -> Problem:
        """The same problem outside of autograd."""
        drop = [t if t is None else t.detach() for t in (self.q, self.k, self.bias, self.sinks)]
        return Problem(drop[0], drop[1], drop[2], drop[3], self.options)  # type: ignore[arg-type]

    def with_options(self, **changes: object) -> Problem:
        return replace(self, options=replace(self.options, **changes))  # type: ignore[arg-type]

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        """An interval of keys that holds all that the rows [start, stop) may read."""
        low, high = 0, self.k.shape[2]
        if self.options.causal is not None:
            high = min(high, max(0, stop + self.options.causal))
        if self.options.rest is not None:
            a, b = self.options.rest.key_range(start, stop)
            low, high = max(low, a), min(high, b)
        return low, max(low, high)

    def row_blocks(self, elements: int = BLOCK_ELEMENTS, most: int = MOST_ROWS) -> Iterator[tuple[slice, slice]]:
        """Blocks of rows with the keys that they may read; a block without keys is left out."""
        b, h, query_len, key_len = self.dims
        if 0 in self.dims:
            return
        rows = max(1, min(most, elements // max(1, b * h * key_len)))
        for start in range(0, query_len, rows):
            stop = min(start + rows, query_len)
            low, high = self.key_range(start, stop)
            if low < high:
                yield slice(start, stop), slice(low, high)

    def allowed(self, rows: slice, keys: slice) -> Tensor | None:
        """Which entries of a block may be read, (B or 1, H or 1, rows, keys) booleans; None if all."""
        o, parts = self.options, []
        if o.causal is not None and keys.stop - 1 > rows.start + o.causal:
            q = torch.arange(rows.start, rows.stop, device=self.q.device)[:, None]
            kv = torch.arange(keys.start, keys.stop, device=self.q.device)
            parts.append((kv <= q + o.causal)[None, None])
        if o.valid is not None:
            parts.append(o.valid[..., keys])
        if o.rest is not None:
            parts.append(o.rest.block(rows, keys))
        return reduce(torch.logical_and, parts) if parts else None

    def allowed_at(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor | None:
        """Which single entries may be read: index tensors that broadcast, to booleans; None if all."""
        o, parts = self.options, []
        if o.causal is not None:
            parts.append(kv <= q + o.causal)
        if o.valid is not None:
            parts.append(pick(o.valid, b, h, q, kv))
        if o.rest is not None:
            parts.append(o.rest.at(b, h, q, kv))
        return reduce(torch.logical_and, parts) if parts else None

    def additive(self, rows: slice, keys: slice) -> Tensor | None:
        """The bias of a block with -inf where it may not be read, float32 at least; None if nothing."""
        allowed, dtype = self.allowed(rows, keys), compute_dtype(self.q.dtype)
        bias = None if self.bias is None else crop(self.bias, rows, keys).to(dtype)
        if allowed is None:
            return bias
        if bias is None:
            return torch.zeros(allowed.shape, dtype=dtype, device=self.q.device).masked_fill_(~allowed, -torch.inf)
        return torch.where(allowed, bias, -torch.inf)

    def block(self, rows: slice, keys: slice) -> Tensor:
        """The scores of a block, -inf where it may not be read: (B, H, rows, keys), at least float32."""
        return self.finish(self.products(rows, keys), rows, keys)

    def products(self, rows: slice, keys: slice) -> Tensor:
        """``cap(scale * q @ k.mT)`` of a block, before bias and mask: (B, H, rows, keys)."""
        dtype = compute_dtype(self.q.dtype)
        b, h, _, d = self.q.shape
        kv_heads = self.k.shape[1]
        q = self.q[:, :, rows].to(dtype) * self.options.scale  # (B, H, R, D)
        k = self.k[:, :, keys].to(dtype)  # (B, Hkv, C, D)
        q = q.reshape(b, kv_heads, (h // kv_heads) * q.shape[2], d)  # heads of a group become rows: (B, Hkv, G * R, D)
        scores = (q @ k.mT).view(b, h, -1, k.shape[2])  # (B, H, R, C)
        cap = self.options.softcap
        return scores if cap is None else torch.tanh(scores / cap) * cap

    def finish(self, scores: Tensor, rows: slice, keys: slice) -> Tensor:
        """Bias and mask on top of :meth:`products`; writes to ``scores`` where autograd does not need them."""
        if self.bias is not None:
            scores = scores + crop(self.bias, rows, keys)
        allowed = self.allowed(rows, keys)
        if allowed is None:
            return scores
        return (
            scores.masked_fill(~allowed, -torch.inf)
            if scores.requires_grad
            else scores.masked_fill_(~allowed, -torch.inf)
        )


def crop(t: Tensor, rows: slice, keys: slice) -> Tensor:
    """The block rows x keys of a tensor whose axes L and S may be 1 for broadcasting."""
    t = t if t.shape[-2] == 1 else t[..., rows, :]
    return t if t.shape[-1] == 1 else t[..., keys]


def pick(t: Tensor, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    """Single entries of a tensor (B|1, H|1, L|1, S|1) whose axes of 1 stand for any index."""
    return t[tuple(i if n > 1 else torch.zeros_like(i) for i, n in zip((b, h, q, kv), t.shape, strict=True))]


def compute_dtype(dtype: torch.dtype) -> torch.dtype:
    """Half precision is accumulated in float32."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
