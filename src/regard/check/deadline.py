"""A time limit for one call, and a memory limit for a run, inside this process."""

from __future__ import annotations

import contextlib
import ctypes
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

__all__ = ["OutOfTime", "deadline", "memory_limit"]

AGAIN = 0.5  # seconds until a subject that swallowed the interruption is interrupted again


class OutOfTime(BaseException):
    """The call took longer than its limit. Not an Exception, so that ``except Exception`` does not swallow it."""


@contextlib.contextmanager
def deadline(seconds: float) -> Iterator[None]:
    """Interrupt what runs inside after so many seconds, with :class:`OutOfTime`.

    It interrupts Python, and what Python waits for. A single call into C that never returns is beyond it: for that,
    ``regard check`` runs its subject in a process of its own.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        with _by_signal(seconds):
            yield
    else:
        with _by_thread(seconds):
            yield


@contextlib.contextmanager
def _by_signal(seconds: float) -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise OutOfTime

    began = time.monotonic()
    handler = signal.signal(signal.SIGALRM, interrupt)
    # Somebody else, a test runner for one, may be waiting for this very timer.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)


@contextlib.contextmanager
def _by_thread(seconds: float) -> Iterator[None]:
    done = threading.Event()
    thread = threading.get_ident()
    lock = threading.Lock()

    def watch() -> None:
        wait = seconds
        while not done.wait(wait):
            with lock:
                if not done.is_set():
                    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(OutOfTime))
            wait = AGAIN

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        with lock:
            done.set()
        watcher.join()


@contextlib.contextmanager
def memory_limit(extra_mb: int | None) -> Iterator[None]:
    """Let allocations fail once this process holds so many MB more than now; on Linux, elsewhere it does nothing.

    The limit is on data and holds for the whole process while it is open.
    """
    if extra_mb is None or not sys.platform.startswith("linux"):
        yield
        return
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    wanted = _data_in_use() + extra_mb * 1_000_000
    ceilings = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([wanted, *ceilings]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_in_use() -> int:
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    return 0
