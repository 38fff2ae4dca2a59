"""One layer's heads: what they do in a few numbers, and the margins that those were taken from.

Letters: L queries, S keys, H heads of a layer. Every score comes from a method of AttentionWeights, so that none
needs an L x L tensor. Averages leave out the queries that may attend to nothing (padding).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.induction import Induction, induction_of
from regard.look.maps import one_sequence
from regard.look.without_first import NOTHING, Left, left_of

if TYPE_CHECKING:
    from regard import AttentionWeights


@dataclass(frozen=True)
class HeadScores:
    """The scores of one head; a share is a part of the weight, 0 to 1, NaN where it cannot be asked.

    Attributes:
        layer: which layer, from 0.
        head: which head of the layer, from 0.
        entropy: mean entropy of the queries' weights, in nats; 0 is one key, log(n) is n keys alike.
        previous_token: mean share on the key just before the query.
        first_token: mean share on the first key, without the query that stands there itself.
        induction: mean share on the keys right after an earlier occurrence of the query's token, over the queries
            whose token occurred earlier.
        induction_chance: the same for a head that spreads evenly over the keys up to the query.
        distance: mean distance from query to key, in tokens.
        concentration: the share of all weight that the most read key receives.
        top_key: the position of that key.
    """

    layer: int
    head: int
    entropy: float
    previous_token: float
    first_token: float
    induction: float
    induction_chance: float
    distance: float
    concentration: float
    top_key: int


@dataclass(frozen=True)
class Margins:
    """What one layer's heads do, and the margins that it was taken from, on the CPU.

    Attributes:
        scores: one a head.
        entropy: (H, L), in nats.
        received: (H, S), summed over the queries.
        first: (H, L), the weight on key 0.
        others: (H, L), the weight on all other keys.
        left: what is left of the queries without key 0.
        scores_left: the scores of what is left, one a head.
    """

    scores: tuple[HeadScores, ...]
    entropy: Tensor
    received: Tensor
    first: Tensor
    others: Tensor
    left: Left
    scores_left: tuple[HeadScores, ...]

    @property
    def total(self) -> Tensor:
        """(H, L), 1 but for sinks, and 0 where a query may read nothing."""
        return self.first + self.others


@torch.no_grad()
def layer_margins(
    weights: AttentionWeights,
    layer: int,
    ids: Tensor | None,
    *,
    batch: int = 0,
    aligned: bool = True,
    also: Sequence[Any] = (),
) -> tuple[Margins, tuple[Any, ...]]:
    """The scores of one layer's heads, and what else was asked, in one sweep over the weights.

    Args:
        weights: (..., H, L, S).
        layer: its number.
        ids: (S,) integers that say which tokens are the same, or None.
        batch: which sequence of a batch.
        aligned: whether the queries are the last of the keys; where they are another text, no score asks for a
            distance, the key before or a repetition.
        also: more questions, as `AttentionWeights.ask` takes them.

    Returns:
        The margins, and the answers as they came.
    """
    query_len, key_len = weights.shape[-2:]
    questions = ("entropy", "received", "distance", ("mass", 0), ("mass", slice(1, None)))
    one_sequence(torch.empty((*weights.shape[:-1], 0), device="meta"), 2, batch)  # the batch is there, before the work
    answers = weights.ask(*questions, *also)
    margins = [one_sequence(answer, 1, batch).float().cpu() for answer in answers[: len(questions)]]
    entropy, received, distance, first, others = margins  # (H, L) each, but received (H, S)
    shift = key_len - query_len  # query i stands at position S - L + i
    previous = torch.zeros(len(first), 0)  # a lone token has none before it
    if aligned and -query_len < shift - 1:
        previous = one_sequence(weights.diagonal(shift - 1), 1, batch).float().cpu()  # (H, L or fewer)
    induction = induction_of(weights, ids if aligned else None, batch=batch)
    far = distance if aligned else None
    left = left_of(weights, first=first, others=others, entropy=entropy, distance=far, batch=batch)
    whole = _Shares(entropy, distance, previous, first, induction, received)
    scores = _scores(whole, first + others > 0, layer, shift=shift if aligned else None)
    return Margins(
        scores=scores,
        entropy=entropy,
        received=received,
        first=first,
        others=others,
        left=left,
        scores_left=_scores(_left(whole, left), left.some, layer, shift=shift if aligned else None, hidden=1),
    ), answers[len(questions) :]


def without_first(margins: Margins) -> Margins:
    """The margins of what is left without key 0; what keys receive is that of the others, as it is."""
    received = margins.received.clone()  # (H, S)
    received[:, 0] = 0
    return replace(margins, scores=margins.scores_left, entropy=margins.left.entropy.float(), received=received)


def most_read(received: Tensor) -> tuple[list[float], list[int]]:
    """The share of all weight that the most read key of each head receives, and that key; received is (H, S)."""
    share, top = (received / received.sum(-1, keepdim=True)).max(-1)  # (H,)
    return share.tolist(), top.tolist()


@dataclass(frozen=True)
class _Shares:
    """What the scores of a layer are made of: (H, L) each, but previous (H, L or fewer) and received (H, S)."""

    entropy: Tensor
    distance: Tensor
    previous: Tensor
    first: Tensor
    induction: Induction | None
    received: Tensor


def _left(whole: _Shares, left: Left) -> _Shares:
    """The same of what is left without key 0."""
    induction, count = whole.induction, whole.previous.shape[-1]
    share = left.share.clamp_min(NOTHING)  # where it is less, nothing is left
    return _Shares(
        entropy=left.entropy,
        distance=left.distance,
        previous=whole.previous / share[:, share.shape[-1] - count :],
        first=torch.full_like(whole.first, math.nan),
        induction=None if induction is None else replace(induction, share=induction.share / share),
        received=whole.received[:, 1:],
    )


def _scores(of: _Shares, awake: Tensor, layer: int, *, shift: int | None, hidden: int = 0) -> tuple[HeadScores, ...]:
    """The scores of each head, from the queries that are awake; without the first keys, where some are hidden.

    Args:
        of: the shares.
        awake: (H, L), the queries that read something.
        layer: its number.
        shift: S - L; None where the queries are another text.
        hidden: how many keys are left out, 0 or 1.
    """
    query_len = awake.shape[-1]
    alone = 1 if shift == 0 else 0  # the query at position 0 sees nothing but itself
    if hidden and shift is not None and shift <= 1:
        of = replace(of, previous=of.previous[:, 1:])  # the key before the earliest of these queries is key 0
    before = awake[:, query_len - of.previous.shape[-1] :]
    nothing = [math.nan] * len(awake)
    induction, chance = nothing, nothing
    if of.induction is not None:
        used = awake & (of.induction.earlier > 0)  # (H, L)
        reach = torch.arange(1, query_len + 1) - hidden  # (L,) the keys up to the query
        even = (of.induction.earlier.double() / reach.clamp_min(1)).expand(
            awake.shape
        )  # (H, L) of a head that spreads evenly
        induction, chance = _means(of.induction.share, used), _means(even, used)
    share, top = most_read(of.received) if of.received.shape[-1] else (nothing, [0] * len(awake))
    columns = zip(
        _means(of.entropy, awake),
        _means(of.previous, before),
        _means(of.first[:, alone:], awake[:, alone:]),
        induction,
        chance,
        _means(of.distance, awake) if shift is not None else nothing,
        share,
        [key + hidden for key in top],
        strict=True,
    )
    return tuple(HeadScores(layer, head, *each) for head, each in enumerate(columns))


def _means(values: Tensor, keep: Tensor) -> list[float]:
    """The mean of each head's row over the queries kept; NaN where there is none."""
    total = torch.where(keep, values, 0.0).double().sum(-1)
    return (total / keep.sum(-1)).tolist()
