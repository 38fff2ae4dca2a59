"""From one pairing of columns to the other, by the order of a projection's rows."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from regard.positions import checks
from regard.positions.rotation import Pairing

__all__ = ["interleave"]


def interleave(weight: Tensor, head_dim: int, *, rotary_dim: int | None = None, to: Pairing = "interleaved") -> Tensor:
    """Rows of the projection of query or key, in the order that the other pairing of :class:`Rotary` wants.

    ``row 2 i <- row i`` and ``row 2 i + 1 <- row i + R / 2`` within each head, for i = 0 .. R / 2 - 1

    >>> import torch
    >>> from regard.positions import interleave
    >>> interleave(torch.arange(8.0), 4)  # two heads of width 4
    tensor([0., 2., 1., 3., 4., 6., 5., 7.])
    >>> interleave(interleave(torch.arange(8.0), 4), 4, to="halves")
    tensor([0., 1., 2., 3., 4., 5., 6., 7.])

    A layer with the rows of both q and k in the new order, and the other pairing, gives the same output: the columns
    of query and key are permuted alike, and their products stay.

    Args:
        weight: (H * D, d_in), or a bias (H * D,): of query or of key.
        head_dim: D.
        rotary_dim: R, how many of the leading columns of a head turn; all if None.
        to: the pairing that the rows are for when they come back; they came for the other one.

    Returns:
        A copy of weight with other rows.

    Raises:
        TypeError: weight is no tensor, or a width no integer.
        ValueError: rows that are not whole heads, an odd rotary_dim or one wider than a head, an unknown pairing.
    """
    if not isinstance(weight, Tensor):
        raise TypeError(f"weight must be a torch.Tensor, got {type(weight).__name__}")
    width = checks.check_count(head_dim, "head_dim", "the width of one head")
    turned = checks.check_even(width if rotary_dim is None else rotary_dim, _named(rotary_dim), width)
    if to not in ("halves", "interleaved"):
        raise ValueError(f"to must be 'halves' or 'interleaved', got {to!r}")
    if weight.dim() == 0 or weight.shape[0] % width:
        raise ValueError(
            f"weight must have rows for whole heads, a multiple of head_dim={width}, got shape {tuple(weight.shape)}"
        )
    heads = weight.unflatten(0, (-1, width))  # (H, D, ...)
    out = heads.clone()
    pairs = (2, turned // 2) if to == "interleaved" else (turned // 2, 2)
    # (H, R, ...) -> (H, 2, R / 2, ...) -> (H, R / 2, 2, ...) -> (H, R, ...)
    out[:, :turned] = heads[:, :turned].unflatten(1, pairs).transpose(1, 2).flatten(1, 2)
    whole: Tensor = out.flatten(0, 1)  # (H * D, ...)
    return whole


def _named(rotary_dim: Any) -> str:
    return "head_dim" if rotary_dim is None else "rotary_dim"
