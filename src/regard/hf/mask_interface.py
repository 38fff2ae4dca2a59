"""The masks that models ask for, under the name "regard" in transformers' AttentionMaskInterface."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard import masks
from regard.hf.mask_functions import Place, Unread, rule_of
from regard.hf.mask_tensor import MaskTensor

__all__ = ["attention_mask"]


def attention_mask(
    batch_size: int,
    q_length: int,
    kv_length: int,
    q_offset: int | Tensor = 0,
    kv_offset: int = 0,
    mask_function: Callable[..., Any] | None = None,
    attention_mask: Tensor | None = None,
    device: torch.device | str = "cpu",
    **options: Any,
) -> Tensor:
    """The mask of one kind of layer, booleans (B, 1, L, S), True = may attend, as a rule where it can be one.

    Causal, window, chunk, packed, block and padding masks are rules, of which the L x S entries are never made. Any
    other function of a model is asked for all of them, as sdpa's mask is. While a model is traced it is sdpa's mask.

    Args:
        batch_size: B.
        q_length: L.
        kv_length: S.
        q_offset: the position of query 0.
        kv_offset: the position of key 0.
        mask_function: ``f(batch, head, query position, key position)``, causal if None.
        attention_mask: (B, positions) booleans, False for padding.
        device: that of the mask.
        options: the further arguments of transformers' own mask functions.
    """
    from transformers.masking_utils import (
        and_masks,
        causal_mask_function,
        padding_mask_function,
        prepare_padding_mask,
    )
    from transformers.utils.import_utils import is_tracing

    function = causal_mask_function if mask_function is None else mask_function
    asked: dict[str, Any] = {
        "batch_size": batch_size,
        "q_length": q_length,
        "kv_length": kv_length,
        "q_offset": q_offset,
        "kv_offset": kv_offset,
        "mask_function": function,
        "attention_mask": attention_mask,
        "device": device,
        # A mask that is left out would have to be guessed from the layer that reads it.
        **options,
        "allow_is_causal_skip": False,
        "allow_is_bidirectional_skip": False,
    }
    if torch.compiler.is_compiling() or any(is_tracing(t) for t in (q_offset, attention_mask) if isinstance(t, Tensor)):
        return _entries(asked)  # a rule is no value of a traced graph
    shape = (batch_size, 1, q_length, kv_length)
    place = Place(batch_size, q_length, kv_length, int(q_offset), kv_offset, torch.device(device))
    padding = prepare_padding_mask(attention_mask, kv_length, kv_offset)
    whole = function if padding is None else and_masks(function, padding_mask_function(padding))
    try:
        rule = rule_of(whole, place)
    except Unread:
        rule = masks.dense(_entries(asked))
    return MaskTensor(rule, shape, place.device)


def _entries(asked: dict[str, Any]) -> Tensor:
    """All entries, (B, 1, L, S)."""
    from transformers.masking_utils import sdpa_mask

    made = sdpa_mask(**asked)
    assert made is not None
    return made
