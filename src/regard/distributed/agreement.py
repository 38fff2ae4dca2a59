"""Before anything is sent, all ranks see what each was given: where that differs, all of them raise the same error."""

from __future__ import annotations

from collections.abc import Sequence
from zlib import crc32

import torch
from torch import Tensor

from regard.distributed.traffic import Ranks

__all__ = ["MESSAGE", "agree"]

AXES = 8
DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
NAMES = ("query", "key", "value")
NUMBERS = 2 + len(NAMES) * (2 + AXES)
# Bytes that a rank sends to each other one before anything else.
MESSAGE = 8 * NUMBERS


def agree(ranks: Ranks, tensors: Sequence[Tensor], options: str, refused: Exception | None) -> None:
    """Raise on every rank unless all were given tensors of the same shapes and dtypes, and the same options.

    Args:
        ranks: who takes part; all of them call this.
        tensors: query, key and value of this rank.
        options: what else must be the same, in words.
        refused: what this rank has to say against its arguments, which the others then need not wait for.
    """
    mine = [int(refused is not None), crc32(options.encode())]
    for t in tensors if refused is None else ():
        mine += [DTYPES.index(t.dtype), t.dim(), *t.shape, *[0] * (AXES - t.dim())]
    mine += [0] * (NUMBERS - len(mine))
    device = tensors[0].device if isinstance(tensors[0], Tensor) else "cpu"
    everybody = [found.tolist() for found in ranks.gather(torch.tensor(mine, device=device))]
    if refused is not None:
        raise refused
    unhappy = [str(r) for r, row in enumerate(everybody) if row[0]]
    if unhappy:
        raise ValueError(f"rank {', '.join(unhappy)} refused its arguments; its own error says why")
    if all(row == everybody[0] for row in everybody):
        return
    for n, name in enumerate(NAMES):
        start = 2 + n * (2 + AXES)
        shown = [_shown(row[start : start + 2 + AXES]) for row in everybody]
        if len(set(shown)) > 1:
            listed = ", ".join(f"{what} on rank {r}" for r, what in enumerate(shown))
            raise ValueError(
                f"{name} must have the same shape and dtype on every rank, got {listed}; every rank holds an equal "
                "share of the text: cut it with ContextParallel.shard(...)"
            )
    other = next(r for r, row in enumerate(everybody) if row != everybody[0])
    raise ValueError(
        "mask, scale, softcap, sinks, strategy, order and gradients must be the same on every rank, got others on rank "
        f"{other} than on rank 0; this rank has {options}"
    )


def _shown(row: list[int]) -> str:
    return f"{tuple(row[2 : 2 + row[1]])} {str(DTYPES[row[0]])[6:]}"
