"""From the intervals of keys that rows read to tiles: pieces of the map whose form a kernel can be told.

Rows are cut where the form changes: a causal mask is one tile, a window two (where it grows, and where it moves), and
every document is one. What changes its form too often is cut into blocks of rows instead, and each keeps its intervals.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

__all__ = ["KINDS", "Tile", "compile_tiles"]

# By how many keys the first and the last key of a row move from one row to the next.
KINDS = {(0, 0): "full", (0, 1): "causal", (1, 1): "band", (1, 0): "anticausal"}
SLOPES = {kind: slopes for slopes, kind in KINDS.items()}

# A form that holds for fewer rows than this is not worth a call of its own: such rows go into blocks with a mask.
FEWEST_ROWS = 48
# Rows of such a block, and the grain of keys that it reads.
BLOCK_ROWS = 64
BLOCK_KEYS = 64


@dataclass(frozen=True)
class Tile:
    """Rows that read one interval of keys each, of a form: row r of the tile reads ``[start + a * r, start + width + b
    * r)``, with start that of ``keys``.

    kind is "full" (a = b = 0), "causal" (a = 0, b = 1), "band" (1, 1), "anticausal" (1, 0), or "partial", where each
    row has its own intervals in ``pieces`` (lo, hi), (rows, n) each. A tile that repeats ``count`` times, so many rows
    and keys further each time, is one tile.
    """

    rows: slice
    keys: slice
    kind: str
    width: int = 0
    pieces: tuple[Tensor, Tensor] | None = field(default=None, compare=False, repr=False)
    count: int = 1
    row_step: int = 0
    key_step: int = 0

    @property
    def num_rows(self) -> int:
        return int(self.rows.stop - self.rows.start)

    @property
    def num_keys(self) -> int:
        return int(self.keys.stop - self.keys.start)

    @property
    def slopes(self) -> tuple[int, int]:
        return SLOPES[self.kind]

    @property
    def entries(self) -> int:
        """How many (query, key) pairs may be read in it."""
        if self.pieces is not None:
            lo, hi = (t.clamp(self.keys.start, self.keys.stop) for t in self.pieces)
            return int((hi - lo).clamp(min=0).sum())
        a, b = self.slopes
        n = self.num_rows
        return self.count * (n * self.width + (b - a) * n * (n - 1) // 2)

    def singles(self) -> Iterator[Tile]:
        """Each repetition as a tile of its own."""
        if self.count == 1:
            yield self
            return
        for i in range(self.count):
            rows = slice(self.rows.start + i * self.row_step, self.rows.stop + i * self.row_step)
            keys = slice(self.keys.start + i * self.key_step, self.keys.stop + i * self.key_step)
            yield replace(self, rows=rows, keys=keys, count=1, row_step=0, key_step=0)

    def part(self, first: int, last: int) -> Tile:
        """The tile's rows [first, last), counted within it, with the keys that these read."""
        rows = slice(self.rows.start + first, self.rows.start + last)
        if self.pieces is not None:
            return replace(self, rows=rows, pieces=(self.pieces[0][first:last], self.pieces[1][first:last]))
        a, b = self.slopes
        start = self.keys.start + a * first
        width = self.width + (b - a) * first
        stop = self.keys.start + self.width + b * (last - 1)
        return replace(self, rows=rows, keys=slice(start, stop), width=width)

    def boxes(self, most: int) -> Iterator[tuple[slice, slice]]:
        """Rectangles (rows, keys) of at most ``most`` rows that hold it; every key of a box is read by a row of it, but
        for gaps of less than two grains in a partial one.
        """
        for tile in self.singles():
            for first in range(0, tile.num_rows, most):
                part = tile.part(first, min(first + most, tile.num_rows))
                yield part.rows, part.keys

    def allowed(self) -> Tensor:
        """Which entries of the rectangle rows x keys may be read, (rows, keys) booleans; of the first repetition."""
        device = torch.device("cpu") if self.pieces is None else self.pieces[0].device  # whatever the default is
        key = torch.arange(self.keys.start, self.keys.stop, device=device)
        if self.pieces is not None:
            lo, hi = (t[..., None] for t in self.pieces)  # (R, n, 1)
            inside: Tensor = ((key >= lo) & (key < hi)).any(1)  # (R, C)
            return inside
        a, b = self.slopes
        row = torch.arange(self.num_rows, device=device)[:, None]
        key = key - self.keys.start
        return torch.logical_and(key >= a * row, key < self.width + b * row)


def compile_tiles(lo: Tensor, hi: Tensor, query_len: int | None = None) -> tuple[Tile, ...]:
    """The tiles of a map whose row i reads the keys ``lo[i, n] <= j < hi[i, n]``, (L, n) integers, in order; or (1, n)
    for ``query_len`` rows that all read the same.
    """
    query_len = len(lo) if query_len is None else query_len
    lo, hi = lo.cpu(), hi.cpu()
    if len(lo) == 1:  # decoding and padding, where the time that this takes would show
        pieces = zip(lo[0].tolist(), hi[0].tolist(), strict=True)
        return tuple(Tile(slice(0, query_len), slice(a, b), "full", b - a) for a, b in pieces if a < b)
    forms = _forms(lo, hi)
    tiles: list[Tile] = []
    at = 0
    while at < len(forms):
        first, last = forms[at]
        at += 1
        if last - first >= FEWEST_ROWS:
            tiles += _pieces(lo, hi, first, last)
            continue
        begun = at - 1
        while at < len(forms) and forms[at][1] - forms[at][0] < FEWEST_ROWS:
            last = forms[at][1]
            at += 1
        tiles += _pieces(lo, hi, first, last) if at - begun == 1 else _blocks(lo, hi, first, last)
    return tuple(_grouped(tiles))


def _forms(lo: Tensor, hi: Tensor) -> list[tuple[int, int]]:
    """Rows [first, last) of one form: as many pieces, whose ends all move by 0 or by 1 from each row to the next."""
    length = len(lo)
    step = torch.cat([lo.diff(dim=0), hi.diff(dim=0)], -1)  # (L - 1, 2 n)
    used = lo < hi
    joined = ((step == 0) | (step == 1)).all(-1) & (used[1:] == used[:-1]).all(-1)  # (L - 1,): row i + 1 may follow i
    turns = torch.ones_like(joined)
    turns[1:] = (step[1:] != step[:-1]).any(-1) | ~joined[1:] | ~joined[:-1]
    forms: list[tuple[int, int]] = []
    first = 0
    # Step i leads from row i to row i + 1. Where it is another than the one before, row i + 1 begins a form, unless row
    # i did: then this step is the first of that form.
    fits = joined.tolist() if turns.sum() * 4 > length else None
    for i in turns.nonzero()[:, 0].tolist():
        follows = bool(joined[i]) if fits is None else fits[i]
        if i + 1 > first and (i > first or not follows):
            forms.append((first, i + 1))
            first = i + 1
    if first < length:
        forms.append((first, length))
    return forms


def _pieces(lo: Tensor, hi: Tensor, first: int, last: int) -> Iterator[Tile]:
    """One tile for each piece of rows of one form."""
    steps = (lo[first + 1], hi[first + 1]) if last - first > 1 else (lo[first], hi[first])
    for start, stop, next_start, next_stop in zip(*(t.tolist() for t in (lo[first], hi[first], *steps)), strict=True):
        if start < stop:
            a, b = next_start - start, next_stop - stop
            keys = slice(start, stop + b * (last - first - 1))
            yield Tile(slice(first, last), keys, KINDS[a, b], stop - start)


def _blocks(lo: Tensor, hi: Tensor, first: int, last: int) -> Iterator[Tile]:
    """Blocks of rows whose forms differ, and the grains of keys that some row of a block reads."""
    count = -(-(last - first) // BLOCK_ROWS)
    rows, used = torch.arange(first, last, device=lo.device), lo[first:last] < hi[first:last]  # (R,), (R, n)
    block = ((rows - first) // BLOCK_ROWS)[:, None].expand_as(used)[used]
    begins, ends = (lo[first:last] // BLOCK_KEYS)[used], ((hi[first:last] - 1) // BLOCK_KEYS)[used]
    grains = int(ends.max()) + 2 if len(ends) else 1
    # +1 where an interval begins and -1 after it ends: the running sum says how many lie over a grain.
    over = torch.zeros(count * grains, dtype=torch.int32, device=lo.device)
    one = torch.ones_like(begins, dtype=torch.int32)
    over.index_add_(0, block * grains + begins, one).index_add_(0, block * grains + ends + 1, -one)
    read = over.view(count, grains).cumsum(-1) > 0
    edge = torch.zeros_like(read[:, :1])
    starts = read & ~torch.cat([edge, read[:, :-1]], -1)
    # The run of grains that each interval lies in, and the first and the last key that any reads of it.
    run = starts.flatten().cumsum(0)[block * grains + begins] - 1
    low = torch.full((int(starts.sum()),), int(hi.max()), dtype=lo.dtype, device=lo.device)
    low.scatter_reduce_(0, run, lo[first:last][used], "amin")
    high = torch.zeros_like(low).scatter_reduce_(0, run, hi[first:last][used], "amax")
    for b, start, stop in zip(starts.nonzero()[:, 0].tolist(), low.tolist(), high.tolist(), strict=True):
        r = slice(first + b * BLOCK_ROWS, min(first + (b + 1) * BLOCK_ROWS, last))
        yield Tile(r, slice(start, stop), "partial", pieces=(lo[r], hi[r]))


def _grouped(tiles: list[Tile]) -> list[Tile]:
    """Tiles of one form that repeat at even steps, such as documents of one length, as one tile each."""
    out: list[Tile] = []
    open_at: dict[tuple[str, int, int, int], int] = {}
    for tile in tiles:
        key = (tile.kind, tile.num_rows, tile.num_keys, tile.width)
        at = open_at.get(key) if tile.pieces is None else None
        if at is not None:
            group = out[at]
            row_step = tile.rows.start - group.rows.start - (group.count - 1) * group.row_step
            key_step = tile.keys.start - group.keys.start - (group.count - 1) * group.key_step
            even = group.count == 1 or (row_step, key_step) == (group.row_step, group.key_step)
            if even and row_step >= tile.num_rows and key_step >= 0:
                out[at] = replace(group, count=group.count + 1, row_step=row_step, key_step=key_step)
                continue
        open_at[key] = len(out)
        out.append(tile)
    return out
