"""A layer's call with a cache: where the new tokens stand, what is added to their scores, and the append.

Everything that may be refused is asked before anything is written: a call that fails leaves the cache as it was.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from regard import cache_checks, validation
from regard.bias_columns import Bias, fold
from regard.biases import Alibi
from regard.cache_buffers import Cache, Cached, Step, alike
from regard.engine.problem import compute_dtype
from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And
from regard.masks.rules import Causal
from regard.positions import ALiBi, Positions, RelativeBias

__all__ = ["append", "begin", "beyond_causal", "bias_of", "in_cache_dtype", "places", "text_len"]

# What these add depends on how far query and key are apart, and on nothing else of where they stand.
BY_DISTANCE = (ALiBi.bias, RelativeBias.bias)


def begin(cache: Cache, k: Tensor, v: Tensor, lengths: Any) -> Step:
    """What appending k (B, Hkv, L, D) and v (B, Hkv, L, Dv) would do; raises if they do not fit the cache."""
    return cache._prepare(k, v, lengths, None)


def places(cache: Cache, step: Step, device: torch.device) -> tuple[int | Tensor, int | Tensor]:
    """The position of each sequence's first new token, and its length after the call: integers where all agree."""
    before = cache._lengths
    after = [a + n for a, n in zip(before, step.counts, strict=True)]
    return _one_or_each(before, device), _one_or_each(after, device)


def text_len(cache: Cache, step: Step) -> int:
    """The longest text after the call."""
    return max(a + n for a, n in zip(cache._lengths, step.counts, strict=True))


def in_cache_dtype(cache: Cache, q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values rounded to a half-precision cache of a float32 layer; others are left to be refused."""
    dtype = cache._keys.dtype
    if q.dtype == torch.float32 and dtype in (torch.float16, torch.bfloat16):
        return q.to(dtype), k.to(dtype), v.to(dtype)
    return q, k, v


def bias_of(positions: Positions, cache: Cache, step: Step, q: Tensor) -> Bias | Tensor | None:
    """What is added to the scores of q (B, H, L, D) and the keys that the cache then shows.

    Where all sequences stand alike, the queries are the last of the keys, as positions count them. Where they do not,
    each sequence has a bias of its own, (B, H, L, S).
    """
    query_len, key_len = q.shape[2], step.view.stop - step.view.start
    options: dict[str, Any] = {"num_heads": q.shape[1], "device": q.device, "dtype": q.dtype}
    # The position in the text of the first key that is shown.
    firsts = [t - a + step.view.start for t, a in zip(cache._lengths, step.starts, strict=True)]
    starts = cache._lengths
    if type(positions).bias in BY_DISTANCE:  # the same without the keys that are gone
        starts = [t - first for t, first in zip(starts, firsts, strict=True)]
        firsts = [0] * len(firsts)
    if alike(step.starts, step.counts, query_len) and len(set(firsts)) == 1:
        bias = positions.bias(query_len, firsts[0] + key_len, **options)
        if isinstance(bias, Bias) and not firsts[0] and query_len > 1:
            return bias
        bias = _dense(bias, query_len, firsts[0] + key_len, q)
        return bias if bias is None or bias.shape[-1] == 1 else bias[..., firsts[0] :]
    found: dict[tuple[int, int], Tensor | None] = {}
    for start, first in zip(starts, firsts, strict=True):
        if (start, first) not in found:
            end = start + query_len
            bias = _dense(positions.bias(query_len, end, **options), query_len, end, q)
            if bias is not None:
                sizes = Sizes((1,), q.shape[1], query_len, end, q.device)
                bias = validation.check_bias(bias, sizes, q.dtype)[0].expand(-1, query_len, end)  # (H or 1, L, end)
                bias = bias[..., first : first + key_len]
                bias = F.pad(bias, (0, key_len - bias.shape[-1]))  # (H or 1, L, S); no query reads what is added
            found[start, first] = bias
    each = [found[place] for place in zip(starts, firsts, strict=True)]
    given = [bias for bias in each if bias is not None]
    return torch.stack(given) if given else None  # (B, H, L, S)


def beyond_causal(mask: Mask | None) -> Mask | None:
    """A mask without the parts that say what a cache says itself: no key is later than its query."""
    if isinstance(mask, And):
        left, right = beyond_causal(mask.left), beyond_causal(mask.right)
        return left & right if left is not None and right is not None else left if right is None else right
    return None if isinstance(mask, Causal) and mask.offset is None else mask


def append(
    cache: Cache,
    step: Step,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    lengths: Any,
    mask: Mask | None,
    bias: Bias | Tensor | None,
    scale: float | None,
    softcap: float | None,
) -> Cached:
    """Append k and v as ``step`` of :func:`begin` says, after all has been asked that may be refused."""
    # Once more, for what a norm and positions have made of k: they may be all that is trained.
    cache_checks.check_new("key", k, cache._keys)
    batch, num_heads, query_len, _ = q.shape
    if mask is not None:
        mask.bind(Sizes((batch,), num_heads, query_len, text_len(cache, step), q.device))
        step = cache._prepare(k, v, lengths, mask)
        cache._try(step, query_len)
    if bias is not None:
        sizes = Sizes((batch,), num_heads, query_len, step.view.stop - step.view.start, q.device)
        if isinstance(bias, Bias):
            columns = k.new_empty(batch, k.shape[1], sizes.key_len, 0)  # of no width: it is asked for its errors
            width = q.shape[-1] ** -0.5 if scale is None else scale
            fold(bias, q, columns, step.mask, width, softcap)
        else:
            validation.check_bias(bias, sizes, q.dtype)
    return cache._write(k, v, step)


def _dense(bias: Bias | Tensor | None, query_len: int, key_len: int, q: Tensor) -> Tensor | None:
    """A bias as a tensor, of which a part may be taken."""
    if isinstance(bias, Alibi) and not isinstance(bias.slopes, Tensor):
        bias = Alibi(torch.tensor(bias.slopes, dtype=compute_dtype(q.dtype), device=q.device))
    return bias.to_dense(query_len, key_len) if isinstance(bias, Bias) else bias


def _one_or_each(numbers: list[int], device: torch.device) -> int | Tensor:
    return numbers[0] if len(set(numbers)) == 1 else torch.tensor(numbers, device=device)
