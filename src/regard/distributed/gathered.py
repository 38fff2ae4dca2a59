"""All keys and values on every rank at once: one exchange, and memory for the whole text's keys."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.distributed.sharded import Gradients, Sharding
from regard.distributed.traffic import Ranks
from regard.engine.problem import compute_dtype

__all__ = ["backward", "forward"]


def forward(sharding: Sharding, ranks: Ranks, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor) -> None:
    """Merge what q reads into out (B, H, R, Dv) and lse (B, H, R)."""
    for owner, (some_k, some_v) in enumerate(zip(ranks.gather(k), ranks.gather(v), strict=True)):
        sharding.add(owner, q, some_k, some_v, out, lse)


def backward(sharding: Sharding, ranks: Ranks, gradients: Gradients, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients of this rank's k and v; that of q is left in ``gradients``."""
    dtype = compute_dtype(k.dtype)
    dk, dv = (torch.zeros(ranks.world, *t.shape, dtype=dtype, device=t.device) for t in (k, v))
    # Gathered again and not kept: kept, every layer of a model would hold the whole text's keys.
    for owner, (some_k, some_v) in enumerate(zip(ranks.gather(k), ranks.gather(v), strict=True)):
        gradients.add(owner, some_k, some_v, dk[owner], dv[owner])
    return ranks.exchange(dk).sum(0), ranks.exchange(dv).sum(0)
