"""What a function reads besides its arguments, and whether that is what it was."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Captured"]

PLAIN = (bool, int, float, complex, str, bytes, type(None), torch.dtype, torch.device)
DEPTH = 6
# Libraries' own functions read nothing that changes.
LIBRARIES = ("torch", "math", "builtins", "functools", "operator", "numpy")


class Captured:
    """Tensors and plain values that a function reads: in its closure, globals, defaults, bound object and modules."""

    def __init__(self, function: Any) -> None:
        self._function = function
        self._found = dict(_reached("", function, frozenset(), DEPTH))

    @property
    def tensors(self) -> tuple[Tensor, ...]:
        """The tensors, whose versions tell whether they were written to."""
        return tuple(value for value in self._found.values() if isinstance(value, Tensor))

    def check(self, name: str) -> None:
        """Raise if a name holds something else by now.

        Raises:
            RuntimeError: it does.
        """
        now = dict(_reached("", self._function, frozenset(), DEPTH))
        for path in self._found.keys() | now.keys():
            old, new = self._found.get(path), now.get(path)
            if old is not new and (isinstance(old, Tensor) or type(old) is not type(new) or old != new):
                told = "" if isinstance(old, Tensor) or isinstance(new, Tensor) else f" (from {old!r} to {new!r})"
                raise RuntimeError(
                    f"{name}: {path} was changed{told} after the call, and the weights are computed from it on "
                    "demand; ask before the change"
                )


def _reached(path: str, value: Any, names: frozenset[str], depth: int) -> Iterator[tuple[str, Any]]:
    """Tensors and plain values in ``value``, each with the way to it; ``names`` are those that the code reads."""
    if isinstance(value, (Tensor, *PLAIN)):
        yield path, value
    elif depth == 0 or isinstance(value, type | types.BuiltinFunctionType):
        return
    elif isinstance(value, functools.partial):
        yield from _reached(path, value.func, names, depth)
        for name, part in (*enumerate(value.args), *value.keywords.items()):
            yield from _reached(f"{path}[{name!r}]" if path else f"argument {name!r}", part, names, depth - 1)
    elif isinstance(value, types.MethodType):
        yield from _reached(path, value.__func__, names, depth)
        yield from _reached(path or "self", value.__self__, _read_by(value.__func__), depth - 1)
    elif isinstance(value, types.FunctionType):
        yield from _reached_by(f"{path}." if path else "", value, depth)
    elif isinstance(value, list | tuple | dict):
        for key, part in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _reached(f"{path}[{key!r}]", part, names, depth - 1)
    else:
        yield from _attributes(path or "self", value, names, depth)


def _reached_by(prefix: str, function: types.FunctionType, depth: int) -> Iterator[tuple[str, Any]]:
    """What stands in the closure, the globals and the defaults of a function."""
    if (function.__module__ or "").split(".")[0] in LIBRARIES and not function.__closure__:
        return
    names = _read_by(function)
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    for name, cell in cells:
        try:
            value = cell.cell_contents
        except ValueError:  # not bound yet
            continue
        yield from _reached(f"{prefix}{name}", value, names, depth - 1)
    for name in sorted(names & function.__globals__.keys()):
        yield from _reached(f"{prefix}{name}", function.__globals__[name], names, depth - 1)
    defaults: dict[Any, Any] = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
    for name, value in defaults.items():
        yield from _reached(f"{prefix}default {name}", value, names, depth - 1)


def _attributes(path: str, value: Any, names: frozenset[str], depth: int) -> Iterator[tuple[str, Any]]:
    """Of an object, the attributes that the code names; of one that is called, what its call reads."""
    if isinstance(value, types.ModuleType):
        if value.__name__.split(".")[0] not in LIBRARIES:
            for name in sorted(names & vars(value).keys()):
                yield from _reached(f"{path}.{name}", getattr(value, name), names, depth - 1)
        return
    held = dict(getattr(value, "__dict__", {}))
    if isinstance(value, nn.Module):
        held |= value._parameters | value._buffers | value._modules
    named = sorted(names & held.keys())
    for name in named:
        yield from _reached(f"{path}.{name}", held[name], names, depth - 1)
    for name in sorted(names & vars(type(value)).keys()):  # methods, and what they read of the object
        method = vars(type(value))[name]
        if isinstance(method, types.FunctionType):
            yield from _reached(path, types.MethodType(method, value), names, depth - 1)
    if isinstance(value, nn.Module):
        if not named:  # it is called as a whole
            for name, tensor in (*value.named_parameters(), *value.named_buffers()):
                yield f"{path}.{name}", tensor
    elif callable(value) and isinstance(value.__call__, types.MethodType):
        yield from _reached(path, value.__call__, names, depth - 1)


@functools.lru_cache(maxsize=1024)
def _names(code: types.CodeType) -> frozenset[str]:
    """The globals and attributes that code names, and the functions written inside of it."""
    inner = (_names(const) for const in code.co_consts if isinstance(const, types.CodeType))
    return frozenset(code.co_names).union(*inner)


def _read_by(function: Callable[..., Any]) -> frozenset[str]:
    code = getattr(function, "__code__", None)
    return frozenset() if code is None else _names(code)
