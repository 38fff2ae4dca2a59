"""A decoder: a language model that reads what is earlier and scores what comes next."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast, overload

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from regard import AttentionWeights, KVCache, RollingCache, masks
from regard.models import checks
from regard.models.block import Block, decoder_norm
from regard.models.decoder_config import DecoderConfig
from regard.positions import PositionalEncoding, Rotary
from regard.projection import Projection, linear

__all__ = ["Decoder"]


class Decoder(nn.Module):
    """A causal language model: embeddings, layer after layer, a norm, and a score for each possible next token.

    ``logits = norm(block_n(... block_1(E[tokens]))) W^T``, where a tied W is E.

    >>> import torch
    >>> from regard.models import Decoder, DecoderConfig
    >>> model = Decoder(DecoderConfig(vocab_size=8, d_model=16, num_layers=3, num_heads=2, d_mlp=32))
    >>> logits, weights = model(torch.tensor([[1, 2, 3, 1, 2]]), need_weights=True)
    >>> logits.shape, len(weights), tuple(weights[0].shape)
    (torch.Size([1, 5, 8]), 3, (1, 2, 5, 5))

    Args:
        config: its sizes and parts.
        device: where the parameters are made.
        dtype: theirs.

    Attributes:
        config: as given.
        windows: of each layer, None for one that reads every earlier token.
        max_len: the most tokens of a text, or None.
        dropout: of attention weights, in training.
        gradient_checkpointing: in training, keep the input of each layer alone and run it again for its gradients.

    References:
        Touvron et al., LLaMA, 2023; Radford et al., Language Models are Unsupervised Multitask Learners, 2019.
    """

    def __init__(
        self, config: DecoderConfig, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        if not isinstance(config, DecoderConfig):
            raise TypeError(f"config must be a regard.models.DecoderConfig, got {type(config).__name__}")
        self.config = config
        self.windows, self.max_len, self.embedding_scale = config.windows, config.max_len, config.embedding_scale
        self.dropout, self.gradient_checkpointing = config.dropout, False
        made: dict[str, Any] = {"device": device, "dtype": dtype}
        self.embedding = nn.Embedding(config.vocab_size, config.d_model, **made)
        rotary = self.positions = None
        if config.positions == "rotary":
            rotary = Rotary(config.head_width, base=config.rotary_base, scaling=config.rotary_scaling)
        elif config.max_len is not None:
            self.positions = PositionalEncoding(config.d_model, config.max_len).to(device)
        self.blocks = nn.ModuleList(Block(config, rotary, window=window, **made) for window in config.windows)
        self.norm = decoder_norm(config, **made)
        self.output = None if config.tied else Projection(config.d_model, config.vocab_size, False, **made)
        self.initialise()

    def initialise(self) -> None:
        """Draw every parameter anew from torch's random numbers, whatever the layers' own defaults are."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.reset_parameters()
        # Small, since tied ones are the output too: larger ones begin by predicting each token as its own successor.
        nn.init.normal_(self.embedding.weight, std=0.02)
        # Each layer adds to the stream twice; the scale keeps its variance from growing with depth at the start.
        scale = (2 * len(self.blocks)) ** -0.5
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name.endswith(("out_proj.weight", "mlp.2.weight", "mlp.down.weight")):
                    parameter.mul_(scale)

    # fmt: off
    @overload
    def forward(self, tokens: Tensor, *, mask: masks.Mask | Tensor | None = None, offset: int | Tensor = 0,
                cache: Sequence[KVCache | RollingCache] | None = None, lengths: Sequence[int] | Tensor | None = None,
                last_only: bool = False, need_weights: Literal[False] = False) -> Tensor: ...

    @overload
    def forward(self, tokens: Tensor, *, mask: masks.Mask | Tensor | None = None, offset: int | Tensor = 0,
                cache: Sequence[KVCache | RollingCache] | None = None, lengths: Sequence[int] | Tensor | None = None,
                last_only: bool = False, need_weights: Literal[True]) -> tuple[Tensor, list[AttentionWeights]]: ...
    # fmt: on

    def forward(
        self,
        tokens: Tensor,
        *,
        mask: masks.Mask | Tensor | None = None,
        offset: int | Tensor = 0,
        cache: Sequence[KVCache | RollingCache] | None = None,
        lengths: Sequence[int] | Tensor | None = None,
        last_only: bool = False,
        need_weights: bool = False,
    ) -> Tensor | tuple[Tensor, list[AttentionWeights]]:
        """Score every token of the vocabulary as the next one, at every position.

        Args:
            tokens: (B, L) integer ids, each less than vocab_size.
            mask: narrows what is causal (and in the layer's window), in every layer; a :class:`regard.masks.Mask` or a
                boolean tensor that broadcasts to (B, H, L, S); True = may attend. A tensor (B, S) of which tokens are
                real is no such mask: it is ``masks.padding(real)``.
            offset: position of the first token, one for all or (B,); with a cache it is how far the cache has come.
            cache: from :meth:`cache`: tokens are the next L of each sequence; called under torch.no_grad().
            lengths: with a cache, how many of the L tokens are real, (B,), for prompts padded on the right.
            last_only: score what follows the last token of each sequence alone.
            need_weights: also return the attention weights; the logits do not change.

        Returns:
            logits (B, L, V), or (B, 1, V) with last_only; with need_weights, (logits, weights) with one
            :class:`regard.AttentionWeights` (B, H, L, S) a layer.

        Raises:
            TypeError: tokens or offset are not integers, or cache is not a list of caches.
            ValueError: tokens are not (B, L), or are no ids of the vocabulary; a text longer than max_len; a cache that
                is full, or of other layers. The cache is then as it was.
        """
        checks.check_tokens(type(self).__name__, tokens, self.embedding.weight.device)
        start = checks.check_text(tokens, offset, cache, lengths, self.windows, self.max_len)
        checks.check_mask(mask, tokens)
        if cache is not None and lengths is not None:
            lengths = checks.counts(lengths, *tokens.shape)
        x = self.embed(tokens, start, padded=lengths is not None)  # (B, L, d_model)
        options: dict[str, Any] = {"lengths": lengths, "need_weights": need_weights}
        options["offset"] = offset if cache is None else None
        collected = []
        for i, block in enumerate(self.blocks):
            if self.gradient_checkpointing and self.training and cache is None and not need_weights:
                x, weights = checkpoint(block, x, mask, use_reentrant=False, **options)
            else:
                x, weights = block(x, mask, cache=None if cache is None else cache[i], **options)
            collected.append(weights)
        if last_only:
            x = _last(x, lengths)  # (B, L, d_model) -> (B, 1, d_model)
        logits = self.score(self.norm(x))  # (B, L, V)
        return (logits, collected) if need_weights else logits

    def embed(self, tokens: Tensor, start: int | Tensor = 0, *, padded: bool = False) -> Tensor:
        """What the first layer reads, (B, L, d_model), of tokens (B, L) that begin at the position ``start``.

        With ``padded``, tokens past the last position are padding, and are given that position.
        """
        x = checks.looked_up(self.embedding, tokens, "tokens")
        if self.embedding_scale != 1:
            x = x * self.embedding_scale
        if self.positions is None:
            return x
        if padded:
            at = torch.as_tensor(start, device=x.device)[..., None] + torch.arange(tokens.shape[1], device=x.device)
            rows = self.positions.encoding[at.clamp(max=self.positions.max_len - 1)]  # (L, d_model) or (B, L, d_model)
            return x + rows.to(x.dtype)
        return cast(Tensor, self.positions(x, offset=start))

    def score(self, x: Tensor) -> Tensor:
        """Logits (..., V) of normalised (..., d_model)."""
        return linear(x, self.embedding.weight) if self.output is None else self.output(x)

    def cache(self, batch_size: int, max_len: int, *, spare: int = 0) -> list[KVCache | RollingCache]:
        """An empty cache for each layer, of texts of up to ``max_len`` tokens; one in a window keeps the window.

        ``spare`` is how many tokens ``crop`` can always drop from those in a window; others can drop any number.
        """
        return [cast(Block, block).cache(batch_size, max_len, spare=spare) for block in self.blocks]

    @classmethod
    def from_huggingface(
        cls,
        folder: str | Path,
        *,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Decoder:
        """The decoder that a folder of Hugging Face's holds; see :func:`regard.models.hf_decoder.load`."""
        from regard.models import hf_decoder

        return hf_decoder.load(folder, device=device, dtype=dtype)


def _last(x: Tensor, lengths: Sequence[int] | Tensor | None) -> Tensor:
    """The last real position of each sequence: (B, L, d_model) -> (B, 1, d_model)."""
    if lengths is None:
        return x[:, -1:]
    at = torch.as_tensor(lengths, device=x.device).long() - 1
    return x[torch.arange(len(at), device=x.device), at][:, None]
