"""One layer of an encoder, and its head."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from regard import AttentionWeights, MultiHeadAttention, masks
from regard.models.encoder_config import EncoderConfig
from regard.models.feed_forward import ACTIVATIONS, feed_forward
from regard.projection import linear

__all__ = ["EncoderBlock", "MaskedHead"]


class EncoderBlock(nn.Module):
    """One layer of the encoder: attention, then a feed-forward part, each added to the stream and normalised after.

    ``y = norm(x + attention(x));  output = norm(y + mlp(y))``

    >>> EncoderBlock(EncoderConfig(vocab_size=8, d_model=16, num_heads=2, d_mlp=32))(torch.zeros(1, 5, 16))[0].shape
    torch.Size([1, 5, 16])

    Args:
        config: of the encoder that the block belongs to.
        made: device and dtype of the parameters.
    """

    def __init__(self, config: EncoderConfig, **made: Any) -> None:
        super().__init__()
        self.attention = MultiHeadAttention(config.d_model, config.num_heads, dropout=config.attention_dropout, **made)
        self.attention_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps, **made)
        self.mlp = feed_forward(
            config.d_model, config.d_mlp, activation=config.activation, gated=False, bias=True, **made
        )
        self.mlp_norm = nn.LayerNorm(config.d_model, eps=config.norm_eps, **made)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, mask: masks.Mask | Tensor | None = None, *, need_weights: bool = False
    ) -> tuple[Tensor, AttentionWeights | None]:
        """Run the layer on x (B, L, d_model); returns the same shape, and the weights (B, H, L, L) or None."""
        weights = None
        attended = self.attention(x, mask=mask, need_weights=need_weights)
        if need_weights:
            attended, weights = attended
        x = self.attention_norm(x + self.dropout(attended))
        return self.mlp_norm(x + self.dropout(self.mlp(x))), weights


class MaskedHead(nn.Module):
    """Scores of the vocabulary at every token: ``norm(activation(W x + b)) E^T + c``, with E the embeddings.

    Args:
        config: of the encoder that the head belongs to.
        made: device and dtype of the parameters.
    """

    def __init__(self, config: EncoderConfig, **made: Any) -> None:
        super().__init__()
        self.dense = nn.Linear(config.d_model, config.d_model, **made)
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps, **made)
        self.bias = nn.Parameter(torch.zeros(config.vocab_size, **made))
        self._function = ACTIVATIONS[config.activation][0]

    def forward(self, x: Tensor, embedding: Tensor) -> Tensor:
        """Logits (..., V) of x (..., d_model) and the embeddings (V, d_model)."""
        return linear(self.norm(self._function(self.dense(x))), embedding, self.bias)
