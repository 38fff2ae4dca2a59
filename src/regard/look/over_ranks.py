"""A look by several processes, as torchrun starts them: each measures some layers, and rank 0 writes the page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch.distributed as dist

__all__ = ["Ranks", "joined", "share", "together"]

T = TypeVar("T")

# A long text takes hours to measure and to write, and a rank that has ended is noticed at once.
PATIENCE = timedelta(days=2)

# The exit code of what it was given cannot work.
FAILED = 2


class _Elsewhere(Exception):
    """Another rank has failed, and all of them know."""


@dataclass(frozen=True)
class Ranks:
    """The processes of one look.

    Attributes:
        rank: this process's place among them; 0 writes and prints.
        world: how many there are.
    """

    rank: int
    world: int

    def exchange(self, mine: Any, error: Exception | None = None) -> list[Any]:
        """What each rank brings, in order of rank; an error that one brings is raised on all."""
        found: list[Any] = [None] * self.world
        try:
            dist.all_gather_object(found, (mine, "" if error is None else str(error) or type(error).__name__))
        except RuntimeError as lost:
            raise ConnectionError(
                f"a process of this look ended, its own output says why: {str(lost).splitlines()[0]}"
            ) from lost
        if error is not None:
            raise error
        for rank, (_, said) in enumerate(found):
            if said:
                raise _Elsewhere(f"rank {rank}: {said}")
        return [brought for brought, _ in found]


def share(things: Sequence[T], ranks: Ranks | None) -> Sequence[T]:
    """What this process has to do of all things: every ``ranks.world``-th."""
    return things if ranks is None else things[ranks.rank :: ranks.world]


def joined(mine: list[T], count: int, ranks: Ranks | None) -> list[T]:
    """What all have made of ``count`` things, in order."""
    if ranks is None:
        return mine
    parts = ranks.exchange(mine)
    return [parts[n % ranks.world][n // ranks.world] for n in range(count)]


@contextmanager
def together() -> Iterator[Ranks | None]:
    """The processes that torchrun started, which end together; None where this one is alone.

    What makes one of them fail is raised on rank 0, and the others end with the same exit code and say nothing.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2 or "RANK" not in os.environ or not dist.is_available():
        yield None
        return
    started = not dist.is_initialized()
    if started:
        dist.init_process_group("gloo", timeout=PATIENCE)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        try:
            yield ranks
        except (_Elsewhere, ConnectionError):
            raise
        except Exception as error:
            ranks.exchange(None, error)
        else:
            ranks.exchange(None)  # rank 0 has written
    except _Elsewhere as elsewhere:
        if ranks.rank:
            raise SystemExit(FAILED) from None
        raise ValueError(str(elsewhere)) from None
    except (ValueError, OSError, ImportError) as error:
        if ranks.rank and not isinstance(error, ConnectionError):  # rank 0 says it
            raise SystemExit(FAILED) from None
        raise
    finally:
        if started:
            dist.destroy_process_group()
