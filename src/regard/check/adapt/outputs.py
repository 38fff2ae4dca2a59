"""What came back: which part of it is the output, which part the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from regard.check.violation import Violation

__all__ = ["pick"]


def pick(raw: Any, shape: tuple[int, ...], map_shape: tuple[int, int] | None = None) -> tuple[Tensor, Tensor | None]:
    """The output and the weights, or None, of what a subject returned.

    The output is the first tensor of the wanted shape; the weights are another one that ends in (L, S).

    Args:
        raw: a tensor, an array, or a tuple, list, mapping or object of these.
        shape: of the output, in the subject's own layout.
        map_shape: (L, S); None where nobody asks for the weights.

    Raises:
        Violation: where there is no tensor, or none of that shape.
    """
    tensors = list(_tensors(raw))
    if not tensors:
        raise Violation(f"returned {_kind(raw)}; expected a tensor of shape {shape}", got=_kind(raw), wanted=shape)
    output = next((t for t in tensors if tuple(t.shape) == shape), None)
    if output is None:
        got = " and ".join(str(tuple(t.shape)) for t in tensors[:3])
        raise Violation(f"output: shape {got}, expected {shape}", got=got, wanted=shape)
    if map_shape is None:
        return output, None
    weights = next((t for t in tensors if t is not output and tuple(t.shape[-2:]) == map_shape and t.dim() > 1), None)
    return output, weights


def _tensors(raw: Any) -> Iterator[Tensor]:
    if isinstance(raw, Tensor):
        yield raw
    elif hasattr(raw, "__array_interface__") and not isinstance(raw, type):
        yield torch.from_numpy(raw) if raw.dtype != object else torch.as_tensor(raw)
    elif callable(getattr(raw, "to_dense", None)):
        yield raw.to_dense()
    elif isinstance(raw, Mapping):
        for part in raw.values():
            yield from _tensors(part)
    elif isinstance(raw, tuple | list):
        for part in raw:
            yield from _tensors(part)


def _kind(raw: Any) -> str:
    if raw is None:
        return "None"
    if isinstance(raw, tuple | list):
        return f"a {type(raw).__name__} of {', '.join(type(part).__name__ for part in raw) or 'nothing'}"
    return f"{type(raw).__name__}"
