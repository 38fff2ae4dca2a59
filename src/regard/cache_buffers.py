"""What the caches share: buffers that are written to in place, and how far each sequence has come in them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from regard import cache_checks as checks
from regard.masks.algebra import Mask, Sizes

__all__ = ["Cache", "Cached", "Step", "alike", "both", "put", "to_front"]


class Cached(NamedTuple):
    """What a query reads: ``regard.attention(query, *cached)``. Views of the cache, and the mask over them."""

    key: Tensor
    value: Tensor
    mask: Mask | None


@dataclass(frozen=True, eq=False)
class Step:
    """An append that has been checked and not been done: where it writes, and what may then be read."""

    counts: list[int]  # new tokens of each sequence
    starts: list[int]  # their first slot
    view: slice  # the slots to read
    mask: Mask | None  # over these


class Cache(ABC):
    """Buffers of keys and values (B, Hkv, slots, width): sequence b fills its slots [0, ends[b]) in order of time."""

    def __init__(
        self,
        shape: Sequence[int],
        value_dim: int | None,
        dtype: torch.dtype | None,
        device: torch.device | str | None,
    ) -> None:
        *lead, width = shape
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            self._keys = torch.empty(*lead, width, dtype=dtype, device=device)
            self._values = torch.empty(*lead, value_dim or width, dtype=dtype, device=device)
        self.reset()

    @property
    def batch_size(self) -> int:
        """B, the number of sequences."""
        return self._keys.shape[0]

    @property
    def num_kv_heads(self) -> int:
        """Hkv, the heads of key and value."""
        return self._keys.shape[1]

    @property
    def head_dim(self) -> int:
        """D, the width of a key."""
        return self._keys.shape[3]

    @property
    def value_dim(self) -> int:
        """Dv, the width of a value."""
        return self._values.shape[3]

    @property
    def dtype(self) -> torch.dtype:
        """That of keys and values."""
        return self._keys.dtype

    @property
    def device(self) -> torch.device:
        """Where they are."""
        return self._keys.device

    @property
    def lengths(self) -> Tensor:
        """How many tokens each sequence has had, (B,) integers."""
        return torch.tensor(self._lengths, device=self._keys.device)

    def reset(self) -> None:
        """Forget everything, and keep the memory."""
        self._lengths = [0] * self.batch_size
        self._ends = [0] * self.batch_size

    def append(
        self,
        key: Tensor,
        value: Tensor,
        lengths: Sequence[int] | Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
    ) -> Cached:
        """Write the next n tokens of each sequence, and give what their queries read.

        The mask is causal, with each sequence's own length: query r of sequence b stands at ``lengths[b] + r`` (before
        the append), and no key that was not written is read. Later appends write to the memory of these views.

        Args:
            key: (B, Hkv, n, D).
            value: (B, Hkv, n, Dv).
            lengths: how many of the n tokens are real, (B,), where prompts of different lengths are padded on the
                right; all if None. What stands past them is not kept.
            mask: narrows the causal mask. It is one of the whole text: S is the longest length after the append, and
                keys and queries stand at their positions in the text, also for where(). A dense mask is one of these
                n rows, (..., H, n, S).

        Returns:
            A :class:`Cached`: key (B, Hkv, S, D), value (B, Hkv, S, Dv), and the mask (True = may attend), None where
            every query reads every key.

        Raises:
            TypeError: another dtype than the cache's.
            ValueError: a shape, a device or a length that does not fit, or tensors that require grad. The cache is
                then as it was.
        """
        step = self._prepare(key, value, lengths, mask)
        if mask is not None:
            self._try(step, key.shape[2])
        return self._write(key, value, step)

    def _try(self, step: Step, query_len: int) -> None:
        """Ask the mask for its first and last entry, so that one that does not fit is refused before the append."""
        if step.mask is None or query_len == 0:
            return
        heads = step.mask._heads(self._keys.shape[1])
        key_len = step.view.stop - step.view.start
        sizes = Sizes((self.batch_size,), heads, query_len, key_len, self._keys.device)
        if key_len:
            bound = step.mask.bind(sizes)
            bound.block(slice(0, 1), slice(0, 1), sizes)
            bound.block(slice(query_len - 1, query_len), slice(key_len - 1, key_len), sizes)

    def crop(self, length: int | Sequence[int] | Tensor) -> None:
        """Keep the first ``length`` tokens of each sequence, one number for all or one each: what was drafted and then
        rejected is dropped.
        """
        wanted = checks.cropped(length, self.batch_size)
        lengths = [min(old, new) for old, new in zip(self._lengths, wanted, strict=True)]
        # Past 0 where the slots of all that is left were given to later tokens: see _check_crop.
        ends = [max(0, end - old + new) for end, old, new in zip(self._ends, self._lengths, lengths, strict=True)]
        for b, (end, old, new) in enumerate(zip(ends, self._lengths, lengths, strict=True)):
            self._check_crop(b, end, old, new)
        self._lengths, self._ends = lengths, ends

    def reorder(self, indices: Sequence[int] | Tensor) -> None:
        """Let the sequences be those at ``indices``, some several times: beam search. Their number may change."""
        found = checks.check_indices(indices, self.batch_size)
        at, used = torch.tensor(found, device=self._keys.device), max(self._ends)
        with torch.inference_mode(False):
            for name in ("_keys", "_values"):
                old: Tensor = getattr(self, name)
                new = old.new_empty(len(found), *old.shape[1:])
                new[:, :, :used] = old[:, :, :used].index_select(0, at)
                setattr(self, name, new)
        self._lengths, self._ends = [self._lengths[i] for i in found], [self._ends[i] for i in found]

    @abstractmethod
    def _prepare(
        self, key: Tensor, value: Tensor, lengths: Sequence[int] | Tensor | None, mask: Mask | Tensor | None
    ) -> Step:
        """What :meth:`append` would do; raises whatever there is to raise."""

    def _write(self, key: Tensor, value: Tensor, step: Step) -> Cached:
        """Do it."""
        for buffer, new in ((self._keys, key), (self._values, value)):
            put(buffer, new, step.starts, step.counts)
        self._advance(step)
        return Cached(self._keys[:, :, step.view], self._values[:, :, step.view], step.mask)

    def _advance(self, step: Step) -> None:
        self._lengths = [a + n for a, n in zip(self._lengths, step.counts, strict=True)]
        self._ends = [a + n for a, n in zip(step.starts, step.counts, strict=True)]

    def _check_crop(self, b: int, end: int, old: int, new: int) -> None:  # noqa: B027
        """Raise if sequence b, then up to slot ``end``, cannot go back from ``old`` to ``new`` tokens."""

    def _sizes(self) -> str:
        b, heads, _, width = self._keys.shape
        value_width = "" if self._values.shape[-1] == width else f", Dv={self._values.shape[-1]}"
        low, high = min(self._lengths), max(self._lengths)
        lengths = f"length {low}" if low == high else f"lengths {low} to {high}"
        return f"B={b}, Hkv={heads}, D={width}{value_width}, {str(self._keys.dtype)[6:]}; {lengths}"


def alike(starts: list[int], counts: list[int], n: int) -> bool:
    """Whether all sequences write the same slots, and all of the n tokens."""
    return len(set(starts)) == 1 and set(counts) == {n}


def both(base: Mask | None, user: Mask | None) -> Mask | None:
    """What two masks allow, where None allows everything."""
    return user if base is None else base if user is None else base & user


def put(buffer: Tensor, new: Tensor, starts: list[int], counts: list[int]) -> None:
    """Write the first ``counts[b]`` of new (B, Hkv, n, width) at ``starts[b]``."""
    if alike(starts, counts, new.shape[2]):
        buffer[:, :, starts[0] : starts[0] + counts[0]] = new.detach()
        return
    for b, (start, count) in enumerate(zip(starts, counts, strict=True)):
        buffer[b, :, start : start + count] = new[b, :, :count].detach()


def to_front(target: Tensor, source: Tensor, ends: list[int], kept: list[int]) -> None:
    """Copy the last ``kept[b]`` before ``ends[b]`` of source to the front of target, which may be the same."""
    for b, (end, count) in enumerate(zip(ends, kept, strict=True)):
        target[b, :, :count] = source[b, :, end - count : end].clone()  # the two may overlap
