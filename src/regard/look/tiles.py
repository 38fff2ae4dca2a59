"""Rectangles and rows of a head, computed from its weights and written as the live page reads them.

Only a block of queries is in memory at a time. All numbers are little-endian.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.look.extras import extra
from regard.masks import Sizes

__all__ = ["Place", "row", "tile"]

#: Entries that are in memory at a time, in each of the few tensors that a block of weights takes.
BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class Place:
    """A head: the weights of its layer, (..., H, L, S), the sequence and the head's number."""

    layer: Any
    batch: int
    head: int

    def weights(self, queries: range, keys: range) -> Any:
        """The weights of a rectangle, float32 or float64 array (rows, keys)."""
        batch = self.batch % self.layer.shape[0]
        # A slice of a batch of one is no copy of its query and key; a number is.
        leading = (slice(batch, batch + 1), self.head)[4 - len(self.layer.shape) :]
        with torch.no_grad():
            block: Tensor = self.layer[(*leading, _slice(queries), _slice(keys))]  # (1, rows, keys) or (rows, keys)
        block = block.reshape(len(queries), len(keys))
        block = block.detach().cpu()
        return (block if block.dtype == torch.float64 else block.float()).numpy()

    def allowed(self, queries: range, keys: range) -> Any:
        """Which pairs of a rectangle the mask allows, boolean array (rows, keys); None if nothing is masked."""
        mask = self.layer.mask
        if mask is None:
            return None
        query_len, key_len = self.layer.shape[-2:]
        sequences, heads = (1, 1, *self.layer.shape[:-2])[-2:]
        sizes = Sizes((sequences,), heads, query_len, key_len, self.layer.device)
        at = torch.tensor([self.batch % sequences, self.head], device=sizes.device).view(2, 1, 1, 1, 1)
        q = torch.arange(queries.start, queries.stop, device=sizes.device).view(1, 1, -1, 1)
        kv = torch.arange(keys.start, keys.stop, device=sizes.device).view(1, 1, 1, -1)
        # One head is asked for: what other sequences and heads may read is not in memory.
        pairs = mask.bind(sizes).allowed(at[0], at[1], q, kv, sizes)  # broadcasts to (1, 1, rows, keys)
        return pairs.expand(1, 1, len(queries), len(keys))[0, 0].cpu().numpy()


def tile(
    place: Place,
    *,
    queries: range,
    keys: range,
    cells: tuple[int, int],
    between: Callable[[], None] = lambda: None,
) -> bytes:
    """A rectangle as R x C cells, its mean map and its max map.

    Cell r covers the queries floor(r * n / R) up to floor((r + 1) * n / R) of the n that the rectangle has, and cell c
    its keys likewise. The mean map sums over a cell's keys and averages over its queries.

    Args:
        place: the head.
        queries: the queries of the rectangle.
        keys: its keys.
        cells: (R, C), at most as many as there are queries and keys.
        between: called between two blocks; what it raises ends the computation.

    Returns:
        float32 R: the weight on key 0, averaged over the queries of a cell; uint16 R x C: codes of the mean map; uint16
        R x C: codes of the max map.
    """
    numpy = extra("numpy")
    rows, cols = cells
    row_edges, col_edges = _edges(len(queries), rows), _edges(len(keys), cols)
    row_of = numpy.repeat(numpy.arange(rows), numpy.diff(row_edges))  # (n,)
    summed, most = numpy.zeros((rows, cols)), numpy.zeros((rows, cols))
    allowed = numpy.zeros((rows, cols), dtype=bool)
    first = numpy.zeros(rows)
    step = max(1, BLOCK_ENTRIES // len(keys))
    for start in range(0, len(queries), step):
        between()
        here = queries[start : start + step]
        block = place.weights(here, keys)  # (b, m)
        inside = row_of[start : start + step]  # (b,)
        starts = numpy.flatnonzero(numpy.diff(inside, prepend=-1))
        of = slice(inside[0], inside[-1] + 1)  # the cells that these queries are of: r of them
        by_cell = numpy.add.reduceat(block, col_edges[:-1], axis=1, dtype=numpy.float64)  # (b, C)
        summed[of] += numpy.add.reduceat(by_cell, starts, axis=0)  # (r, C)
        highest = numpy.maximum.reduceat(block, col_edges[:-1], axis=1)  # (b, C)
        most[of] = numpy.maximum(most[of], numpy.maximum.reduceat(highest, starts, axis=0))  # (r, C)
        seen = highest > 0  # (b, C)
        # Weight is only where it is allowed: the mask is asked where there is none.
        pairs = None if seen.all() else place.allowed(here, keys)
        if pairs is None:
            seen = numpy.ones_like(seen) if place.layer.mask is None else seen
        else:
            seen = numpy.logical_or.reduceat(pairs, col_edges[:-1], axis=1)  # (b, C)
        allowed[of] |= numpy.logical_or.reduceat(seen, starts, axis=0)  # (r, C)
        on_first = place.weights(here, range(1))[:, 0]  # (b,)
        first[of] += numpy.add.reduceat(on_first, starts, dtype=numpy.float64)  # (r,)
    sizes = numpy.diff(row_edges)  # (R,)
    means = summed / sizes[:, None]  # (R, C)
    return b"".join([_floats(first / sizes), _codes(means, allowed), _codes(most, allowed)])


def row(place: Place, query: int, count: int) -> bytes:
    """All that one query reads.

    Args:
        place: the head.
        query: which query.
        count: how many keys to name.

    Returns:
        float32: the entropy in nats, the total weight, the weight on key 0; uint32 n, at most count and no more than
        the query reads; uint32 n: the keys that it gives most to, the most first; float32 n: their weights; uint16 S:
        the codes of the whole row.
    """
    numpy = extra("numpy")
    key_len = place.layer.shape[-1]
    queries, keys = range(query, query + 1), range(key_len)
    weights = place.weights(queries, keys)[0].astype(numpy.float64)  # (S,)
    pairs = place.allowed(queries, keys)
    allowed = numpy.ones(key_len, dtype=bool) if pairs is None else pairs[0]  # (S,)
    some = weights[weights > 0]
    order = numpy.argsort(-weights, kind="stable")[: min(count, len(some))]  # of equal weights the earlier key first
    summary = numpy.array([-(some * numpy.log(some)).sum(), weights.sum(), weights[0]])
    named = numpy.concatenate([[len(order)], order]).astype("<u4").tobytes()
    return b"".join([_floats(summary), named, _floats(weights[order]), _codes(weights, allowed)])


def _slice(places: range) -> slice:
    return slice(places.start, places.stop)


def _edges(length: int, cells: int) -> Any:
    """Where the cells of a side begin, and where the last one ends, (cells + 1,)."""
    return extra("numpy").arange(cells + 1) * length // cells


def _floats(values: Any) -> bytes:
    content: bytes = values.astype("<f4").tobytes()
    return content


def _codes(values: Any, allowed: Any) -> bytes:
    from regard.look.encode import fine_codes, words

    return words(fine_codes(torch.from_numpy(values), torch.from_numpy(allowed)))
