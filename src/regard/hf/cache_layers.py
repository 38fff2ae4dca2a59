"""One attention layer of a transformers cache, kept by regard's caches: written in place, never concatenated."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import CacheLayerMixin

from regard import KVCache, RollingCache

__all__ = ["AttentionLayer"]

LEAST = 64  # slots of a buffer that grows
RECORDED = 128  # tokens that can be dropped from a window while the past is recorded


class AttentionLayer(CacheLayerMixin):  # type: ignore[no-untyped-call]
    """Keys and values of one layer, in a :class:`regard.KVCache`, past its window in a :class:`regard.RollingCache`.

    Args:
        window: how many keys a query of this layer reads, its own included; None for all.
        max_len: the most tokens; None to grow by doubling.
        spare: how many tokens :meth:`crop` can drop from a window that is full.
    """

    is_croppable = True

    def __init__(self, *, window: int | None = None, max_len: int | None = None, spare: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.is_sliding = window is not None
        self.sliding_window, self.max_len, self.spare = window, max_len, spare
        self.record_past = False
        self._store: KVCache | RollingCache | None = None
        self._made_for: tuple[Any, ...] = ()
        self._length = 0
        self._gone = 0  # tokens of which a store that was made later knows nothing

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Make the buffer for tensors (B, Hkv, n, width) like these, or keep the one that was emptied by a reset."""
        made_for = (*_sizes(key_states), value_states.shape[-1], key_states.dtype, key_states.device)
        if self._store is None or self._made_for != made_for:
            self._made_for = made_for
            self._store = self._made(key_states.shape[-2])
        self._length = self._gone = 0
        self.dtype, self.device = key_states.dtype, key_states.device
        self.keys, self.values = key_states[:, :, :0], value_states[:, :, :0]
        self.is_initialized = True

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append the next n tokens, (B, Hkv, n, width), and give what their queries read: views of the buffer."""
        n = key_states.shape[-2]
        if self.max_len is not None and self._length + n > self.max_len:
            raise ValueError(
                f"regard.hf.Cache(max_len={self.max_len}) holds {self._length} tokens, and {n} more are past its "
                f"limit; make it with max_len={self._length + n} or more, or without max_len, so that it grows"
            )
        if self._length == 0:
            self.lazy_initialization(key_states, value_states)
        store = self._with_room(n)
        self.keys, self.values, _ = store.append(key_states, value_states)
        self._length += n
        return self.keys, self.values

    def _made(self, length: int) -> KVCache | RollingCache:
        """An empty store with room for so many tokens, or for a window where that is less."""
        b, heads, width, value_width, dtype, device = self._made_for
        made = {"dtype": dtype, "device": device}
        if self.sliding_window is not None and self._rolls(length):
            spare = max(self.spare, RECORDED) if self.record_past else self.spare
            return RollingCache(b, heads, self.sliding_window, width, value_width, spare=spare, **made)
        if self.max_len is not None:
            return KVCache(b, heads, self.max_len, width, value_width, **made)
        return KVCache(b, heads, max(LEAST, 1 << length.bit_length()), width, value_width, **made)

    def _rolls(self, length: int) -> bool:
        """Whether a store for so many tokens, or for the most there can be, is a rolling one."""
        most = length if self.max_len is None else self.max_len
        return self.sliding_window is not None and most > self.sliding_window

    def _with_room(self, n: int) -> KVCache | RollingCache:
        """The store, moved to a larger one where n more tokens do not fit."""
        store = self._store
        assert store is not None
        length = self._length + n
        if isinstance(store, KVCache) and (length > store.max_len or self._rolls(length)):
            store = self._moved(length)
        return store

    def _moved(self, length: int) -> KVCache | RollingCache:
        """The store exchanged for one with room for so many tokens, and what it can still be asked for."""
        assert self.keys is not None
        assert self.values is not None
        store, seen = self._made(length), self.keys.shape[-2]
        store.append(self.keys, self.values)
        self._gone, self._store = self._length - seen, store
        return store

    def _look(self) -> None:
        """Views of what there is now: those of before may be of other tokens."""
        assert self._store is not None
        b, heads, width, value_width, dtype, device = self._made_for
        none = (torch.empty(b, heads, 0, w, dtype=dtype, device=device) for w in (width, value_width))
        self.keys, self.values, _ = self._store.append(*none)

    def get_seq_length(self) -> int:
        """How many tokens there have been."""
        return self._length

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """How many keys an update with so many tokens gives, and the position of the first."""
        if self.sliding_window is None:
            return self._length + query_length, 0
        kept = min(self._length, self.sliding_window - 1)
        return kept + query_length, self._length - kept

    def get_max_length(self) -> int:
        """The window, the most tokens, or -1 for any number."""
        most = self.sliding_window or self.max_len
        return -1 if most is None else most

    def crop(self, tokens_to_remove: int) -> None:
        """Drop the last ``-tokens_to_remove`` tokens."""
        if tokens_to_remove > 0:
            raise ValueError(
                f"crop({tokens_to_remove}): the number of tokens to drop is given as a negative one, as transformers "
                f"does: crop({-tokens_to_remove})"
            )
        if not self.is_initialized or tokens_to_remove == 0:
            return
        assert self._store is not None
        length = max(0, self._length + tokens_to_remove)
        if self._gone and length - self._gone < min(length, (self.sliding_window or 1) - 1):
            raise ValueError(
                f"crop({tokens_to_remove}): the window of {self.sliding_window} keys before token {length} is gone; "
                f"make the cache with spare={-tokens_to_remove}, so that as many can always be dropped"
            )
        self._store.crop(length - self._gone)
        self._length = length
        self._look()

    def activate_past_recording(self) -> None:
        """Keep room to drop tokens that were drafted, as assisted decoding does."""
        self.record_past = True
        store = self._store
        if isinstance(store, RollingCache) and store.spare < RECORDED:
            self._look()
            self._moved(self._length)

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Let the sequences be those at these indices: beam search."""
        if self.is_initialized:
            assert self._store is not None
            self._store.reorder(beam_idx)
            self._made_for = (len(beam_idx), *self._made_for[1:])
            self._look()

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Each sequence so many times, one after the other."""
        if self.is_initialized:
            self.reorder_cache(torch.arange(self.batch_size).repeat_interleave(repeats))

    def batch_select_indices(self, indices: Tensor) -> None:
        """Keep the sequences at these indices, or where a boolean is True."""
        self.reorder_cache(indices.nonzero().flatten() if indices.dtype == torch.bool else indices)

    def reset(self) -> None:
        """Forget everything; the memory is kept for a next text of the same batch size, widths, dtype and device."""
        self._length = self._gone = 0
        self.keys = self.values = None
        self.is_initialized = False
        if self._store is not None:
            self._store.reset()

    def offload(self) -> None:
        """Refuse: the buffer is written to in place, where it is."""
        raise NotImplementedError(
            "regard.hf.Cache cannot be offloaded; use transformers' DynamicCache(offloading=True)"
        )

    @property
    def batch_size(self) -> int:
        """B; there is none before the first update, as in transformers' layers."""
        if not self.is_initialized:
            raise AttributeError("batch_size")
        return int(self._made_for[0])

    def __repr__(self) -> str:
        return f"AttentionLayer({self._store if self.is_initialized else 'empty'})"


def _sizes(keys: Tensor) -> tuple[int, int, int]:
    """B, Hkv and the width of keys (B, Hkv, n, D)."""
    b, heads, _, width = keys.shape
    return b, heads, width
