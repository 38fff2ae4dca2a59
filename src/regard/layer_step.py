"""One more token of each text, through a layer with a cache, by the shortest way.

A call of a layer asks much that a step of decoding need not be asked again: at one token, the questions take longer
than the answer. Where anything but the plain step is wanted, the layer goes its usual way, with the same numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.cache import KVCache, RollingCache
from regard.engine.kernels import rectangle, unavailable
from regard.layer_cache import beyond_causal
from regard.positions import NoPositions, Rotary
from regard.positions.rotation import is_plain, turn

if TYPE_CHECKING:
    from regard.multi_head import MultiHeadAttention

__all__ = ["step"]

POSITIONS = (type(None), NoPositions, Rotary)


def step(layer: MultiHeadAttention, x: Any, cache: Any) -> Tensor | None:
    """The output (B, 1, d_out) for x (B, 1, d_in), which is appended; None where the usual way must be gone."""
    if not _plain(layer, x, cache):
        return None
    batch, num_heads, num_kv_heads = x.shape[0], layer.num_heads, layer.num_kv_heads
    start, turned = cache._lengths[0], num_heads + num_kv_heads
    projected: Tensor = layer.in_proj(x)
    if projected.shape[-1] != sum(layer._rows) or projected.dtype != x.dtype:
        raise ValueError(
            f"in_proj must give the {sum(layer._rows)} columns [q | k | v] of the layer in {x.dtype}, got "
            f"{tuple(projected.shape)} in {projected.dtype} from {type(layer.in_proj).__name__}"
        )
    every = projected.view(batch, turned + num_kv_heads, 1, -1)  # (B, 1, rows) -> (B, H + Hkv + Hkv, 1, D)
    both, v = every[:, :turned], every[:, turned:]  # (B, H + Hkv, 1, D), (B, Hkv, 1, D)
    if layer.norm is not None:
        both = torch.cat(layer.norm(both[:, :num_heads], both[:, num_heads:]), dim=1)
    if type(layer.positions) is Rotary:
        both = turn(
            both, layer.positions._turns(both, start, layer.positions._length(start + 1, "x", (start, both)))[1]
        )
    q, k = both[:, :num_heads], both[:, num_heads:]
    keys, values = _appended(cache, k, v, start)  # (B, Hkv, S, D)
    scale = q.shape[-1] ** -0.5 if layer.scale is None else layer.scale
    # The heads of a group read the same keys, as the rows of one head do.
    rows = q.reshape(batch, num_kv_heads, -1, q.shape[-1])  # (B, H, 1, D) -> (B, Hkv, G, D)
    out = rectangle(rows, keys, values, None, causal=False, scale=scale)[0]
    return layer.out_proj(out.reshape(batch, 1, -1))  # type: ignore[no-any-return]  # -> (B, 1, H * D) -> (B, 1, d_out)


def _appended(cache: KVCache | RollingCache, k: Tensor, v: Tensor, start: int) -> tuple[Tensor, Tensor]:
    """Keys and values with those of the token; a cache of everything needs no more than to be written to."""
    if type(cache) is KVCache:
        cache._keys[:, :, start : start + 1] = k
        cache._values[:, :, start : start + 1] = v
        cache._lengths, cache._ends = [start + 1] * cache.batch_size, [start + 1] * cache.batch_size
        return cache._keys[:, :, : start + 1], cache._values[:, :, : start + 1]
    cached = cache._write(k, v, cache._prepare(k, v, None, None))
    return cached.key, cached.value


def _plain(layer: MultiHeadAttention, x: Any, cache: Any) -> bool:
    """Whether this is one token of texts of one length, nothing is asked of the scores, and nobody watches."""
    if torch.is_grad_enabled() or type(cache) not in (KVCache, RollingCache) or not is_plain(x):
        return False
    lengths, keys = cache._lengths, cache._keys
    if x.dim() != 3 or x.shape[1] != 1 or x.shape[0] != len(lengths):
        return False
    if any(each.count(each[0]) != len(each) for each in (lengths, cache._ends)):
        return False
    if (
        keys.shape[1] != layer.num_kv_heads
        or not keys.shape[3] == cache._values.shape[3] == layer.d_k // layer.num_heads
    ):
        return False
    if (type(cache) is KVCache and lengths[0] >= keys.shape[2]) or x.shape[2] != layer.d_in:
        return False
    if x.dtype != keys.dtype or not x.device == keys.device == cache._values.device:
        return False
    if layer.d_context is not None or layer.d_v != layer.d_k or (layer.training and layer.dropout):
        return False
    if layer.softcap is not None or layer.sinks is not None or layer.gate is not None:
        return False
    positions = layer.positions
    if positions is not None and "rotate" in positions.__dict__:  # somebody's own
        return False
    if type(positions) not in POSITIONS or (layer.norm is not None and layer.norm.when != "before"):
        return False
    if not layer._is_fused:  # q, k and v apart, each cut over ranks
        return False
    for name in ("in_proj", "out_proj"):
        weight = layer._modules[name]._parameters.get("weight")  # type: ignore[union-attr]  # quicker than attributes
        if not isinstance(weight, Tensor) or weight.dtype != x.dtype or weight.device != x.device:
            return False
    if unavailable(x.device) is not None or torch.is_autocast_enabled(x.device.type):
        return False
    return not torch._C._len_torch_function_stack() and beyond_causal(layer.mask) is None
