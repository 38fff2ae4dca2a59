"""The child's side of :mod:`regard.check.isolate`: takes one request, calls one function, sends what came of it."""

from __future__ import annotations

import importlib
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = ["is_out_of_memory", "main"]

#: How torch and C++ say that there is no memory: as a RuntimeError.
OUT_OF_MEMORY = ("can't allocate memory", "cannot allocate memory", "bad_alloc", "out of memory")

#: A child whose parent was killed ends itself so many seconds after its time was up.
ORPHANED_SECONDS = 30

Send = Callable[[dict[str, Any]], None]


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that there was no memory left, in Python's words or in torch's.

    >>> is_out_of_memory(MemoryError()), is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory"))
    (True, True)
    >>> is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    False

    Args:
        error: what was raised.

    Returns:
        True for a MemoryError and for a RuntimeError or OSError with a message of an allocator.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower() if isinstance(error, RuntimeError | OSError) else ""
    return any(words in text for words in OUT_OF_MEMORY)


def main() -> None:
    """Serve one request: JSON on stdin with ``channel``, ``target``, ``payload``, ``seconds`` and ``memory_mb``."""
    request = json.loads(sys.stdin.buffer.read())
    _close_stdin()
    send = _sender(request["channel"])
    _limit_memory(request["memory_mb"])
    if hasattr(signal, "alarm"):
        signal.alarm(int(request["seconds"]) + ORPHANED_SECONDS)
    send({"kind": "ready"})
    try:
        send(_call(request, send))
    except MemoryError as error:
        send({"kind": "memory", "reason": _named(error)})
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    # Threads, exit handlers and half-closed files of the subject do not keep the process.
    os._exit(0)


def _call(request: dict[str, Any], send: Send) -> dict[str, Any]:
    module, _, name = request["target"].partition(":")
    try:
        function = getattr(importlib.import_module(module), name)
        value = function(request["payload"], lambda progress: send({"kind": "progress", "value": progress}))
    except BaseException as error:
        return _refused(error)
    try:
        return {"kind": "done", "value": json.loads(json.dumps(value))}
    except (TypeError, ValueError, RecursionError) as error:
        return {"kind": "crashed", "reason": f"{request['target']} returned what JSON cannot hold: {error}"}


def _refused(error: BaseException) -> dict[str, Any]:
    if is_out_of_memory(error):
        return {"kind": "memory", "reason": _named(error)}
    if isinstance(error, SystemExit):
        return {"kind": "crashed", "reason": f"it called sys.exit({'' if error.code is None else repr(error.code)})"}
    traceback.print_exc()
    return {"kind": "crashed", "reason": _named(error)}


def _named(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _close_stdin() -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.close(null)


def _sender(channel: int) -> Send:
    if sys.platform == "win32":
        import msvcrt

        channel = msvcrt.open_osfhandle(channel, 0)
    # A program that the subject starts would hold the channel open.
    os.set_inheritable(channel, False)

    def send(message: dict[str, Any]) -> None:
        line = json.dumps(message).encode() + b"\n"
        while line:
            line = line[os.write(channel, line) :]

    return send


def _limit_memory(memory_mb: int | None) -> None:
    """Let this process take so much more memory than it has now, where the system can hold it to that."""
    import torch

    if memory_mb is None or sys.platform != "linux":
        return
    import resource

    # The threads of torch's pool have stacks of their own, by the number of cores; they are not the subject's.
    torch.ones(256, 256).mm(torch.ones(256, 256)).exp_().sum()
    # Not RLIMIT_AS: torch maps its libraries and reserves addresses by the gigabyte without using them.
    limit = _data_now() + memory_mb * 2**20
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    if hard != resource.RLIM_INFINITY:
        limit = min(limit, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _data_now() -> int:
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
