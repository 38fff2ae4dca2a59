"""Keys and values go from rank to rank, while each computes with those it has; gradients go along and then home."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.distributed.sharded import Gradients, Sharding
from regard.distributed.traffic import Ranks
from regard.engine.problem import compute_dtype

__all__ = ["backward", "forward"]


def forward(sharding: Sharding, ranks: Ranks, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Merge what q reads into out (B, H, R, Dv) and lse (B, H, R)."""
    rank, world = ranks.rank, ranks.world
    held = [k, v]
    for hop in range(sharding.hops + 1):
        moving = None
        if hop < sharding.hops:
            moving = ranks.rotate(held, (rank + 1) % world, (rank - 1) % world)
        sharding.add((rank - hop) % world, q, held[0], held[1], out, lse)
        if moving is not None:
            held = moving.wait()


def backward(sharding: Sharding, ranks: Ranks, gradients: Gradients, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of this rank's k and v; that of q is left in ``gradients``."""
    rank, world = ranks.rank, ranks.world
    after, before = (rank + 1) % world, (rank - 1) % world
    held, coming = [k, v], None
    dtype = compute_dtype(k.dtype)
    for hop in range(sharding.hops + 1):
        moving = ranks.rotate(held, after, before) if hop < sharding.hops else None
        part = [torch.zeros(t.shape, dtype=dtype, device=t.device) for t in held]
        gradients.add((rank - hop) % world, held[0], held[1], part[0], part[1])
        if coming is not None:  # what the ranks before added for these keys
            for mine, theirs in zip(part, coming.wait(), strict=True):
                mine += theirs
        if hop < sharding.hops:
            coming = ranks.rotate(part, after, before)
        elif hop > 0:
            part = ranks.rotate(part, (rank - hop) % world, (rank + hop) % world).wait()
        if moving is not None:
            held = moving.wait()
    return part[0], part[1]
