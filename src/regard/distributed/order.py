"""Which tokens a rank holds: one piece of the text, or two that make the work under a causal mask even."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

__all__ = ["Order", "pieces", "positions"]

#: "zigzag": rank r of W holds pieces r and 2 W - 1 - r of 2 W; "contiguous": piece r of W.
Order = Literal["zigzag", "contiguous"]


def pieces(length: int, rank: int, world: int, order: Order) -> tuple[slice, ...]:
    """The intervals of a text of ``length`` tokens that ``rank`` of ``world`` holds, in the order in which it does.

    Under a causal mask the piece at the end of a text is the most work and the one at its start the least: a rank with
    one of either kind has as much to do as every other.

    >>> pieces(16, 0, 2, "zigzag"), pieces(16, 1, 2, "zigzag")
    ((slice(0, 4, None), slice(12, 16, None)), (slice(4, 8, None), slice(8, 12, None)))
    >>> pieces(16, 1, 2, "contiguous")
    (slice(8, 16, None),)

    Raises:
        ValueError: a length that does not divide into equal pieces.
    """
    count = world * (2 if order == "zigzag" else 1)
    if length % count:
        below = length // count * count
        near = f"{below} or {below + count}" if below else f"{count}"
        raise ValueError(
            f"length: a text in {order} order over {world} ranks is cut into {count} equal pieces, got a length of "
            f"{length}; the nearest that fits is {near}: pad it, and forbid the padding with regard.masks.padding(...)"
        )
    size = length // count
    at = (rank, count - 1 - rank) if order == "zigzag" else (rank,)
    return tuple(slice(i * size, (i + 1) * size) for i in at)


def positions(length: int, rank: int, world: int, order: Order, device: torch.device | None = None) -> Tensor:
    """The position in the text of each token that ``rank`` holds, (length / world,).

    >>> positions(8, 0, 2, "zigzag")
    tensor([0, 1, 6, 7])
    """
    parts = [torch.arange(p.start, p.stop, device=device) for p in pieces(length, rank, world, order)]
    return torch.cat(parts)
