"""Autocast, kept out: regard accumulates in float32, whatever the region it is called in would round products to."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch

__all__ = ["outside_autocast"]

P = ParamSpec("P")
R = TypeVar("R")


def outside_autocast(function: Callable[P, R]) -> Callable[P, R]:
    """The function run with autocast off for the device of its first argument.

    Under autocast every matrix product of float32 is rounded to bfloat16, also those that accumulate for half
    precision. The inputs keep the dtype that they came with.
    """

    @wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        first: Any = args[0] if args else kwargs.get("query")
        device = getattr(first, "device", None)
        if not isinstance(device, torch.device) or not torch.is_autocast_enabled(device.type):
            return function(*args, **kwargs)
        with torch.autocast(device.type, enabled=False):
            return function(*args, **kwargs)

    return call
