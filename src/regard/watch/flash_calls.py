"""What calls of flash_attn's functions attend with: layouts (B, L, H, D), packed texts, windows and slopes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import regard
from regard import masks
from regard.masks import Mask
from regard.watch.calls import Call, Lazy

__all__ = ["CALLS"]

Arguments = dict[str, Any]
Unsuited = Callable[..., str | None]

# What decides the weights and is understood, and what does not change them. Any other argument that is given is
# refused by its name.
READ = {"softmax_scale", "causal", "window_size", "softcap", "alibi_slopes", "cu_seqlens_q", "cu_seqlens_k"}
READ |= {"q", "k", "v", "kv", "qkv", "cu_seqlens"}
IGNORED = {"dropout_p", "deterministic", "return_attn_probs", "max_seqlen", "max_seqlen_q", "max_seqlen_k"}
IGNORED |= {"num_splits", "pack_gqa", "sm_margin", "return_softmax_lse"}


def _dense_call(name: str, given: Arguments, unusual: Arguments, unsuited: Unsuited) -> Call:
    """flash_attn_func, and those that take key and value, or all three, in one tensor."""
    if "qkv" in given:
        query, key = given["qkv"].unbind(2)[:2]  # (B, L, 3, H, D) -> (B, L, H, D) twice
    else:
        query = given["q"]
        key = given["kv"].unbind(2)[0] if "kv" in given else given["k"]  # (B, S, 2, Hkv, D) -> (B, S, Hkv, D)
    query, key = query.transpose(1, 2), key.transpose(1, 2)  # (B, H, L, D), (B, Hkv, S, D)
    left, right = _window(given)
    mask = _band(left, right, query.shape[-2], key.shape[-2])
    refusal = unsuited(query, key, given.get("alibi_slopes")) or _unknown(name, unusual)
    return _call(name, query, key, mask, given, refusal, own_is_last=right == 0)


def _packed_call(name: str, given: Arguments, unusual: Arguments, unsuited: Unsuited) -> Call:
    """The varlen functions: texts one after the other in (total, H, D), cut at cu_seqlens."""
    if "qkv" in given:
        query, key = given["qkv"].unbind(1)[:2]  # (total, 3, H, D) -> (total, H, D) twice
        cuts_q = cuts_k = given["cu_seqlens"]
    else:
        query = given["q"]
        key = given["kv"].unbind(1)[0] if "kv" in given else given["k"]  # (total, 2, Hkv, D) -> (total, Hkv, D)
        cuts_q, cuts_k = given["cu_seqlens_q"], given["cu_seqlens_k"]
    refusal = unsuited(query, key, cuts_q, cuts_k, given.get("alibi_slopes")) or _unknown(name, unusual)
    if query.dim() == 3 and key.dim() == 3:
        query, key = query.transpose(0, 1)[None], key.transpose(0, 1)[None]  # (total, H, D) -> (1, H, total, D)
    elif refusal is None:
        refusal = f"{name} with a paged cache"
    left, right = _window(given)
    mask: Mask | None = None
    same = False
    if refusal is None:
        same = cuts_q is cuts_k or (cuts_q.shape == cuts_k.shape and torch.equal(cuts_q, cuts_k))
        if same and query.shape[-2] == key.shape[-2]:
            mask = masks.documents(_texts(cuts_q, query.shape[-2]))
            band = _band(left, right, query.shape[-2], key.shape[-2])
            mask = mask if band is None else mask & band
        else:
            mask = masks.where(_packed_rule(cuts_q, cuts_k, query.shape[-2], key.shape[-2], left, right))
            if given.get("alibi_slopes") is not None:
                refusal = f"{name} with alibi_slopes, and queries packed in other lengths than keys"
    return _call(name, query, key, mask, given, refusal, own_is_last=right == 0)


def _cached_call(name: str, given: Arguments, unusual: Arguments, unsuited: Unsuited) -> Call:
    query, key = given["q"].transpose(1, 2), given["k_cache"].transpose(1, 2)  # (B, H, L, D), (B, Hkv, S, D)
    return Call(name, query, key, refusal=f"{name} turns query and key, and writes to its cache, where nobody sees it")


def _call(
    name: str,
    query: Tensor,
    key: Tensor,
    mask: Mask | None,
    given: Arguments,
    refusal: str | None,
    *,
    own_is_last: bool,
) -> Call:
    slopes, softcap = given.get("alibi_slopes"), given.get("softcap") or None
    bias = None
    lazily: Callable[[Tensor, Tensor], Lazy] | None = None
    if slopes is not None and slopes.dim() == 1 and own_is_last and softcap is None:
        bias = regard.biases.alibi(slopes)
    elif slopes is not None:
        lazily = _alibi(slopes)
    return Call(
        name,
        query,
        key,
        mask=mask,
        bias=bias,
        scale=given.get("softmax_scale"),
        softcap=softcap,
        lazily=lazily,
        lazy_name="" if slopes is None or lazily is None else f"alibi {tuple(slopes.shape)}",
        also=() if slopes is None else (slopes,),
        refusal=refusal,
    )


def _window(given: Arguments) -> tuple[int, int]:
    """How many keys before and after the query's position are read; -1 for all."""
    left, right = given.get("window_size") or (-1, -1)
    left, right = (-1 if side is None else int(side) for side in (left, right))
    return left, 0 if given.get("causal") else right


def _band(left: int, right: int, query_len: int, key_len: int) -> Mask | None:
    """A window as a mask, counted from positions that let the last query stand at the last key."""
    if left < 0 and right < 0:
        return None
    if left < 0:
        return masks.causal() if right == 0 else masks.causal(offset=key_len - query_len + right)
    return masks.band(left, right if right >= 0 else query_len + key_len)


def _texts(cuts: Tensor, total: int) -> Tensor:
    """Which text each of ``total`` tokens is of, (total,); what comes after the last is of one more."""
    return torch.bucketize(torch.arange(total, device=cuts.device), cuts[1:].long(), right=True)


def _packed_rule(
    cuts_q: Tensor, cuts_k: Tensor, query_len: int, key_len: int, left: int, right: int
) -> Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]:
    """Each text of queries reads the text of keys of the same number, aligned at their ends."""
    text_q, text_k = _texts(cuts_q, query_len), _texts(cuts_k, key_len)
    none = cuts_q.new_zeros(1)
    shift = torch.cat([cuts_k[1:] - cuts_q[1:], none])  # between the ends of a text among queries and among keys
    texts = len(cuts_q) - 1

    def packed(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        position = q + shift[text_q[q]]
        allowed = (text_q[q] == text_k[kv]) & (text_q[q] < texts)
        if right >= 0:
            allowed = allowed & (kv <= position + right)
        return allowed & (kv >= position - left) if left >= 0 else allowed

    return packed


def _alibi(slopes: Tensor) -> Callable[[Tensor, Tensor], Lazy]:
    """``-slope * |p - j|`` in both directions, or a slope for each sequence: as large as the weights of all heads."""

    def lazily(query: Tensor, key: Tensor) -> Lazy:
        query_len, key_len = query.shape[-2], key.shape[-2]
        p = torch.arange(key_len - query_len, key_len, device=slopes.device)
        distance = (p[:, None] - torch.arange(key_len, device=slopes.device)).abs()  # (L, S)
        return Lazy(bias=(-slopes.float()[..., None, None] * distance).to(query.device))  # (B or none, H, L, S)

    return lazily


def _unknown(name: str, unusual: Arguments) -> str | None:
    """Why a call is refused: it says more than is understood."""
    unknown = sorted(unusual.keys() - READ - IGNORED)
    return f"{name} with {', '.join(unknown)}, whose meaning is not known here" if unknown else None


#: The functions, and how their calls are read.
CALLS: dict[str, Callable[[str, Arguments, Arguments, Unsuited], Call]] = {
    "flash_attn_func": _dense_call,
    "flash_attn_qkvpacked_func": _dense_call,
    "flash_attn_kvpacked_func": _dense_call,
    "flash_attn_varlen_func": _packed_call,
    "flash_attn_varlen_qkvpacked_func": _packed_call,
    "flash_attn_varlen_kvpacked_func": _packed_call,
    "flash_attn_with_kvcache": _cached_call,
}
