"""A few query rows over many keys: decoding against a cache, at about the speed at which keys and values can be read.

The fused op is made for many rows: it packs each block of keys before it multiplies, which few rows do not repay. Here
the scores of all keys are stored, which for few rows is little, between two plain products that read keys and values
once each.

Measured (2 cores, AVX-512, torch 2.13; 32 heads over 8, S 16384, D 128, one row, float32, in units of the time to sum K
and V): this 2.3 to 2.8 (the keys 0.9, the values 1.3, the softmax 0.2), the fused op over folded groups 3.0 to
3.5, the same with S split into chunks as heads and merged by lse 3.4, F.scaled_dot_product_attention(enable_gqa=True) 8
to 10. Without groups (8 heads over 8): this 2.0, both fused calls 3.1. Splitting the two products further gained
nothing, and neither did oneDNN's product for the values.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

__all__ = ["decode", "worthwhile"]

# Half precision is widened a block at a time into a buffer that stays in the caches, 2^19 float32 (2 MB) a thread.
# Measured: a quarter of that takes 1.3 of the time, twice that the same.
WIDENED_ELEMENTS = 1 << 19
LEAST_KEYS = 1024  # of a block, or else the calls cost more than the work
# Where the fused op loses to this by 1.2x to 1.6x, and below which it wins by as much: K out of the caches.
OUT_OF_CACHE_BYTES = 16 << 20
# Below so many elements of K, the op's one call is faster than the dozen here, in half precision too.
LEAST_ELEMENTS = 1 << 18


def decode(q: Tensor, k: Tensor, v: Tensor, additive: Tensor | None = None, *, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of few rows: q (B, H, R, D), k (B, Hkv, S, D), v (B, Hkv, S, Dv) to (B, H, R, Dv) and lse (B, H, R).

    ``additive`` (B|1, H|1, R|1, S|1) is added to the scores. A row that reads nothing has output 0 and lse -inf. The
    output has v's dtype, lse float32 at least; half precision is accumulated in float32. Forward only. Memory: the
    scores, (B, H, R, S).
    """
    wide = torch.promote_types(q.dtype, torch.float32)
    b, heads, rows, d = q.shape
    kv_heads, key_len = k.shape[1:3]
    if key_len == 0:
        return v.new_zeros(b, heads, rows, v.shape[-1]), q.new_full((b, heads, rows), -torch.inf, dtype=wide)
    # The heads of a group read the same keys: as rows of one product they read them once.
    q = (q.to(wide) * scale).reshape(b * kv_heads, -1, d)  # (B, H, R, D) -> (B * Hkv, G * R, D)
    scores = _per_stack(_scores, q, k)  # (B * Hkv, G * R, S)
    if additive is not None:
        scores.view(b, heads, rows, key_len).add_(additive)
    top = scores.amax(-1, keepdim=True)  # (B * Hkv, G * R, 1)
    if additive is not None:
        top.masked_fill_(top == -torch.inf, 0)  # a row that reads nothing: -inf - -inf is NaN
    weights = scores.sub_(top).exp_()
    total = weights.sum(-1, keepdim=True)  # at least 1, the weight of the top score, or 0
    out = _per_stack(_values, weights, v).div_(total.clamp(min=1))  # (B * Hkv, G * R, Dv)
    lse = top.add_(total.log_())
    return out.view(b, heads, rows, -1).to(v.dtype), lse.view(b, heads, rows)


def worthwhile(q: Tensor, k: Tensor) -> bool:
    """Whether :func:`decode` beats the fused op over folded groups, for q (B, H, R, D) and k (B, Hkv, S, D)."""
    if q.device.type != "cpu" or 0 in k.shape:
        return False
    rows = q.shape[1] // k.shape[1] * q.shape[2]  # that read each key
    if k.dtype == torch.float16:  # the fused op has no fast product for it: it takes 2x to 5x as long
        return rows <= 16 and k.numel() >= LEAST_ELEMENTS
    if k.dtype == torch.bfloat16:  # the op takes 2x as long with one row as with two, and is ahead from there on
        return rows == 1 and k.numel() >= LEAST_ELEMENTS
    return rows <= 4 and k.numel() * k.element_size() >= OUT_OF_CACHE_BYTES


def _per_stack(product: Callable[[Tensor, Tensor], Tensor], left: Tensor, right: Tensor) -> Tensor:
    """``product`` of left (B * Hkv, ...) and right (B, Hkv, S, D), its batch and heads in one axis without a copy."""
    b, kv_heads = right.shape[:2]
    if b == 1 or kv_heads == 1 or right.stride(0) == kv_heads * right.stride(1):
        return product(left, right.flatten(0, 1))
    return torch.cat([product(*each) for each in zip(left.split(kv_heads), right, strict=True)])


def _scores(q: Tensor, k: Tensor) -> Tensor:
    """``q @ k.mT`` of q (N, rows, D) and k (N, S, D): (N, rows, S), contiguous."""
    # K comes first: as dot products with its rows, which needs no packing of K, few rows take half the time.
    if k.dtype == q.dtype:
        return torch.bmm(k, q.mT).mT.contiguous()  # (N, S, rows) -> (N, rows, S)
    scores = q.new_empty(k.shape[0], k.shape[1], q.shape[1])  # (N, S, rows)
    for stack, keys, block in _widened(k, q.dtype):
        scores[stack, keys] = torch.bmm(block, q[stack].mT)
    return scores.mT.contiguous()


def _values(weights: Tensor, v: Tensor) -> Tensor:
    """``weights @ v`` of weights (N, rows, S) and v (N, S, Dv): (N, rows, Dv)."""
    if v.dtype == weights.dtype:
        return torch.bmm(weights, v)
    out = weights.new_zeros(v.shape[0], weights.shape[1], v.shape[2])
    for stack, keys, block in _widened(v, weights.dtype):
        out[stack].baddbmm_(weights[stack, :, keys], block)
    return out


def _widened(t: Tensor, dtype: torch.dtype) -> Iterator[tuple[slice, slice, Tensor]]:
    """Blocks of t (N, S, D) in another dtype, each in the place of the one before, with their slices of N and S."""
    n, length, width = t.shape
    elements = WIDENED_ELEMENTS * torch.get_num_threads()
    stacked = min(n, max(1, elements // (min(LEAST_KEYS, length) * width)))
    buffer = t.new_empty(min(elements, stacked * length * width), dtype=dtype)
    for stack in _pieces(n, stacked):
        for keys in _pieces(length, max(1, elements // (stacked * width))):
            part = t[stack, keys]
            yield stack, keys, buffer[: part.numel()].view(part.shape).copy_(part)


def _pieces(length: int, size: int) -> Iterator[slice]:
    return (slice(i, min(i + size, length)) for i in range(0, length, size))
