"""Which rank is gone: what a rank that notices leaves for the others, whose own neighbour may only have given up."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

__all__ = ["PeerError", "lost"]

# How long a neighbour that only gave up may take to say so, and how long whoever noticed waits for a name, in seconds.
GRACE = 1.0
PATIENCE = 3.0


class PeerError(RuntimeError):
    """Another rank did not answer: it ended, or took longer than the process group waits."""


def lost(group: dist.ProcessGroup, rank: int, world: int, peer: int | None) -> str:
    """The rank that is gone, in words: the one that was named first, else ``peer``, else who leaves no mark of life.

    A rank that gives up closes its connections, at times before it can say whom it waited for, and looks gone to the
    next. It leaves a mark, and is not the one.
    """
    try:
        store = dist.distributed_c10d._get_default_store()
        key = f"regard/lost/{group.group_name}"
        named = _named(store, key, rank, world, peer)
        if named is None:
            return "a rank"
        store.compare_set(key, "", str(named))
        return f"rank {store.get(key).decode()}"
    except Exception:
        # The store is on rank 0 where no launcher holds it, and gone with it.
        return f"rank {peer}" if peer is not None else "a rank, it seems rank 0, where the store was,"


def _named(store: Any, key: str, rank: int, world: int, peer: int | None) -> int | None:
    """Whom another rank has named, or whom this one names; None where everybody has left a mark."""
    store.set(f"{key}/{rank}", "here")
    began = time.monotonic()
    while (waited := time.monotonic() - began) < PATIENCE:
        if store.check([key]):
            return int(store.get(key))
        if peer is not None and waited >= GRACE and not store.check([f"{key}/{peer}"]):
            return peer
        time.sleep(0.05)
    return next((r for r in range(world) if not store.check([f"{key}/{r}"])), None)
