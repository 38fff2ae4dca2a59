"""What models hand to an attention function besides query, key and value: the mask, the bias and the sinks in it."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any
from weakref import ReferenceType, ref

import torch
from torch import Tensor, nn

from regard import masks
from regard.hf.mask_tensor import MaskTensor

__all__ = ["bias_of", "mask_of", "sinks_of"]

Split = tuple["Tensor | None", "Tensor | None"]


def mask_of(
    module: nn.Module, query: Tensor, key: Tensor, given: Tensor | None, options: dict[str, Any]
) -> tuple[masks.Mask | Tensor | None, Tensor | None]:
    """The mask of one call, and what a mask of numbers adds to the scores besides.

    Args:
        module: the layer.
        query: (B, H, L, D).
        key: (B, Hkv, S, D).
        given: the mask that the model handed on, or None.
        options: the further arguments of the call.
    """
    if options.get("block_indices") is not None:
        given = _blocks(module, query, key, given, options)
    if given is None:
        mask: masks.Mask | Tensor | None = _unasked(module, query, key, options)
        added = None
    elif isinstance(given, MaskTensor):
        mask, added = given.rule, None
        if given.open or (given.shape[-2:] != (query.shape[2], key.shape[2]) and given.rule is not None):
            mask = given.dense()  # the rule may not be what they say, or is for other lengths: regard says so
    else:
        mask, added = split(given)
    if options.get("indices") is not None:
        chosen = _chosen(options["indices"], key.shape[2])
        mask = chosen if mask is None else _mask(mask) & _mask(chosen)
    return mask, added


def split(given: Tensor) -> Split:
    """A mask tensor as what it allows and what it adds, each None if there is nothing of it.

    Numbers of the size of the dtype's least, or -inf, forbid; the others are added to the scores.
    """
    if given.dtype == torch.bool:
        return given, None
    if not given.is_floating_point():
        raise ValueError(
            'attn_implementation="regard": attention_mask must be boolean (True = may attend) or floating (added to '
            f"the scores), got {str(given.dtype)[6:]}; pass attention_mask.bool()"
        )
    return _SPLITS.of(given)


class _Splits:
    """What was found in the latest masks of numbers: the layers of a model share theirs."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.found: OrderedDict[int, tuple[ReferenceType[Tensor], int, Split]] = OrderedDict()

    def of(self, given: Tensor) -> Split:
        # Through a tensor that has a graph of its own, and one that counts no writes, the answer is for one call.
        if given.requires_grad or given.is_inference() or torch.compiler.is_compiling():
            return self.made(given)
        known = self.found.get(id(given))
        if known is None or known[0]() is not given or known[1] != given._version:
            self.found[id(given)] = known = (ref(given), given._version, self.made(given))
            while len(self.found) > self.most:
                self.found.popitem(last=False)
        return known[2]

    @staticmethod
    def made(given: Tensor) -> Split:
        allowed = given > torch.finfo(given.dtype).min / 2
        if torch.compiler.is_compiling():
            return allowed, torch.where(allowed, given, 0)
        forbids = not bool(allowed.all())
        added = torch.where(allowed, given, 0) if forbids else given
        adds = given.requires_grad or bool(added.any())
        return allowed if forbids else None, added if adds else None


_SPLITS = _Splits(8)


def bias_of(added: Tensor | None, options: dict[str, Any]) -> Tensor | None:
    """What is added to the scores, broadcasting to (B, H, L, S): of the mask, of relative positions."""
    bias: Tensor | None = options.get("position_bias")
    if bias is None:
        return added
    return bias if added is None else bias + added


def sinks_of(query: Tensor, options: dict[str, Any]) -> Tensor | None:
    """The logits (H,) that join the denominators.

    Sinks of each query, (B, H, L, 1), are sinks of 0 with all scores of the query lowered by as much.
    """
    sinks: Tensor | None = options.get("s_aux")
    if options.get("sinks") is not None:
        if sinks is not None:
            raise ValueError('attn_implementation="regard": got both s_aux and sinks; a layer has one of them')
        return query.new_zeros(query.shape[1])
    return None if sinks is None else sinks.flatten().to(query.dtype)


def _unasked(module: nn.Module, query: Tensor, key: Tensor, options: dict[str, Any]) -> masks.Mask | None:
    """The mask where the model hands none on: what the layer says of itself, as for sdpa."""
    causal = options.get("is_causal")
    causal = getattr(module, "is_causal", True) if causal is None else causal
    query_len, key_len = query.shape[2], key.shape[2]
    # One query is a step of decoding and reads all; the others stand where the keys begin (a cache with room behind).
    rule: masks.Mask | None = masks.causal(offset=0) if causal and query_len > 1 else None
    window = options.get("sliding_window")
    if window is not None and rule is not None and key_len > window and query_len == key_len:
        rule = masks.window(window)
    lengths: Tensor | None = options.get("cu_seq_lens_q")
    if lengths is None:
        return rule
    texts = _texts(lengths, query, key)
    return texts if rule is None else rule & texts


def _texts(cumulative: Tensor, query: Tensor, key: Tensor) -> masks.Mask:
    """Texts packed one after the other, by where each ends."""
    length = int(cumulative[-1])
    if query.shape[0] != 1 or query.shape[2] != length or key.shape[2] != length:
        raise ValueError(
            f'attn_implementation="regard": cu_seq_lens_q packs {length} tokens, expected one sequence of as many '
            f"queries and keys, got query {tuple(query.shape)} and key {tuple(key.shape)}; pass position_ids alone"
        )
    at = torch.arange(length, device=query.device)
    return masks.documents(torch.bucketize(at, cumulative.to(query.device)[1:], right=True))


def _chosen(indices: Tensor, key_len: int) -> Tensor:
    """The keys that an indexer chose for each query, (B, L, k) integers, as booleans (B, 1, L, S)."""
    return (
        indices.new_zeros((*indices.shape[:-1], key_len), dtype=torch.bool)
        .scatter(-1, indices.long(), True)
        .unsqueeze(1)
    )


def _blocks(module: nn.Module, query: Tensor, key: Tensor, given: Tensor | None, options: dict[str, Any]) -> Tensor:
    """The mask of block-sparse attention, which the layer's own indexer makes."""
    build = getattr(getattr(module, "indexer", None), "build_block_mask", None)
    if build is None:
        raise ValueError(
            f'attn_implementation="regard": {type(module).__name__} chose block_indices, and has no '
            'indexer.build_block_mask to say which keys these are; use attn_implementation="eager"'
        )
    query_len, key_len = query.shape[2], key.shape[2]
    positions = options.get("position_ids")
    if positions is None:
        positions = torch.arange(key_len - query_len, key_len, device=query.device)
    positions = (positions if positions.dim() > 1 else positions[None]).expand(query.shape[0], -1)  # (B, L)
    made: Tensor = build(options["block_indices"], given, key_len, query.dtype, query.device, positions)
    return made


def _mask(given: masks.Mask | Tensor) -> masks.Mask:
    return given if isinstance(given, masks.Mask) else masks.dense(given)
