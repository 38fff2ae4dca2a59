"""The share of the pairs that a mask allows, cell by cell, without the L x S matrix."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.intervals import Intervals
from regard.masks.rules import Band, Causal, Documents, Padding, Prefix

__all__ = ["picture", "pool"]

# Entries that are looked at together, in cells that no rule tells the count of.
LOOKED_AT = 1 << 22

# So many only, of rows that have such cells in few columns: more rows would have more columns between them.
LOOKED_AT_FEW = 1 << 18

# Documents that are counted together.
COUNTED = 1 << 12


@dataclass(frozen=True)
class _Cells:
    """The cells of a map: its sizes, and where its rows (R + 1,) and its columns (C + 1,) begin and end."""

    sizes: Sizes
    rows: Tensor
    cols: Tensor

    @property
    def pairs(self) -> Tensor:
        """How many pairs each cell has, (R, C)."""
        return self.rows.diff()[:, None] * self.cols.diff()


def pool(mask: Mask, sizes: Sizes, rows: int, cols: int) -> Tensor:
    """What :meth:`Mask.pool` returns, of a bound mask, (B or 1, H or 1, rows, cols)."""
    cells = _Cells(sizes, _edges(sizes.query_len, rows, sizes.device), _edges(sizes.key_len, cols, sizes.device))
    counts = _told(mask, cells)
    if bool((counts < 0).any()):
        counts = _looked_at(mask, cells, counts)
    return counts.double() / cells.pairs


def _told(mask: Mask, cells: _Cells) -> Tensor:
    """Allowed pairs of each cell, (b, h, R or 1, C or 1), from what a mask is made of; -1 where that does not tell."""
    if _in_order(mask, cells.sizes) and (known := mask.intervals(cells.sizes)) is not None:
        return _of_intervals(known, cells.sizes.query_len, cells.rows, cells.cols)
    if isinstance(mask, Padding | Prefix):
        valid = mask.block(slice(0, 1), slice(0, cells.sizes.key_len), cells.sizes)  # (b, 1, 1, S), of any query
        return _summed(valid, cells.cols) * cells.rows.diff()[:, None]
    if isinstance(mask, Documents):
        return _of_documents(mask, cells)
    if isinstance(mask, Not):
        inner = _told(mask.inner, cells)
        return torch.where(inner < 0, inner, cells.pairs - inner)
    if not isinstance(mask, And | Or):
        lead = mask.block(slice(0, 1), slice(0, 1), cells.sizes).shape[:2]
        return torch.full((*lead, 1, 1), -1, device=cells.sizes.device)
    left, right = _told(mask.left, cells), _told(mask.right, cells)
    # What ends the question: none of a conjunction, all of a disjunction. What leaves it to the other: the opposite.
    none = torch.zeros_like(cells.pairs)
    ends, leaves = (none, cells.pairs) if isinstance(mask, And) else (cells.pairs, none)
    both = torch.where(left == leaves, right, torch.where(right == leaves, left, -1))
    return torch.where((left == ends) | (right == ends), ends, both)


def _in_order(mask: Mask, sizes: Sizes) -> bool:
    """Whether the intervals of a mask are found without looking at its pairs."""
    if isinstance(mask, And | Or):
        return _in_order(mask.left, sizes) and _in_order(mask.right, sizes)
    if isinstance(mask, Not):
        return _in_order(mask.inner, sizes)
    if isinstance(mask, Documents):
        ids = mask.ids.view(-1, sizes.key_len)  # (B or 1, S)
        pieces = (ids[:, 1:] != ids[:, :-1]).sum(-1).tolist()
        return all(sizes.key_len == 0 or n + 1 == len(row.unique()) for n, row in zip(pieces, ids, strict=True))
    return isinstance(mask, Causal | Band | Padding | Prefix)


def _of_documents(mask: Documents, cells: _Cells) -> Tensor:
    """The same of documents in any order: queries of a document in a row of cells times its keys in a column."""
    sizes, counts = cells.sizes, []
    row, col = _cell_of(cells.rows), _cell_of(cells.cols)  # (L,), (S,)
    place = torch.arange(sizes.query_len, device=sizes.device) + sizes.shift  # (L,)
    for ids in mask.ids.to(sizes.device).view(-1, sizes.key_len):  # (S,)
        documents, which = torch.unique(ids, return_inverse=True)
        of_query, at = which[place.clamp(min=0)], place >= 0  # queries before every key are of no document
        total = torch.zeros(len(cells.rows) - 1, len(cells.cols) - 1, dtype=torch.double, device=sizes.device)
        for first in range(0, len(documents), COUNTED):
            some = min(COUNTED, len(documents) - first)
            queries = _histogram(row, of_query - first, at, (len(total), some))  # (R, n)
            keys = _histogram(col, which - first, torch.ones_like(which, dtype=torch.bool), (total.shape[1], some))
            total += queries @ keys.mT  # (R, n) @ (n, C)
        counts.append(total.long())
    return torch.stack(counts)[:, None]  # (B or 1, 1, R, C)


def _histogram(cell: Tensor, document: Tensor, counted: Tensor, shape: tuple[int, int]) -> Tensor:
    """How many positions of each cell are of each document, float64."""
    counted = counted & (document >= 0) & (document < shape[1])
    at = (cell * shape[1] + document)[counted]
    return torch.bincount(at, minlength=shape[0] * shape[1]).view(shape).double()


def picture(mask: Mask, query_len: int, key_len: int, width: int) -> str:
    """The first map in characters, as :meth:`Mask.picture` draws it."""
    cols = min(key_len, width)
    rows = query_len if max(query_len, key_len) <= width else min(query_len, max(1, width // 2))
    if not cols:
        return "\n" * (rows - 1)
    share = mask.pool(query_len, key_len, rows, cols)  # (R, C) or (B or 1, H or 1, R, C)
    while share.dim() > 2:
        share = share[0]
    return "\n".join("".join("■" if x == 1 else "·" if x == 0 else "▒" for x in line) for line in share.tolist())


def _of_intervals(known: Intervals, query_len: int, row_edges: Tensor, col_edges: Tensor) -> Tensor:
    """Allowed pairs of each cell, (b, h, R, C), from the ends of the intervals alone."""
    # The keys below an end, less those below a beginning, are the keys between.
    return _below(known.hi, query_len, row_edges, col_edges) - _below(known.lo, query_len, row_edges, col_edges)


def _below(ends: Tensor, query_len: int, row_edges: Tensor, col_edges: Tensor) -> Tensor:
    """For ends (b, h, L or 1, n): how many keys of each cell lie below the ends of its queries, (b, h, R, C)."""
    rows, cols = len(row_edges) - 1, len(col_edges) - 1
    lead = ends.shape[:2]
    ends = ends.expand(*lead, query_len, -1).reshape(-1, query_len, ends.shape[-1]).contiguous()  # (b * h, L, n)
    col = torch.bucketize(ends, col_edges, right=True) - 1  # (b * h, L, n); an end at S is past the last cell
    inside = ends - col_edges[col]  # keys of that cell below the end
    row = _cell_of(row_edges)  # (L,)
    at = (row[:, None] * (cols + 1) + col).flatten(1)  # (b * h, L * n)
    part = ends.new_zeros(len(ends), rows * (cols + 1)).scatter_add_(1, at, inside.flatten(1))
    how_many = ends.new_zeros(len(ends), rows * (cols + 1)).scatter_add_(1, at, torch.ones_like(at))
    part, how_many = (t.view(*lead, rows, cols + 1) for t in (part, how_many))
    # An end in a later cell has all keys of this one below it.
    later = how_many.flip(-1).cumsum(-1).flip(-1)[..., 1:]  # (b, h, R, C)
    return part[..., :cols] + later * col_edges.diff()


def _looked_at(mask: Mask, cells: _Cells, told: Tensor) -> Tensor:
    """The same by looking at the mask, some rows at a time, where it is not told."""
    sizes, cols = cells.sizes, cells.cols
    lead = told.shape[:2]
    counts = told.expand(*lead, len(cells.rows) - 1, len(cols) - 1)  # (b, h, R, C)
    unknown = counts < 0  # (b, h, R, C)
    looked = torch.zeros_like(counts)
    row = _cell_of(cells.rows)  # (L,)
    for rows, keys in _places(unknown.flatten(0, 1).any(0), cells, lead.numel()):
        block = mask.block(rows, slice(int(cols[keys.start]), int(cols[keys.stop])), sizes).to(sizes.device)
        found = _summed(block, cols[keys.start : keys.stop + 1] - cols[keys.start])  # (b, h, r, c)
        looked[..., keys].index_add_(2, row[rows], found)  # to their rows of cells
    return torch.where(unknown, looked, counts)


def _places(unknown: Tensor, cells: _Cells, maps: int) -> Iterator[tuple[slice, slice]]:
    """Queries and columns of cells that hold all that is to be looked at: unknown is (R, C)."""
    edges = cells.rows.tolist()
    widths = cells.cols.tolist()
    ends = [(int(each[0]), int(each[-1]) + 1) if len(each) else None for each in (u.nonzero()[:, 0] for u in unknown)]
    at, num_rows = 0, len(ends)
    while at < num_rows:
        here, stop = ends[at], at + 1
        if here is None:
            at += 1
            continue
        while stop < num_rows and (following := ends[stop]) is not None:
            both = min(here[0], following[0]), max(here[1], following[1])
            most = LOOKED_AT if both == here == following else LOOKED_AT_FEW
            if (edges[stop + 1] - edges[at]) * (widths[both[1]] - widths[both[0]]) * maps > most:
                break
            here, stop = both, stop + 1
        step = max(1, LOOKED_AT // (maps * (widths[here[1]] - widths[here[0]])))
        for start in range(edges[at], edges[stop], step):
            yield slice(start, min(start + step, edges[stop])), slice(*here)
        at = stop


def _summed(block: Tensor, col_edges: Tensor) -> Tensor:
    """Booleans (b, h, r, n) as their numbers in each column of cells, (b, h, r, C)."""
    below = torch.nn.functional.pad(block.cumsum(-1, dtype=torch.int32), (1, 0))  # (b, h, r, n + 1)
    return below[..., col_edges].diff(dim=-1).long()


def _cell_of(edges: Tensor) -> Tensor:
    """The cell of each position."""
    return torch.repeat_interleave(edges.diff())  # (n,)


def _edges(length: int, cells: int, device: torch.device) -> Tensor:
    """Where cells begin and end, (cells + 1,)."""
    return torch.arange(cells + 1, device=device) * length // cells
