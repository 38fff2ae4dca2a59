"""Where a context may say that tokens stand elsewhere: a text that is cut over processes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from regard.positions.base import Positions

__all__ = ["added", "rotated"]

Added = Callable[..., Tensor]


def rotated(positions: Positions, q: Tensor, k: Tensor, **where: Any) -> tuple[Tensor, Tensor]:
    """``positions.rotate(q, k, **where)``, which a TorchFunctionMode sees as one call."""
    if has_torch_function((q, k)):
        found: tuple[Tensor, Tensor] = handle_torch_function(rotated, (q, k), positions, q, k, **where)
        return found
    return positions.rotate(q, k, **where)


def added(forward: Added) -> Added:
    """A ``forward(self, x, *, offset)`` that adds positions to embeddings, seen as one call in the same way."""

    @functools.wraps(forward)
    def seen(self: Any, x: Tensor, *, offset: int | Tensor = 0) -> Tensor:
        if has_torch_function((x,)):
            found: Tensor = handle_torch_function(seen, (x,), self, x, offset=offset)
            return found
        return forward(self, x, offset=offset)

    seen.adds_positions = True  # type: ignore[attr-defined]
    return seen
