"""What is left of each query without key 0, which many heads give most to: the other weights, renormalised.

With first = A_i0 and what is left, c = 1 - first, a query's weights are A_ij / c over the other keys. Without a sink c
is what the other keys hold, and their sum gives it with more digits than the difference.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.maps import one_sequence

if TYPE_CHECKING:
    from regard import AttentionWeights

#: A query that keeps less than this beside key 0 has nothing left: it shows 0, and no mean counts it. The page has the
#: same number.
NOTHING = 1e-6

#: What the sums of a float32 sweep may miss of 1 by rounding; what a row misses beyond that a sink has taken.
ROUNDING = 1e-5

#: What the weights of a row may miss of 1 by rounding, by the dtype that they were stored in.
STORED_ROUNDING = {torch.float64: 1e-5, torch.float32: 1e-5, torch.float16: 2e-2, torch.bfloat16: 2e-2}

# Where less than this is left, what is left of a row is summed itself: float32 knows key 0 to 3e-8.
UNSURE = 1e-4

# A distance from a float32 sweep is off by at most such a part of the query's position, and so much for each key.
ROUNDED, ROUNDED_A_KEY = 1e-7, 1e-9

# By how much a mean distance may be off, in tokens or as a part of it, before it is computed without key 0.
TOKENS, PART = 0.05, 1e-3

# Weights that are in memory at once.
BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Left:
    """What is left of the queries of a layer without key 0, (H, L) each.

    Attributes:
        share: c, what the renormalised weights are divided by; float64.
        some: whether the query has something left.
        entropy: of the renormalised weights, in nats; 0 where nothing is left.
        distance: of the renormalised weights, in tokens; likewise.
    """

    share: Tensor
    some: Tensor
    entropy: Tensor
    distance: Tensor


def share_left(first: Tensor, others: Tensor, rounding: float) -> Tensor:
    """What the weights of a query are divided by without key 0.

    Example:
        >>> import torch
        >>> from regard.look.without_first import share_left
        >>> share_left(torch.tensor([0.75, 0.5]), torch.tensor([0.25, 0.25]), 1e-5)  # the second has a sink
        tensor([0.2500, 0.5000])

    Args:
        first: the weight on key 0.
        others: the weight on all other keys.
        rounding: what the two may miss of 1 without a sink.

    Returns:
        Of the same shape.
    """
    return torch.where((first + others - 1).abs() <= rounding, others, 1 - first)


def rounding_of(weights: Any) -> float:
    """What the sum of a row may miss of 1, of statistics and of stored weights."""
    return STORED_ROUNDING.get(getattr(weights, "stored", torch.float32), ROUNDING)


def left_of(
    weights: AttentionWeights,
    *,
    first: Tensor,
    others: Tensor,
    entropy: Tensor,
    distance: Tensor | None,
    batch: int = 0,
) -> Left:
    """What is left of each query without key 0, from the statistics of its whole row.

        H' = (H + first ln first) / c + (others / c) ln c
        D' = (D - first |p_i|) / c

    Where c is small these are differences of nearly equal numbers: there the row's weights are summed themselves, and
    distances come from a product with the keys' positions, to which key 0 adds nothing.

    Args:
        weights: (..., H, L, S).
        first: (H, L), the weight on key 0.
        others: (H, L), the weight on all other keys, summed without it.
        entropy: (H, L), H in nats.
        distance: (H, L), D in tokens, with query i at the position p_i = S - L + i; None where the queries are another
            text.
        batch: which sequence.

    Returns:
        What is left.
    """
    first, others = first.double(), others.double()
    share = share_left(first, others, rounding_of(weights))  # (H, L)
    # A NaN compares as False: a query that is none has nothing left.
    some = (share >= NOTHING) & (others >= NOTHING)
    again = some & (share < UNSURE)
    query_len, key_len = weights.shape[-2:]
    places = torch.arange(query_len) + (key_len - query_len)  # p_i, (L,)
    away = torch.zeros_like(share)
    if distance is not None:
        away = torch.where(some, (distance.double() - first * places.abs()) / share, 0.0)
        off = (ROUNDED + ROUNDED_A_KEY * key_len) * places.abs() / share.clamp_min(NOTHING)  # (H, L) tokens
        far = _mean(off, some) > (PART * _mean(away, some)).clamp_min(TOKENS)  # (H,)
        if bool(far.any()):
            keys = torch.arange(key_len, device=weights.device, dtype=torch.promote_types(weights.dtype, torch.float32))
            moment = one_sequence(weights @ keys, 1, batch).double().cpu()  # (H, L) sum_j A_ij j
            ahead = distance.double() - (places * (first + others) - moment)
            if bool((ahead.abs() <= 4 * off * share)[far].all()):  # nothing behind the query is read
                away[far] = torch.where(some, (places * others - moment) / share, 0.0)[far]
            else:
                again |= some & far[:, None] & (off > TOKENS)
    left = (entropy.double() + torch.special.xlogy(first, first) + others * share.log()) / share
    left, away = torch.where(some, left, 0.0).clamp_min_(0.0), away.clamp_min_(0.0)
    for head in again.any(-1).nonzero()[:, 0].tolist():
        for queries in again[head].nonzero()[:, 0].split(max(1, BLOCK_ENTRIES // key_len)):
            rows = weights_of(weights, batch, head, queries)  # (n, S)
            rows[:, 0] = 0
            rows /= share_left(first[head, queries], rows.sum(-1), rounding_of(weights))[:, None]
            left[head, queries] = -torch.special.xlogy(rows, rows).sum(-1)
            away[head, queries] = (rows * (places[queries, None] - torch.arange(key_len)).abs()).sum(-1)
    return Left(share, some, left, away)


def _mean(values: Tensor, keep: Tensor) -> Tensor:
    """The mean of each head's row over the queries kept, (H,); 0 where there is none."""
    return torch.where(keep, values, 0.0).sum(-1) / keep.sum(-1).clamp_min(1)


def weights_of(weights: AttentionWeights, batch: int, head: int, queries: Tensor) -> Tensor:
    """All weights of some queries (n,) of one head, (n, S) in float64 on the CPU, which the caller may write to."""
    lead = (batch, head)[4 - len(weights.shape) :]
    # Indices make a copy, also of stored weights.
    return weights[(*lead, queries.to(weights.device), slice(None))].to("cpu", torch.float64)
