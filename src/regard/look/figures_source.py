"""One head of one sequence, as the figures ask for it: blocks, single queries and pooled maps.

Nothing here holds more than a block of rows of the weights, so that a figure of any length can be drawn. Letters: L
queries, S keys, R x C the cells of a map.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from regard.look.checks import whole
from regard.look.dense import wrapped
from regard.look.maps import Maps
from regard.look.without_first import NOTHING, STORED_ROUNDING, share_left
from regard.masks import Mask, Sizes

Reduce = Literal["mean", "max"]

#: How many weights are computed at once.
BLOCK_ENTRIES = 1 << 22


@dataclass(frozen=True)
class OneHead:
    """One head of one sequence, from an operator or from a dense tensor.

    Attributes:
        weights: AttentionWeights, or stored weights that are asked as they are.
        index: the place of the head among the leading axes of the weights.
        rounding: what a row may miss of 1 by rounding; what it misses beyond that a sink has taken.
    """

    weights: Any
    index: tuple[int, ...]
    rounding: float

    @property
    def mask(self) -> Mask | None:
        """The mask, or None where nothing is known to be forbidden."""
        found: Mask | None = self.weights.mask
        return found

    @property
    def query_len(self) -> int:
        """L."""
        return int(self.weights.shape[-2])

    @property
    def key_len(self) -> int:
        """S."""
        return int(self.weights.shape[-1])

    def block(self, rows: slice, keys: slice, *, hide_first: bool = False) -> Tensor:
        """The weights of some queries on some keys, (r, c) in float64; without key 0 each row is renormalised."""
        index = (*self.index, rows, slice(None) if hide_first else keys)
        values = self.weights[index].detach().to("cpu", torch.float64)  # (r, c)
        return self._without_first(values)[:, keys] if hide_first else values

    def allowed(self, rows: slice, keys: slice) -> Tensor:
        """Which of these pairs the mask allows, (r, c) booleans."""
        if self.mask is None:
            return torch.ones(rows.stop - rows.start, keys.stop - keys.start, dtype=torch.bool)
        bound, sizes = self._bound(self.mask)
        block = bound.block(rows, keys, sizes)  # (B or 1, H or 1, r, c)
        sequence, number = self._place(sizes)
        return block[sequence % block.shape[0], number % block.shape[1]].cpu()  # (r, c)

    def forbidden_cells(self, rows: int, cols: int) -> Tensor:
        """Which of rows x cols cells hold no pair that the mask allows, (R, C) booleans."""
        if self.mask is None:
            return torch.zeros(rows, cols, dtype=torch.bool)
        _, sizes = self._bound(self.mask)
        of = {"batch": sizes.batch, "num_heads": sizes.heads}
        share = self.mask.pool(self.query_len, self.key_len, rows, cols, device=sizes.device, **of)
        share = share if share.ndim == 4 else share[None, None]  # (B or 1, H or 1, R, C)
        sequence, number = self._place(sizes)
        return share[sequence % len(share), number % share.shape[1]].cpu() == 0  # (R, C)

    def everything(self, query: int, *, hide_first: bool = False) -> tuple[Tensor, Tensor]:
        """All weights of a query and which keys it may read, (S,) each."""
        rows, keys = slice(query, query + 1), slice(0, self.key_len)
        return self.block(rows, keys, hide_first=hide_first)[0], self.allowed(rows, keys)[0]

    def map(self, size: int, reduce: Reduce = "mean", *, hide_first: bool = False) -> Maps:
        """The map in at most size x size cells; without key 0 its column is NaN where it has one of its own."""
        if reduce not in ("mean", "max"):
            raise ValueError(f"reduce is {reduce!r}; expected 'mean' or 'max'")
        import numpy

        size = most_cells(size)
        rows, cols = min(size, self.query_len), min(size, self.key_len)
        of_row = ((torch.arange(self.query_len) + 1) * rows - 1) // self.query_len  # (L,)
        starts = [col * self.key_len // cols for col in range(cols)]
        values = torch.zeros(rows, cols, dtype=torch.float64)
        allowed = torch.zeros(rows, cols, dtype=torch.bool)
        fold = numpy.add if reduce == "mean" else numpy.maximum
        for part, block, permitted in self._blocks(hide_first=hide_first):
            by_cell = torch.from_numpy(fold.reduceat(block.numpy(), starts, axis=1))  # (r, S) -> (r, C)
            some = torch.from_numpy(numpy.logical_or.reduceat(permitted.numpy(), starts, axis=1))  # (r, S) -> (r, C)
            to = of_row[part]
            if reduce == "mean":
                values.index_add_(0, to, by_cell)
            else:
                values.scatter_reduce_(0, to[:, None].expand_as(by_cell), by_cell, "amax")
            allowed.index_put_((to.unique(),), _any_of(some, to) | allowed[to.unique()])
        if reduce == "mean":
            values /= torch.bincount(of_row, minlength=rows)[:, None]
        if hide_first and cols == self.key_len:
            values[:, 0] = math.nan
        return Maps(values[None].float(), allowed[None], self.query_len, self.key_len)

    def margins(self, *, hide_first: bool = False) -> tuple[Tensor, Tensor]:
        """The entropy of every query in nats (L,), and the weight that every key receives (S,)."""
        if not hide_first:
            with torch.no_grad():
                entropy, received = self.weights.ask("entropy", "received")
            return entropy[self.index].double().cpu(), received[self.index].double().cpu()
        entropies, received = [], torch.zeros(self.key_len, dtype=torch.float64)
        for _, block, _ in self._blocks(hide_first=hide_first):
            entropies.append(entropy_of(block))
            received += block.sum(0)
        return torch.cat(entropies), received

    def _blocks(self, *, hide_first: bool) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """All rows, some at a time: which, their weights and which are allowed, (r, S) each."""
        step = max(1, BLOCK_ENTRIES // self.key_len)
        for start in range(0, self.query_len, step):
            rows = slice(start, min(start + step, self.query_len))
            low, high = self._reach(rows, hide_first=hide_first)
            values = torch.zeros(rows.stop - start, self.key_len, dtype=torch.float64)
            allowed = torch.zeros(values.shape, dtype=torch.bool)
            if low < high:
                keys = slice(low, high)
                values[:, keys] = self.block(rows, keys)
                allowed[:, keys] = self.allowed(rows, keys)
            yield rows, self._without_first(values) if hide_first else values, allowed

    def _reach(self, rows: slice, *, hide_first: bool) -> tuple[int, int]:
        """The keys outside of which nobody of these rows may read; with key 0, where it is needed."""
        if self.mask is None:
            return 0, self.key_len
        bound, sizes = self._bound(self.mask)
        low, high = bound.key_range(rows.start, rows.stop, sizes)
        return (0 if hide_first else max(0, low)), min(high, self.key_len)

    def _without_first(self, values: Tensor) -> Tensor:
        """Whole rows (r, S) without key 0: w / (1 - w_0), and 0 where key 0 had everything."""
        first, others = values[:, :1], values.clone()
        others[:, 0] = 0
        rest = others.sum(-1, keepdim=True)  # (r, 1)
        left = share_left(first, rest, self.rounding)
        return torch.where(left >= NOTHING, others / left, 0.0)

    def _bound(self, mask: Mask) -> tuple[Mask, Sizes]:
        """The mask for the sizes of the weights."""
        *lead, query_len, key_len = self.weights.shape
        device = next((tensor.device for tensor in mask.tensors()), torch.device("cpu"))
        heads = lead.pop() if lead else 1
        sizes = Sizes(tuple(lead) or (1,), heads, query_len, key_len, device, len(self.index) == 0)
        try:
            return mask.bind(sizes), sizes
        except ValueError:
            if len(self.index) != 1:
                raise
        # Of three axes the first may be that of the sequences: (N, L, S) has no heads.
        sizes = Sizes((heads,), 1, query_len, key_len, device, headless=True)
        return mask.bind(sizes), sizes

    def _place(self, sizes: Sizes) -> tuple[int, int]:
        """The sequence and the head."""
        if len(self.index) == 2:
            return self.index[0], self.index[1]
        at = self.index[0] if self.index else 0
        return (at, 0) if sizes.headless else (0, at)


def one_head(
    weights: Any, which: int | None = None, batch: int = 0, mask: Any = None, *, name: str = "weights"
) -> OneHead:
    """The head that a figure is of.

    Args:
        weights: AttentionWeights, a tensor or an array, (L, S), (H, L, S) or (B, H, L, S).
        which: the head; None where there is only one.
        batch: the sequence.
        mask: of dense weights, a mask or booleans that broadcast to them; an operator has its own.
        name: what the weights are called in an error.

    Returns:
        The head.

    Raises:
        TypeError: if weights is none of these, or which or batch is no integer.
        ValueError: if there is no such head or sequence, weights are no attention weights, or the mask does not fit.
    """
    (asked,) = wrapped([weights], [name], mask)
    shape = tuple(asked.shape)
    if not 2 <= len(shape) <= 4:
        raise ValueError(f"{name} has {len(shape)} dimensions; expected (B, H, L, S), (H, L, S) or (L, S)")
    if 0 in shape:
        raise ValueError(f"{name} has shape {shape}, which holds nothing; expected at least one query and one key")
    sequences, num_heads = (1, 1, *shape[:-2])[-2:]
    batch = sequence(batch)
    if not -sequences <= batch < sequences:
        raise ValueError(f"batch is {batch}, but {name} holds {sequences} sequence(s): expected 0 to {sequences - 1}")
    number = None if which is None else whole("which", which, "the number of one head, from 0")
    number = 0 if number is None and num_heads == 1 else number
    if number is None or not 0 <= number < num_heads:
        raise ValueError(f"which is {which}, but {name} holds {num_heads} head(s); expected 0 to {num_heads - 1}")
    rounding = STORED_ROUNDING.get(getattr(asked, "stored", asked.dtype), 1e-5)
    return OneHead(asked, (batch % sequences, number)[4 - len(shape) :], rounding)


def sequence(batch: Any) -> int:
    """The number of a sequence, as an integer."""
    return whole("batch", batch, "the number of one sequence, from 0")


def most_cells(size: Any) -> int:
    """The most cells along a side of a map."""
    return whole("size", size, "the most cells along a side, at least 1", least=1)


def entropy_of(weights: Tensor) -> Tensor:
    """The entropy of rows in nats, (..., S) to (...)."""
    terms: Tensor = torch.special.xlogy(weights, weights)
    return -terms.sum(-1)


def _any_of(some: Tensor, to: Tensor) -> Tensor:
    """Booleans (r, C) joined by the cells `to` (r,), which ascend: (cells, C)."""
    first = int(to[0])
    joined = torch.zeros(int(to[-1]) - first + 1, some.shape[1], dtype=torch.int32)
    return joined.index_add_(0, to - first, some.int()) > 0
