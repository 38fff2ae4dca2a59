"""Text from a decoder, a token at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from regard.models import checks
from regard.models.decoder import Decoder
from regard.models.sampling import check_sampling, choose

__all__ = ["generate", "stream"]


def generate(
    model: Decoder,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | Collection[int] | None = None,
    generator: torch.Generator | None = None,
    lengths: Sequence[int] | Tensor | None = None,
) -> Tensor:
    """Continue each sequence of tokens.

    >>> import torch
    >>> from regard.models import Decoder, DecoderConfig, generate
    >>> model = Decoder(DecoderConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=2, d_mlp=32)).eval()
    >>> generate(model, torch.tensor([[3, 1, 4], [1, 5, 0]]), 6, lengths=[3, 2]).shape
    torch.Size([2, 6])

    Keys and values are kept, so that each step runs the new tokens alone; the caches are made once, with room for all
    tokens, and a layer in a window keeps its window. The model's parameters receive no gradients.

    Args:
        model: a decoder in evaluation mode, or without dropout.
        tokens: the prompts, (B, L) integer ids, L at least 1.
        max_new_tokens: how many to add at most.
        temperature: 0 takes the best token of each step; else tokens are drawn from ``softmax(logits / temperature)``.
        top_k: draw from the top_k best alone.
        top_p: draw from the fewest best whose probabilities together are at least top_p.
        eos: a token, or several, that ends a sequence. Once all have ended it is done.
        generator: where random numbers come from; torch's default one if None.
        lengths: how many tokens of each prompt are real, (B,), where prompts are padded on the right; all if None.

    Returns:
        The new tokens alone, (B, n) int64 with n at most max_new_tokens. What follows an end is the (first) eos.

    Raises:
        TypeError: tokens are not integers, a number is none.
        ValueError: a number is out of range, the model is shorter than the text, or would drop weights at random.
    """
    options: dict[str, Any] = {"temperature": temperature, "top_k": top_k, "top_p": top_p}
    return torch.stack(
        list(stream(model, tokens, max_new_tokens, eos=eos, generator=generator, lengths=lengths, **options)), dim=1
    )  # n of (B,) -> (B, n)


def stream(
    model: Decoder,
    tokens: Tensor,
    max_new_tokens: int,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    eos: int | Collection[int] | None = None,
    generator: torch.Generator | None = None,
    lengths: Sequence[int] | Tensor | None = None,
) -> Iterator[Tensor]:
    """What :func:`generate` does, token by token: each comes as soon as it is known.

    >>> import torch
    >>> from regard.models import Decoder, DecoderConfig, stream
    >>> model = Decoder(DecoderConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=2, d_mlp=32)).eval()
    >>> len([int(token) for token in stream(model, torch.tensor([[3, 1, 4]]), 5)])
    5

    Args and errors are those of :func:`generate`; arguments are checked at once, before the first token is asked for.

    Yields:
        The next token of each sequence, (B,) int64.
    """
    if not isinstance(model, Decoder):
        hint = "; pass the Decoder that torch.compile was given" if hasattr(model, "_orig_mod") else ""
        raise TypeError(f"model must be a regard.models.Decoder, got {type(model).__name__}{hint}")
    checks.check_tokens("generate", tokens, model.embedding.weight.device)
    checks.check_sizes("generate", max_new_tokens=max_new_tokens)
    check_sampling(temperature, top_k, top_p)
    if 0 in tokens.shape:
        raise ValueError(f"generate: tokens must hold at least one token a sequence, got {tuple(tokens.shape)}")
    if model.training and model.dropout:
        raise ValueError("generate: the model is in training mode and drops weights at random; call model.eval() first")
    counts = checks.counts(lengths, *tokens.shape)
    if model.max_len is not None and max(counts) + max_new_tokens > model.max_len:
        raise ValueError(
            f"generate: {max(counts)} tokens and max_new_tokens={max_new_tokens} are more than the "
            f"max_len={model.max_len} of the model"
        )
    ends = None if eos is None else torch.tensor(_ends(eos, model), device=tokens.device)
    options = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "generator": generator}
    tokens = tokens[:, : max(counts)]  # (B, L) -> (B, L of the longest); what follows is padding of all
    return _steps(model, tokens, None if lengths is None else counts, max_new_tokens, ends, options)


def _steps(
    model: Decoder,
    tokens: Tensor,
    lengths: list[int] | None,
    max_new_tokens: int,
    ends: Tensor | None,
    options: dict[str, Any],
) -> Iterator[Tensor]:
    batch_size, prompt_len = tokens.shape
    ended = torch.zeros(batch_size, dtype=torch.bool, device=tokens.device)
    with torch.no_grad():
        cache = model.cache(batch_size, prompt_len + max_new_tokens - 1)
        logits = model(tokens, cache=cache, lengths=lengths, last_only=True)
    for left in reversed(range(max_new_tokens)):
        token = choose(logits[:, -1], **options)  # (B, 1, V) -> (B,)
        if ends is not None:
            token = torch.where(ended, ends[0], token)
            ended = ended | torch.isin(token, ends)
        yield token
        if left == 0 or (ends is not None and bool(ended.all())):
            return
        with torch.no_grad():
            logits = model(token[:, None], cache=cache)  # (B, 1) -> (B, 1, V)


def _ends(eos: int | Collection[int], model: Decoder) -> list[int]:
    """The tokens that end a sequence, as a list."""
    single = isinstance(eos, int) or (hasattr(eos, "ndim") and eos.ndim == 0)
    ends = checks.integers([eos] if single else eos)
    if ends is None:
        raise TypeError(f"generate: eos must be a token or several, integers, got {eos!r} ({type(eos).__name__})")
    most = model.embedding.num_embeddings - 1
    for each in ends:
        if not 0 <= each <= most:
            raise ValueError(f"generate: eos must be a token of the vocabulary, 0 to {most}, got {each!r}")
    if not ends:
        raise ValueError("generate: eos must hold at least one token, got none; nothing ends a sequence without eos")
    return ends
