"""What a mask leaves to do, before anything runs: tiles, the rectangles that are computed, and a picture of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard.engine.calls import Call
    from regard.engine.plan import Plan
    from regard.engine.simple import Rectangle
    from regard.engine.tiles import Tile
    from regard.masks.algebra import Mask, Sizes

__all__ = ["Box", "MaskPlan", "Part", "plan_of"]

# A table of more tiles than this is cut.
SHOWN = 12
# Characters across the picture that is printed with it.
PRINTED = 32
# Rows of the picture that are counted together.
COUNTED = 1 << 14


@dataclass(frozen=True)
class Box:
    """One rectangle that is computed: rows x keys of the sequences ``batch`` and heads ``heads``.

    kind is "full" (all of it is read) or the form of what is read: "causal", "band", "anticausal" or "partial".
    ``computed`` counts the (query, key) pairs that are computed, of one head: all of the rectangle, but for a triangle
    that the kernel knows by itself.
    """

    batch: slice
    heads: slice
    rows: slice
    keys: slice
    kind: str
    computed: int


@dataclass(frozen=True)
class Part:
    """The sequences and heads that share one map, and its tiles; those of a mask that is looked at are rectangles."""

    batch: slice
    heads: slice
    tiles: tuple[Tile | Rectangle, ...]

    @property
    def maps(self) -> int:
        """How many maps it stands for: sequences x heads."""
        return int((self.batch.stop - self.batch.start) * (self.heads.stop - self.heads.start))


@dataclass(frozen=True, eq=False)
class MaskPlan:
    """What :func:`regard.attention` does for a mask on the CPU, in float32, as :meth:`regard.masks.Mask.plan` gives it.

    Attributes:
        mask: the mask.
        query_len: L.
        key_len: S.
        batch: the sequences, B.
        num_heads: the heads, H.
        parts: one for each map of its own: its sequences, its heads, its tiles.
        compiled: whether the tiles come of the mask itself; where not, ``reason`` says why it is looked at instead.
        reason: why not, or nothing.
    """

    mask: Mask
    query_len: int
    key_len: int
    batch: int
    num_heads: int
    parts: tuple[Part, ...]
    compiled: bool
    reason: str = field(default="")

    @property
    def tiles(self) -> tuple[Tile | Rectangle, ...]:
        """All tiles, of every part: ``rows``, ``keys``, ``kind``, ``entries`` and, of a compiled mask, ``count``."""
        return tuple(tile for part in self.parts for tile in part.tiles)

    @property
    def entries(self) -> int:
        """How many (query, key) pairs may be read; of rectangles that are looked at, how many are computed."""
        return sum(part.maps * sum(tile.entries for tile in part.tiles) for part in self.parts)

    @property
    def share(self) -> float:
        """The share of all L x S entries, over sequences and heads, that is left to do; 0 where there are none."""
        return self.entries / self._all if self._all else 0.0

    @property
    def computed(self) -> float:
        """The share of the entries that is computed: more than ``share``, since rectangles have corners."""
        done = sum((b.batch.stop - b.batch.start) * (b.heads.stop - b.heads.start) * b.computed for b in self.boxes())
        return done / self._all if self._all else 0.0

    @property
    def calls(self) -> int:
        """How many calls the rectangles take: those at even steps are one."""
        return sum(len(_calls(tile)) for tile in self.tiles) if self.compiled else len(self.tiles)

    def boxes(self) -> Iterator[Box]:
        """Every rectangle that is computed, part by part; keys outside of all of them are never touched."""
        for part in self.parts:
            for tile in part.tiles:
                yield from _boxes(part, tile, compiled=self.compiled)

    def picture(self, *, width: int = 64) -> str:
        """The first map in characters, queries down and keys across: ■ all of a cell is left to do, ▒ some, · none; of
        a mask that is looked at, ▒ is where it is looked at.
        """
        if not self._all:
            return ""
        rows, cols = min(self.query_len, max(1, width // 2)), min(self.key_len, width)
        if max(self.query_len, self.key_len) <= width:
            rows = self.query_len
        some = torch.zeros(rows, cols, dtype=torch.long)
        asked = torch.zeros(rows, cols, dtype=torch.bool)
        for tile in self.parts[0].tiles if self.parts else ():
            found = _cells(tile, self.query_len, self.key_len, some.shape)
            some += found
            asked |= (found > 0) & (not self.compiled and tile.kind == "partial")
        heights, widths = _edges(self.query_len, rows).diff(), _edges(self.key_len, cols).diff()
        whole = some == heights[:, None] * widths
        return "\n".join(
            "".join("▒" if a else "■" if w else "▒" if s else "·" for a, w, s in zip(*line, strict=True))
            for line in zip(asked.tolist(), whole.tolist(), some.tolist(), strict=True)
        )

    def plot(self, *, part: int = 0, ax: Axes | None = None) -> Figure:
        """The rectangles of one part drawn as a matplotlib figure, on ``ax`` if one is given."""
        from regard.look import plans

        return plans.plan(self, part=part, ax=ax)

    def __str__(self) -> str:
        blocks = [self._summary(), "\n".join(_table(self)), self.picture(width=PRINTED)]
        return "\n\n".join(block for block in blocks if block)

    def __repr__(self) -> str:
        return f"MaskPlan({self._summary()})"

    @property
    def _all(self) -> int:
        return self.batch * self.num_heads * self.query_len * self.key_len

    def _summary(self) -> str:
        maps = "" if self.batch * self.num_heads == 1 else f" x {self.batch * self.num_heads} maps"
        line = f"{self.mask!r}, {_number(self.query_len)} queries x {_number(self.key_len)} keys{maps}: "
        if not self._all or not self.entries:
            return line + "nothing to do"
        count = sum(1 for _ in self.boxes())
        if not self.compiled:
            return line + f"{self.reason}, {_percent(self.share)} of the entries in {_count(count, 'rectangle')}"
        kinds = [tile.kind for tile in self.tiles]
        named = " + ".join(f"{_number(kinds.count(kind))} {kind}" for kind in dict.fromkeys(kinds))
        return line + (
            f"{_percent(self.share)} of the entries left, {named} tile{'s' if len(kinds) > 1 else ''}; "
            f"{_percent(self.computed)} computed, as {_count(count, 'rectangle')} in {_count(self.calls, 'call')}"
        )


def plan_of(mask: Mask, sizes: Sizes) -> MaskPlan:
    """What the engine plans for a mask, with operands that take no memory."""
    from regard.engine.plan import make_plan
    from regard.engine.problem import Options, Problem
    from regard.masks.lowering import lower

    heads, batch = sizes.heads, sizes.batch
    one = torch.zeros(1, 1, 1, 1, device=sizes.device)
    q, k = (one.expand(batch, heads, n, 1) for n in (sizes.query_len, sizes.key_len))
    options = Options(1.0, **lower(mask.bind(sizes), sizes))
    problem = Problem(q, k, options=options)
    found = make_plan(problem, k, "auto")
    everyone = slice(0, batch), slice(0, heads)
    if found.units:
        parts = tuple(Part(unit.batch, unit.heads, unit.tiles) for unit in found.units)
    elif found.kernel == "fused":
        parts = (Part(*everyone, found.rectangles),)
    else:  # no fused op in this PyTorch: blocks of rows
        parts = (Part(*everyone, _row_blocks(problem.row_blocks())),)
    reason = "" if found.units else _reason(found, mask, sizes)
    return MaskPlan(mask, sizes.query_len, sizes.key_len, batch, heads, parts, bool(found.units), reason)


def _reason(plan: Plan, mask: Mask, sizes: Sizes) -> str:
    from regard.engine.plan import SMALL

    if plan.kernel != "fused":
        return f"blocks of rows, since {plan.reason}"
    if sizes.batch * sizes.heads * sizes.query_len * sizes.key_len <= SMALL:
        return "too small to be worth tiles"
    if all(tile.kind != "partial" for tile in plan.rectangles):
        return "done as it is"
    if mask.bind(sizes).intervals(sizes) is None:
        return "no few intervals of keys a row, looked at block by block"
    return "too many tiles, looked at block by block"


def _row_blocks(blocks: Iterator[tuple[slice, slice]]) -> tuple[Rectangle, ...]:
    from regard.engine.simple import Rectangle

    return tuple(Rectangle(rows, keys, "partial") for rows, keys in blocks)


def _calls(tile: Tile | Rectangle) -> list[Call]:
    from regard.engine.calls import lower
    from regard.engine.tiles import Tile

    assert isinstance(tile, Tile)
    return list(lower(tile, blocks=True, bias=False))


def _boxes(part: Part, tile: Tile | Rectangle, *, compiled: bool) -> Iterator[Box]:
    if not compiled:
        yield Box(part.batch, part.heads, tile.rows, tile.keys, tile.kind, tile.entries)
        return
    for call in _calls(tile):
        kind = call.form.kind if call.form is not None else "causal" if call.causal else "full"
        n, m = call.rows.size, call.keys.size
        computed = n * (n + 1) // 2 if call.causal else n * m
        for i in range(call.rows.count):
            rows, keys = (slice(r.start + i * r.step, r.start + i * r.step + r.size) for r in (call.rows, call.keys))
            yield Box(part.batch, part.heads, rows, keys, kind, computed)


def _edges(n: int, cells: int) -> Tensor:
    return torch.arange(cells + 1) * n // cells


def _cells(tile: Tile | Rectangle, query_len: int, key_len: int, shape: torch.Size) -> Tensor:
    """How many entries a tile has in every cell of a picture of the map, (R, C)."""
    row_edges, key_edges = _edges(query_len, shape[0]), _edges(key_len, shape[1])
    found = torch.zeros(shape, dtype=torch.long)
    for rows, lo, hi in _read(tile):
        for first in range(0, len(rows), COUNTED):
            at = slice(first, first + COUNTED)
            # Keys of each piece of each row in each column of the picture: (r, n, C), summed to (r, C).
            inside = torch.minimum(hi[at, :, None], key_edges[1:]) - torch.maximum(lo[at, :, None], key_edges[:-1])
            cell = torch.bucketize(rows[at], row_edges, right=True) - 1  # (r,)
            found.index_add_(0, cell, inside.clamp(min=0).sum(1))
    return found


def _read(tile: Tile | Rectangle) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """The rows (r,) of a tile, and the intervals lo, hi (r, n) of keys that each reads in it."""
    from regard.engine.tiles import Tile

    if not isinstance(tile, Tile):
        r = torch.arange(tile.rows.stop - tile.rows.start)
        lo = torch.full_like(r, tile.keys.start)
        hi = (lo + r + 1).clamp(max=tile.keys.stop) if tile.kind == "causal" else torch.full_like(r, tile.keys.stop)
        yield tile.rows.start + r, lo[:, None], hi[:, None]
        return
    for t in tile.singles():
        r = torch.arange(t.num_rows)
        if t.pieces is not None:
            lo, hi = (x.clamp(t.keys.start, t.keys.stop) for x in t.pieces)
        else:
            a, b = t.slopes
            lo, hi = (t.keys.start + a * r)[:, None], (t.keys.start + t.width + b * r)[:, None]
        yield t.rows.start + r, lo, hi


def _table(plan: MaskPlan) -> list[str]:
    """The tiles, one a line under a heading, in columns."""
    lines = [("rows", "keys", "kind", "entries", "")]
    several = len(plan.parts) > 1
    for part in plan.parts:
        for tile in part.tiles[: SHOWN + 1]:
            if len(lines) > SHOWN:
                break
            notes = [f"sequence {_span(part.batch)}, head {_span(part.heads)}"] if several else []
            count = getattr(tile, "count", 1)
            if count > 1:
                notes.append(f"{_number(count)} times, {_number(tile.row_step)} rows further each")  # type: ignore[union-attr]
            rows, keys = (f"{_number(s.start)} to {_number(s.stop - 1)}" for s in (tile.rows, tile.keys))
            lines.append((rows, keys, tile.kind, _number(tile.entries), "; ".join(notes)))
    if len(lines) == 1:
        return []
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    right = (True, True, False, True, False)
    out = [
        "  ".join(c.rjust(w) if r else c.ljust(w) for c, w, r in zip(line, widths, right, strict=True)).rstrip()
        for line in lines
    ]
    more = len(plan.tiles) - SHOWN
    return [*out, f"... and {_count(more, 'more tile')}"] if more > 0 else out


def _span(s: slice) -> str:
    return str(s.start) if s.stop - s.start == 1 else f"{s.start} to {s.stop - 1}"


def _number(n: int) -> str:
    return f"{n:,}".replace(",", " ")


def _count(n: int, what: str) -> str:
    return f"{_number(n)} {what}{'' if n == 1 else 's'}"


def _percent(share: float) -> str:
    return f"{100 * share:.3g}%"
