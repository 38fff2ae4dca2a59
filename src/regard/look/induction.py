"""What an induction head does: the share of a query on what followed its token before."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.maps import one_sequence

if TYPE_CHECKING:
    from regard import AttentionWeights

#: How many weights are computed at once where whole rows are looked at.
BLOCK_ENTRIES = 1 << 22

#: How many single weights, and as many as how many of a block each of them costs.
SINGLE_ENTRIES, SINGLE_COST = 1 << 20, 24


@dataclass(frozen=True)
class Induction:
    """What each query gives to the keys right after an earlier occurrence of its token.

    Key 0 follows nothing, and so is never among these keys.

    Attributes:
        share: (H, L) in float64, the weight on those keys.
        earlier: (L,), how many of those keys there are.
    """

    share: Tensor
    earlier: Tensor


def induction_of(weights: AttentionWeights, ids: Tensor | None, *, batch: int = 0) -> Induction | None:
    """The share of each query on what followed its token before; None where that cannot be asked.

    Args:
        weights: (..., H, L, S).
        ids: (S,) integers that say which tokens are the same, or None.
        batch: which sequence.

    Returns:
        None without ids, or where the queries are not all of the keys.
    """
    query_len, key_len = weights.shape[-2:]
    if ids is None or key_len != query_len or len(ids) != query_len:
        return None
    earlier, order, begins = _earlier(ids)  # (L,) each
    few = int(earlier.sum()) * SINGLE_COST < query_len * query_len // 2
    return Induction((_one_by_one if few else _in_blocks)(weights, ids, earlier, order, begins, batch), earlier)


def _in_blocks(
    weights: AttentionWeights, ids: Tensor, earlier: Tensor, order: Tensor, begins: Tensor, batch: int
) -> Tensor:
    """The share of each query on what followed its token before, (H, L), from whole rows, some at a time."""
    before = torch.cat([ids.min()[None] - 1, ids[:-1]])  # (S,) the token before each key; none before the first
    query_len, num_heads = len(ids), (1, *weights.shape[:-2])[-1]
    found = torch.zeros(num_heads, query_len, dtype=torch.float64)
    step = max(1, BLOCK_ENTRIES // (num_heads * query_len))
    for start in range(0, query_len, step):
        stop = min(start + step, query_len)
        if not bool(earlier[start:stop].any()):
            continue
        # The keys of interest lie at or before the query, so a block needs none past its last query.
        rows = one_sequence(weights[..., start:stop, :stop], 2, batch).float().cpu()  # (H, rows, stop)
        position = torch.arange(start, stop)[:, None]
        pattern = (ids[start:stop, None] == before[:stop]) & (torch.arange(stop) <= position)  # (rows, stop)
        found[:, start:stop] = (rows * pattern).sum(-1)
    return found


def _one_by_one(
    weights: AttentionWeights, ids: Tensor, earlier: Tensor, order: Tensor, begins: Tensor, batch: int
) -> Tensor:
    """The same from the single weights alone: of a long text they are few among all."""
    query_len, num_heads = len(ids), (1, *weights.shape[:-2])[-1]
    lead: tuple[Any, ...] = {4: (batch, slice(None)), 3: (slice(None),), 2: ()}[len(weights.shape)]
    found = torch.zeros(num_heads, query_len, dtype=torch.float64)
    ends = earlier.cumsum(0)  # (L,) where the pairs of each query end, in the list of all
    most = max(1, SINGLE_ENTRIES // num_heads)
    for start in range(0, int(ends[-1]), most):
        pair = torch.arange(start, min(start + most, int(ends[-1])))  # (n,)
        query = torch.searchsorted(ends, pair, right=True)  # (n,)
        key = order[begins[query] + pair - (ends - earlier)[query]] + 1  # (n,) after an earlier occurrence
        single = weights[(*lead, query.to(weights.device), key.to(weights.device))]  # (H, n) or (n,)
        found.index_add_(1, query, single.reshape(num_heads, -1).double().cpu())
    return found


def _earlier(ids: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """How often each token stands somewhere before; all positions by token; and where each one's token begins there."""
    _, which, counts = torch.unique(ids, return_inverse=True, return_counts=True)
    order = torch.argsort(which, stable=True)  # (L,)
    begins = (counts.cumsum(0) - counts)[which]  # (L,)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(ids))
    return rank - begins, order, begins
