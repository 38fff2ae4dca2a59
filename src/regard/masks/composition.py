"""How masks compose: ``&``, ``|`` and ``~``."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.intervals import Intervals

__all__ = ["And", "Not", "Or"]


@dataclass(frozen=True)
class _Pair(Mask):
    left: Mask
    right: Mask

    def tensors(self) -> tuple[Tensor, ...]:
        return (*self.left.tensors(), *self.right.tensors())

    def bind(self, sizes: Sizes) -> Mask:
        return type(self)(self.left.bind(sizes), self.right.bind(sizes))

    def _ranges(self, start: int, stop: int, sizes: Sizes) -> tuple[tuple[int, int], tuple[int, int]]:
        return self.left.key_range(start, stop, sizes), self.right.key_range(start, stop, sizes)

    def _batch(self, default: int) -> int:
        return max(self.left._batch(default), self.right._batch(default))

    def _heads(self, default: int) -> int:
        return max(self.left._heads(default), self.right._heads(default))


@dataclass(frozen=True)
class And(_Pair):
    def intervals(self, sizes: Sizes) -> Intervals | None:
        left, right = self.left.intervals(sizes), self.right.intervals(sizes)
        return None if left is None else left & right

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return self.left.allowed(b, h, q, kv, sizes) & self.right.allowed(b, h, q, kv, sizes)

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        return self.left.block(rows, keys, sizes) & self.right.block(rows, keys, sizes)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        (a, b), (c, d) = self._ranges(start, stop, sizes)
        low = max(a, c)
        return low, max(low, min(b, d))

    def __repr__(self) -> str:
        return " & ".join(f"({m!r})" if isinstance(m, Or) else repr(m) for m in (self.left, self.right))


@dataclass(frozen=True)
class Or(_Pair):
    def intervals(self, sizes: Sizes) -> Intervals | None:
        left, right = self.left.intervals(sizes), self.right.intervals(sizes)
        return None if left is None else left | right

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return self.left.allowed(b, h, q, kv, sizes) | self.right.allowed(b, h, q, kv, sizes)

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        return self.left.block(rows, keys, sizes) | self.right.block(rows, keys, sizes)

    def key_range(self, start: int, stop: int, sizes: Sizes) -> tuple[int, int]:
        (a, b), (c, d) = self._ranges(start, stop, sizes)
        if a >= b or c >= d:  # an empty side adds nothing
            return (c, d) if a >= b else (a, b)
        return min(a, c), max(b, d)

    def __repr__(self) -> str:
        return f"{self.left!r} | {self.right!r}"


@dataclass(frozen=True)
class Not(Mask):
    inner: Mask

    def allowed(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor, sizes: Sizes) -> Tensor:
        return ~self.inner.allowed(b, h, q, kv, sizes)

    def tensors(self) -> tuple[Tensor, ...]:
        return self.inner.tensors()

    def bind(self, sizes: Sizes) -> Mask:
        return Not(self.inner.bind(sizes))

    def intervals(self, sizes: Sizes) -> Intervals | None:
        inner = self.inner.intervals(sizes)
        return None if inner is None else (~inner).trimmed()

    def block(self, rows: slice, keys: slice, sizes: Sizes) -> Tensor:
        return ~self.inner.block(rows, keys, sizes)

    def __repr__(self) -> str:
        return f"~({self.inner!r})" if isinstance(self.inner, And | Or) else f"~{self.inner!r}"

    def _batch(self, default: int) -> int:
        return self.inner._batch(default)

    def _heads(self, default: int) -> int:
        return self.inner._heads(default)
