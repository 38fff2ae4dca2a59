"""A softmax that somebody computes by hand: nothing to answer from, but whoever watches should know where."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.watch.mode import HANDLERS, Interceptor
from regard.watch.names import Stack, caller

__all__ = ["on_softmax"]


def on_softmax(interceptor: Interceptor, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """A softmax: run it, and remember the module if it looks like attention."""
    output = func(*args, **kwargs)
    scores = args[0] if args else kwargs.get("input", kwargs.get("self"))
    axis = args[1] if len(args) > 1 else kwargs.get("dim")
    if isinstance(scores, Tensor) and scores.dim() > 2 and axis in (-1, scores.dim() - 1) and interceptor.listening:
        stack = Stack(caller(2), skip=(nn.Softmax,))
        if scores.dim() > 3 or _attends(stack):
            interceptor.tell_softmax(stack)
    return output


def _attends(stack: Stack) -> bool:
    """Whether the innermost module is called like one that attends."""
    module = next(iter(stack), None)
    return module is not None and "att" in type(module).__name__.lower()


for _softmax in (F.softmax, torch.softmax, Tensor.softmax, torch.special.softmax):
    HANDLERS[_softmax] = on_softmax
