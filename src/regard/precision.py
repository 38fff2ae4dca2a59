"""Autocast, kept out: regard accumulates in float32, whatever the region it is called in would round products to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from inspect import signature
from typing import Any, ParamSpec, TypeVar

import torch
from torch import Tensor

__all__ = ["outside_autocast"]

P = ParamSpec("P")
R = TypeVar("R")

NAMES = ("query", "key", "value")


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function run with autocast off for the device of its first argument.

    Under autocast every matrix product of float32 is rounded to bfloat16, also those that accumulate for half
    precision. The inputs keep the dtype that they came with; a function of (query, key, value, ...) takes them in
    autocast's where they came in more than one, as when a linear layer made only some.
    """
    attends = tuple(signature(function).parameters)[:3] == NAMES

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0] if args else kwargs.get("query")
        device = getattr(first, "device", None)
        # There is no autocast for the device "meta", and asking whether it is on is an error.
        if not isinstance(device, torch.device) or device.type == "meta":
            return function(*args, **kwargs)
        if not torch.is_autocast_enabled(device.type):
            return function(*args, **kwargs)
        if attends:
            args, kwargs = _in_one_dtype(args, kwargs, torch.get_autocast_dtype(device.type))
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return call


def _in_one_dtype(args: tuple[Any, ...], kwargs: dict[str, Any], dtype: torch.dtype) -> Any:
    """The arguments with a mixed query, key and value in ``dtype``; float64 is not autocast's to round."""
    given = [*args[:3], *(kwargs[name] for name in NAMES[len(args) :] if name in kwargs)]
    halved = (torch.float16, torch.bfloat16, torch.float32)
    if not all(isinstance(t, Tensor) and t.dtype in halved for t in given) or len({t.dtype for t in given}) < 2:
        return args, kwargs
    cast = {name: kwargs[name].to(dtype) for name in NAMES if name in kwargs}
    return (*(t.to(dtype) for t in args[:3]), *args[3:]), {**kwargs, **cast}
