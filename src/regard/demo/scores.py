"""How strongly each head is a previous-token head or an induction head.

A previous-token head attends from each token to the one before it. An induction head attends from a token to the one
that followed the same token last time, and so predicts that what came once comes again (Elhage et al. 2021, Olsson et
al. 2022).
"""

from __future__ import annotations

import torch
from torch import Tensor

from regard import AttentionWeights
from regard.demo.model import Decoder


def previous_token(weights: AttentionWeights) -> Tensor:
    """Mean weight that each head puts on the token before.

    score = mean over i >= 1 of A[i, i - 1]

    Example:
        >>> import regard
        >>> x = torch.ones(1, 1, 3, 4)
        >>> previous_token(regard.attention(x, x, x, regard.masks.causal())[1])  # (1/2 + 1/3) / 2
        tensor([0.4167])

    Args:
        weights: (B, H, L, L), L at least 2.

    Returns:
        (H,), between 0 and 1.
    """
    return weights.diagonal(-1).mean(dim=(0, -1))  # (B, H, L - 1) -> (H,)


def induction(weights: AttentionWeights, period: int) -> Tensor:
    """Mean weight that each head puts on the token after the previous occurrence of its own.

    score = mean over i >= period of A[i, i - period + 1]

    Example:
        >>> import regard
        >>> x = torch.ones(1, 1, 4, 4)
        >>> induction(regard.attention(x, x, x, regard.masks.causal())[1], period=2)  # (1/3 + 1/4) / 2
        tensor([0.2917])

    Args:
        weights: (B, H, L, L) on sequences that repeat with the period; L more than period.
        period: distance in tokens between occurrences.

    Returns:
        (H,), between 0 and 1; a head without preference gives about the mean of 1 / (i + 1).
    """
    # The diagonal begins in row period - 1, the last of the first occurrence: its token has not come before.
    return weights.diagonal(1 - period)[..., 1:].mean(dim=(0, -1))  # (B, H, L - period) -> (H,)


def repeat_twice(vocab_size: int, period: int, *, count: int = 1, generator: torch.Generator | None = None) -> Tensor:
    """Random tokens, then the same again: nothing but the repetition can be predicted.

    Example:
        >>> repeat_twice(1000, 3).shape
        torch.Size([1, 6])

    Args:
        vocab_size: tokens are drawn uniformly from this many.
        period: how many tokens to draw.
        count: number of sequences, B.
        generator: source of randomness; torch's own without it.

    Returns:
        (B, 2 * period) int64.
    """
    half = torch.randint(vocab_size, (count, period), generator=generator)
    return torch.cat((half, half), dim=1)  # (B, 2 * period)


@torch.no_grad()
def head_scores(model: Decoder, text: Tensor, repeated: Tensor) -> dict[str, Tensor]:
    """Previous-token score on text and induction score on repeated tokens, of every head of a model.

    Args:
        model: the decoder.
        text: (B, L) ids of real text.
        repeated: (B, 2 * period) as `repeat_twice` returns.

    Returns:
        {"previous_token": (layers, H), "induction": (layers, H)}.
    """
    _, on_text = model(text, need_weights=True)
    _, on_repeated = model(repeated, need_weights=True)
    period = repeated.shape[1] // 2
    return {
        "previous_token": torch.stack([previous_token(weights) for weights in on_text]),
        "induction": torch.stack([induction(weights, period) for weights in on_repeated]),
    }
