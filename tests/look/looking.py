"""What the processes of the tests of a look over several ranks run."""

from __future__ import annotations

import os
from pathlib import Path

import torch
import torch.distributed as dist

import regard
from regard.distributed import context_parallel
from regard.look import command
from regard.look.over_ranks import joined, share, together


def started() -> None:
    """As torchrun leaves the environment of a process."""
    os.environ["RANK"], os.environ["WORLD_SIZE"] = str(dist.get_rank()), str(dist.get_world_size())


def shared(count: int) -> tuple[list[int], list[int]]:
    """What this process did of so many things, and what all did."""
    started()
    with together() as ranks:
        mine = list(share(range(count), ranks))
        return mine, joined([10 * n for n in mine], count, ranks)


def failing(where: int, when: str) -> str:
    """How a process ends if ``where`` fails before or after the layers are measured, or ends."""
    started()
    try:
        with together() as ranks:
            assert ranks is not None
            if when == "before" and ranks.rank == where:
                raise ValueError("there is no such model")
            joined(list(share(range(4), ranks)), 4, ranks)
            if when == "after" and ranks.rank == where:
                raise OSError("the disk is full")
    except SystemExit as ended:
        return f"exit {ended.code}"
    except (ValueError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def looked(out: Path, model: str, text: str | None) -> str:
    started()
    try:
        command.run(model=model, text=text, string=None if text else "to be", out=out, no_figures=True)
    except SystemExit as ended:
        return f"exit {ended.code}"
    except ValueError as error:
        return f"ValueError: {error}"
    return "nothing"


def sharded() -> str:
    q = torch.randn(1, 2, 6, 4)
    _, weights = context_parallel().attention(q, q, q)
    try:
        regard.look([weights])
    except TypeError as error:
        return str(error)
    return "nothing"
