"""Random sizes of an attention problem, and of what broadcasts to its scores."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from hypothesis import strategies as st

LENGTHS = (1, 2, 3, 5, 17, 33, 70)  # 33 and 70: past one block of the fused kernel's rows, and past 64 keys
WIDTHS = (1, 3, 5, 8, 16)


@dataclass(frozen=True)
class Shape:
    """batch (...), H (0: no axis of heads), Hkv, L, S, D, Dv."""

    batch: tuple[int, ...]
    heads: int
    kv_heads: int
    query_len: int
    key_len: int
    width: int
    value_width: int

    @property
    def rows(self) -> tuple[int, ...]:
        return (*self.batch, *((self.heads,) if self.heads else ()), self.query_len)

    @property
    def scores(self) -> tuple[int, ...]:
        return (*self.rows, self.key_len)

    @property
    def keys(self) -> tuple[int, ...]:
        return (*self.batch, *((self.kv_heads,) if self.heads else ()), self.key_len)


@st.composite
def shapes(draw: st.DrawFn, *, ranks: tuple[int, ...] = (2, 3, 4, 4, 4, 5), square: bool = False) -> Shape:
    rank = draw(st.sampled_from(ranks))
    batch = tuple(draw(st.integers(1, 3)) for _ in range(rank - 3 if rank > 3 else rank - 2))
    kv_heads, group = draw(st.integers(1, 3)), draw(st.sampled_from((1, 1, 2, 3)))
    heads, kv_heads = (kv_heads * group, kv_heads) if rank > 3 else (0, 1)
    query_len, key_len = draw(st.sampled_from(LENGTHS)), draw(st.sampled_from(LENGTHS))
    width = draw(st.sampled_from(WIDTHS))
    value_width = draw(st.one_of(st.just(width), st.sampled_from(WIDTHS)))
    return Shape(batch, heads, kv_heads, query_len, query_len if square else key_len, width, value_width)


@st.composite
def broadcasting(draw: st.DrawFn, shape: Shape) -> tuple[int, ...]:
    """A shape that broadcasts to the scores: some axes 1, some leading ones left out."""
    sizes = [draw(st.sampled_from((n, 1))) for n in shape.scores]
    first = draw(st.integers(0, len(sizes) - 1))
    return tuple(sizes[first:])


def batch_size(shape: Shape) -> int:
    return int(torch.Size(shape.batch).numel())


def numbers(draw: st.DrawFn) -> torch.Generator:
    return torch.Generator().manual_seed(draw(st.integers(0, 1 << 31)))
