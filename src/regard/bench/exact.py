"""The definition and its gradients in float64 at lengths whose L x S matrix would not fit: in blocks of rows.

Which keys a row may read is said here by a rule written by hand, not by :mod:`regard.masks`: a mask that is wrong must
not be compared with itself. Keys that no row of a block may read are left out; their weights are zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard import reference

__all__ = ["Allowed", "Block", "Dropped", "Gradients", "blocks", "everything", "gradients", "sampled_starts"]

#: Which keys (S,) the rows (n, 1) may read, as booleans that broadcast to (n, S); True = may attend.
Allowed = Callable[[Tensor, Tensor], Tensor]
SIZE = 256


@dataclass(frozen=True)
class Block:
    """The definition for some rows of every head.

    Args:
        rows: which rows.
        keys: the keys that at least one of them may read lie within these.
        weights: (N, rows, keys), before dropout.
        output: (N, rows, Dv).
    """

    rows: slice
    keys: slice
    weights: Tensor
    output: Tensor


@dataclass(frozen=True)
class Dropped:
    """What dropout did.

    Args:
        keep: (N, L, S), the weights that it kept.
        probability: with which it dropped one.
    """

    keep: Tensor
    probability: float

    def factors(self, block: slice, keys: slice) -> Tensor:
        """What the weights of a block were multiplied with."""
        return self.keep[:, block, keys].double() / (1 - self.probability)


@dataclass(frozen=True)
class Gradients:
    """Output (N, L, Dv) and the gradients of query (N, L, D), key (N, S, D) and value (N, S, Dv)."""

    output: Tensor
    query: Tensor
    key: Tensor
    value: Tensor


def everything(rows: Tensor, keys: Tensor) -> Tensor:
    """The rule without a mask: every row may read every key."""
    return torch.ones(len(rows), len(keys), dtype=torch.bool)


def sampled_starts(query_len: int, size: int = SIZE) -> tuple[int, ...]:
    """The first rows of three blocks: at the start, in the middle and at the end.

    >>> sampled_starts(1000, 256)
    (0, 372, 744)
    """
    last = max(0, query_len - size)
    return tuple(sorted({0, last // 2, last}))


def blocks(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    allowed: Allowed = everything,
    *,
    dropped: Dropped | None = None,
    starts: Iterable[int] | None = None,
    size: int = SIZE,
) -> Iterator[Block]:
    """The definition in float64, some rows of every head at a time.

    Args:
        q: (N, L, D), any dtype; N counts batch and heads.
        k: (N, S, D).
        v: (N, S, Dv).
        allowed: which keys a row may read.
        dropped: what dropout did to the weights.
        starts: the first rows of the blocks; all rows if None.
        size: rows in a block.
    """
    query_len, key_len = q.shape[1], k.shape[1]
    for start in range(0, query_len, size) if starts is None else starts:
        rows = slice(start, min(start + size, query_len))
        mask = allowed(torch.arange(rows.start, rows.stop)[:, None], torch.arange(key_len))
        mask = mask.expand(rows.stop - rows.start, key_len)
        read = mask.any(0).nonzero()[:, 0]
        keys = slice(int(read[0]), int(read[-1]) + 1) if len(read) else slice(0, 1)
        mask = mask[:, keys]  # (n, S) -> (n, keys)
        found = reference.attention(q[:, rows].double(), k[:, keys].double(), v[:, keys].double(), mask)
        output = found.output
        if dropped is not None:
            output = (found.weights * dropped.factors(rows, keys)) @ v[:, keys].double()
        yield Block(rows, keys, found.weights, output)


def gradients(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    grad: Tensor,
    allowed: Allowed = everything,
    *,
    dropped: Dropped | None = None,
    size: int = SIZE,
) -> Gradients:
    """Output and gradients in float64, ``dS = P * (dP - rowsum(dO * O))`` a block of rows at a time.

    Args:
        q: (N, L, D), any dtype; N counts batch and heads.
        k: (N, S, D).
        v: (N, S, Dv).
        grad: dO, (N, L, Dv).
        allowed: which keys a row may read.
        dropped: what dropout did to the weights.
        size: rows in a block.

    References:
        Dao et al., FlashAttention, 2022, appendix B.2.
    """
    scale = 1 / math.sqrt(q.shape[-1])
    output = torch.empty(*q.shape[:-1], v.shape[-1], dtype=torch.float64)
    dq, dk, dv = (torch.zeros(x.shape, dtype=torch.float64) for x in (q, k, v))
    for block in blocks(q, k, v, allowed, dropped=dropped, size=size):
        rows, keys = block.rows, block.keys
        d_output = grad[:, rows].double()
        d_weights = d_output @ v[:, keys].double().mT  # (N, n, Dv) @ (N, Dv, keys) -> (N, n, keys)
        kept = block.weights
        if dropped is not None:
            factors = dropped.factors(rows, keys)
            d_weights, kept = d_weights * factors, kept * factors
        d_scores = scale * block.weights * (d_weights - (d_output * block.output).sum(-1, keepdim=True))
        output[:, rows] = block.output
        dq[:, rows] = d_scores @ k[:, keys].double()
        dk[:, keys] += d_scores.mT @ q[:, rows].double()  # (N, keys, n) @ (N, n, D) -> (N, keys, D)
        dv[:, keys] += kept.mT @ d_output  # (N, keys, n) @ (N, n, Dv) -> (N, keys, Dv)
    return Gradients(output, dq, dk, dv)
