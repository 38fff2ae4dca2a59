"""First derivatives alone: what a rank's share would have of a second one is refused, not left out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

__all__ = ["once"]

TWICE = (
    "attention over ranks has first derivatives only, and create_graph=True asked for more of it; for a second "
    'derivative use regard.attention(..., impl="reference") on one rank'
)


def once(found: Sequence[Tensor | None], given: Sequence[Tensor | None]) -> tuple[Tensor | None, ...]:
    """First derivatives that depend on what is ``given``, and raise if they are differentiated."""
    if not torch.is_grad_enabled():  # without create_graph=True
        return tuple(found)
    leaves = [t for t in given if t is not None and t.requires_grad]
    return tuple(t if t is None else _Once.apply(t, *leaves) for t in found)  # type: ignore[no-untyped-call]


class _Once(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, found: Tensor, *given: Tensor) -> Tensor:
        return found.view_as(found)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(TWICE)
