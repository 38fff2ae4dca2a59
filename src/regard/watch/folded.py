"""Calls whose callers fold heads for speed's sake, unfolded: the weights have the heads that the model has.

Hugging Face's sdpa makes rows of the query heads that share a key where there is one query, and repeats the keys where
there are more. Either way the heads of the weights would not be those of its eager attention, or keys would be held
once for every query head.
"""

from __future__ import annotations

from dataclasses import replace
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from regard.watch.calls import Call, Given

__all__ = ["unfolded"]

MODULE, FUNCTION = "transformers.integrations.sdpa_attention", "sdpa_attention_forward"


def unfolded(call: Call, frame: FrameType | None) -> Call:
    """The call with the heads that the model has, if the function that made it is known to fold them."""
    if frame is None or frame.f_code.co_name != FUNCTION or frame.f_globals.get("__name__") != MODULE:
        return call
    module: Any = frame.f_locals.get("module")
    groups = getattr(module, "num_key_value_groups", 1)
    if call.refusal is not None or not isinstance(groups, int) or groups < 2 or call.query.dim() != 4:
        return call
    if frame.f_locals.get("q_length") == 1 and call.query.shape[2] == groups:
        return _rows_to_heads(call)
    return _without_copies(call, groups)


def _rows_to_heads(call: Call) -> Call:
    """Query (B, Hkv, G, D) to (B, H, 1, D); a mask with heads likewise, one without is that of the one query."""

    def heads(t: Tensor) -> Tensor:
        return t if t.dim() != 4 or t.shape[1] == 1 else t.flatten(1, 2)[:, :, None]  # (B, Hkv, G, n) to (B, H, 1, n)

    given = tuple(Given(g.kind, heads(g.tensor)) for g in call.given)
    return replace(call, query=call.query.flatten(1, 2)[:, :, None], given=given)


def _without_copies(call: Call, groups: int) -> Call:
    """Key (B, H, S, D) that holds each head ``groups`` times to (B, Hkv, S, D)."""
    key = call.key
    if key.shape[1] != call.query.shape[1] or key.shape[1] % groups or key.shape[2] == 0:
        return call
    last = key[:, :, -1].unflatten(1, (-1, groups))  # (B, Hkv, G, D)
    if not torch.equal(last, last[:, :, :1].expand_as(last)):
        return call
    # A view would hold the copies.
    return replace(call, key=key[:, ::groups].clone(memory_format=torch.contiguous_format))
