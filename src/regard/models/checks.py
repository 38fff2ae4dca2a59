"""Every error message of the models that is about sizes, tokens and caches, in one place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from operator import index
from typing import Any, SupportsIndex

import torch
from torch import Tensor, nn

from regard import KVCache, RollingCache

__all__: list[str] = []

LayerCache = KVCache | RollingCache


def check_sizes(owner: str, **sizes: Any) -> None:
    """Each of these is an integer of at least 1."""
    for name, size in sizes.items():
        if not isinstance(size, int) or isinstance(size, bool):
            raise TypeError(f"{owner}: {name} must be an integer, got {size!r}")
        if size < 1:
            raise ValueError(f"{owner}: {name} must be at least 1, got {size}")


def check_positive(owner: str, **numbers: Any) -> None:
    """Each of these is a finite number above 0."""
    for name, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{owner}: {name} must be a number, got {number!r}")
        if not 0 < number < float("inf"):
            raise ValueError(f"{owner}: {name} must be a positive finite number, got {number}")


def check_probability(owner: str, **numbers: Any) -> None:
    """Each of these lies in [0, 1)."""
    for name, number in numbers.items():
        if not isinstance(number, int | float) or isinstance(number, bool):
            raise TypeError(f"{owner}: {name} must be a number, got {number!r}")
        if not 0 <= number < 1:
            raise ValueError(f"{owner}: {name} must lie in [0, 1), got {number}")


def check_flags(owner: str, **flags: Any) -> None:
    """Each of these is True or False."""
    for name, flag in flags.items():
        if not isinstance(flag, bool):
            raise TypeError(f"{owner}: {name} must be True or False, got {flag!r}")


def check_choice(owner: str, name: str, given: Any, known: Iterable[str]) -> None:
    """What was given is one of the known words."""
    if given not in tuple(known):
        raise ValueError(f"{owner}: {name} must be one of {', '.join(map(repr, known))}, got {given!r}")


def check_tokens(owner: str, tokens: Any, device: torch.device, *, name: str = "tokens") -> None:
    """Integer ids (B, L) on the model's device."""
    if not isinstance(tokens, Tensor):
        raise TypeError(f"{owner}: {name} must be a tensor of ids, got {type(tokens).__name__}")
    if tokens.dtype not in (torch.int64, torch.int32):
        raise TypeError(f"{owner}: {name} must be int64 or int32 ids, got {tokens.dtype}")
    if tokens.dim() != 2:
        raise ValueError(f"{owner}: {name} must be (B, L), got {tuple(tokens.shape)}; {name}[None] adds a batch")
    if tokens.device != device:
        raise ValueError(f"{owner}: {name} must be on the model's device {device}, got {tokens.device}")


def check_cache(cache: Any, windows: Sequence[int | None], batch_size: int) -> list[int]:
    """One cache a layer, of the layer's kind, all as far; returns how many tokens each sequence has had.

    It is asked before the first layer runs: a step that fails half way would leave some caches advanced.
    """
    if not isinstance(cache, list | tuple) or not all(isinstance(each, LayerCache) for each in cache):
        kind = type(cache).__name__
        raise TypeError(f"cache must be a list of one cache a layer, got {kind}; make it with model.cache(B, max_len)")
    if len(cache) != len(windows):
        raise ValueError(f"cache must hold one cache for each of the {len(windows)} layers, got {len(cache)}")
    if len(set(map(id, cache))) != len(cache):
        raise ValueError("cache must hold one cache for each layer, got the same one twice")
    lengths: list[int] = cache[0].lengths.tolist()
    first = _layout(cache[0])
    for i, (each, window) in enumerate(zip(cache, windows, strict=True)):
        if each.batch_size != batch_size:
            raise ValueError(f"cache[{i}] holds {each.batch_size} sequences, and tokens have B = {batch_size}")
        if isinstance(each, RollingCache) and each.window != window:
            reads = "every earlier token" if window is None else f"a window of {window}"
            raise ValueError(f"cache[{i}] is a RollingCache of window {each.window}, and layer {i} reads {reads}")
        if i and _layout(each) != first:  # the first layer refuses what is not its own, before anything is written
            raise ValueError(
                f"cache[{i}] has (Hkv, D, Dv, dtype, device) = {_layout(each)} and cache[0] {first}; make them with "
                "model.cache(B, max_len)"
            )
        if i and each.lengths.tolist() != lengths:
            raise ValueError(
                f"cache[{i}] has had {each.lengths.tolist()} tokens and cache[0] {lengths}; "
                "crop, reorder and reset the caches of all layers alike"
            )
    return lengths


def check_text(
    tokens: Tensor,
    offset: int | Tensor,
    cache: Sequence[LayerCache] | None,
    lengths: Sequence[int] | Tensor | None,
    windows: Sequence[int | None],
    max_len: int | None,
) -> int | Tensor:
    """The text has room in the caches and in the model; returns the position of its first token, one for all or (B,).

    Everything is asked before the first layer runs: a step that failed half way would leave some caches advanced.
    """
    if cache is None:
        _check_offset(offset)
        _check_end(offset, tokens.shape[1], max_len)
        return offset
    if isinstance(offset, Tensor) or offset != 0:
        raise ValueError("offset is where tokens begin without a cache; with one they follow what it holds: leave it 0")
    batch_size, new = tokens.shape
    done = check_cache(cache, windows, batch_size)
    added = counts(lengths, batch_size, new)
    need = max((a + n for a, n in zip(done, added, strict=True)), default=0)
    for i, each in enumerate(cache):
        if isinstance(each, KVCache) and need > each.max_len:
            raise ValueError(
                f"cache[{i}] holds texts of at most max_len={each.max_len} tokens, and this one would have {need}; "
                f"make it with model.cache(B, max_len={need}) or more"
            )
    _check_end(need, 0, max_len)
    return done[0] if len(set(done)) == 1 else torch.tensor(done, device=tokens.device)


def _layout(cache: LayerCache) -> tuple[int, int, int, torch.dtype, torch.device]:
    return cache.num_kv_heads, cache.head_dim, cache.value_dim, cache.dtype, cache.device


def counts(lengths: Any, batch_size: int, new: int) -> list[int]:
    """How many of the new tokens of each sequence are real."""
    if lengths is None:
        return [new] * batch_size
    given = integers(lengths)
    if given is None or len(given) != batch_size or not all(1 <= n <= new for n in given):
        shown = lengths.tolist() if isinstance(lengths, Tensor) else lengths
        raise ValueError(
            f"lengths must be B = {batch_size} integers in 1 to L = {new}, one a sequence, got {shown} "
            f"({type(lengths).__name__})"
        )
    return given


def integers(given: Any) -> list[int] | None:
    """A list of what is a sequence, an array or a tensor of integers, and None of what is not."""
    if isinstance(given, Tensor) or hasattr(given, "tolist"):
        given = given.tolist()
    if isinstance(given, str | bytes | Mapping) or not isinstance(given, Iterable):
        return None
    found = list(given)
    if any(isinstance(each, bool) or not isinstance(each, SupportsIndex) for each in found):
        return None
    return [index(each) for each in found]


def check_mask(mask: Any, tokens: Tensor) -> None:
    """No tensor (B, L) of which tokens are real, where its shape alone says that it is one."""
    batch_size, length = tokens.shape
    if isinstance(mask, Tensor) and mask.shape == tokens.shape and batch_size not in (1, length):
        raise ValueError(
            f"mask (True = may attend) must broadcast to (B, H, L, S), got {tuple(mask.shape)}, the shape of tokens; "
            "where it says which tokens are real it is masks.padding(mask)"
        )


def _check_offset(offset: Any) -> None:
    """An integer, or a tensor of integers, whose shape the layers look at."""
    if isinstance(offset, Tensor):
        if offset.dtype.is_floating_point or offset.dtype.is_complex or offset.dtype == torch.bool:
            raise TypeError(f"offset must be an integer or an integer tensor (B,), got {offset.dtype}")
    elif not isinstance(offset, int | torch.SymInt) and not isinstance(offset, SupportsIndex):
        raise TypeError(f"offset must be an integer or an integer tensor (B,), got {type(offset).__name__}")


def _check_end(start: int | Tensor, length: int, max_len: int | None) -> None:
    if max_len is None or (isinstance(start, Tensor) and torch.compiler.is_compiling()):
        return
    end = (int(start.max()) if isinstance(start, Tensor) else start) + length
    if end > max_len:
        raise ValueError(f"a text of {end} tokens is longer than the max_len={max_len} of the model")


def looked_up(table: nn.Embedding, ids: Tensor, name: str) -> Tensor:
    """Rows (B, L, d_model) of a table for ids (B, L), with an error that says which ids there are."""
    try:
        rows: Tensor = table(ids)
    except IndexError as error:  # on a CPU; where it would cost a synchronisation, nothing is asked
        most = table.num_embeddings - 1
        raise ValueError(f"{name} must be ids in 0 to {most}, got {int(ids.min())} to {int(ids.max())}") from error
    return rows
