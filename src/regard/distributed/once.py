"""First derivatives alone: what a rank's share would have of a second one is refused, not left out."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.engine import autograd

__all__ = ["once"]

TWICE = (
    "attention over ranks has first derivatives only, and create_graph=True asked for more of it; for a second "
    'derivative use regard.attention(..., impl="reference") on one rank'
)


def once(found: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """First derivatives that depend on what is ``given``, and raise if they are differentiated."""
    # Without create_graph=True nobody can differentiate them.
    return autograd.once(found, given, TWICE) if torch.is_grad_enabled() else tuple(found)
