"""Attention in blocks of rows, in plain PyTorch: for what no fused op can do (softcap, dropout, the gradient of a
bias).

Blocks stay in the caches and are written over by the next. No maximum is taken where the exponentials hold without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from regard.engine.blocks import Room, unsafe
from regard.engine.dropout import factor, keep_block
from regard.engine.merge import with_sinks
from regard.engine.problem import Problem, compute_dtype, crop
from regard.engine.row_blocks import Block, blocks

__all__ = ["backward", "forward", "keep_block"]

# Names of scratch memory.
SCORES, KEEP, SLOPES, CAPPED, ROWS, KEYS = range(6)


def forward(problem: Problem, v: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Output (B, H, L, Dv) in v's dtype and lse (B, H, L)."""
    b, h, query_len, _ = problem.dims
    dtype, p = compute_dtype(v.dtype), problem.options.dropout
    # Rows before heads in memory, as the fused op has it: a layer joins its heads without a copy.
    out = torch.zeros(b, query_len, h, v.shape[-1], dtype=dtype, device=v.device).transpose(1, 2)
    lse = torch.full((b, h, query_len), -torch.inf, dtype=dtype, device=v.device)
    run = _Run.of(problem, v, seed)
    for block in blocks(problem):
        weights, total, part_lse = run.exponentials(block)  # (b, h, R, C), (b, h, R, 1), (b, h, R, 1)
        if p > 0:
            weights.mul_(run.keep(block))
            total = total / factor(p) if p < 1 else total
        folded, values = run.folded(block, weights), block.of_keys(run.v)
        part = run.room.take(ROWS, *folded.shape[:2], values.shape[-1])
        torch.bmm(folded, values, out=part)  # (b * hkv, G * R, Dv)
        at = block.batch, block.heads, block.rows
        torch.div(block.unfold(part), total, out=out[at])
        lse[at] = part_lse[..., 0]
    if problem.sinks is not None:
        out, lse = with_sinks(out, lse, problem.sinks)
    return out.to(v.dtype), lse


def backward(
    problem: Problem,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    grad: Tensor,
    grad_lse: Tensor | None,
    seed: int,
    *,
    bias_too: bool = True,
    whole: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """The gradients of q, k, v and, if ``bias_too``, of the bias: ``dS = K * dP - P * (rowsum(K * dP) -
    grad_lse)`` with ``dP = grad @ v.mT`` and K the weights P after dropout.

    Where the keys are part of those that the rows read, ``whole`` is the rowsum over all of them, (B, H, L, 1).
    """
    o, dtype = problem.options, compute_dtype(v.dtype)
    run = _Run.of(problem, v, seed)
    dq, dk, dv = (torch.zeros_like(t) for t in (run.q, run.k, run.v))
    bias = problem.bias if bias_too else None
    dbias = None if bias is None else torch.zeros(bias.shape, dtype=dtype, device=bias.device)
    grad = grad.to(dtype).contiguous()
    lse = lse.masked_fill(lse == -torch.inf, 0)[..., None]  # a row without keys: exp(-inf - 0) is 0
    if o.dropout > 0:
        grad = grad * factor(o.dropout)
    for block in blocks(problem):
        at = block.batch, block.heads, block.rows
        weights, capped = run.weights(block, lse[at])  # (b, h, R, C)
        g, q, k, values = block.of_rows(grad), block.of_rows(run.q), block.of_keys(run.k), block.of_keys(run.v)
        slopes = run.room.take(SLOPES, *weights.shape)
        torch.bmm(g, values.mT, out=run.folded(block, slopes))
        kept = weights if o.dropout == 0 else run.keep(block).mul_(weights)
        # The sum of a row is grad @ out, and here not of a rounded out: a block has all of what its rows read.
        delta = slopes.mul_(kept).sum(-1, keepdim=True)  # (b, h, R, 1)
        if whole is not None:
            delta = whole[at]
        elif problem.sinks is None:
            # A rounded lse leaves rows that sum to a little more or less than 1, which delta would see.
            delta.div_(weights.sum(-1, keepdim=True).clamp_(min=0.5))  # 0 in a row without keys
        slopes.addcmul_(weights, delta if grad_lse is None else delta - grad_lse[at][..., None], value=-1)
        run.add_to_keys(dv, block, run.folded(block, kept), g, 1.0)
        if dbias is not None:
            _add_reduced(dbias, slopes, block)
        if capped is not None:
            slopes.addcmul_(slopes, capped.square_(), value=-1)  # the slope of tanh
        folded = run.folded(block, slopes)
        part = run.room.take(ROWS, *folded.shape[:2], k.shape[-1])
        torch.baddbmm(part, folded, k, beta=0, alpha=o.scale, out=part)  # (b * hkv, G * R, D)
        dq[at] = block.unfold(part)
        run.add_to_keys(dk, block, folded, q, o.scale)
    return dq.to(problem.q.dtype), dk.to(problem.k.dtype), dv.to(v.dtype), dbias


@dataclass(frozen=True)
class _Run:
    """What all blocks share: q, k and v in the dtype of the scores, and scratch memory."""

    problem: Problem
    q: Tensor
    k: Tensor
    v: Tensor
    seed: int
    room: Room
    words: Room

    @classmethod
    def of(cls, problem: Problem, v: Tensor, seed: int) -> _Run:
        dtype = compute_dtype(v.dtype)
        q, k, v = (t.to(dtype).contiguous() for t in (problem.q, problem.k, v))
        words = torch.empty(0, dtype=torch.int64, device=v.device)
        return cls(problem, q, k, v, seed, Room(q), Room(words))

    def folded(self, block: Block, t: Tensor) -> Tensor:
        """(b, h, R, C) as (b * hkv, G * R, C): the heads of a group are rows of their key head."""
        return t.view(t.shape[0] * (block.kv_heads.stop - block.kv_heads.start), -1, t.shape[-1])

    def exponentials(self, block: Block) -> tuple[Tensor, Tensor, Tensor]:
        """The weights but for a factor a row, (b, h, R, C), that factor and the lse, (b, h, R, 1)."""
        scores, doubtful = self.scores(block), None
        if scores.is_cpu:  # elsewhere it takes longer to look whether they hold than to take the maximum
            block.clear(scores.exp_())
            total = scores.sum(-1, keepdim=True)
            lse = total.log()
            doubtful = unsafe(lse)
            if doubtful is None:
                return scores, total, lse
            scores = self.scores(block)
        block.forbid(scores)
        top = scores.amax(-1, keepdim=True)
        top.masked_fill_(top == -torch.inf, 0)  # a row without keys: exp(-inf - 0) is 0
        if doubtful is not None:
            top.masked_fill_(~doubtful, 0)  # no row may depend, not by a rounding, on what only others read
        total = scores.sub_(top).exp_().sum(-1, keepdim=True)
        lse = total.log() + top
        return scores, total.masked_fill_(total == 0, 1), lse

    def weights(self, block: Block, lse: Tensor) -> tuple[Tensor, Tensor | None]:
        """The weights (b, h, R, C), and tanh(score / cap) where there is a cap."""
        capped = None
        if self.problem.options.softcap is not None:
            capped = self.products(block, CAPPED)
            scores = self.room.take(SCORES, *capped.shape)
            torch.add(-lse, capped, alpha=self.problem.options.softcap, out=scores)
        else:
            scores = self.products(block, SCORES).sub_(lse)
        self.add_bias(block, scores)
        block.clear(scores.exp_())  # exp may have overflowed there
        return scores, capped

    def scores(self, block: Block) -> Tensor:
        """The scores (b, h, R, C), but for the mask."""
        scores = self.products(block, SCORES)
        if self.problem.options.softcap is not None:
            scores.mul_(self.problem.options.softcap)
        self.add_bias(block, scores)
        return scores

    def products(self, block: Block, name: int) -> Tensor:
        """``scale * q @ k.mT`` (b, h, R, C), or tanh(score / cap) of it where there is a cap."""
        o, q, k = self.problem.options, block.of_rows(self.q), block.of_keys(self.k)
        into = self.room.take(name, q.shape[0], q.shape[1], k.shape[1])  # (b * hkv, G * R, C)
        torch.baddbmm(into, q, k.mT, beta=0, alpha=o.scale / (o.softcap or 1.0), out=into)
        return block.unfold(into if o.softcap is None else into.tanh_())

    def add_bias(self, block: Block, scores: Tensor) -> None:
        if self.problem.bias is not None:
            bias = _of_heads(self.problem.bias.detach(), block)
            for keys, columns in block.columns():
                scores[..., columns].add_(crop(bias, block.rows, keys))

    def keep(self, block: Block) -> Tensor:
        """1 for each weight that is kept and 0 for each that is dropped, (b, h, R, C)."""
        _, heads, query_len, key_len = self.problem.dims
        b, h, r = (torch.arange(s.start, s.stop, device=self.q.device) for s in (block.batch, block.heads, block.rows))
        lines = ((b[:, None, None] * heads + h[:, None]) * query_len + r)[..., None]  # (b, h, R, 1)
        into = self.room.take(KEEP, *lines.shape[:3], block.num_keys)
        return keep_block(self.seed, self.problem.options.dropout, lines, block.spans, key_len, self.words, into)

    def add_to_keys(self, total: Tensor, block: Block, weights: Tensor, rows: Tensor, scale: float) -> None:
        """Add ``scale * weights.mT @ rows`` to the keys of the block in ``total`` (B, Hkv, S, W)."""
        part = self.room.take(KEYS, weights.shape[0], weights.shape[-1], rows.shape[-1])
        torch.baddbmm(part, weights.mT, rows, beta=0, alpha=scale, out=part)  # (b * hkv, C, W)
        some = total[block.batch, block.kv_heads]  # (b, hkv, S, W)
        part = part.view(*some.shape[:2], *part.shape[1:])
        for keys, columns in block.columns():
            some[:, :, keys].add_(part[:, :, columns])


def _of_heads(t: Tensor, block: Block) -> Tensor:
    """The sequences and heads of a block of (B or 1, H or 1, ...)."""
    t = t if t.shape[0] == 1 else t[block.batch]
    return t if t.shape[1] == 1 else t[:, block.heads]


def _add_reduced(total: Tensor, part: Tensor, block: Block) -> None:
    """Add (b, h, R, C) to a tensor (B|1, H|1, L|1, S|1), summed over the axes that broadcast."""
    total = _of_heads(total, block)
    total = total if total.shape[2] == 1 else total[:, :, block.rows]
    axes = [axis for axis in range(3) if total.shape[axis] == 1 and part.shape[axis] != 1]
    part = part.sum(axes, keepdim=True) if axes else part
    for keys, columns in block.columns():
        some = part[..., columns]
        if total.shape[3] == 1:
            total.add_(some.sum(-1, keepdim=True))
        else:
            total[..., keys].add_(some)
