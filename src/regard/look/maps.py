"""Maps small enough to draw: weights pooled into cells, and which cells a mask allows.

Letters as everywhere: L queries, S keys, H heads; R x C the cells of a pooled map. Cell r covers the queries
floor(r * L / R) up to floor((r + 1) * L / R), cell c the keys likewise. A pooled value is the weight that the cell's
keys receive together, averaged over the cell's queries: a row of cells sums to what a row of weights does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.masks import dense

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.masks import Mask


@dataclass(frozen=True)
class Maps:
    """The pooled maps of some heads.

    Attributes:
        values: (H, R, C) weights, pooled by the mean rule above, float32.
        allowed: (H, R, C) booleans, False where the mask allows no pair of the cell.
        query_len: L, the queries the rows cover.
        key_len: S, the keys the columns cover.
    """

    values: Tensor
    allowed: Tensor
    query_len: int
    key_len: int

    @property
    def cell(self) -> str:
        """What one cell covers, in words: "1 cell = 16 × 16 tokens", or "" when every weight has a cell of its own."""
        rows, cols = self.values.shape[-2:]
        if (rows, cols) == (self.query_len, self.key_len):
            return ""
        return f"1 cell = {count(self.query_len, rows)} × {count(self.key_len, cols)} tokens"


def pooled(weights: AttentionWeights | Tensor, size: int, *, batch: int = 0) -> Maps:
    """The maps of all heads in at most size x size cells.

    Args:
        weights: (..., H, L, S) or (L, S), an operator or a dense tensor.
        size: the most cells along a side.
        batch: which sequence of a batch.

    Returns:
        The maps, on the CPU.

    Raises:
        ValueError: if the batch does not have that sequence, or weights is not of 2 to 4 dimensions.
    """
    query_len, key_len = weights.shape[-2:]
    rows, cols = min(size, query_len), min(size, key_len)
    if isinstance(weights, Tensor):
        values = pool_dense(one_sequence(weights.detach(), 2, batch).float().cpu(), rows, cols)
    else:
        values = one_sequence(weights.pool(rows, cols).detach(), 2, batch).float().cpu()
    allowed = allowed_cells(weights, rows, cols, batch=batch).expand_as(values)
    return Maps(values, allowed, query_len, key_len)


def one_sequence(values: Tensor, trailing: int, batch: int = 0) -> Tensor:
    """One sequence's part of a result: (H, ...) from (B, H, ...), from (H, ...) or from (...).

    Args:
        values: what a method of AttentionWeights returned.
        trailing: how many dimensions follow the heads: 2 for a map, 1 for a margin.
        batch: which sequence.

    Returns:
        (H, ...), H = 1 where there are no heads.

    Raises:
        ValueError: if there is no such sequence, or there are more dimensions than batch and heads.
    """
    leading = values.ndim - trailing
    if leading not in (0, 1, 2):
        raise ValueError(f"weights has {leading + 2} dimensions; expected (B, H, L, S), (H, L, S) or (L, S)")
    sequences = values.shape[0] if leading == 2 else 1
    if not -sequences <= batch < sequences:
        raise ValueError(f"batch is {batch}, but weights holds {sequences} sequence(s): expected 0 to {sequences - 1}")
    if leading == 2:
        return values[batch]
    return values if leading == 1 else values.unsqueeze(0)


def pool_dense(values: Tensor, rows: int, cols: int) -> Tensor:
    """A dense (..., L, S) tensor as (..., R, C) cells: summed over a cell's keys, averaged over its queries.

    Example:
        >>> import torch
        >>> from regard.look.maps import pool_dense
        >>> pool_dense(torch.full((4, 4), 0.25), 2, 2)
        tensor([[0.5000, 0.5000],
                [0.5000, 0.5000]])

    Args:
        values: (..., L, S).
        rows: R, at most L.
        cols: C, at most S.

    Returns:
        (..., R, C).
    """
    query_len, key_len = values.shape[-2:]
    if (rows, cols) == (query_len, key_len):
        return values
    row_of, col_of = _cells(query_len, rows).to(values.device), _cells(key_len, cols).to(values.device)
    by_row = values.new_zeros(*values.shape[:-2], rows, key_len).index_add_(-2, row_of, values)  # (..., R, S)
    summed = values.new_zeros(*values.shape[:-2], rows, cols).index_add_(-1, col_of, by_row)  # (..., R, C)
    return summed / torch.bincount(row_of, minlength=rows)[:, None]


def max_dense(values: Tensor, rows: int, cols: int) -> Tensor:
    """A dense (..., L, S) tensor as (..., R, C) cells: the largest value of each.

    Example:
        >>> import torch
        >>> from regard.look.maps import max_dense
        >>> max_dense(torch.arange(16).view(4, 4), 2, 2)
        tensor([[ 5,  7],
                [13, 15]])

    Args:
        values: (..., L, S).
        rows: R, at most L.
        cols: C, at most S.

    Returns:
        (..., R, C), of the same dtype.
    """
    query_len, key_len = values.shape[-2:]
    if (rows, cols) == (query_len, key_len):
        return values
    lead = values.shape[:-2]
    row_of, col_of = _cells(query_len, rows).to(values.device), _cells(key_len, cols).to(values.device)
    by_col = values.new_zeros(*lead, query_len, cols)  # (..., L, C)
    by_col.scatter_reduce_(-1, col_of.expand_as(values), values, "amax", include_self=False)
    most = values.new_zeros(*lead, rows, cols)  # (..., R, C)
    return most.scatter_reduce_(-2, row_of[:, None].expand_as(by_col), by_col, "amax", include_self=False)


def mask_cells(mask: Mask | Tensor, query_len: int, key_len: int, size: int) -> Tensor:
    """The share of each cell's pairs that a mask allows, (R, C), in at most size x size cells.

    Args:
        mask: a mask, or booleans (..., L, S) of which the first are taken.
        query_len: L.
        key_len: S.
        size: the most cells along a side.

    Returns:
        (R, C), 0 to 1.

    Raises:
        ValueError: if the tensor's last dimensions are not (query_len, key_len).
    """
    if isinstance(mask, Tensor):
        if tuple(mask.shape[-2:]) != (query_len, key_len):
            raise ValueError(f"mask has shape {tuple(mask.shape)}; expected (..., {query_len}, {key_len})")
        while mask.ndim > 2:
            mask = mask[0]
        mask = dense(mask.cpu())
    share = mask.pool(query_len, key_len, min(size, query_len), min(size, key_len))  # (R, C) or (B, H, R, C)
    return share.reshape(-1, *share.shape[-2:])[0].float()


def average(margin: Tensor, cells: int) -> Tensor:
    """A margin (..., n) as the means over its cells, (..., cells)."""
    length = margin.shape[-1]
    if cells == length:
        return margin
    of = _cells(length, cells)
    return margin.new_zeros(*margin.shape[:-1], cells).index_add_(-1, of, margin) / torch.bincount(of, minlength=cells)


def _cells(length: int, cells: int) -> Tensor:
    """The cell that each of length positions belongs to."""
    return ((torch.arange(length) + 1) * cells - 1) // length


def allowed_cells(
    weights: AttentionWeights | Tensor,
    rows: int,
    cols: int,
    *,
    batch: int = 0,
    known: dict[Any, Tensor] | None = None,
) -> Tensor:
    """Which of rows x cols cells hold a pair that the mask allows, (H or 1, R, C) booleans on the CPU.

    Args:
        weights: (..., H, L, S); without a mask everything is allowed.
        rows: R, at most L.
        cols: C, at most S.
        batch: which sequence of a batch.
        known: what equal masks were found to allow; what is found is added to it.

    Returns:
        The booleans, with one head where all heads are alike.
    """
    mask = None if isinstance(weights, Tensor) else weights.mask
    if mask is None:
        return torch.ones(1, rows, cols, dtype=torch.bool)
    query_len, key_len = weights.shape[-2:]
    sequences, num_heads = (1, 1, *weights.shape[:-2])[-2:]
    asked = (mask, query_len, key_len, rows, cols, sequences, num_heads)
    known = {} if known is None else known
    if asked not in known:
        sizes = {"batch": sequences, "num_heads": num_heads}
        share = mask.pool(query_len, key_len, rows, cols, **sizes, device=weights.device)
        known[asked] = (share > 0).cpu()  # (R, C) or (B or 1, H or 1, R, C)
    found = known[asked]
    return one_sequence(found, 2, batch if found.ndim == 4 and len(found) > 1 else 0)


def count(length: int, cells: int) -> str:
    """How many positions a cell covers, in words: "16", or "15–16" where they differ."""
    low, high = length // cells, -(-length // cells)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"


def coarser(values: Tensor, lengths: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """A pooled mean map (..., R, C) in fewer cells that hold whole ones of it: what `pool` gives for them.

    Args:
        values: the map, summed over keys and averaged over queries.
        lengths: (L, S).
        cells: its new (R, C), each a divisor of the old number where that is less than the length.

    Returns:
        The map in those cells.
    """
    rows, cols = values.shape[-2:]
    if (rows, cols) == cells:
        return values
    row_of, col_of = _nested(lengths[0], rows, cells[0]), _nested(lengths[1], cols, cells[1])
    queries = torch.bincount(_cells(lengths[0], rows), minlength=rows).to(values.dtype)  # (rows,)
    weighted = values * queries[:, None]
    by_row = values.new_zeros(*values.shape[:-2], cells[0], cols).index_add_(-2, row_of, weighted)
    summed = values.new_zeros(*values.shape[:-2], *cells).index_add_(-1, col_of, by_row)  # (..., R, C)
    return summed / torch.zeros(cells[0], dtype=values.dtype).index_add_(0, row_of, queries)[:, None]


def largest(values: Tensor, lengths: tuple[int, int], cells: tuple[int, int]) -> Tensor:
    """The largest value of a map (..., R, C) in fewer cells, as `coarser` has them."""
    rows, cols = values.shape[-2:]
    if (rows, cols) == cells:
        return values
    row_of, col_of = _nested(lengths[0], rows, cells[0]), _nested(lengths[1], cols, cells[1])
    starts = [
        [*torch.searchsorted(of, torch.arange(n)).tolist(), len(of)]
        for of, n in zip((row_of, col_of), cells, strict=True)
    ]
    by_row = torch.stack([values[..., a:b, :].amax(-2) for a, b in pairwise(starts[0])], -2)  # (..., R', C)
    return torch.stack([by_row[..., a:b].amax(-1) for a, b in pairwise(starts[1])], -1)  # (..., R', C')


def peaks(margin: Tensor, cells: int) -> Tensor:
    """A margin (..., n) as the largest value of each of its cells, (..., cells)."""
    length = margin.shape[-1]
    if cells == length:
        return margin
    of = _cells(length, cells).expand_as(margin)
    return margin.new_zeros(*margin.shape[:-1], cells).scatter_reduce_(-1, of, margin, "amax", include_self=False)


def _nested(length: int, fine: int, coarse: int) -> Tensor:
    """The coarse cell that each fine one lies in, (fine,)."""
    starts = torch.arange(fine) * length // fine
    return ((starts + 1) * coarse - 1) // length
