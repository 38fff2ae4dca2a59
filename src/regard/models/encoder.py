"""An encoder: a model that reads a whole text at once and gives a vector for each token."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, overload

import torch
from torch import Tensor, nn

from regard import AttentionWeights, masks
from regard.models import checks
from regard.models.encoder_block import EncoderBlock, MaskedHead
from regard.models.encoder_config import EncoderConfig
from regard.positions import LearnedPositions

__all__ = ["Encoder"]


class Encoder(nn.Module):
    """A bidirectional model: token, position and type embeddings, normalised, and :class:`EncoderBlock` after block.

    ``output = block_n(... block_1(norm(E[tokens] + P[positions] + T[types])))``

    >>> import torch, regard
    >>> from regard.models import Encoder, EncoderConfig
    >>> model = Encoder(EncoderConfig(vocab_size=8, d_model=16, num_layers=2, num_heads=2, d_mlp=32, max_len=10)).eval()
    >>> tokens = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]])  # the second text has 2 tokens
    >>> output, weights = model(tokens, mask=regard.masks.padding(torch.tensor([4, 2])), need_weights=True)
    >>> output.shape, len(weights), tuple(weights[0].shape)
    (torch.Size([2, 4, 16]), 2, (2, 2, 4, 4))

    Args:
        config: its sizes and parts.
        device: where the parameters are made.
        dtype: theirs.

    References:
        Devlin et al., BERT, 2018.
    """

    def __init__(
        self, config: EncoderConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, EncoderConfig):
            raise TypeError(f"config must be a regard.models.EncoderConfig, got {type(config).__name__}")
        self.config = config
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, **made)
        rows = config.max_len + (config.pad_token is not None)  # the first is padding's
        self.positions = LearnedPositions(rows, config.d_model, **made)
        self.token_types = nn.Embedding(config.num_token_types, config.d_model, **made)
        self.norm = nn.LayerNorm(config.d_model, eps=config.norm_eps, **made)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(EncoderBlock(config, **made) for _ in range(config.num_layers))
        self.pooler = nn.Linear(config.d_model, config.d_model, **made) if config.pooler else None
        self.head = MaskedHead(config, **made) if config.masked_head else None
        self.initialise()

    def initialise(self) -> None:
        """Draw every parameter anew from torch's random numbers, as BERT did: normal, of standard deviation 0.02."""
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding | LearnedPositions):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.LayerNorm):
                module.reset_parameters()
            elif isinstance(module, nn.Linear | MaskedHead) and module.bias is not None:
                nn.init.zeros_(module.bias)

    # fmt: off
    @overload
    def forward(self, tokens: Tensor, *, token_types: Tensor | None = None, mask: masks.Mask | Tensor | None = None,
                need_weights: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, tokens: Tensor, *, token_types: Tensor | None = None, mask: masks.Mask | Tensor | None = None,
                need_weights: Literal[True]) -> tuple[Tensor, list[AttentionWeights]]: ...
    # fmt: on

    def forward(
        self,
        tokens: Tensor,
        *,
        token_types: Tensor | None = None,
        mask: masks.Mask | Tensor | None = None,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, list[AttentionWeights]]:
        """A vector for each token, of what it is in this text.

        Args:
            tokens: (B, L) integer ids, each less than vocab_size; L at most max_len.
            token_types: (B, L) integers, the kind of each token; all 0 if None.
            mask: which tokens each token reads, for texts padded on the right ``masks.padding(lengths)``; a
                :class:`regard.masks.Mask` or a boolean tensor that broadcasts to (B, H, L, L); True = may attend; all
                if None. A tensor (B, L) of which tokens are real is no such mask: it is ``masks.padding(real)``.
                Padding on the left moves a text to later positions, but where config.pad_token is given.
            need_weights: also return the attention weights; the output does not change.

        Returns:
            output (B, L, d_model); with need_weights, (output, weights) with one :class:`regard.AttentionWeights`
            (B, H, L, L) a layer.

        Raises:
            TypeError: tokens or token_types are not integers.
            ValueError: they are not (B, L), hold numbers past their tables, or L is more than max_len.
        """
        me = type(self).__name__
        checks.check_tokens(me, tokens, self.embedding.weight.device)
        if tokens.shape[1] > self.config.max_len:
            raise ValueError(
                f"{me}: {tokens.shape[1]} tokens are more than max_len={self.config.max_len}, the positions it has"
            )
        types = torch.zeros_like(tokens) if token_types is None else token_types
        checks.check_tokens(me, types, tokens.device, name="token_types")
        if types.shape != tokens.shape:
            raise ValueError(
                f"{me}: token_types must be of the shape of tokens, {tuple(tokens.shape)}, got {tuple(types.shape)}"
            )
        x = checks.looked_up(self.embedding, tokens, "tokens")  # (B, L, d_model)
        x = self._placed(x + checks.looked_up(self.token_types, types, "token_types"), tokens)
        x = self.dropout(self.norm(x))
        collected = []
        for block in self.blocks:
            x, weights = block(x, mask, need_weights=need_weights)
            collected.append(weights)
        return (x, collected) if need_weights else x

    def _placed(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Embeddings (B, L, d_model) with those of the positions of tokens (B, L)."""
        if self.config.pad_token is None:
            placed: Tensor = self.positions(x)
            return placed
        real = tokens != self.config.pad_token
        return x + self.positions.weight[real.cumsum(1) * real]  # (B, L) -> (B, L, d_model)

    def pool(self, output: Tensor) -> Tensor:
        """One vector for each text, (B, d_model): ``tanh(W output[:, 0] + b)``."""
        if self.pooler is None:
            raise ValueError("Encoder.pool: this encoder has no pooler; it is asked for by EncoderConfig(pooler=True)")
        return torch.tanh(self.pooler(output[:, 0]))  # (B, L, d_model) -> (B, d_model)

    def score(self, output: Tensor) -> Tensor:
        """What each token could have been, logits (B, L, V): the masked language model."""
        if self.head is None:
            raise ValueError(
                "Encoder.score: this encoder has no head; it is asked for by EncoderConfig(masked_head=True)"
            )
        logits: Tensor = self.head(output, self.embedding.weight)  # (B, L, d_model) -> (B, L, V)
        return logits

    @classmethod
    def from_huggingface(
        cls, folder: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> Encoder:
        """The encoder that a folder of Hugging Face's holds; see :func:`regard.models.hf_encoder.load`."""
        from regard.models import hf_encoder

        return hf_encoder.load(folder, device=device, dtype=dtype)
