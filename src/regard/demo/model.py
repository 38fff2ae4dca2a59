"""A small decoder whose attention layers are regard's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, overload

from torch import Tensor

from regard import AttentionWeights, models
from regard.models.checks import check_tokens


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

    def decoder(self) -> models.DecoderConfig:
        """The same as a configuration of :class:`regard.models.Decoder`, with the parts of the first transformers."""
        return models.DecoderConfig(
            vocab_size=self.vocab_size,
            d_model=self.d_model,
            num_layers=self.num_layers,
            num_heads=self.num_heads,
            d_mlp=self.d_mlp,
            max_len=self.max_len,
            positions="sinusoidal",
            norm="layer",
            norm_eps=1e-5,
            activation="gelu_tanh",
            gated=False,
            attention_bias=True,
            mlp_bias=True,
            tied=True,
            embedding_scale=self.d_model**0.5,
        )


class Decoder(models.Decoder):
    """A causal language model: token embeddings, sinusoidal positions, layers, and the embeddings again as output.

    logits = norm(block_n(... block_1(sqrt(d_model) * E[tokens] + PE))) E^T

    Example:
        >>> import torch
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

    config: Config  # type: ignore[assignment]  # what config.json of the demo says

    def __init__(self, config: Config) -> None:
        super().__init__(config.decoder())
        self.config = config
        self.context = config.context

    @overload
    def forward(
        self, tokens: Tensor, *, offset: int | Tensor = 0, need_weights: Literal[False] = False, **options: Any
    ) -> Tensor: ...

    @overload
    def forward(
        self, tokens: Tensor, *, offset: int | Tensor = 0, need_weights: Literal[True], **options: Any
    ) -> tuple[Tensor, list[AttentionWeights]]: ...

    def forward(
        self, tokens: Tensor, *, offset: int | Tensor = 0, need_weights: bool = False, **options: Any
    ) -> Tensor | tuple[Tensor, list[AttentionWeights]]:
        """Score every token of the vocabulary as the next one, at every position.

        Args:
            tokens: (B, L) integer ids, each less than vocab_size; L at most `context`.
            offset: position of the first token.
            need_weights: also return the attention weights; the logits do not change.
            options: the others of :meth:`regard.models.Decoder.forward`.

        Returns:
            logits (B, L, V); with need_weights, (logits, weights) with one `AttentionWeights` (B, H, L, L) a layer.

        Raises:
            TypeError: tokens are not integers.
            ValueError: tokens are not (B, L), longer than `context`, or stand past the last position.
        """
        check_tokens("Decoder", tokens, self.embedding.weight.device)
        length = tokens.shape[1]
        if length > self.context:
            raise ValueError(
                f"Decoder: {length} tokens are more than the {self.context} the model was trained for; "
                f"keep the first with tokens[:, :{self.context}] (the limit is model.context)"
            )
        if isinstance(offset, int) and not 0 <= offset <= self.config.max_len - length:
            raise ValueError(
                f"Decoder: offset must lie in 0 to {self.config.max_len - length} for {length} tokens, got {offset}"
            )
        found: Tensor | tuple[Tensor, list[AttentionWeights]]
        found = super().forward(tokens, offset=offset, need_weights=need_weights, **options)  # type: ignore[call-overload]
        return found
