"""The latents of a text that grows: what latent attention keeps of a token in place of each head's keys and values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard import cache_checks
from regard.cache import KVCache
from regard.cache_buffers import Cached, Step
from regard.masks.algebra import Mask

__all__ = ["LatentCache", "place"]


class LatentCache:
    """What :class:`regard.LatentAttention` keeps of texts that grow: a latent and a rotary key a token, for all heads.

    One buffer (B, max_len, R + P) is allocated once, for latents of width R = kv_rank and rotary keys of width P. What
    :meth:`append` gives are views of it: as keys of a single head the whole, as its values the latents.

    >>> import torch, regard
    >>> latents, rotary_keys = torch.randn(1, 10, 6), torch.randn(1, 10, 2)  # (B, L, R), (B, L, P)
    >>> cache = regard.LatentCache(batch_size=1, max_len=16, kv_rank=6, rotary_dim=2)
    >>> key, value, mask = cache.append(latents, rotary_keys)
    >>> key.shape, value.shape, mask
    (torch.Size([1, 1, 10, 8]), torch.Size([1, 1, 10, 6]), causal())
    >>> query = torch.randn(1, 4, 10, 8)  # of 4 heads, in the space of the latents
    >>> regard.attention(query, key, value, mask)[0].shape
    torch.Size([1, 4, 10, 6])
    >>> cache
    LatentCache(max_len=16, B=1, kv_rank=6, rotary_dim=2, float32; length 10)

    The weights of an earlier call are computed from this memory, and refuse to answer after the next :meth:`append`.

    Args:
        batch_size: B, the number of sequences.
        max_len: the most tokens a sequence may have.
        kv_rank: R, the width of a latent.
        rotary_dim: P, the width of the key that carries the position.
        dtype: that of both.
        device: where they are.

    Raises:
        TypeError: a size that is not an integer.
        ValueError: a size below 1.

    References:
        DeepSeek-AI, DeepSeek-V2, 2024 (section 2.1).
    """

    def __init__(
        self,
        batch_size: int,
        max_len: int,
        kv_rank: int,
        rotary_dim: int,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        sizes = {"batch_size": batch_size, "max_len": max_len, "kv_rank": kv_rank, "rotary_dim": rotary_dim}
        b, slots, self.kv_rank, self.rotary_dim = cache_checks.check_sizes(**sizes)
        with torch.inference_mode(False):  # a tensor made in inference mode could not be written to outside of it
            whole = torch.empty(b, 1, slots, self.kv_rank + self.rotary_dim, dtype=dtype, device=device)
        self._store = _Store(whole, self.kv_rank)

    @property
    def batch_size(self) -> int:
        """B, the number of sequences."""
        return self._store.batch_size

    @property
    def max_len(self) -> int:
        """The most tokens a sequence may have."""
        return self._store.max_len

    @property
    def lengths(self) -> Tensor:
        """How many tokens each sequence has had, (B,) integers."""
        return self._store.lengths

    def reset(self) -> None:
        """Forget everything, and keep the memory."""
        self._store.reset()

    def append(
        self,
        latent: Tensor,
        rotary_key: Tensor,
        lengths: Sequence[int] | Tensor | None = None,
        *,
        mask: Mask | Tensor | None = None,
    ) -> Cached:
        """Write the next n tokens of each sequence, and give what their queries read in the space of the latents.

        The mask is causal, with each sequence's own length: query r of sequence b stands at ``lengths[b] + r`` (before
        the append), and no token that was not written is read.

        Args:
            latent: (B, n, R), after its norm.
            rotary_key: (B, n, P), rotated to its position.
            lengths: how many of the n tokens are real, (B,), where prompts of different lengths are padded on the
                right; all if None. What stands past them is not kept.
            mask: narrows the causal mask, as in :meth:`regard.KVCache.append`.

        Returns:
            key (B, 1, S, R + P), value (B, 1, S, R), and the mask (True = may attend), None where every query reads
            every token.

        Raises:
            TypeError: another dtype than the cache's.
            ValueError: a shape, a device or a length that does not fit, or tensors that require grad. The cache is then
                as it was.
        """
        self._check(latent, rotary_key)
        # (B, n, P) -> (B, 1, n, P), (B, n, R) -> (B, 1, n, R)
        return self._store.append(rotary_key[:, None], latent[:, None], lengths, mask=mask)

    def crop(self, length: int | Sequence[int] | Tensor) -> None:
        """Keep the first ``length`` tokens of each sequence, one number for all or one each."""
        self._store.crop(length)

    def reorder(self, indices: Sequence[int] | Tensor) -> None:
        """Let the sequences be those at ``indices``, some several times: beam search. Their number may change."""
        self._store.reorder(indices)

    def _span(self, n: int, lengths: Sequence[int] | Tensor | None) -> tuple[list[int], list[int]]:
        """How long each sequence is now, and how long it will be with n more tokens, of which ``lengths`` are real."""
        starts = self._store._lengths
        counts = cache_checks.counts(lengths, self.batch_size, n)
        return starts, [start + count for start, count in zip(starts, counts, strict=True)]

    def _check(self, latent: Any, rotary_key: Any) -> None:
        """Both are (B, n, width) of the same n, as the buffer is."""
        for name, given, width in (("latent", latent, self.kv_rank), ("rotary_key", rotary_key, self.rotary_dim)):
            wanted = (self.batch_size, width)
            if isinstance(given, Tensor) and (given.dim() != 3 or (given.shape[0], given.shape[2]) != wanted):
                raise ValueError(
                    f"cache.append({name}): {name} must have shape (B, n, width) = ({self.batch_size}, n, {width}), "
                    f"got {tuple(given.shape)}; a cache is made for one batch size, and has no axis of heads"
                )
            cache_checks.check_new(name, given[:, None] if isinstance(given, Tensor) else given, self._store.like(name))
        if latent.shape[1] != rotary_key.shape[1]:
            raise ValueError(
                "cache.append(latent, rotary_key): both must hold the same number n of tokens (axis 1), "
                f"got {latent.shape[1]} and {rotary_key.shape[1]}"
            )

    def __repr__(self) -> str:
        return f"LatentCache(max_len={self.max_len}, {self._store.described()})"


class _Store(KVCache):
    """A :class:`regard.KVCache` of one head whose keys and values are columns of one buffer (B, 1, max_len, R + P)."""

    def __init__(self, whole: Tensor, kv_rank: int) -> None:
        self._rank = kv_rank
        self._hold(whole)
        self.reset()

    def _hold(self, whole: Tensor) -> None:
        self._whole = whole
        with torch.inference_mode(False):
            self._values, self._keys = whole[..., : self._rank], whole[..., self._rank :]

    def like(self, name: str) -> Tensor:
        """The columns that hold what append() calls so."""
        return self._values if name == "latent" else self._keys

    def described(self) -> str:
        """The sizes, and how far the sequences have come."""
        b, low, high = self.batch_size, min(self._lengths), max(self._lengths)
        length = f"length {low}" if low == high else f"lengths {low} to {high}"
        dtype = str(self._whole.dtype).removeprefix("torch.")
        return f"B={b}, kv_rank={self._rank}, rotary_dim={self._keys.shape[-1]}, {dtype}; {length}"

    def _write(self, key: Tensor, value: Tensor, step: Step) -> Cached:
        _, latents, mask = super()._write(key, value, step)
        return Cached(self._whole[:, :, step.view], latents, mask)  # (B, 1, S, R + P), (B, 1, S, R)

    def reorder(self, indices: Sequence[int] | Tensor) -> None:
        found = cache_checks.check_indices(indices, self.batch_size)
        used = max(self._ends)
        with torch.inference_mode(False):
            new = self._whole.new_empty(len(found), *self._whole.shape[1:])
            at = torch.tensor(found, device=new.device)
            new[:, :, :used] = self._whole[:, :, :used].index_select(0, at)
        self._hold(new)
        self._lengths, self._ends = [self._lengths[i] for i in found], [self._ends[i] for i in found]


def place(lengths: list[int], device: torch.device) -> int | Tensor:
    """One number for all sequences where they are alike, or one each, (B,)."""
    return lengths[0] if len(set(lengths)) == 1 else torch.tensor(lengths, device=device)
