"""Several processes on gloo that stay, and run one function after another: a process costs seconds to start."""

from __future__ import annotations

import os
import tempfile
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

# Longer than any exchange here takes on a busy machine, and less than a test may.
TIMEOUT = timedelta(seconds=60)


class Crew:
    """Processes of one process group.

    ``crew(function, *args)`` calls ``function(*args)`` on every rank and returns what each returned, in order.
    """

    def __init__(self, world: int, timeout: timedelta = TIMEOUT) -> None:
        self.world = world
        # Forked from a process that has imported torch and regard, and has done nothing with them.
        context = mp.get_context("forkserver")
        context.set_forkserver_preload(["tests.distributed.asked"])
        self.folder = tempfile.TemporaryDirectory()
        self.pipes, self.processes = [], []
        for rank in range(world):
            ours, theirs = context.Pipe()
            given = (rank, world, self.folder.name, timeout, theirs)
            process = context.Process(target=_serve, args=given, daemon=True)
            process.start()
            theirs.close()
            self.pipes.append(ours)
            self.processes.append(process)

    def __call__(self, function: Callable[..., Any], *args: Any) -> list[Any]:
        answers = self.answers(function, *args)
        for rank, (kind, answer) in enumerate(answers):
            assert kind == "returned", f"rank {rank}: {answer}"
        return [answer for _, answer in answers]

    def answers(self, function: Callable[..., Any], *args: Any) -> list[tuple[str, Any]]:
        """("returned", result), ("raised", (type name, message)) or ("died", exit code), for each rank."""
        for pipe in self.pipes:
            pipe.send((function, args))
        return [self._answer(rank) for rank in range(self.world)]

    def _answer(self, rank: int) -> tuple[str, Any]:
        try:
            return self.pipes[rank].recv()
        except EOFError:
            self.processes[rank].join(10)
            return "died", self.processes[rank].exitcode

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(5)
            if process.is_alive():
                process.kill()
                process.join()
        self.folder.cleanup()


def _serve(rank: int, world: int, folder: str, timeout: timedelta, pipe: Any) -> None:
    torch.set_num_threads(1)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    store = dist.FileStore(str(Path(folder) / "store"), world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world, timeout=timeout)
    while True:
        try:
            function, args = pipe.recv()
        except EOFError:
            break
        try:
            pipe.send(("returned", function(*args)))
        except Exception as error:
            pipe.send(("raised", (type(error).__name__, str(error), traceback.format_exc())))
    dist.destroy_process_group()
