"""One layer of a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from regard import AttentionWeights, KVCache, MultiHeadAttention, QKNorm, RollingCache, masks
from regard.models.decoder_config import DecoderConfig
from regard.models.feed_forward import feed_forward
from regard.positions import Rotary

__all__ = ["Block", "decoder_norm"]

Device = torch.device | str | None


def decoder_norm(config: DecoderConfig, device: Device = None, dtype: torch.dtype | None = None) -> nn.Module:
    """The norm of a decoder, over the width of its stream."""
    kind = nn.RMSNorm if config.norm == "rms" else nn.LayerNorm
    return kind(config.d_model, eps=config.norm_eps, device=device, dtype=dtype)


class Block(nn.Module):
    """One layer of the decoder: attention, then a feed-forward part, each normalised before and added to the stream.

    ``y = x + attention(norm(x));  output = y + mlp(norm(y))``

    >>> config = DecoderConfig(vocab_size=8, d_model=16, num_layers=1, num_heads=2, d_mlp=32)
    >>> Block(config, Rotary(8))(torch.zeros(1, 5, 16))[0].shape
    torch.Size([1, 5, 16])

    Args:
        config: of the decoder that the block belongs to.
        rotary: the rotary positions of all blocks; None where positions are added to the embeddings.
        window: how many of the latest tokens a token reads; all if None.
        device: where the parameters are made.
        dtype: theirs.
    """

    def __init__(
        self,
        config: DecoderConfig,
        rotary: Rotary | None = None,
        *,
        window: int | None = None,
        device: Device = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.window = window
        self.mask = masks.causal() if window is None else masks.window(window)
        head = config.head_width
        self.attention_norm = decoder_norm(config, device, dtype)
        self.attention = MultiHeadAttention(
            config.d_model,
            config.num_heads,
            num_kv_heads=config.num_kv_heads,
            d_k=config.num_heads * head,
            bias=config.attention_bias,
            dropout=config.dropout,
            positions=rotary,
            norm=QKNorm.rms(head, config.norm_eps, device=device, dtype=dtype) if config.qk_norm else None,
            device=device,
            dtype=dtype,
        )
        self.mlp_norm = decoder_norm(config, device, dtype)
        self.mlp = feed_forward(
            config.d_model,
            config.d_mlp,
            activation=config.activation,
            gated=config.gated,
            bias=config.mlp_bias,
            device=device,
            dtype=dtype,
        )

    def forward(
        self,
        x: Tensor,
        mask: masks.Mask | Tensor | None = None,
        *,
        cache: KVCache | RollingCache | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        offset: int | Tensor | None = None,
        need_weights: bool = False,
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Run the layer on x (B, L, d_model); returns the same shape, and the weights (B, H, L, S) or None."""
        if cache is None or (self.window is not None and isinstance(cache, KVCache)):  # a cache is causal by itself
            mask = (
                self.mask if mask is None else self.mask & (mask if isinstance(mask, masks.Mask) else masks.dense(mask))
            )
        weights = None
        attended = self.attention(
            self.attention_norm(x), mask=mask, cache=cache, lengths=lengths, offset=offset, need_weights=need_weights
        )
        if need_weights:
            attended, weights = attended
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), weights

    def cache(self, batch_size: int, max_len: int, *, spare: int = 0) -> KVCache | RollingCache:
        """An empty cache for this layer; of a window alone, and ``spare`` tokens, where the text may grow past it."""
        if self.window is not None and self.window < max_len:
            return self.attention.rolling_cache(batch_size, self.window, spare=spare)
        return self.attention.kv_cache(batch_size, max_len)
