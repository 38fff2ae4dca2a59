"""What is kept of weights pair by pair: the keys that some queries give most to, and small windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from regard.look.maps import one_sequence
from regard.look.without_first import weights_of

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.look.margins import Margins

#: How many keys of an exact query are kept, and how many most read keys a head names.
TOP_KEYS = 8

#: So many queries are kept, evenly spread, where not all are.
QUERIES = 1024

#: All queries are kept up to QUERIES, or so many over all heads: more than a page of some megabytes can hold.
ROWS_OF_ALL = 1 << 17

#: The side of a window.
WINDOW = 64

#: How many of the latest queries are always kept: they are where a text is continued.
LATEST = 8

# A rest of less than this, a difference of float32 sums, is summed itself.
UNSURE = 2e-3

# How many weights are computed at once where single ones are looked at.
BLOCK_ENTRIES = 1 << 24


class TopK(NamedTuple):
    """The largest weights of each row and their keys, (..., K) each."""

    values: Tensor
    indices: Tensor


@dataclass(frozen=True)
class Window:
    """A rectangle of one head kept pair by pair: rows x keys from (query, key) on, and which pairs are allowed.

    ``middle`` is the (query, key) that it is about: what is left of it when it is cut.
    """

    name: str
    query: int
    key: int
    values: Tensor
    allowed: Tensor
    middle: tuple[int, int]

    def cut(self, side: int) -> Window:
        """The part around its middle that is no larger than side x side."""
        rows, cols = self.values.shape
        row = around(self.middle[0] - self.query, rows, side)
        col = around(self.middle[1] - self.key, cols, side)
        start = (self.name, self.query + row.start, self.key + col.start)
        return Window(*start, self.values[row, col], self.allowed[row, col], self.middle)


@dataclass(frozen=True)
class Rectangle:
    """A rectangle that is to be kept of every head; slices with both ends, and what it is about."""

    name: str
    queries: slice
    keys: slice
    middle: tuple[int, int]


def chosen_queries(query_len: int, asked: Sequence[int], count: int) -> Tensor:
    """The queries to keep, (N,) sorted: those asked for, the latest, and an even spread of count; all, if count allows.

    The spread of a power of two is part of that of the next.

    Example:
        >>> from regard.look.exact import chosen_queries
        >>> chosen_queries(100, [41], 4).tolist()
        [0, 25, 41, 50, 75, 92, 93, 94, 95, 96, 97, 98, 99]

    Args:
        query_len: L.
        asked: queries that must be among them.
        count: how many to spread evenly, from 0.

    Returns:
        int64.
    """
    if query_len <= count:
        return torch.arange(query_len)
    latest = range(max(0, query_len - LATEST), query_len) if count else ()
    spread = (number * query_len // count for number in range(count))
    return torch.tensor(sorted({*asked, *latest, *spread}), dtype=torch.long)


class Strongest(NamedTuple):
    """What is kept of some queries: the keys that they give most to, and their weights, (H, N, K) each; and the rest.

    The rest (H, N) is the weight on all other keys without key 0, which the margins hold.
    """

    keys: Tensor
    weights: Tensor
    rest: Tensor


def strongest(
    weights: AttentionWeights, queries: Tensor, count: int, *, margins: Margins, batch: int, swept: Any = None
) -> Strongest:
    """The keys that some queries give most to, key -1 where fewer are read, and what they give to all others.

    Args:
        weights: (..., H, L, S).
        queries: (N,), sorted.
        count: K.
        margins: of the layer.
        batch: which sequence.
        swept: what ``weights.ask(("topk", count))`` answered, where it was asked.

    Returns:
        int64, float32 and float64, on the CPU; the most first, and of equals the first key first.
    """
    if swept is not None:
        found = one_sequence(swept.indices, 2, batch).cpu()[:, queries]
        most = by_weight(one_sequence(swept.values, 2, batch).float().cpu()[:, queries], found)
        return Strongest(most.indices, most.values, _rest_of(weights, queries, most, margins, batch))
    num_heads, key_len = block_of(weights, batch, slice(0, 1), slice(0, 1)).shape[0], weights.shape[-1]
    step = max(1, BLOCK_ENTRIES // (num_heads * key_len))
    keys: list[Tensor] = []
    values: list[Tensor] = []
    rest: list[Tensor] = []
    for some in queries.split(step):
        block = block_of(weights, batch, some, slice(0, key_len))  # (H, n, S), a copy: queries are indices
        most = by_weight(*block.topk(count, dim=-1))  # (H, n, K)
        # A weight of exactly 0 says nothing, whether it was forbidden or too small to tell.
        keys.append(torch.where(most.values > 0, most.indices, -1).cpu())
        values.append(most.values.float().cpu())
        block.scatter_(-1, most.indices, 0)[..., 0] = 0
        rest.append(block.sum(-1, dtype=torch.promote_types(block.dtype, torch.float32)).double().cpu())
    return Strongest(torch.cat(keys, 1), torch.cat(values, 1), torch.cat(rest, 1))


def _rest_of(weights: AttentionWeights, queries: Tensor, most: TopK, margins: Margins, batch: int) -> Tensor:
    """What the queries (N,) give to the keys that are not among their K strongest, without key 0, (H, N)."""
    listed = most.values.double().masked_fill(most.indices <= 0, 0).sum(-1)  # (H, N) of keys other than key 0
    rest = (margins.others[:, queries].double() - listed).clamp_min_(0)
    more = (most.indices >= 0).all(-1) & (
        most.indices.shape[-1] < weights.shape[-1]
    )  # else all that it reads is listed
    rest[~more] = 0
    unsure = more & (rest < UNSURE)
    for head in unsure.any(-1).nonzero()[:, 0].tolist():
        places = unsure[head].nonzero()[:, 0]
        for some in places.split(max(1, BLOCK_ENTRIES // weights.shape[-1])):
            rows = weights_of(weights, batch, head, queries[some])  # (n, S)
            rest[head, some] = rows.scatter_(-1, most.indices[head, some], 0)[:, 1:].sum(-1)
    return rest


def by_weight(values: Tensor, indices: Tensor) -> TopK:
    """The same entries (..., K) with the largest first, and those that are equal by index; torch.topk leaves them as
    they come.

    Example:
        >>> import torch
        >>> from regard.look.exact import by_weight
        >>> by_weight(torch.tensor([0.2, 0.4, 0.2]), torch.tensor([5, 9, 1])).indices
        tensor([9, 1, 5])
    """
    indices, order = indices.sort(dim=-1)
    values, again = values.gather(-1, order).sort(dim=-1, descending=True, stable=True)
    return TopK(values, indices.gather(-1, again))


def block_of(weights: AttentionWeights, batch: int, queries: Tensor | slice, keys: slice) -> Tensor:
    """The weights of some queries and keys of one sequence, (H, r, c)."""
    lead: tuple[Any, ...] = {4: (batch, slice(None)), 3: (slice(None),), 2: ()}[len(weights.shape)]
    found = weights[(*lead, queries, keys)]
    return found if lead else found.unsqueeze(0)


def allowed_block(weights: AttentionWeights, batch: int, queries: slice, keys: slice) -> Tensor:
    """Which pairs of a rectangle the mask allows, (H or 1, r, c) booleans on the CPU."""
    query_len, key_len = weights.shape[-2:]
    if weights.mask is None:
        return torch.ones(1, queries.stop - queries.start, keys.stop - keys.start, dtype=torch.bool)
    sequences, num_heads = (1, 1, *weights.shape[:-2])[-2:]
    dense = weights.mask.to_dense(
        query_len, key_len, batch=sequences, num_heads=num_heads, rows=queries, keys=keys, device=weights.device
    ).cpu()  # (r, c) or (B or 1, H or 1, r, c)
    return one_sequence(dense, 2, batch if dense.ndim == 4 and len(dense) > 1 else 0)


def windows_of(
    weights: AttentionWeights,
    rectangles: Sequence[Rectangle],
    most_read: Tensor,
    *,
    batch: int,
    diagonal: Rectangle | None,
) -> list[tuple[Window, ...]]:
    """The windows of each head: those of every head, and the latest queries around its most read key.

    Args:
        weights: (..., H, L, S).
        rectangles: the windows of every head.
        most_read: (H,), the most read key of each head.
        batch: which sequence.
        diagonal: the window at the end, where there is one: a most read key in it needs no window of its own.

    Returns:
        A tuple a head.
    """
    query_len, key_len = weights.shape[-2:]
    found: list[tuple[Window, ...]] = [()] * len(most_read)
    for rectangle in rectangles:
        values = block_of(weights, batch, rectangle.queries, rectangle.keys).float().cpu()  # (H, r, c)
        allowed = allowed_block(weights, batch, rectangle.queries, rectangle.keys).expand_as(values)
        start = (rectangle.name, rectangle.queries.start, rectangle.keys.start)
        found = [(*each, Window(*start, values[h], allowed[h], rectangle.middle)) for h, each in enumerate(found)]
    queries = slice(max(0, query_len - WINDOW), query_len)
    places: dict[int, list[int]] = {}
    for head, key in enumerate(most_read.tolist()):
        if diagonal is None or not diagonal.keys.start <= key < diagonal.keys.stop:
            places.setdefault(key, []).append(head)
    for key, heads in places.items():
        keys = around(key, key_len, WINDOW)
        values = block_of(weights, batch, queries, keys).float().cpu()  # (H, r, c)
        allowed = allowed_block(weights, batch, queries, keys).expand_as(values)
        start, middle = ("most read", queries.start, keys.start), (query_len - 1, key)
        for h in heads:
            found[h] = (*found[h], Window(*start, values[h], allowed[h], middle))
    return found


def around(place: int, length: int, side: int) -> slice:
    """At most side positions around a place, within the length."""
    start = min(max(0, place - side // 2), max(0, length - side))
    return slice(start, min(start + side, length))
