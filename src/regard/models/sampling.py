"""The next token, from the scores of all of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["check_sampling", "choose"]


def choose(
    logits: Tensor,
    *,
    temperature: float = 0.0,
    top_k: int | None = None,
    top_p: float | None = None,
    generator: torch.Generator | None = None,
) -> Tensor:
    """One token for each row of scores.

    The best one at temperature 0; else one drawn from ``softmax(logits / temperature)``, of the top_k best, and of the
    fewest best whose probabilities together are at least top_p.

    >>> import torch
    >>> choose(torch.tensor([[0.0, 2.0, 1.0]]))
    tensor([1])

    Args:
        logits: (B, V).
        temperature: 0 or more.
        top_k: how many of the best to draw from; with equal scores at the end, these too.
        top_p: in (0, 1].
        generator: where random numbers come from; torch's default one if None.

    Returns:
        (B,) int64.

    References:
        Fan et al., Hierarchical Neural Story Generation, 2018 (top_k); Holtzman et al., The Curious Case of Neural Text
        Degeneration, 2019 (top_p).
    """
    if temperature == 0:
        return logits.argmax(-1)
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    # A small temperature would overflow without the top, and one that rounds to 0 would divide 0 by 0 at the top.
    wide = (wide - wide.amax(-1, keepdim=True)) / max(temperature, torch.finfo(wide.dtype).tiny)
    if top_k is not None and top_k < wide.shape[-1]:
        wide = wide.masked_fill(wide < wide.topk(top_k).values[:, -1:], -torch.inf)
    probabilities = wide.softmax(-1)
    if top_p is not None:
        ordered, order = probabilities.sort(-1, descending=True)
        before = ordered.cumsum(-1) - ordered  # of all that are better
        kept = ordered.masked_fill(before >= top_p, 0)
        probabilities = torch.zeros_like(probabilities).scatter(-1, order, kept)
    return torch.multinomial(probabilities, 1, generator=generator)[:, 0]


def check_sampling(temperature: Any, top_k: Any, top_p: Any) -> None:
    """These are numbers in their ranges, and each of them has an effect."""
    for name, number in (("temperature", temperature), ("top_p", top_p)):
        if number is not None and (isinstance(number, bool) or not isinstance(number, int | float)):
            raise TypeError(f"{name} must be a number, got {type(number).__name__}")
    if not 0 <= temperature < float("inf"):
        raise ValueError(
            f"temperature must be a finite number of at least 0, got {temperature}; 0 takes the best token"
        )
    if top_k is not None and (isinstance(top_k, bool) or not isinstance(top_k, int)):
        raise TypeError(f"top_k must be an integer, got {type(top_k).__name__}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if top_p is not None and not 0 < top_p <= 1:
        raise ValueError(f"top_p must lie in (0, 1], got {top_p}")
    if temperature == 0 and (top_k is not None or top_p is not None):
        raise ValueError(
            "top_k and top_p choose among drawn tokens, and temperature=0 draws none; pass temperature=1.0"
        )
