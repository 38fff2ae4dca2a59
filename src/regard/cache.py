"""Keys and values of a text that grows: all of them, or those of a window."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard import cache_checks as checks
from regard import masks
from regard.cache_buffers import Cache, Cached, Step, alike, both, put, to_front
from regard.cache_masks import Placed, Ragged, counts_rows, moves_along
from regard.functional import as_mask
from regard.masks.algebra import Mask

__all__ = ["KVCache", "RollingCache"]


class KVCache(Cache):
    """The keys and values of texts that grow, in memory that is allocated once.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 10, 4)  # each (B, H, L, D)
    >>> whole, _ = regard.attention(q, k, v, regard.masks.causal())
    >>> cache = regard.KVCache(batch_size=1, num_kv_heads=2, max_len=16, head_dim=4)
    >>> first, _ = regard.attention(q[:, :, :7], *cache.append(k[:, :, :7], v[:, :, :7]))
    >>> rest, _ = regard.attention(q[:, :, 7:], *cache.append(k[:, :, 7:], v[:, :, 7:]))
    >>> torch.testing.assert_close(torch.cat([first, rest], dim=2), whole)
    >>> cache
    KVCache(max_len=16, B=1, Hkv=2, D=4, float32; length 10)

    The weights of an earlier call are computed from views of this memory: ask for them before the next
    :meth:`append`, or pass ``cached.key.clone()``; afterwards they say that ``key`` was written to.

    Args:
        batch_size: B, the number of sequences.
        num_kv_heads: Hkv, the heads of key and value.
        max_len: the most tokens a sequence may have.
        head_dim: D, the width of a key.
        value_dim: Dv, the width of a value; head_dim if None.
        dtype: that of keys and values.
        device: where they are.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1.
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        max_len: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        shape = checks.check_sizes(batch_size=batch_size, num_kv_heads=num_kv_heads, max_len=max_len, head_dim=head_dim)
        if value_dim is not None:
            checks.check_sizes(value_dim=value_dim)
        super().__init__(shape, value_dim, dtype, device)

    @property
    def max_len(self) -> int:
        """The most tokens a sequence may have."""
        return self._keys.shape[2]

    def _prepare(
        self, key: Tensor, value: Tensor, lengths: Sequence[int] | Tensor | None, mask: Mask | Tensor | None
    ) -> Step:
        checks.check_pair(key, value, self._keys, self._values)
        n = key.shape[2]
        counts = checks.counts(lengths, self.batch_size, n)
        checks.check_room(self._lengths, counts, self.max_len)
        user, starts = None if mask is None else as_mask(mask), self._ends
        stop = max(a + c for a, c in zip(starts, counts, strict=True))
        same = alike(starts, counts, n)
        if user is not None and not (same and (not counts_rows(user) or starts[0] == 0)):
            user = Placed.of(user, starts, [0] * len(starts), stop, key.device)
        if same:
            return Step(counts, starts, slice(0, stop), both(None if n == 1 else masks.causal(), user))
        return Step(counts, starts, slice(0, stop), both(Ragged.of(starts, counts, None, key.device), user))

    def __repr__(self) -> str:
        return f"KVCache(max_len={self.max_len}, {self._sizes()})"


class RollingCache(Cache):
    """The last keys and values of texts that grow without end, for attention in a window: O(window) memory.

    What it gives equals ``masks.window(window)`` over the whole text. Keys stay in order of time and are read without a
    copy: a buffer of two windows is filled from the front, and when it is full, the last window moves to the front.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 10, 4)  # each (B, H, L, D)
    >>> whole, _ = regard.attention(q, k, v, regard.masks.window(3))
    >>> cache = regard.RollingCache(batch_size=1, num_kv_heads=2, window=3, head_dim=4)
    >>> parts = [cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1]) for i in range(9)]
    >>> last, _ = regard.attention(q[:, :, 9:], *cache.append(k[:, :, 9:], v[:, :, 9:]))
    >>> torch.testing.assert_close(last, whole[:, :, 9:])
    >>> cache
    RollingCache(window=3, B=1, Hkv=2, D=4, float32; length 10)

    The weights of an earlier call refuse to answer after the next :meth:`append`, as those of a :class:`KVCache`.

    Args:
        batch_size: B, the number of sequences.
        num_kv_heads: Hkv, the heads of key and value.
        window: how many keys a query reads, its own included.
        head_dim: D, the width of a key.
        value_dim: Dv, the width of a value; head_dim if None.
        spare: how many tokens :meth:`crop` can always drop.
        dtype: that of keys and values.
        device: where they are.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1, a spare below 0.

    References:
        Beltagy et al., Longformer, 2020; Jiang et al., Mistral 7B, 2023 (a rolling buffer).
    """

    def __init__(
        self,
        batch_size: int,
        num_kv_heads: int,
        window: int,
        head_dim: int,
        value_dim: int | None = None,
        *,
        spare: int = 0,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        b, heads, self.window, width = checks.check_sizes(
            batch_size=batch_size, num_kv_heads=num_kv_heads, window=window, head_dim=head_dim
        )
        if value_dim is not None:
            checks.check_sizes(value_dim=value_dim)
        self.spare = checks.check_spare(spare)
        super().__init__((b, heads, 2 * self.window + self.spare, width), value_dim, dtype, device)

    def _prepare(
        self, key: Tensor, value: Tensor, lengths: Sequence[int] | Tensor | None, mask: Mask | Tensor | None
    ) -> Step:
        checks.check_pair(key, value, self._keys, self._values)
        n, device = key.shape[2], key.device
        counts = checks.counts(lengths, self.batch_size, n)
        user, starts = None if mask is None else as_mask(mask), self._ends
        if max(a + c for a, c in zip(starts, counts, strict=True)) > self._keys.shape[2]:
            starts = [min(end, self._kept) for end in self._ends]
        stop = max(a + c for a, c in zip(starts, counts, strict=True))
        low = max(0, min(starts) - self.window + 1)
        firsts = [t - a + low for t, a in zip(self._lengths, starts, strict=True)]  # position of the view's first key
        same = alike(starts, counts, n)
        at_rest = set(firsts) == {0} and (user is None or not counts_rows(user) or not any(self._lengths))
        if user is not None and not (same and (moves_along(user) or at_rest)):
            text_len = max(t + c for t, c in zip(self._lengths, counts, strict=True))
            user = Placed.of(user, self._lengths, firsts, text_len, device)
        base: Mask | None
        if not same:
            base = Ragged.of([a - low for a in starts], counts, self.window, device)
        elif n == 1:
            base = None  # the view is the window
        else:
            base = masks.causal() if stop - low <= self.window else masks.window(self.window)
        return Step(counts, starts, slice(low, stop), both(base, user))

    @property
    def _kept(self) -> int:
        """How many keys move to the front when the buffer is full."""
        return self.window - 1 + self.spare

    def _write(self, key: Tensor, value: Tensor, step: Step) -> Cached:
        need = max(a + c for a, c in zip(step.starts, step.counts, strict=True))
        if need <= self._keys.shape[2]:
            if step.starts != self._ends:
                for buffer in (self._keys, self._values):
                    to_front(buffer, buffer, self._ends, step.starts)
            return super()._write(key, value, step)
        # More than fits: read from a buffer of its own, of which the end is kept.
        reads = []
        kept = [min(a + c, self._kept) for a, c in zip(step.starts, step.counts, strict=True)]
        for buffer, new in ((self._keys, key), (self._values, value)):
            whole = new
            if max(step.starts) > 0:
                whole = new.new_empty(*new.shape[:2], need, new.shape[3])
                to_front(whole, buffer, self._ends, step.starts)
                put(whole, new, step.starts, step.counts)
            to_front(buffer, whole, [a + c for a, c in zip(step.starts, step.counts, strict=True)], kept)
            reads.append(whole[:, :, step.view])
        self._advance(step)
        self._ends = kept
        return Cached(reads[0], reads[1], step.mask)

    def _check_crop(self, b: int, end: int, old: int, new: int) -> None:
        checks.check_kept(b, end, new, window=self.window, dropped=old - new)

    def __repr__(self) -> str:
        return f"RollingCache(window={self.window}, {self._sizes()})"
