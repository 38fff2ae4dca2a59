"""What came back: which part of it is the output, which part the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import is_dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor
from torch._C import DisableTorchFunctionSubclass
from torch.nn import Parameter

from regard.check.violation import Violation

__all__ = ["pick", "place_of"]

DEEPEST = 4  # levels of tuples in tuples in which an output is looked for
NUMBERS = "biufc"  # kinds of numpy's dtypes that torch has too


def pick(
    raw: Any, shape: tuple[int, ...], map_shape: tuple[int, int] | None = None, place: int = 0
) -> tuple[Tensor, Tensor | None]:
    """The output and the weights, or None, of what a subject returned.

    The output is the first tensor of the wanted shape; the weights are another one that ends in (L, S).

    Args:
        raw: a tensor, an array, or a tuple, list, mapping or object of these.
        shape: of the output, in the subject's own layout.
        map_shape: (L, S); None where nobody asks for the weights.
        place: where the output stands among the tensors, should several have its shape.

    Raises:
        Violation: where there is no tensor, or none of that shape.
    """
    tensors = list(_tensors(raw))
    if not tensors:
        raise Violation(f"returned {_kind(raw)}; expected a tensor of shape {shape}", got=_kind(raw), wanted=shape)
    fitting = [t for t in tensors if tuple(t.shape) == shape]
    placed = tensors[place] if place < len(tensors) else None
    output = placed if any(t is placed for t in fitting) else next(iter(fitting), None)
    if output is None:
        got = " and ".join(str(tuple(t.shape)) for t in tensors[:3])
        raise Violation(f"output: shape {got}, expected {shape}", got=got, wanted=shape)
    if map_shape is None:
        return output, None
    # The last one: a bias of positions that comes back too stands before the weights.
    maps = [t for t in tensors if t is not output and tuple(t.shape[-2:]) == map_shape and t.dim() > 1]
    return output, maps[-1] if maps else None


def place_of(raw: Any, shape: tuple[int, ...]) -> int | None:
    """Where the one tensor of this shape stands among those that came back; None where none or several have it."""
    fitting = [n for n, t in enumerate(_tensors(raw)) if tuple(t.shape) == shape]
    return fitting[0] if len(fitting) == 1 else None


def _tensors(raw: Any, depth: int = 0) -> Iterator[Tensor]:
    if depth > DEEPEST:
        return
    if isinstance(raw, Tensor):
        yield _plain(raw)
    elif callable(getattr(raw, "to_dense", None)):
        yield _plain(raw.to_dense())
    elif hasattr(raw, "__array_interface__") and not isinstance(raw, type):
        if raw.dtype.kind in NUMBERS:
            yield torch.as_tensor(raw)
    elif isinstance(raw, Mapping):
        for part in raw.values():
            yield from _tensors(part, depth + 1)
    elif isinstance(raw, SimpleNamespace) or (is_dataclass(raw) and not isinstance(raw, type)):
        for part in vars(raw).values():
            yield from _tensors(part, depth + 1)
    elif isinstance(raw, tuple | list):
        for part in raw:
            yield from _tensors(part, depth + 1)


def _plain(t: Tensor) -> Tensor:
    """A dense tensor of torch's own class: what a class of somebody's does to operations is its own business.

    Raises:
        Violation: for one without numbers that could be read one by one.
    """
    with DisableTorchFunctionSubclass():
        if t.layout is not torch.strided or t.is_nested or t.device.type == "meta":
            what = "nested" if t.is_nested else "on the device meta" if t.device.type == "meta" else f"of {t.layout}"
            raise Violation(f"returned a tensor that is {what}; expected a dense one with numbers")
        own = type(t) in (Tensor, Parameter) or type(t).__torch_dispatch__ is not Tensor.__torch_dispatch__
        return t if own else t.as_subclass(Tensor)


def _kind(raw: Any) -> str:
    if raw is None:
        return "None"
    if isinstance(raw, tuple | list):
        return f"a {type(raw).__name__} of {', '.join(type(part).__name__ for part in raw) or 'nothing'}"
    return f"{type(raw).__name__}"
