"""Attention of one rank's queries over everybody's keys, part by part: the mask of a part, its tiles, and the merge.

A part is a piece of the queries with a piece of the keys, a problem like any other. What a mask forbids whole is no
part, and is neither computed nor, where no rank needs it, sent.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property, reduce

import torch
from torch import Tensor

from regard.distributed.order import Order, pieces
from regard.engine import execute, rows
from regard.engine.merge import merge
from regard.engine.plan import Plan, make_plan
from regard.engine.problem import Options, Problem, compute_dtype
from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.lowering import factors, lower
from regard.masks.parts import SameDocument, of_heads, part
from regard.masks.rules import Band, Causal, Padding, Prefix

__all__ = ["Gradients", "Part", "Sharding"]

# The hops of masks that are made of numbers alone, by what decides them; so many at most.
_HOPS: dict[tuple[object, ...], int] = {}
REMEMBERED = 256

PLAIN = (Causal, Band, Prefix, Padding, SameDocument)


@dataclass(frozen=True)
class Part:
    """A piece of this rank's queries with a piece of the keys that ``owner`` holds: where they lie on their ranks."""

    rows: slice
    keys: slice
    mask: Mask | None
    sizes: Sizes


@dataclass(frozen=True, eq=False)
class Sharding:
    """One attention over ``world`` ranks, as ``rank`` sees it.

    Attributes:
        rank, world: this rank and how many there are.
        order: which tokens a rank holds.
        mask: that of the whole, bound to ``sizes``; None allows everything.
        sizes: those of the whole.
        scale, softcap: as in :func:`regard.attention`.
        heads: the query heads that q, k and v are of; None for all.
    """

    rank: int
    world: int
    order: Order
    mask: Mask | None
    sizes: Sizes
    scale: float
    softcap: float | None = None
    heads: slice | None = None
    _parts: dict[tuple[int, int], list[Part]] = field(default_factory=dict, repr=False)

    def parts(self, owner: int, rank: int | None = None) -> list[Part]:
        """The parts that a rank, this one if None, computes with the keys of ``owner``, but those forbidden whole."""
        rank = self.rank if rank is None else rank
        if (rank, owner) not in self._parts:
            self._parts[rank, owner] = list(self._made(owner, rank))
        return self._parts[rank, owner]

    def _made(self, owner: int, rank: int) -> Iterator[Part]:
        of_rows = pieces(self.sizes.query_len, rank, self.world, self.order)
        of_keys = pieces(self.sizes.key_len, owner, self.world, self.order)
        for local_rows, at_rows in zip(_packed(of_rows), of_rows, strict=True):
            for local_keys, at_keys in zip(_packed(of_keys), of_keys, strict=True):
                counts = at_rows.stop - at_rows.start, at_keys.stop - at_keys.start
                if 0 in counts:
                    continue
                sizes = replace(self.sizes, query_len=counts[0], key_len=counts[1])
                mask = None if self.mask is None else part(self.mask, at_rows, at_keys, self.sizes)
                if not _forbidden(mask, sizes):
                    yield Part(local_rows, local_keys, mask, sizes)

    @cached_property
    def hops(self) -> int:
        """How many times keys move on to the next rank until every rank has had all that it needs."""
        if self.mask is None:
            return self.world - 1
        if self.mask.tensors() or not _plain(self.mask):
            return self._hops()
        # All pairs of ranks are looked at, in every call of every layer: 740 ms for a window over 256 ranks.
        key = repr(self.mask), self.sizes.query_len, self.sizes.key_len, self.world, self.order
        if key not in _HOPS:
            if len(_HOPS) >= REMEMBERED:
                _HOPS.clear()
            _HOPS[key] = self._hops()
        return _HOPS[key]

    def _hops(self) -> int:
        needed = (
            hop
            for hop in range(self.world - 1, 0, -1)
            if any(self.parts((rank - hop) % self.world, rank) for rank in range(self.world))
        )
        return next(needed, 0)

    def versions(self) -> tuple[int, ...]:
        """How often the tensors of the mask have been written to."""
        tensors = () if self.mask is None else self.mask.tensors()
        return tuple(-1 if t.is_inference() else t._version for t in tensors)

    def problem(self, at: Part, q: Tensor, k: Tensor) -> Problem:
        """The problem of a part: q (B, H, R, D) of this rank's queries, k (B, Hkv, C, D) of the owner's keys."""
        mask, sizes = at.mask, at.sizes
        if self.heads is not None:
            mask = None if mask is None else of_heads(mask, self.heads)
            sizes = replace(sizes, heads=q.shape[1])
        options = Options(self.scale, self.softcap, **lower(mask, sizes))
        # Rounded to half precision part by part, sums over many parts would miss its budget.
        dtype = compute_dtype(q.dtype)
        return Problem(q[:, :, at.rows].to(dtype), k[:, :, at.keys].to(dtype), options=options)

    def add(self, owner: int, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
        """Merge what this rank's queries read of the keys of ``owner`` into out (B, H, R, Dv) and lse (B, H, R)."""
        for at in self.parts(owner):
            problem, values, plan = self._planned(at, q, k, v)
            found, found_lse = execute.forward(problem, values, plan, 0)
            r = at.rows
            out[:, :, r], lse[:, :, r] = merge(out[:, :, r], lse[:, :, r], found, found_lse)

    def _planned(self, at: Part, q: Tensor, k: Tensor, v: Tensor) -> tuple[Problem, Tensor, Plan]:
        problem = self.problem(at, q, k)
        values = v[:, :, at.keys].to(problem.q.dtype)
        if q.device.type == "cpu":
            plan = make_plan(problem, values, "auto")
        else:
            plan = Plan("rows", f"parts of a text on {q.device.type} run in blocks of rows")
        if problem.masked and not plan.tight:
            problem, values = execute.sanitize(problem, values)
        return problem, values, plan


@dataclass(eq=False)
class Gradients:
    """The backward pass of :class:`Sharding`: the same parts, with the rows' out and lse over all ranks."""

    sharding: Sharding
    q: Tensor
    out: Tensor
    lse: Tensor
    grad: Tensor
    grad_lse: Tensor | None

    def __post_init__(self) -> None:
        dtype = compute_dtype(self.q.dtype)
        self.dq = torch.zeros(self.q.shape, dtype=dtype, device=self.q.device)
        self.out, self.grad = self.out.to(dtype), self.grad.to(dtype)
        self.delta = (self.grad * self.out).sum(-1, keepdim=True)  # (B, H, R, 1)

    def add(self, owner: int, k: Tensor, v: Tensor, dk: Tensor, dv: Tensor) -> None:
        """Add the share of the keys of ``owner`` to dq, and theirs to dk (B, Hkv, C, D) and dv (B, Hkv, C, Dv)."""
        for at in self.sharding.parts(owner):
            problem, values, plan = self.sharding._planned(at, self.q, k, v)
            r, c = at.rows, at.keys
            out, lse, grad = self.out[:, :, r], self.lse[:, :, r], self.grad[:, :, r]
            grad_lse = None if self.grad_lse is None else self.grad_lse[:, :, r]
            if plan.kernel == "rows":
                found = rows.backward(
                    problem, values, out, lse, grad, grad_lse, 0, bias_too=False, whole=self.delta[:, :, r]
                )
            else:
                found = execute.backward(problem, values, plan, out, lse, grad, grad_lse, 0, bias_too=False)
            self.dq[:, :, r] += found[0]
            dk[:, :, c] += found[1]
            dv[:, :, c] += found[2]


def _packed(given: tuple[slice, ...]) -> Iterator[slice]:
    """Where pieces of a text lie on the rank that holds them, one after the other."""
    start = 0
    for piece in given:
        yield slice(start, start + piece.stop - piece.start)
        start += piece.stop - piece.start


def _forbidden(mask: Mask | None, sizes: Sizes) -> bool:
    """Whether it is plain that a mask allows nothing of so many rows and keys; no entry is looked at for it."""
    known = [factor for factor in factors(mask) if _plain(factor)] if mask is not None else []
    if not known:
        return False
    plain = reduce(And, known)
    low, high = plain.key_range(0, sizes.query_len, sizes)
    if low >= high:
        return True
    intervals = plain.intervals(sizes)
    return intervals is not None and not bool((intervals.lo < intervals.hi).any())


def _plain(mask: Mask) -> bool:
    """Whether the intervals of a mask are known without a look at its entries."""
    if isinstance(mask, And | Or):
        return _plain(mask.left) and _plain(mask.right)
    return _plain(mask.inner) if isinstance(mask, Not) else isinstance(mask, PLAIN)
