"""What a call of a layer reads: queries, keys and values of all heads where they stand, the mask and the bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from regard import layer_cache, layer_checks
from regard.bias_columns import Bias
from regard.cache_buffers import Cache
from regard.context import Context
from regard.functional import as_mask
from regard.fused_projection import takes_parts
from regard.masks.algebra import Mask
from regard.positions import NoPositions, Positions, placing
from regard.positions.checks import is_zero

if TYPE_CHECKING:
    from regard.latent_attention import LatentAttention
    from regard.multi_head import MultiHeadAttention

__all__ = ["Given", "Place", "joined", "keys_and_values", "local", "memory", "read", "rotated"]

Given = Tensor | tuple[Tensor, Tensor] | Context | None
Reading = tuple[Tensor, Tensor, Tensor, Mask | None, Bias | Tensor | None]


@dataclass(frozen=True)
class Place:
    """Where the tokens of a call stand: after those of a cache, or from an offset."""

    cache: Cache | None
    lengths: Any
    offset: int | Tensor | None


def read(layer: MultiHeadAttention, x: Tensor, context: Given, mask: Mask | Tensor | None, place: Place) -> Reading:
    """Queries (..., H, L, D), keys (..., Hkv, S, D), values (..., Hkv, S, Dv), the mask and the bias."""
    layer_checks.check_input(x, layer.d_in, "x", "d_in", _like(layer._projections()[0]))
    if context is None and layer.d_context is None:
        q, k, v = _of_itself(layer, x)
        if place.cache is not None:
            return _from_cache(layer, place.cache, x, (q, k, v), mask, place.lengths)
        allowed = _both(layer, mask, x, k.shape[-2])
        q, k = _placed(layer, q, k, offset=_from(place.offset))
        bias = _bias(layer, q, k)
        if bias is not None:
            _check_seen(layer, place.offset)
        return q, k, v, allowed, bias
    return _of_context(layer, x, context, mask, place.offset)


def joined(layer: MultiHeadAttention, heads: Tensor, x: Tensor) -> Tensor:
    """The outputs of all heads (..., H, L, Dv) side by side, gated: (..., L, d_v)."""
    heads = heads.transpose(-3, -2)  # -> (..., L, H, Dv)
    if heads.dtype != x.dtype and not layer_checks.autocasts(x.device):  # from a cache of half precision
        heads = heads.to(x.dtype)
    if layer.gate is None:
        return heads.flatten(-2)  # -> (..., L, d_v)
    gate = torch.sigmoid(layer.gate_proj(x)).to(heads.dtype)  # (..., L, d_v) or (..., L, H)
    if layer.gate == "headwise":
        return (heads * gate[..., None]).flatten(-2)
    return heads.flatten(-2) * gate


def keys_and_values(layer: MultiHeadAttention, context: Any, beside: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Keys (..., Hkv, S, D), normed and placed from 0 on, and values (..., Hkv, S, Dv) of a context for an x."""
    own = layer._projections()
    widths, name = (layer.d_context, "d_context") if layer.d_context else ((layer.d_in, layer.d_in), "d_in")
    key_input, value_input = layer_checks.check_context(context, widths, name, _like(own[-1]))
    if beside is not None:
        layer_checks.check_context_batch(context, beside)
    if not layer._is_fused:
        k, v = layer.k_proj(key_input), layer.v_proj(value_input)
    elif not takes_parts(layer.in_proj):  # somebody's own module: what it does to its output is in all of it
        k = _fused(layer, key_input)[1]
        v = _fused(layer, value_input)[2]
    elif key_input is value_input:
        k, v = layer.in_proj(key_input, part="kv").split_with_sizes(layer._rows[1:], dim=-1)
    else:
        k, v = layer.in_proj(key_input, part="k"), layer.in_proj(value_input, part="v")
    k, v = _heads(k, layer.num_kv_heads), _heads(v, layer.num_kv_heads)
    _, k = _placed(layer, None, k, offset=0, length=k.shape[-2])
    return k, v


def local(parameter: Tensor | None) -> Tensor | None:
    """What this process holds of a parameter that is cut over several; another one as it is."""
    of_rank = getattr(parameter, "to_local", None)
    return parameter if of_rank is None else of_rank()


def memory(layer: MultiHeadAttention | LatentAttention, dtype: torch.dtype | None) -> dict[str, Any]:
    """Dtype and device of a cache; what autocast makes of a projection, where it is on."""
    like = _like(layer.out_proj)
    if like is None:
        like = next((t for t in (*layer.parameters(), *layer.buffers()) if t.dtype.is_floating_point), None)
    if like is None:
        return {"dtype": dtype, "device": None}
    if dtype is None and like.dtype != torch.float64 and layer_checks.autocasts(like.device):  # float64 is left alone
        dtype = torch.get_autocast_dtype(like.device.type)
    return {"dtype": like.dtype if dtype is None else dtype, "device": like.device}


def _of_itself(layer: MultiHeadAttention, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    q, k, v = _fused(layer, x)
    return _heads(q, layer.num_heads), _heads(k, layer.num_kv_heads), _heads(v, layer.num_kv_heads)


def _of_context(
    layer: MultiHeadAttention, x: Tensor, context: Given, mask: Mask | Tensor | None, offset: int | Tensor | None
) -> Reading:
    if isinstance(context, Context):
        layer_checks.check_projected(context, layer, x)
        k, v = context.key, context.value
    else:
        k, v = keys_and_values(layer, context, beside=x)
    key_len, stand = k.shape[-2], layer.positions is not None and type(layer.positions) is not NoPositions
    if stand and offset is None:
        raise ValueError(
            f"offset must be given with a context, since the layer has positions={type(layer.positions).__name__}: the "
            f"position of x's first token, where the first key of the context is at 0; S - L = {key_len - x.shape[-2]} "
            "puts x at its end"
        )
    allowed = _both(layer, mask, x, key_len)
    if not layer._is_fused:
        q = layer.q_proj(x)
    elif takes_parts(layer.in_proj):
        q = layer.in_proj(x, part="q")
    else:
        q = _fused(layer, x)[0]
    q, _ = _placed(layer, _heads(q, layer.num_heads), None, offset=_from(offset), length=key_len)
    bias = _bias(layer, q, k)
    if bias is not None and not (isinstance(offset, int) and offset == key_len - x.shape[-2]):
        raise ValueError(
            f"offset must be S - L = {key_len - x.shape[-2]} with a context and the bias of "
            f"positions={type(layer.positions).__name__}, whose queries are the last of the keys; got {offset}"
        )
    return q, k, v, allowed, bias


def _from_cache(
    layer: MultiHeadAttention,
    cache: Cache,
    x: Tensor,
    heads: tuple[Tensor, Tensor, Tensor],
    mask: Mask | Tensor | None,
    lengths: Any,
) -> Reading:
    q, k, v = layer_cache.in_cache_dtype(cache, *heads)
    step = layer_cache.begin(cache, k, v, lengths)
    positions, bias = layer.positions, None
    if positions is not None:
        offset, length = layer_cache.places(cache, step, x.device)
        q, k = _placed(layer, q, k, offset=offset, length=length)
        bias = layer_cache.bias_of(positions, cache, step, q)
    else:
        q, k = _placed(layer, q, k)
    narrowed = _both(layer, mask, x, layer_cache.text_len(cache, step), cached=True)
    layer_checks.check_after_cache(layer, x)
    numbers = {"scale": layer.scale, "softcap": layer.softcap}
    cached = layer_cache.append(cache, step, q, k, v, lengths=lengths, mask=narrowed, bias=bias, **numbers)
    return q, cached.key, cached.value, cached.mask, bias


def _placed(layer: MultiHeadAttention, q: Any, k: Any, **where: Any) -> tuple[Any, Any]:
    """Queries and keys normed and rotated; None for what is not asked for."""
    norm, positions = layer.norm, layer.positions
    if norm is not None and norm.when == "before":
        q, k = norm(q, k)
    if positions is not None:
        some = k if q is None else q
        none = some[..., :0, :]
        turned = rotated(positions, none if q is None else q, none if k is None else k, **where)
        q, k = (None if t is None else new for t, new in zip((q, k), turned, strict=True))
    if norm is not None and norm.when == "after":
        q, k = norm(q, k)
    return q, k


def _check_seen(layer: MultiHeadAttention, offset: int | Tensor | None) -> None:
    """A bias is asked for the last L of S positions, and would not see that they begin elsewhere than at 0."""
    kind = type(layer.positions)
    if getattr(kind, "bias", None) not in layer_cache.BY_DISTANCE and not is_zero(offset):
        raise ValueError(
            f"offset must be 0 with the bias of positions={kind.__name__}, which is that of positions "
            f"0 .. L - 1, got {offset}; with a cache of layer.kv_cache(...) it is that of the text so far"
        )


def rotated(positions: Positions, q: Tensor, k: Tensor, **where: Any) -> tuple[Tensor, Tensor]:
    """Queries and keys with their positions in them, in the shape and the dtype that they had."""
    turned = placing.rotated(positions, q, k, **where)
    for name, old, new in zip("qk", (q, k), turned, strict=True):
        layer_checks.check_rotated(positions, old, new, name)
    return turned


def _from(offset: int | Tensor | None) -> int | Tensor:
    return 0 if offset is None else offset


def _bias(layer: MultiHeadAttention, q: Tensor, k: Tensor) -> Bias | Tensor | None:
    if layer.positions is None:
        return None
    sizes: dict[str, Any] = {"num_heads": layer.num_heads, "device": q.device, "dtype": q.dtype}
    return layer.positions.bias(q.shape[-2], k.shape[-2], **sizes)


def _both(
    layer: MultiHeadAttention, mask: Mask | Tensor | None, x: Tensor, key_len: int, *, cached: bool = False
) -> Mask | None:
    """What the layer's mask and that of the call allow; a cache is causal without being told."""
    own = layer_cache.beyond_causal(layer.mask) if cached else layer.mask
    for each in (own, mask):
        layer_checks.check_mask_axes(each, layer.num_heads, x, key_len)
    if mask is None:
        return own
    return as_mask(mask) if own is None else own & as_mask(mask)


def _fused(layer: MultiHeadAttention, x: Tensor) -> Any:
    """The whole of in_proj's output, whoever made it, as queries, keys and values (..., L, heads * width)."""
    if not layer._is_fused:
        return layer.q_proj(x), layer.k_proj(x), layer.v_proj(x)
    out: Tensor = layer.in_proj(x)
    if out.shape[-1] != sum(layer._rows):
        raise ValueError(
            f"in_proj must give the {sum(layer._rows)} columns [q | k | v] of the layer, got {tuple(out.shape)} from "
            f"{type(layer.in_proj).__name__}"
        )
    # One split and not three slices: its gradient is one concatenation and not a sum of three padded tensors.
    return out.split_with_sizes(layer._rows, dim=-1)


def _heads(t: Tensor, num_heads: int) -> Tensor:
    """(..., L, H * D) -> (..., L, H, D) -> (..., H, L, D)."""
    return t.view(*t.shape[:-1], num_heads, t.shape[-1] // num_heads).transpose(-3, -2)


def _like(module: nn.Module) -> Tensor | None:
    """The weight of a projection; None for what somebody put in its place and shows none."""
    weight = getattr(module, "weight", None)
    return weight if isinstance(weight, Tensor) and weight.dtype.is_floating_point else None
