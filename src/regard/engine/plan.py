"""What will run: decided once, before anything runs, and readable afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from weakref import WeakKeyDictionary

import torch
from torch import Tensor

from regard.engine import flex, kernels
from regard.engine.problem import KeyIntervals, Problem
from regard.engine.simple import Rectangle, rectangles
from regard.engine.tiles import Tile, compile_tiles

__all__ = ["Plan", "Unit", "compile_units", "make_plan"]

# Entries (over batch and heads) below which a mask is not compiled: finding its intervals would cost as much.
SMALL = 1 << 20
# So few rows over so many keys are decoding against a cache.
FEW_ROWS = 16
MANY_KEYS = 256
# What one more call costs, in entries.
CALL = 1 << 16
# More tiles than this in all maps together, and Python would take longer than the kernels.
MOST_TILES = 4096


@dataclass(frozen=True)
class Unit:
    """The batch entries and heads that share one map, and its tiles."""

    batch: slice
    heads: slice
    tiles: tuple[Tile, ...]


@dataclass(eq=False)
class _Compiled:
    units: dict[tuple[int, int, int, int], tuple[Unit, ...]] = field(default_factory=dict)
    complete: bool | None = None


# Of a mask made of numbers alone the intervals are one object for as long as they are remembered.
_COMPILED: WeakKeyDictionary[KeyIntervals, _Compiled] = WeakKeyDictionary()


@dataclass(frozen=True)
class Plan:
    """What ran: ``kernel`` is "fused" (PyTorch's fused op, and products in cache where these are faster), "flex"
    (FlexAttention), "rows" (blocks of rows) or "reference" (L x S memory).
    """

    kernel: str
    reason: str
    rectangles: tuple[Rectangle, ...] = ()
    units: tuple[Unit, ...] = ()
    entries: int = 0
    dims: tuple[int, int, int, int] = field(default=(0, 0, 0, 0), repr=False)
    complete: bool = field(default=False, repr=False)
    biased: bool = field(default=False, repr=False)

    @property
    def tiles(self) -> tuple[Tile | Rectangle, ...]:
        """All tiles, of every map."""
        return self.rectangles or tuple(tile for unit in self.units for tile in unit.tiles)

    @property
    def share(self) -> float:
        """The share of the L x S entries that is left to do; 1.0 where there are no tiles to count."""
        total = torch.Size(self.dims).numel()
        return self.entries / total if total and self.kernel == "fused" else 1.0

    @property
    def tight(self) -> bool:
        """Whether it is certain that no key is touched that nobody may read, and no row that reads nothing."""
        return self.complete or (
            # The gradient of a bias goes by blocks of rows, and through all of them.
            bool(self.units)
            and not self.biased
            and all(tile.kind != "partial" for unit in self.units for tile in unit.tiles)
        )

    def __str__(self) -> str:
        if self.kernel != "fused":
            return f"{self.kernel}: {self.reason}"
        kinds = [t.kind for t in self.tiles]
        counts = " + ".join(f"{kinds.count(kind)} {kind}" for kind in dict.fromkeys(kinds)) or "no"
        return f"fused: {self.reason}, {counts} tile{'s' if len(kinds) != 1 else ''}, {self.share:.0%} of the entries"


def make_plan(problem: Problem, v: Tensor, impl: str) -> Plan:
    """The plan for a problem; impl "fused" refuses what has no fused op, and says why."""
    if impl == "reference":
        return Plan("reference", "the definition, with L x S memory, as asked")
    if problem.q.device.type == "cuda":
        reason = flex.unavailable(v.device) or flex.supported(problem, v)
    else:
        reason = _not_fused(problem, v)
    if reason is not None and impl == "fused":
        raise ValueError(f'impl="fused": {reason}; use impl="auto", which runs it in blocks of rows in O(L) memory')
    if reason is not None:
        return Plan("rows", reason)
    if problem.q.device.type == "cuda":
        return Plan("flex", "FlexAttention on cuda")
    ran = f"PyTorch's fused op on {problem.q.device.type}"
    if problem.bias is not None and problem.bias.requires_grad:
        ran += " (backward in blocks of rows, for the bias)"
    b, h, _, _ = problem.dims
    units, complete = _units(problem)
    if units is not None:
        return Plan("fused", ran, (), units, _entries(units), problem.dims, complete, problem.bias is not None)
    simple = rectangles(problem)
    return Plan("fused", ran, simple, (), sum(r.entries for r in simple) * b * h, problem.dims, complete)


def _units(problem: Problem) -> tuple[tuple[Unit, ...] | None, bool]:
    """The tiles of a mask, or None where it is cheaper, or not possible otherwise, to ask it block by block; and
    whether it is known that every row reads a key and every key is read.
    """
    b, h, query_len, key_len = problem.dims
    view = problem.options.view
    decoding = query_len <= FEW_ROWS and key_len >= MANY_KEYS
    least = 0 if decoding else SMALL
    if view is None or 0 in problem.dims or (b * h * query_len * key_len <= least and not view.remembered):
        return None, False
    intervals = view.intervals()
    if intervals is None:
        return None, False
    known = _COMPILED.setdefault(intervals, _Compiled())
    if known.complete is None and view.remembered:
        known.complete = _complete(intervals, query_len, key_len)
    complete = bool(known.complete)
    if b * h * query_len * key_len <= least or not _finite(problem.bias):
        return None, complete
    maps = intervals.lo.shape[0] * intervals.lo.shape[1]
    if not decoding and _one_call(problem) and CALL * maps > b * h * query_len * key_len:
        return None, complete
    units = known.units.get(problem.dims)
    if units is None:
        group = h // problem.k.shape[1]
        units = known.units[problem.dims] = compile_units(intervals.lo, intervals.hi, b, h, query_len, group=group)
    if sum(len(unit.tiles) for unit in units) > MOST_TILES:
        return None, complete
    if decoding:  # the end of a cache is not to be read, not even to be thrown away
        return units, complete
    # Against one call over everything, whose mask must be made, and read by each head.
    saved = b * h * query_len * key_len - _entries(units)
    return (units if saved >= CALL * _loops(units) or not _one_call(problem) else None), complete


def _complete(intervals: KeyIntervals, query_len: int, key_len: int) -> bool:
    """Whether every row reads a key, and every key is read by some row, of each map."""
    lo, hi = intervals.lo, intervals.hi
    if not bool((lo < hi).any(-1).all()):
        return False
    # +1 where an interval begins and -1 where it ends: the running sum says how many lie over a key.
    shape = (*lo.shape[:2], key_len + 1)
    one = torch.ones_like(lo).flatten(2)
    over = torch.zeros(shape, dtype=lo.dtype, device=lo.device)
    over.scatter_add_(2, lo.flatten(2), one).scatter_add_(2, hi.flatten(2), -one)
    return bool((over.cumsum(-1)[..., :key_len] > 0).all())


def _finite(bias: Tensor | None) -> bool:
    """Whether no bias forbids anything: where one does, rows may be empty that the mask alone does not show."""
    return bias is None or bias.numel() == 0 or bool(bias.detach().amin() > -torch.inf)


def _loops(units: tuple[Unit, ...]) -> int:
    """About how many calls Python makes: one for all sequences of a unit, or for each the few of a kernel in cache."""
    return sum(
        1 if tile.kind in ("full", "partial") else 3 * (unit.batch.stop - unit.batch.start)
        for unit in units
        for tile in unit.tiles
    )


def _one_call(problem: Problem) -> bool:
    return problem.dims[2] * problem.dims[3] <= SMALL


def _entries(units: tuple[Unit, ...]) -> int:
    return sum(
        (u.batch.stop - u.batch.start) * (u.heads.stop - u.heads.start) * sum(t.entries for t in u.tiles) for u in units
    )


def compile_units(
    lo: Tensor, hi: Tensor, batch: int, heads: int, query_len: int, *, group: int = 1
) -> tuple[Unit, ...]:
    """The tiles of every map (B or 1, H or 1, L or 1, n); neighbours with one map are one unit, but heads of different
    key heads only if all heads have one map.
    """
    units: list[Unit] = []
    for b, last_b in _alike(lo, hi, 0, batch):
        some = lo[b : b + 1], hi[b : b + 1]  # (1, H or 1, L, n)
        for h, last_h in _alike(*some, 1, heads, cut_every=group):
            units.append(
                Unit(slice(b, last_b), slice(h, last_h), compile_tiles(some[0][0, h], some[1][0, h], query_len))
            )
    return tuple(units)


def _alike(lo: Tensor, hi: Tensor, axis: int, length: int, *, cut_every: int = 1) -> Iterator[tuple[int, int]]:
    """Intervals [first, last) of an axis (length or 1) over which the maps are the same."""
    if lo.shape[axis] == 1:
        yield 0, length
        return
    maps = torch.cat([lo, hi], -1).movedim(axis, 0).flatten(1)  # (length, ...)
    cuts = ((maps[1:] != maps[:-1]).any(-1).nonzero()[:, 0] + 1).tolist()
    if cut_every > 1:
        cuts = sorted({*cuts, *range(cut_every, length, cut_every)})
    yield from zip([0, *cuts], [*cuts, length], strict=True)


def _not_fused(problem: Problem, v: Tensor) -> str | None:
    options = problem.options
    if options.softcap is not None:
        return "softcap has no fused op"
    if options.dropout > 0:
        return "dropout has no fused op that can be replayed in the backward pass"
    return kernels.unavailable(v.device)
