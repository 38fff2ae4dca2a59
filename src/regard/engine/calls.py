"""From tiles to calls: which rectangles of a tile one kernel call takes, so that few calls do all of it.

Rectangles at even steps are one call over strided views, folded into the batch: a window over a long text is one call
whose key blocks overlap in memory, and nothing is copied.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from regard.engine.tiles import Tile

__all__ = ["Call", "Run", "lower"]

# Below this many rows a triangle is cheaper as the mask of one rectangle than as calls of its own.
FEW_ROWS = 32
# Up to here a triangle is halved and halved again: the fused op reads keys 512 at a time, up to twice what it needs.
SHORT_ROWS = 1024
# Rows of a block of a band: fewer compute less in vain, and make for slower products.
BAND_ROWS = 32
# Rows of one rectangle where each row has its own keys and no even step leads to the next.
BOX_ROWS = 256
# Beyond this width a band's blocks do not fit in a core's cache together, and the fused op is the faster.
WIDE = 1024


@dataclass(frozen=True)
class Run:
    """``count`` intervals of ``size``, the first from ``start``, each ``step`` further."""

    start: int
    size: int
    count: int = 1
    step: int = 0

    def part(self, first: int, count: int) -> Run:
        """``count`` of the intervals, from the one of number ``first``."""
        return Run(self.start + first * self.step, self.size, count, self.step)

    def spans(self) -> list[slice]:
        """The intervals, those that follow each other as one."""
        if self.step == self.size:
            return [slice(self.start, self.start + self.size * self.count)]
        starts = (self.start + i * self.step for i in range(self.count))
        return [slice(start, start + self.size) for start in starts]


@dataclass(frozen=True)
class Call:
    """One kernel call: rows x keys, repeated; what of a rectangle may be read is that of ``form``, None for all of it.

    kernel is "flash" (PyTorch's fused op), "blocks" or "triangles" (the modules of these names). ``causal`` leaves the
    mask to the kernel: row r reads keys 0..r.
    """

    rows: Run
    keys: Run
    kernel: str
    form: Tile | None = None
    causal: bool = False

    def parts(self, most: int) -> Iterator[Call]:
        """The call in parts of at most ``most`` keys counted over its rectangles, and of one rectangle at least."""
        step = max(1, most // self.keys.size)
        for first in range(0, self.rows.count, step):
            count = min(step, self.rows.count - first)
            yield replace(self, rows=self.rows.part(first, count), keys=self.keys.part(first, count))


def lower(tile: Tile, *, blocks: bool, bias: bool) -> Iterator[Call]:
    """The calls of one tile.

    Args:
        tile: what to do.
        blocks: whether :mod:`regard.engine.blocks` may be used.
        bias: a bias differs from rectangle to rectangle, so that each is a call of its own.
    """
    if tile.kind == "full" or (tile.num_rows == 1 and tile.kind != "partial"):
        for t in tile.singles() if bias else (tile,):
            yield _rectangle(t, "flash", masked=False)
    elif tile.kind == "band" and not bias:
        for t in tile.singles():
            yield from _band(t, blocks=blocks)
    elif tile.kind == "causal":
        yield from _causal(tile, blocks=blocks and not bias, singly=bias)
    else:
        for t in tile.singles():
            for first in range(0, t.num_rows, BOX_ROWS):
                yield _rectangle(t.part(first, min(first + BOX_ROWS, t.num_rows)), "flash")


def _rectangle(tile: Tile, kernel: str, *, masked: bool = True) -> Call:
    return Call(
        Run(tile.rows.start, tile.num_rows, tile.count, tile.row_step),
        Run(tile.keys.start, tile.num_keys, tile.count, tile.key_step),
        kernel,
        tile if masked else None,
    )


def _band(tile: Tile, *, blocks: bool) -> Iterator[Call]:
    """Blocks of rows over key blocks that overlap: row r of a block reads ``width`` keys from its r-th."""
    # A block of R rows computes R + width - 1 columns for the width it needs; fewer rows make for slower products.
    narrow = tile.width <= WIDE
    rows = (BAND_ROWS if tile.width <= WIDE // 2 else 2 * BAND_ROWS) if narrow and blocks else 4 * BAND_ROWS
    rows = rows if narrow else BOX_ROWS
    count = tile.num_rows // rows
    if count > 1:
        form = tile.part(0, rows)
        kernel = "blocks" if blocks and narrow else "flash"
        yield Call(
            Run(tile.rows.start, rows, count, rows), Run(tile.keys.start, form.num_keys, count, rows), kernel, form
        )
    done = count * rows if count > 1 else 0
    for first in range(done, tile.num_rows, BOX_ROWS):
        yield _rectangle(tile.part(first, min(first + BOX_ROWS, tile.num_rows)), "flash")


def _causal(tile: Tile, *, blocks: bool, singly: bool) -> Iterator[Call]:
    """A triangle, and the rectangle of keys before it that all rows read."""
    rows, before = tile.num_rows, tile.width - 1
    if rows <= FEW_ROWS:
        for t in tile.singles() if singly else (tile,):
            yield _rectangle(t, "flash")
        return
    for t in tile.singles() if singly or rows >= SHORT_ROWS // 4 else (tile,):
        if before:
            read = Run(t.keys.start, before, t.count, t.key_step)
            yield Call(Run(t.rows.start, rows, t.count, t.row_step), read, "flash")
        kernel = "triangles" if blocks and rows <= SHORT_ROWS else "flash"
        read = Run(t.keys.start + before, rows, t.count, t.key_step)
        yield Call(Run(t.rows.start, rows, t.count, t.row_step), read, kernel, causal=True)
