"""Weights that are NaN: the queries that have them are set apart, so that they read neither as zeros nor in a mean."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.look.exact import block_of
from regard.look.margins import most_read

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.look.margins import HeadScores, Margins
    from regard.look.measure import LayerMeasure, Measured

__all__ = ["check_some_left", "not_numbers", "repaired", "spoilt_rows"]

# Weights that are in memory at once.
BLOCK_ENTRIES = 1 << 22

# Layers, and heads of each, that a note names.
NAMED = 8


def spoilt_rows(margins: Margins) -> Tensor:
    """The queries whose weights are NaN, (H, L)."""
    return margins.entropy.isnan() | margins.total.isnan()


def repaired(margins: Margins, spoilt: Tensor, weights: AttentionWeights, batch: int) -> Margins:
    """The margins of the other queries: what keys receive from them, and who is read most.

    Args:
        margins: of one layer, in which one NaN has made NaN of all sums.
        spoilt: (H, L), the queries to leave out; entropy stays NaN there, and the rest is 0.
        weights: the layer, (..., H, L, S).
        batch: which sequence.

    Returns:
        The margins.
    """
    if not bool(spoilt.any()):
        return margins
    received = margins.received.clone()  # (H, S)
    some = spoilt.any(-1)  # (H,)
    received[some] = _received(weights, spoilt, batch)[some]
    first, others = (each.masked_fill(spoilt, 0) for each in (margins.first, margins.others))
    return replace(
        margins,
        scores=_read_again(margins.scores, received, some),
        scores_left=_read_again(margins.scores_left, received[:, 1:], some, hidden=1),
        received=received,
        first=first,
        others=others,
    )


def _read_again(
    scores: tuple[HeadScores, ...], received: Tensor, some: Tensor, *, hidden: int = 0
) -> tuple[HeadScores, ...]:
    """The scores of the heads (H,) that need it with the most read key anew; received is without the hidden keys."""
    if not received.shape[-1]:
        return scores
    share, top = most_read(received)
    return tuple(
        replace(each, concentration=share[head], top_key=top[head] + hidden) if bool(some[head]) else each
        for head, each in enumerate(scores)
    )


def _received(weights: AttentionWeights, spoilt: Tensor, batch: int) -> Tensor:
    """What each key receives from the queries that are not spoilt, (H, S), some of them at a time."""
    (num_heads, query_len), key_len = spoilt.shape, weights.shape[-1]
    total = torch.zeros(num_heads, key_len)
    if bool(spoilt.all()):
        return total
    step = max(1, BLOCK_ENTRIES // (num_heads * key_len))
    for start in range(0, query_len, step):
        rows = slice(start, min(start + step, query_len))
        block = block_of(weights, batch, rows, slice(0, key_len)).float().cpu()  # (H, r, S)
        total += block.masked_fill(spoilt[:, rows, None], 0).sum(1)
    return total


def check_some_left(measures: Iterable[LayerMeasure]) -> None:
    """There is something to show beside what is NaN.

    Raises:
        ValueError: there is not.
    """
    found = [(bool(each.spoilt.any()), bool((each.margins.total > 0).any())) for each in measures]
    if any(spoilt for spoilt, _ in found) and not any(left for _, left in found):
        raise ValueError(
            "weights are NaN in every layer and head, for every query that may attend to something; look at the inputs "
            "and parameters of the layers"
        )


def not_numbers(measured: Measured) -> list[str]:
    """What a reader must know of weights that are NaN: where they are, and how they are shown."""
    notes = []
    for group in measured.groups:
        found = [
            f"{name} ({_heads(measure.spoilt)})"
            for name, measure in zip(group.names, group.measures, strict=True)
            if bool(measure.spoilt.any())
        ]
        if found:
            tab = f"{group.name}: " if group.name else ""
            notes.append(
                f"{tab}weights are NaN in {_listed(found, 'layers')}. Those queries, and the cells of a map that hold "
                "one, are shown as if they might attend to nothing, and no score counts them; look at the inputs and "
                "parameters of the layers"
            )
    return notes


def _heads(spoilt: Tensor) -> str:
    """Which heads, and how many queries of each."""
    counts = spoilt.sum(-1)  # (H,)
    heads = counts.nonzero()[:, 0].tolist()
    low, high = int(counts[heads].min()), int(counts.max())
    many = f"{low:,}" if low == high else f"{low:,} to {high:,}"
    which = f"all {len(heads)} heads" if len(heads) == len(counts) > 1 else f"head {heads[0]}"
    if 1 < len(heads) < len(counts):
        which = f"heads {_listed([str(head) for head in heads], 'heads')}"
    return f"{which}: {many} of {spoilt.shape[-1]:,} queries"


def _listed(names: Sequence[str], what: str) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more:,} more {what}" if more > 0 else "")
