"""What else attends inside of a context: done over the ranks, or refused by name.

A call that attends to this rank's share alone would be wrong and not say so.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import CheckpointFunction

from regard import functional, latent_checks, layer_checks, masks

if TYPE_CHECKING:
    from regard.distributed.parallel import ContextParallel

__all__ = ["HANDLERS", "check_checkpoint"]

Handler = Callable[..., Any]
SDPA = "torch.nn.functional.scaled_dot_product_attention()"


def _attention(parallel: ContextParallel, func: Any, *args: Any, **kwargs: Any) -> Any:
    return parallel.attention(*args, **kwargs)


def _weights(parallel: ContextParallel, func: Any, query: Tensor, key: Tensor, mask: Any = None, **options: Any) -> Any:
    # Their log-sum-exp is over all ranks, and comes of a pass over the keys.
    with torch.no_grad():
        return parallel.attention(query, key, key, mask, **options)[1]


def _sdpa(
    parallel: ContextParallel,
    func: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    if attn_mask is not None:
        raise ValueError(
            f"attn_mask of {SDPA} cannot be used inside of a context that cuts the text over ranks, got "
            f"{type(attn_mask).__name__} {tuple(attn_mask.shape)}: use is_causal=True, or regard.attention(...) with a "
            "mask of the whole text from regard.masks"
        )
    if not enable_gqa and query.dim() > 3 and query.shape[-3] != key.shape[-3]:
        raise ValueError(
            f"{SDPA} needs enable_gqa=True for grouped heads, got {query.shape[-3]} heads of query and "
            f"{key.shape[-3]} of key"
        )
    mask = masks.causal(offset=0) if is_causal else None
    return parallel.attention(query, key, value, mask, scale=scale, dropout=dropout_p)[0]


def _cache(parallel: ContextParallel, func: Any, cache: Any, *args: Any, **kwargs: Any) -> Any:
    if cache is not None:
        raise ValueError(
            f"cache must be None inside of a context that cuts the text over ranks, got {type(cache).__name__}: a "
            "cache holds whole texts; leave the context to decode"
        )
    return func(cache, *args, **kwargs)


def _refused(name: str) -> Handler:
    def refuse(parallel: ContextParallel, func: Any, *args: Any, **kwargs: Any) -> Any:
        raise ValueError(
            f"{name} attends to this rank's share of the text alone, and is refused inside of a context that cuts it "
            "over ranks: use regard.attention() or regard.MultiHeadAttention (MultiHeadAttention.from_torch(...) has "
            "the weights of nn.MultiheadAttention), or leave the context"
        )

    return refuse


HANDLERS: dict[Any, Handler] = {
    functional.attention: _attention,
    functional.attention_weights: _weights,
    F.scaled_dot_product_attention: _sdpa,
    torch.ops.aten.scaled_dot_product_attention: _sdpa,
    torch.ops.aten.scaled_dot_product_attention.default: _sdpa,
    layer_checks.check_cache: _cache,
    latent_checks.check_call: _cache,
    F.multi_head_attention_forward: _refused("nn.MultiheadAttention"),
    torch._native_multi_head_attention: _refused("nn.MultiheadAttention"),
    torch._transformer_encoder_layer_fwd: _refused("nn.TransformerEncoderLayer"),
    torch.ops.higher_order.flex_attention: _refused("flex_attention()"),
}


def check_checkpoint() -> None:
    """Refuse a checkpoint that computes again outside of the context and cannot know; the other kind notices."""
    if torch.is_grad_enabled():
        return
    code, frame = CheckpointFunction.forward.__code__, sys._getframe(1)
    while frame is not None:
        if frame.f_code is code:
            raise ValueError(
                "torch.utils.checkpoint must have use_reentrant=False and context_fn=lambda: (nullcontext(), parallel) "
                "where a text is cut over ranks: otherwise what is computed again in the backward pass would attend to "
                "this rank's share alone"
            )
        frame = frame.f_back  # type: ignore[assignment]
