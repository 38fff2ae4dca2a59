"""Masks, twice: as regard says them, and by hand for the definition and for a peer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

import regard
from regard.bench import exact
from regard.masks import Mask

__all__ = ["Rule", "documents", "prefix", "random_lengths", "window"]


@dataclass(frozen=True)
class Rule:
    """A mask, twice: as regard says it, and by hand for the definition and for the peer.

    Args:
        mask: makes regard's mask; called anew for each call, off the clock, so that nothing it caches helps the next.
        allowed: the same rule by hand.
        everywhere: compare every row with the definition, not three blocks of rows.
    """

    mask: Callable[[], Mask]
    allowed: exact.Allowed
    everywhere: bool = True


def window(n: int) -> Rule:
    """The n latest keys."""
    return Rule(lambda: regard.masks.window(n), lambda q, kv: (kv <= q) & (kv > q - n))


def documents(lengths: Tensor) -> Rule:
    """Texts of these lengths, one after the other, each causal."""
    ids = torch.repeat_interleave(torch.arange(len(lengths)), lengths)  # (S,)
    return Rule(
        lambda: regard.masks.causal() & regard.masks.documents(ids), lambda q, kv: (kv <= q) & (ids[kv] == ids[q])
    )


def prefix(n: int) -> Rule:
    """The first n keys, and what is before the query."""
    # Half the matrix is allowed: all of it in float64 would take longer than the timing.
    return Rule(
        lambda: regard.masks.prefix(n) | regard.masks.causal(), lambda q, kv: (kv <= q) | (kv < n), everywhere=False
    )


def random_lengths(total: int = 8192, number: int = 16, low: int = 256, high: int = 768) -> Tensor:
    """Lengths drawn from low .. high, then moved one by one within these until they sum to total.

    >>> lengths = random_lengths()
    >>> len(lengths), int(lengths.sum()), bool((lengths >= 256).all() & (lengths <= 768).all())
    (16, 8192, True)
    """
    if not number * low <= total <= number * high:
        raise ValueError(f"total: got {total}; expected {number * low} to {number * high}, for {number} lengths")
    lengths = torch.randint(low, high + 1, (number,), generator=torch.Generator().manual_seed(0)).tolist()
    place = 0
    while (missing := total - sum(lengths)) != 0:
        step = 1 if missing > 0 else -1
        if low <= lengths[place] + step <= high:
            lengths[place] += step
        place = (place + 1) % number
    return torch.tensor(lengths)
