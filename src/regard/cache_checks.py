"""The error messages of the caches: the argument, what came, what was expected, the likely fix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from regard import validation

__all__: list[str] = []


def check_sizes(**sizes: Any) -> list[int]:
    """Sizes of a cache: integers of at least 1."""
    return [validation.check_count(n, name, 1, "a size of the cache") for name, n in sizes.items()]


def check_spare(spare: Any) -> int:
    """How many tokens can always be dropped: an integer of at least 0."""
    return validation.check_count(spare, "spare", 0, "the number of tokens that crop() can drop")


def check_new(name: str, given: Any, buffer: Tensor) -> None:
    """New keys or values (B, Hkv, n, width) fit the buffer (B, Hkv, capacity, width)."""
    if not isinstance(given, Tensor):
        raise TypeError(f"cache.append({name}): {name} must be a torch.Tensor, got {type(given).__name__}")
    b, heads, _, width = buffer.shape
    if given.dim() != 4 or (given.shape[0], given.shape[1], given.shape[3]) != (b, heads, width):
        raise ValueError(
            f"cache.append({name}): {name} must have shape (B, Hkv, n, width) = ({b}, {heads}, n, {width}), "
            f"got {tuple(given.shape)}; a cache is made for one batch size, and keeps the heads of key and value"
        )
    if given.dtype != buffer.dtype:
        raise TypeError(
            f"cache.append({name}): {name} must have the cache's dtype {_name(buffer.dtype)}, got {_name(given.dtype)}"
            f"; make the cache with dtype={given.dtype}, or convert it with .to({buffer.dtype})"
        )
    if given.device != buffer.device:
        raise ValueError(
            f"cache.append({name}): {name} must be on the cache's device {buffer.device}, got {given.device}; "
            f"make the cache with device={str(given.device)!r}"
        )
    if given.requires_grad and torch.is_grad_enabled():
        raise ValueError(
            f"cache.append({name}): {name} requires grad, and no gradient passes through a cache; "
            "decode under torch.no_grad() or torch.inference_mode(), or append detached tensors"
        )


def check_pair(key: Any, value: Any, keys: Tensor, values: Tensor) -> None:
    """New keys and values fit the cache and each other."""
    check_new("key", key, keys)
    check_new("value", value, values)
    if key.shape[2] != value.shape[2]:
        raise ValueError(
            f"cache.append(key, value): both must hold the same number n of tokens (axis -2), "
            f"got {key.shape[2]} and {value.shape[2]}"
        )


def counts(lengths: Sequence[int] | Tensor | None, batch: int, n: int) -> list[int]:
    """How many of n new tokens are real for each sequence."""
    if lengths is None:
        return [n] * batch
    found = integers(lengths, "cache.append(lengths)", batch)
    for length in found:
        if not 0 <= length <= n:
            raise ValueError(
                f"cache.append(lengths): each must lie in 0..n = 0..{n}, got {length}; "
                "they count the new tokens that are real, those before any padding on the right"
            )
    return found


def integers(given: Any, what: str, batch: int) -> list[int]:
    """One integer a sequence, from a sequence or an integer tensor (B,)."""
    if isinstance(given, Tensor):
        if given.dtype.is_floating_point or given.dtype.is_complex or given.dtype == torch.bool:
            raise TypeError(f"{what} must be integers, got {_name(given.dtype)}")
        shape = tuple(given.shape)
        given = given.tolist() if given.dim() == 1 else None
    else:
        given = list(given) if isinstance(given, list | tuple) else None
        shape = () if given is None else (len(given),)
    if given is None or len(given) != batch:
        raise ValueError(f"{what} must hold one integer a sequence, (B,) = ({batch},), got shape {shape}")
    return [validation.as_integer(n, what) for n in given]


def cropped(length: Any, batch: int) -> list[int]:
    """The lengths to go back to, one a sequence."""
    if isinstance(length, Tensor | list | tuple):
        found = integers(length, "cache.crop(length)", batch)
    else:
        found = [validation.as_integer(length, "cache.crop(length): length")] * batch
    if min(found) < 0:
        raise ValueError(f"cache.crop(length): length must be at least 0, got {min(found)}")
    return found


def check_room(lengths: Sequence[int], added: Sequence[int], max_len: int) -> None:
    """No sequence grows past the end of the buffer."""
    for b, (length, more) in enumerate(zip(lengths, added, strict=True)):
        if length + more > max_len:
            raise ValueError(
                f"cache.append(): sequence {b} holds {length} tokens, and {more} more are past the limit "
                f"max_len={max_len}; make the cache longer: max_len={length + more} or more, "
                "or keep a window alone: RollingCache"
            )


def check_kept(b: int, kept: int, length: int, *, window: int, dropped: int) -> None:
    """After crop() a rolling cache still holds what the next token may read."""
    if kept < min(length, window - 1):
        raise ValueError(
            f"cache.crop(): dropping {dropped} tokens of sequence {b} leaves {max(kept, 0)} of the "
            f"{min(length, window - 1)} keys that the next one may read, window={window}: the others are gone; "
            f"make the cache with spare={dropped}, so that as many can always be dropped"
        )


def check_indices(indices: Any, batch: int) -> list[int]:
    """Sequences of the batch, as integers."""
    size = indices.numel() if isinstance(indices, Tensor) else len(indices) if isinstance(indices, list | tuple) else 0
    found = integers(indices, "cache.reorder(indices)", size)
    for i in found:
        if not 0 <= i < batch:
            raise ValueError(f"cache.reorder(indices): each must be a sequence in 0..{batch - 1}, got {i}")
    if not found:
        raise ValueError(
            "cache.reorder(indices): at least one sequence must be kept, got none; reset() empties a cache"
        )
    return found


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
