"""Blocks of rows with the keys that these read: where a mask's intervals are known, those alone.

What lies between two intervals is left out, and of what is left a mask touches only the columns in which it forbids
something.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from regard.engine.blocks import ELEMENTS_PER_THREAD
from regard.engine.problem import KeyIntervals, MaskView, Problem, compute_dtype

__all__ = ["Block", "blocks"]

# Entries (over batch and heads) below which a mask is not asked for its intervals.
SMALL = 1 << 18
# Fewer rows make for slower products, and more compute more in vain where each row has other keys.
FEW_ROWS, ROWS, MOST_ROWS = 64, 128, 512
# Scores of one head that may be in memory, however long its rows are.
MOST_ELEMENTS = 1 << 21
# So many keys that nobody reads are computed sooner than jumped over.
GAP = 64

# A rule that is a function is asked for each of its entries: not once more in the backward pass.
_KNOWN: WeakKeyDictionary[MaskView, KeyIntervals | None] = WeakKeyDictionary()

Edges = tuple[tuple[slice, Tensor], ...]


@dataclass(frozen=True)
class Block:
    """Some rows of some heads, and the keys that they read, ``spans``, counted as C columns.

    ``edges`` are the columns in which something is forbidden, each with integers (b or 1, h or 1, R, n) as wide as a
    score: all bits set where a row may read, and none where not.
    """

    batch: slice
    heads: slice
    kv_heads: slice
    rows: slice
    spans: tuple[slice, ...]
    edges: Edges

    def of_rows(self, t: Tensor) -> Tensor:
        """The rows of (B, H, L, W), (b * hkv, G * R, W): the heads of a group become rows of their key head."""
        t = t[self.batch, self.heads, self.rows]  # (b, h, R, W)
        b, kv = t.shape[0], self.kv_heads.stop - self.kv_heads.start
        return t.reshape(b * kv, t.shape[1] // kv * t.shape[2], t.shape[3])

    def of_keys(self, t: Tensor) -> Tensor:
        """The keys of (B, Hkv, S, W), (b * hkv, C, W)."""
        t = t[self.batch, self.kv_heads]
        parts = [t[:, :, span] for span in self.spans]
        return (parts[0] if len(parts) == 1 else torch.cat(parts, 2)).flatten(0, 1)

    def unfold(self, t: Tensor) -> Tensor:
        """(b * hkv, G * R, W) back to (b, h, R, W)."""
        return t.view(-1, self.heads.stop - self.heads.start, self.rows.stop - self.rows.start, t.shape[-1])

    def columns(self) -> Iterator[tuple[slice, slice]]:
        """Each span of keys, and its columns."""
        at = 0
        for span in self.spans:
            yield span, slice(at, at + span.stop - span.start)
            at += span.stop - span.start

    @property
    def num_keys(self) -> int:
        return sum(span.stop - span.start for span in self.spans)

    def clear(self, scores: Tensor) -> None:
        """0 for what is forbidden in (b, h, R, C), in place, whatever it was: 0 * inf would be NaN."""
        for columns, bits in self.edges:
            part = scores[..., columns]
            part.view(bits.dtype).bitwise_and_(bits)

    def forbid(self, scores: Tensor) -> None:
        """-inf for what is forbidden in (b, h, R, C), in place."""
        for columns, bits in self.edges:
            scores[..., columns].masked_fill_(bits == 0, -torch.inf)


def blocks(problem: Problem) -> Iterator[Block]:
    """Every key that a row may read is in exactly one block with that row; few enough scores each for the caches."""
    if 0 in problem.dims:
        return
    batch, heads, _, _ = problem.dims
    intervals = _intervals(problem)
    if intervals is None:
        everything = slice(0, batch), slice(0, heads)
        for rows, spans, edges in _by_range(problem):
            yield from _chunks(problem, *everything, rows, spans, edges)
        return
    lo, hi = intervals.lo.cpu(), intervals.hi.cpu()  # (B or 1, H or 1, L or 1, n)
    for i in range(lo.shape[0]):
        b = slice(i, i + 1) if lo.shape[0] > 1 else slice(0, batch)
        for j in range(lo.shape[1]):
            h = slice(j, j + 1) if lo.shape[1] > 1 else slice(0, heads)
            for rows, spans, edges in _by_intervals(problem, lo[i, j], hi[i, j]):
                yield from _chunks(problem, b, h, rows, spans, edges)


def budget() -> int:
    """Scores that may be in memory at once, so that every thread's share stays in its caches."""
    return ELEMENTS_PER_THREAD // 2 * torch.get_num_threads()


def _intervals(problem: Problem) -> KeyIntervals | None:
    view = problem.options.view
    if view is None or torch.Size(problem.dims).numel() <= SMALL:
        return None
    if view not in _KNOWN:
        _KNOWN[view] = view.intervals()
    return _KNOWN[view]


def _step(problem: Problem, width: float, most: int) -> int:
    """How many rows of so many keys make a block, if every thread has a head to itself where there are as many."""
    batch, heads, _, _ = problem.dims
    width = max(1.0, width)
    rows = int(budget() / (width * min(batch * heads, torch.get_num_threads())))
    return max(1, min(max(rows, FEW_ROWS), most, int(MOST_ELEMENTS / width)))


def _by_range(problem: Problem) -> Iterator[tuple[slice, tuple[slice, ...], Edges]]:
    """Blocks of rows with one interval of keys each, and the mask asked for every entry of it."""
    _, _, query_len, key_len = problem.dims
    step = _step(problem, key_len, MOST_ROWS)
    for start in range(0, query_len, step):
        rows = slice(start, min(start + step, query_len))
        keys = slice(*problem.key_range(rows.start, rows.stop))
        if keys.start < keys.stop:
            allowed = problem.allowed(rows, keys)
            edges = () if allowed is None else ((slice(0, keys.stop - keys.start), _bits(problem, allowed)),)
            yield rows, (keys,), edges


def _by_intervals(problem: Problem, lo: Tensor, hi: Tensor) -> Iterator[tuple[slice, tuple[slice, ...], Edges]]:
    """Blocks of rows of one map, whose rows read the keys ``lo <= j < hi``, (L or 1, n)."""
    query_len = problem.dims[2]
    step = _step(problem, float((hi - lo).sum(-1, dtype=torch.float64).mean()), ROWS)
    # Where a row reads nothing of what the one before it does, a block may end: a document, say.
    cuts = [0, *((lo[1:].amin(-1) >= _last(lo, hi)[:-1]).nonzero()[:, 0] + 1).tolist()]
    lo, hi = (t.expand(query_len, t.shape[1]) for t in (lo, hi))
    start = 0
    while start < query_len:
        stop = min(start + step, query_len)
        cut = cuts[bisect_right(cuts, stop) - 1]
        stop = cut if 2 * (cut - start) > step else stop
        some_lo, some_hi = lo[start:stop], hi[start:stop]
        spans = _union(some_lo, some_hi)
        if spans:
            yield slice(start, stop), spans, _edges(problem, some_lo, some_hi, spans)
        start = stop


def _last(lo: Tensor, hi: Tensor) -> Tensor:
    """The end of the last interval of each row (R, n) that holds something; 0 if none does."""
    return torch.where(lo < hi, hi, 0).amax(-1)


def _union(lo: Tensor, hi: Tensor) -> tuple[slice, ...]:
    """The keys that some of the rows (R, n) read, and gaps too short to be worth a jump."""
    used = lo < hi
    if not bool(used.any()):
        return ()
    starts, order = lo[used].sort()
    ends = hi[used][order].cummax(0).values
    jump = (starts[1:] > ends[:-1] + GAP).nonzero()[:, 0]
    first, last = torch.cat([starts[:1], starts[jump + 1]]), torch.cat([ends[jump], ends[-1:]])
    return tuple(slice(a, b) for a, b in zip(first.tolist(), last.tolist(), strict=True))


def _edges(problem: Problem, lo: Tensor, hi: Tensor, spans: tuple[slice, ...]) -> Edges:
    """The columns in which some row (R, n) may not read."""
    # What the n-th interval of every row has is plain; the rest is looked at.
    plain = [(a, b) for a, b in zip(lo.amax(0).tolist(), hi.amin(0).tolist(), strict=True) if a < b]
    edges = []
    at = 0
    for span in spans:
        inside = [(a, b) for a, b in plain if span.start <= a < span.stop]
        begins, ends = [span.start, *(b for _, b in inside)], [*(a for a, _ in inside), span.stop]
        for a, b in zip(begins, ends, strict=True):
            if a < b:
                key = torch.arange(a, b, device=lo.device)
                allowed = ((key >= lo[..., None]) & (key < hi[..., None])).any(1)  # (R, n, C) -> (R, C)
                columns = slice(at + a - span.start, at + b - span.start)
                edges.append((columns, _bits(problem, allowed[None, None].to(problem.q.device))))
        at += span.stop - span.start
    return tuple(edges)


def _bits(problem: Problem, allowed: Tensor) -> Tensor:
    """Booleans as integers as wide as a score: all bits of the true ones set."""
    wide = compute_dtype(problem.q.dtype) == torch.float64
    return allowed.to(torch.int64 if wide else torch.int32).neg_()


def _chunks(
    problem: Problem, batch: slice, heads: slice, rows: slice, spans: tuple[slice, ...], edges: Edges
) -> Iterator[Block]:
    """So many heads and sequences at once as there is room for: all heads of some sequences, or some of one."""
    num_keys = sum(span.stop - span.start for span in spans)
    most = max(1, budget() // ((rows.stop - rows.start) * num_keys))
    for b, h in _together(problem, batch, heads, most):
        kv = slice(
            h.start * problem.k.shape[1] // problem.dims[1], (h.stop - 1) * problem.k.shape[1] // problem.dims[1] + 1
        )
        some = tuple(
            (c, t[b if t.shape[0] > 1 else slice(None), h if t.shape[1] > 1 else slice(None)]) for c, t in edges
        )
        yield Block(b, h, kv, rows, spans, some)


def _together(problem: Problem, batch: slice, heads: slice, most: int) -> Iterator[tuple[slice, slice]]:
    """Heads and sequences, ``most`` at once: never parts of several groups of heads that share a key head."""
    group, count = problem.dims[1] // problem.k.shape[1], heads.stop - heads.start
    if most >= count:
        for b in _evenly(batch, most // count):
            yield b, heads
        return
    for i in range(batch.start, batch.stop):
        b = slice(i, i + 1)
        if most >= group:
            for units in _evenly(slice(heads.start // group, heads.stop // group), most // group):
                yield b, slice(units.start * group, units.stop * group)
        else:
            for first in range(heads.start, heads.stop, group):
                for h in _evenly(slice(first, first + group), most):
                    yield b, h


def _evenly(whole: slice, most: int) -> Iterator[slice]:
    """An interval in parts of nearly one size, at most so large."""
    length = whole.stop - whole.start
    step = -(-length // -(-length // most))
    for start in range(whole.start, whole.stop, step):
        yield slice(start, min(start + step, whole.stop))
