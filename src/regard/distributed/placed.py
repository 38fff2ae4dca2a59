"""The positions of a text that is cut over ranks: a share is a few intervals of it, each placed by where it starts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.positions import Positions

if TYPE_CHECKING:
    from regard.distributed.parallel import ContextParallel

__all__ = ["add", "rotate"]

Start = int | Tensor


def rotate(
    parallel: ContextParallel,
    func: Any,
    positions: Positions,
    q: Tensor,
    k: Tensor,
    *,
    offset: Start = 0,
    key_offset: Start | None = None,
    length: Start | None = None,
) -> tuple[Tensor, Tensor]:
    """Shares of queries (..., H, L / world, D) and keys (..., Hkv, S / world, D), rotated as in the whole text."""
    key_start = offset if key_offset is None else key_offset
    # How long the whole text is decides the frequencies of some scalings.
    query_len, key_len = (t.shape[-2] * parallel.world for t in (q, k))
    if length is not None:
        end = length * parallel.world
    elif isinstance(offset, Tensor) or isinstance(key_start, Tensor):
        end = torch.maximum(torch.as_tensor(offset) + query_len, torch.as_tensor(key_start) + key_len)
    else:
        end = max(offset + query_len, key_start + key_len)
    turned_q, turned_k, before = [], [], 0
    if query_len == key_len:
        for p in parallel.pieces(query_len):
            size = p.stop - p.start
            some_q, some_k = (t.narrow(-2, before, size) for t in (q, k))
            starts = {"offset": offset + p.start, "key_offset": None if key_offset is None else key_offset + p.start}
            new_q, new_k = func(positions, some_q, some_k, length=end, **starts)
            turned_q.append(new_q)
            turned_k.append(new_k)
            before += size
        return _side_by_side(turned_q), _side_by_side(turned_k)
    for t, start, turned, which in ((q, offset, turned_q, 0), (k, key_start, turned_k, 1)):
        before, none = 0, (k, q)[which][..., :0, :]
        for p in parallel.pieces(t.shape[-2] * parallel.world):
            some = t.narrow(-2, before, p.stop - p.start)
            pair = (some, none) if which == 0 else (none, some)
            turned.append(func(positions, *pair, offset=start + p.start, length=end)[which])
            before += p.stop - p.start
    return _side_by_side(turned_q), _side_by_side(turned_k)


def add(parallel: ContextParallel, func: Any, module: Any, x: Tensor, *, offset: Start = 0) -> Tensor:
    """A share of embeddings (..., L / world, d) with the positions of its tokens in the whole text."""
    found, before = [], 0
    for p in parallel.pieces(x.shape[-2] * parallel.world):
        size = p.stop - p.start
        found.append(func(module, x.narrow(-2, before, size), offset=offset + p.start))
        before += size
    return _side_by_side(found)


def _side_by_side(parts: list[Tensor]) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, -2)
