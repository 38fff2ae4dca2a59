"""A subject of our own: what is tried on a module is tried on a copy of it."""

from __future__ import annotations

import contextlib
import copy
import inspect
import types
from typing import Any

from torch import Tensor, nn

__all__ = ["copied", "own"]


def own(subject: Any) -> Any:
    """A copy of a module, or its bound method on a copy; anything else, and what cannot be copied, as it is."""
    if isinstance(subject, nn.Module):
        with contextlib.suppress(Exception):
            return copied(subject)
    if inspect.ismethod(subject) and isinstance(subject.__self__, nn.Module):
        return types.MethodType(subject.__func__, own(subject.__self__))
    return subject


def copied(module: nn.Module) -> nn.Module:
    """A copy, also of a module that has kept something of an earlier call."""
    # What a forward left behind, self.weights = weights, has a history that torch does not copy: its numbers do.
    memo: dict[int, Any] = {}
    for part in module.modules():
        for kept in vars(part).values():
            for t in kept if isinstance(kept, tuple | list) else (kept,):
                if isinstance(t, Tensor) and not t.is_leaf:
                    memo[id(t)] = t.detach().clone()
    found: nn.Module = copy.deepcopy(module, memo)
    return found
