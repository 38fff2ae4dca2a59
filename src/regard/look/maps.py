"""Maps small enough to draw: weights pooled into cells, and which cells a mask allows.

Letters as everywhere: L queries, S keys, H heads; R x C the cells of a pooled map. Cell r covers the queries
floor(r * L / R) up to floor((r + 1) * L / R), cell c the keys likewise. A pooled value is the weight that the cell's
keys receive together, averaged over the cell's queries: a row of cells sums to what a row of weights does.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.masks import Mask

#: Up to this many entries a mask is asked for as it is; above, a cell without any weight counts as forbidden.
DENSE_MASK_ENTRIES = 1 << 20


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
    return Maps(values, _allowed(weights, values, batch), query_len, key_len)


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
    row_of, col_of = _cells(query_len, rows), _cells(key_len, cols)
    by_row = values.new_zeros(*values.shape[:-2], rows, key_len).index_add_(-2, row_of, values)  # (..., R, S)
    summed = values.new_zeros(*values.shape[:-2], rows, cols).index_add_(-1, col_of, by_row)  # (..., R, C)
    return summed / torch.bincount(row_of, minlength=rows)[:, None]


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
    dense = mask if isinstance(mask, Tensor) else mask.to_dense(query_len, key_len)
    if tuple(dense.shape[-2:]) != (query_len, key_len):
        raise ValueError(f"mask has shape {tuple(dense.shape)}; expected (..., {query_len}, {key_len})")
    while dense.ndim > 2:
        dense = dense[0]
    rows, cols = min(size, query_len), min(size, key_len)
    return pool_dense(dense.cpu().float(), rows, cols) / torch.bincount(_cells(key_len, cols), minlength=cols)


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


def _allowed(weights: AttentionWeights | Tensor, values: Tensor, batch: int) -> Tensor:
    """Which cells hold a pair that the mask allows, (H, R, C)."""
    mask = None if isinstance(weights, Tensor) else weights.mask
    query_len, key_len = weights.shape[-2:]
    if mask is None:
        return torch.ones_like(values, dtype=torch.bool)
    if query_len * key_len > DENSE_MASK_ENTRIES:
        return values > 0
    sequences, num_heads = (1, 1, *weights.shape[:-2])[-2:]
    sizes = {"batch": sequences, "num_heads": num_heads}
    dense = mask.to_dense(query_len, key_len, **sizes, device=weights.device).cpu()  # (L, S) or (B|1, H|1, L, S)
    dense = one_sequence(dense, 2, min(batch, dense.shape[0] - 1) if dense.ndim == 4 else 0)  # (H|1, L, S)
    return (pool_dense(dense.float(), *values.shape[-2:]) > 0).expand_as(values)


def count(length: int, cells: int) -> str:
    """How many positions a cell covers, in words: "16", or "15–16" where they differ."""
    low, high = length // cells, -(-length // cells)
    return f"{low:,}" if low == high else f"{low:,}–{high:,}"
