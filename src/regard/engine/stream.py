"""The weights in blocks small enough for a core's cache: what is asked of a whole map is summed up block by block.

One matrix product makes ``s_ij - lse_i`` whole: ``-lse_i`` is one more column of q, beside a column of ones of k. What
follows is one exponential in place, and the mask touches only the columns where it forbids something, so that a sum
over such blocks costs no more than another pass of the fused op would.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from regard.engine.problem import Problem, compute_dtype

__all__ = ["Block", "blocks"]

# 2^19 float32 are 2 MB, a core's private cache: larger blocks are read from further away at each of their passes.
ELEMENTS_PER_THREAD = 1 << 19
FEW_ROWS = 64  # below, a matrix product is bound by reading k: rather fewer heads at a time than fewer rows
# A block costs as much as some 2^16 entries, whatever is in it, and each of its rows makes it a key wider where rows
# read a window: 128 to 256 rows are cheapest. Fewer, and a long text would be all blocks; more, and all width.
TALL = 128
# Rows read few keys where they read at most this part of all.
FEW = 1 / 8


@dataclass(frozen=True)
class Block:
    """A rectangle of the map: batch and head slices, rows, keys, and ``log`` (b, h, R, C), which the reader may
    overwrite.
    """

    b: slice
    h: slice
    rows: slice
    keys: slice
    log: Tensor

    def weights(self) -> Tensor:
        """``exp(log)``, in place."""
        return self.log.exp_()


@torch.no_grad()
def blocks(problem: Problem, lse: Tensor | None, cuts: list[int] | None = None) -> Iterator[Block]:
    """Blocks of ``log A_ij = s_ij - lse_i`` (B, H, L, S), or of the scores alone if ``lse`` is None; -inf where masked.

    Every row and every key that it may read is in exactly one block; keys that no row of a block may read are left
    out, and a block of rows without keys is not made. With ``cuts`` (ascending, from 0 to L) a block holds whole
    intervals between cuts wherever one fits.
    """
    batch, heads, query_len, _ = problem.dims
    if 0 in problem.dims:
        return
    q, k = _operands(problem, lse)  # (B, H, L, D or D + 1), (B, Hkv, D or D + 1, S)
    kv_heads, start = k.shape[1], 0
    group = heads // kv_heads
    while start < query_len:
        together, stop = _next(problem, start, cuts)
        rows, start = slice(start, stop), stop
        low, high = problem.key_range(rows.start, rows.stop)
        if low >= high:
            continue
        keys = slice(low, high)
        forbidden = _forbidden(problem, rows, keys)
        for b, kv in [(slice(0, batch), slice(0, kv_heads))] if together else _one_by_one(batch, kv_heads):
            h = slice(kv.start * group, kv.stop * group)
            some_q = q[b, h, rows]  # (b, h, R, D)
            some_k = k[b, kv, :, keys]  # (b, hkv, D, C)
            folded = some_q.reshape(some_q.shape[0], some_k.shape[1], -1, some_q.shape[-1])  # (b, hkv, G * R, D)
            log = (folded @ some_k).view(*some_q.shape[:3], high - low)  # (b, h, R, C)
            yield Block(b, h, rows, keys, _finish(problem, lse, log, forbidden, Block(b, h, rows, keys, log)))


def _operands(problem: Problem, lse: Tensor | None) -> tuple[Tensor, Tensor]:
    """What the block products multiply: q scaled and k transposed, with -lse as one more column where no cap or bias
    comes between.
    """
    dtype = compute_dtype(problem.q.dtype)
    q, k = problem.q.to(dtype) * problem.options.scale, problem.k.to(dtype)
    if lse is not None and _linear(problem):
        # exp(-inf - -inf) is NaN; the scores of a row without keys are all -inf, and exp(-inf - 0) is 0.
        shift = torch.where(lse == -torch.inf, 0, -lse).to(dtype)  # (B, H, L)
        q = torch.cat([q, shift[..., None]], dim=-1)  # (B, H, L, D) -> (B, H, L, D + 1)
        k = torch.cat([k, torch.ones_like(k[..., :1])], dim=-1)  # (B, Hkv, S, D) -> (B, Hkv, S, D + 1)
    return q, k.contiguous().mT  # contiguous, or every block would copy its keys once more


def _linear(problem: Problem) -> bool:
    return problem.options.softcap is None and problem.bias is None


def _one_by_one(batch: int, kv_heads: int) -> list[tuple[slice, slice]]:
    return [(slice(b, b + 1), slice(h, h + 1)) for b in range(batch) for h in range(kv_heads)]


def _next(problem: Problem, start: int, cuts: list[int] | None) -> tuple[bool, int]:
    """Whether the block of rows from ``start`` holds all heads, or those of one key head; and where its rows end.

    As many rows as are small enough with the keys that these rows read, so that a window makes no more blocks of a
    long text than rows over a constant; at a cut, if there is one among them.
    """
    batch, heads, query_len, key_len = problem.dims
    elements = ELEMENTS_PER_THREAD * torch.get_num_threads()
    few = min(FEW_ROWS, query_len - start)
    together = batch * heads * few * _width(problem, start, few) <= elements
    at_once = batch * heads if together else heads // problem.k.shape[1]
    any_keys = max(1, elements // (key_len * at_once))  # so many rows are small enough whatever they read
    rows = TALL if any_keys < TALL or _width(problem, start, TALL) <= FEW * key_len else any_keys
    while rows > any_keys and at_once * rows * _width(problem, start, rows) > elements:
        rows = max(any_keys, rows // 2)
    stop = min(start + rows, query_len)
    if cuts is not None and stop < query_len:
        cut = cuts[bisect_right(cuts, stop) - 1]
        stop = cut if cut > start else stop
    return together, stop


def _width(problem: Problem, start: int, rows: int) -> int:
    """How many keys the rows from ``start`` read, from the first to the last of them."""
    low, high = problem.key_range(start, min(start + rows, problem.dims[2]))
    return high - low


def _forbidden(problem: Problem, rows: slice, keys: slice) -> tuple[Tensor | None, int, Tensor | None]:
    """What of a block is masked: by rules (B or 1, H or 1, R or 1, C); and from which column on, by which triangle."""
    o = problem.options
    allowed = None if o.valid is None else o.valid[..., keys]
    if o.rest is not None:
        block = o.rest.block(rows, keys)
        allowed = block if allowed is None else allowed & block
    by_rule = None if allowed is None else ~allowed
    if o.causal is None:
        return by_rule, 0, None
    first = max(keys.start, rows.start + o.causal + 1)  # the first key that some row of the block may not read
    if first >= keys.stop:
        return by_rule, 0, None
    row = torch.arange(rows.start, rows.stop, device=problem.q.device)[:, None]
    triangle = torch.arange(first, keys.stop, device=row.device) > row + o.causal  # (R, keys.stop - first)
    return by_rule, first - keys.start, triangle


def _finish(
    problem: Problem, lse: Tensor | None, log: Tensor, forbidden: tuple[Tensor | None, int, Tensor | None], at: Block
) -> Tensor:
    """Cap, bias, lse and mask on top of the products, in place."""
    o = problem.options
    if o.softcap is not None:
        log = log.div_(o.softcap).tanh_().mul_(o.softcap)
    if problem.bias is not None:
        log += _part(problem.bias, at.b, at.h, at.rows, at.keys)
    if lse is not None and not _linear(problem):
        row = lse[at.b, at.h, at.rows, None]
        log -= torch.where(row == -torch.inf, 0, row)
    by_rule, first, triangle = forbidden
    if by_rule is not None:
        log.masked_fill_(_part(by_rule, at.b, at.h, slice(None), slice(None)), -torch.inf)
    if triangle is not None:
        log[..., first:].masked_fill_(triangle, -torch.inf)
    return log


def _part(t: Tensor, *slices: slice) -> Tensor:
    """A block of a tensor whose axes of 1 stand for any index."""
    return t[tuple(slice(None) if n == 1 else s for n, s in zip(t.shape, slices, strict=True))]
