"""A method of a model that is watched for a while, and leaves no trace on the model or its copies."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import update_wrapper
from types import FrameType
from typing import Any

import torch
from torch import nn

__all__ = ["Training", "WatchedMethod"]


class WatchedMethod:
    """Stands in for a method on one instance, until it is removed.

    No pair of forward hooks: torch calls the second on an ``Exception`` alone, and Ctrl-C would leave the watch open.
    A copy of the model, by :func:`copy.deepcopy` or :mod:`pickle`, has the method that it would have had.
    """

    def __init__(self, model: nn.Module, name: str, around: Callable[[Callable[[], Any]], Any]) -> None:
        self._model, self._name, self._around = model, name, around
        self._original = getattr(model, name)
        self._own = model.__dict__.get(name)
        self._removed = False
        # Without its attributes: those of another that watches would take the place of these.
        update_wrapper(self, self._original, updated=())
        setattr(model, name, self)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Calls the method, watched."""
        if torch.compiler.is_compiling():
            return self._original(*args, **kwargs)
        return self._around(lambda: self._original(*args, **kwargs))

    def remove(self) -> None:
        """The model has its method again, unless somebody else has replaced it since."""
        self._removed, self._around = True, lambda call: call()
        if self._model.__dict__.get(self._name) is not self:
            return
        own = self._own
        while isinstance(own, WatchedMethod) and own._removed:  # of another callback, which was done before
            own = own._own
        if own is None:
            delattr(self._model, self._name)
        else:
            setattr(self._model, self._name, own)

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        # The copy of the model has no attributes of its own yet when this runs: its method is that of its class.
        if self._own is None:
            return getattr, (self._model, self._name)
        return _same, (self._own,)


def _same(method: Any) -> Any:
    return method


class Training:
    """Whether the training that called is still running: a Trainer tells no callback of an exception.

    A frame that was kept would keep its tensors, so that it is known by its number alone.
    """

    _FUNCTIONS = ("_inner_training_loop", "train")

    def __init__(self) -> None:
        frame: FrameType | None = sys._getframe(1)
        while frame is not None and frame.f_code.co_name not in self._FUNCTIONS:
            frame = frame.f_back
        self._known = None if frame is None else (id(frame), frame.f_code)

    def over(self) -> bool:
        """Whether the function that called has ended; no where there was none that is known."""
        if self._known is None:
            return False
        frame: FrameType | None = sys._getframe(1)
        while frame is not None:
            if (id(frame), frame.f_code) == self._known:
                return False
            frame = frame.f_back
        return True
