"""The attention function of transformers' AttentionInterface, computed by regard.attention."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

import regard
from regard.hf.options import bias_of, mask_of, sinks_of

if TYPE_CHECKING:
    from regard import AttentionWeights

__all__ = ["attention_forward"]


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    softcap: float | None = None,
    **options: Any,
) -> tuple[Tensor, AttentionWeights]:
    """One attention layer of a model: the output, and the weights that ``outputs.attentions`` will hold.

    Args:
        module: the layer; its ``training`` decides over dropout, its ``is_causal`` where there is no mask.
        query: (B, H, L, D).
        key: (B, Hkv, S, D), heads not repeated.
        value: (B, Hkv, S, Dv).
        attention_mask: booleans, True = may attend, or numbers that are added; broadcasts to (B, H, L, S).
        dropout: the probability of dropping a weight, in training.
        scaling: multiplies the scores; ``1 / sqrt(D)`` if None.
        softcap: caps the scores.
        options: ``is_causal``, ``sliding_window``, ``s_aux`` and ``sinks``, ``position_bias``, ``indices`` and
            ``block_indices`` of sparse attention, ``cu_seq_lens_q`` of packed texts; what else models pass on means
            nothing to an attention.

    Returns:
        The output (B, L, H, Dv), and the :class:`regard.AttentionWeights` (B, H, L, S), before dropout.

    Raises:
        ValueError: an option that cannot be honoured.
    """
    if options.get("cache") is not None:
        raise ValueError(
            'attn_implementation="regard" does not serve paged caches (continuous batching): got cache='
            f'{type(options["cache"]).__name__}; use "sdpa" there'
        )
    query, key, value = _one_batch(query, key, value)
    mask, added = mask_of(module, query, key, attention_mask, options)
    bias, sinks = bias_of(added, options), sinks_of(query, options)
    if options.get("sinks") is not None:
        bias = -options["sinks"] if bias is None else bias - options["sinks"]
    output, weights = regard.attention(
        query,
        key,
        value,
        mask,
        bias=bias,
        scale=scaling,
        softcap=softcap,
        sinks=sinks,
        dropout=float(dropout) if module.training else 0.0,
    )
    return output.transpose(1, 2).contiguous(), weights  # (B, H, L, Dv) to (B, L, H, Dv)


def _one_batch(*tensors: Tensor) -> tuple[Tensor, ...]:
    """The same batch size for all: queries that are learned come once for the whole batch."""
    batch = max(t.shape[0] for t in tensors)
    return tuple(t if t.shape[0] == batch else t.expand(batch, *t.shape[1:]) for t in tensors)
