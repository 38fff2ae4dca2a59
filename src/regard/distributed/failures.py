"""Which rank is gone: what a rank that notices leaves for those that notice later, whose own neighbour only gave up."""

from __future__ import annotations

import time
from typing import Any

import torch.distributed as dist

__all__ = ["PeerError", "lost"]

# How long ranks that noticed wait for the marks of the others, in seconds.
PATIENCE = 3.0


class PeerError(RuntimeError):
    """Another rank did not answer: it ended, or took longer than the process group waits."""


def lost(group: dist.ProcessGroup, rank: int, world: int, peer: int | None) -> str:
    """The rank that is gone, in words: the one that was named first, else ``peer``, else who leaves no mark of life.

    A rank that gives up closes its connections, and looks gone to the next: it says before whom it waited for.
    """
    try:
        store = dist.distributed_c10d._get_default_store()
        key = f"regard/lost/{group.group_name}"
        if not store.check([key]):
            named = peer if peer is not None else _silent(store, key, rank, world)
            if named is None:
                return "a rank"
            store.compare_set(key, "", str(named))
        return f"rank {store.get(key).decode()}"
    except Exception:
        # The store is on rank 0 where no launcher holds it, and gone with it.
        return f"rank {peer}" if peer is not None else "a rank, it seems rank 0, where the store was,"


def _silent(store: Any, key: str, rank: int, world: int) -> int | None:
    """A rank that leaves no mark while the others do; all of them are in the same call, and notice together."""
    store.set(f"{key}/{rank}", "here")
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        absent = [r for r in range(world) if not store.check([f"{key}/{r}"])]
        if not absent or store.check([key]):
            return None if not absent else absent[0]
        time.sleep(0.05)
    return absent[0]
