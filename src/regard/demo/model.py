"""A small decoder whose attention layers are regard's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, overload

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard import AttentionWeights, MultiHeadAttention, PositionalEncoding, masks


@dataclass(frozen=True)
class Config:
    """The sizes of a `Decoder`.

    Example:
        >>> Config(vocab_size=1024).d_model
        192

    Args:
        vocab_size: number of tokens in the vocabulary, V.
        d_model: width of the residual stream; a multiple of num_heads.
        num_heads: attention heads in each layer, H.
        num_layers: attention layers.
        d_mlp: width of the hidden layer of each MLP.
        context: longest sequence the model is trained for, L at most.
        max_len: rows of the positional encoding; more than context, so that training can start sequences anywhere.
    """

    vocab_size: int
    d_model: int = 192
    num_heads: int = 6
    num_layers: int = 4
    d_mlp: int = 576
    context: int = 512
    max_len: int = 1024

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"Config: {name} must be a positive integer, got {value!r}")
        if self.d_model % self.num_heads:
            raise ValueError(f"Config: d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
        if self.max_len < self.context:
            raise ValueError(f"Config: max_len {self.max_len} is less than context {self.context}")


class Block(nn.Module):
    """One layer of the decoder: attention, then an MLP, each normalised before and added to the stream.

    y = x + attention(norm(x));  output = y + mlp(norm(y))

    Example:
        >>> Block(Config(vocab_size=8, d_model=16, num_heads=2))(torch.zeros(1, 5, 16))[0].shape
        torch.Size([1, 5, 16])

    Args:
        config: the sizes of the decoder the block belongs to.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(config.d_model)
        self.attention = MultiHeadAttention(config.d_model, config.num_heads)
        self.mlp_norm = nn.LayerNorm(config.d_model)
        self.mlp = nn.Sequential(
            nn.Linear(config.d_model, config.d_mlp),
            nn.GELU(approximate="tanh"),
            nn.Linear(config.d_mlp, config.d_model),
        )

    def forward(self, x: Tensor, *, need_weights: bool = False) -> tuple[Tensor, AttentionWeights | None]:
        """Run the layer under a causal mask: position i reads positions 0 to i.

        Args:
            x: (B, L, d_model).
            need_weights: also return this layer's attention weights.

        Returns:
            output (B, L, d_model), and the weights (B, H, L, L) or None.
        """
        weights = None
        attended = self.attention(self.attention_norm(x), mask=masks.causal(), need_weights=need_weights)
        if need_weights:
            attended, weights = attended
        x = x + attended
        return x + self.mlp(self.mlp_norm(x)), weights


class Decoder(nn.Module):
    """A causal language model: token embeddings, sinusoidal positions, `Block`s, and the embeddings again as output.

    logits = norm(block_n(... block_1(sqrt(d_model) * E[tokens] + PE))) E^T

    Example:
        >>> model = Decoder(Config(vocab_size=8, d_model=16, num_heads=2, num_layers=3))
        >>> logits, weights = model(torch.tensor([[1, 2, 3, 1, 2]]), need_weights=True)
        >>> logits.shape, len(weights), tuple(weights[0].shape)
        (torch.Size([1, 5, 8]), 3, (1, 2, 5, 5))

    Args:
        config: the sizes of the decoder.

    Attributes:
        config: as given.
        context: longest sequence `forward` takes.
    """

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        self.context = config.context
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.positions = PositionalEncoding(config.d_model, config.max_len)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.d_model)
        self.initialise()

    def initialise(self) -> None:
        """Draw every parameter anew from torch's random numbers, whatever the layers' own defaults are."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
                nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                module.reset_parameters()
        # Small, since the same numbers are the output: larger ones begin by predicting each token as its own successor.
        nn.init.normal_(self.embedding.weight, std=0.02)
        # Each layer adds to the stream twice; the scale keeps its variance from growing with depth at the start.
        scale = (2 * self.config.num_layers) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("out_proj.weight", "mlp.2.weight")):
                    parameter.mul_(scale)

    @overload
    def forward(self, tokens: Tensor, *, offset: int = 0, need_weights: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, *, offset: int = 0, need_weights: Literal[True]
    ) -> tuple[Tensor, list[AttentionWeights]]: ...

    def forward(
        self, tokens: Tensor, *, offset: int = 0, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, list[AttentionWeights]]:
        """Score every token of the vocabulary as the next one, at every position.

        Args:
            tokens: (B, L) integer ids, each less than vocab_size; L at most `context`.
            offset: position of the first token.
            need_weights: also return the attention weights; the logits do not change.

        Returns:
            logits (B, L, V); with need_weights, (logits, weights) with one `AttentionWeights` (B, H, L, L) a layer.

        Raises:
            TypeError: tokens are not integers.
            ValueError: tokens are not (B, L), longer than `context`, or stand past the last position.
        """
        self._validate(tokens, offset)
        x = self.embedding(tokens) * self.config.d_model**0.5  # (B, L, d_model)
        x = self.positions(x, offset=offset)
        collected = []
        for block in self.blocks:
            x, weights = block(x, need_weights=need_weights)
            collected.append(weights)
        logits = F.linear(self.norm(x), self.embedding.weight)  # (B, L, V)
        return (logits, collected) if need_weights else logits

    def _validate(self, tokens: Tensor, offset: int) -> None:
        if tokens.dtype not in (torch.int64, torch.int32):
            raise TypeError(f"Decoder: tokens must be int64 or int32 ids, got {tokens.dtype}")
        if tokens.dim() != 2:
            raise ValueError(f"Decoder: tokens must be (B, L), got {tuple(tokens.shape)}; tokens[None] adds a batch")
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(
                f"Decoder: {length} tokens are more than the {self.context} the model was trained for; "
                f"keep the first with tokens[:, :{self.context}] (the limit is model.context)"
            )
        if not 0 <= offset <= self.config.max_len - length:
            raise ValueError(
                f"Decoder: offset must lie in 0 to {self.config.max_len - length} for {length} tokens, got {offset}"
            )
