"""A mask in the terms of the engine: a causal offset, a rule per key, and the rest."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache, reduce
from typing import Any

from torch import Tensor

from regard.masks.algebra import Mask, Sizes
from regard.masks.composition import And, Not, Or
from regard.masks.intervals import Intervals
from regard.masks.rules import Band, Causal, Padding, Prefix

__all__ = ["factors", "lower"]


@dataclass(frozen=True, eq=False)
class _View:
    """A bound mask and its sizes: what the engine asks blocks of."""

    mask: Mask
    sizes: Sizes

    def block(self, rows: slice, keys: slice) -> Tensor:
        return self.mask.block(rows, keys, self.sizes)

    @property
    def remembered(self) -> bool:
        return _static(self.mask)

    def intervals(self) -> Intervals | None:
        return (
            _known(self.mask, replace(self.sizes, batch_shape=(1,), heads=1))
            if _static(self.mask)
            else (self.mask.intervals(self.sizes))
        )

    def versions(self) -> tuple[int, ...]:
        return tuple(-1 if t.is_inference() else t._version for t in self.mask.tensors())

    def at(self, b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
        return self.mask.allowed(b, h, q, kv, self.sizes)

    def key_range(self, start: int, stop: int) -> tuple[int, int]:
        return self.mask.key_range(start, stop, self.sizes)


def lower(mask: Mask | None, sizes: Sizes) -> dict[str, Any]:
    """The factors of a bound mask by what kernels can be told: ``causal`` int, ``valid`` (B|1, 1, 1, S), ``rest``."""
    if mask is None:
        return {}
    out: dict[str, Any] = {}
    rest: list[Mask] = []
    for factor in factors(mask):
        if isinstance(factor, Causal):
            offset = factor.resolved(sizes)
            out["causal"] = min(out.get("causal", offset), offset)
        elif isinstance(factor, Padding | Prefix):
            valid = factor.block(slice(0, 1), slice(0, sizes.key_len), sizes) if sizes.query_len else None
            if valid is None:
                continue
            out["valid"] = out["valid"] & valid if "valid" in out else valid
        else:
            rest.append(factor)
    if rest:
        out["rest"] = _View(reduce(And, rest), sizes)
    out["view"] = _View(mask, sizes)
    return out


def _static(mask: Mask) -> bool:
    """Whether a mask is made of numbers alone: equal to itself at the next call, for every sequence and head."""
    if isinstance(mask, And | Or):
        return _static(mask.left) and _static(mask.right)
    return _static(mask.inner) if isinstance(mask, Not) else isinstance(mask, Causal | Band | Prefix)


def _known(mask: Mask, sizes: Sizes) -> Intervals | None:
    found = _remember(mask, sizes)
    if found is not None and type(found.lo) is not Tensor:
        _remember.cache_clear()  # of tensors that stand for others while something is traced
    return found


@lru_cache(maxsize=64)
def _remember(mask: Mask, sizes: Sizes) -> Intervals | None:
    return mask.intervals(sizes)


def factors(mask: Mask) -> list[Mask]:
    """What a conjunction is made of."""
    return [*factors(mask.left), *factors(mask.right)] if isinstance(mask, And) else [mask]
