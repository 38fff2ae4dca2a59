"""A time limit for one call, and a memory limit for a run, inside this process."""

from __future__ import annotations

import abc
import contextlib
import ctypes
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType, TracebackType

__all__ = ["OutOfTime", "deadline", "memory_limit"]

AGAIN = 0.5  # seconds until a subject that swallowed the interruption is interrupted again
TICK = 0.05  # seconds between two looks whether it is time
PATIENCE = 3  # interruptions that leave time to tidy up; after them, on the main thread, they come thick and fast


class OutOfTime(BaseException):
    """The call took longer than its limit. Not an Exception, so that ``except Exception`` does not swallow it."""


class Limit(abc.ABC):
    """A context manager that ends what runs in it."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.over = False

    def __enter__(self) -> Limit:
        self.thread = threading.get_ident()
        self.caller: FrameType | None = sys._getframe(1)
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @abc.abstractmethod
    def start(self) -> None:
        """Begin to count."""

    @abc.abstractmethod
    def end(self) -> None:
        """Interrupt no more; a second call does nothing."""


def deadline(seconds: float) -> Limit:
    """Interrupt what runs inside after so many seconds, with :class:`OutOfTime`, and again if that is swallowed.

    On the main thread it interrupts Python and what Python waits for, on others Python alone. A single call into C that
    never returns is beyond it, and on others than the main thread a loop that swallows every exception: for these,
    ``regard check`` runs its subject in a process of its own.
    """
    if threading.current_thread() is threading.main_thread() and hasattr(signal, "setitimer"):
        return _BySignal(seconds)
    return _ByThread(seconds)


class _BySignal(Limit):
    def start(self) -> None:
        self.began = time.monotonic()
        self.interruptions = 0
        self.uneven = random.Random(0)  # of its own: nobody else's numbers are drawn
        # Somebody else, a test runner for one, may be waiting for this very timer.
        self.others, self.interval = signal.getitimer(signal.ITIMER_REAL)
        self.handler = signal.signal(signal.SIGALRM, self._alarm)
        self._wait_until(self.seconds)

    def _wait_until(self, due: float) -> None:
        self.due = due
        first = min(due, self.others) if self.others else due
        # Again and again: a signal between the last look for one and a system call that waits does not end the waiting.
        signal.setitimer(signal.ITIMER_REAL, max(first - time.monotonic() + self.began, 1e-6), TICK)

    def _alarm(self, number: int, frame: FrameType | None) -> None:
        passed = time.monotonic() - self.began
        if self.others and passed >= self.others:
            self.others = passed + self.interval if self.interval else 0.0
            self._wait_until(self.due)
            if callable(self.handler):
                self.handler(number, frame)  # which may well raise
        elif passed >= self.due:
            self.interruptions += 1
            self._wait_until(passed + self._pause())
            if not self.over and not _leaving(frame):  # raised on the way out, it would leave the timer running
                raise OutOfTime

    def _pause(self) -> float:
        """Seconds until the next interruption.

        ``while True: try: ... except BaseException: pass`` is left only by an interruption between two of its tries:
        short and uneven pauses find that place.
        """
        return AGAIN if self.interruptions < PATIENCE else 1e-6 * 100 ** self.uneven.random()

    def end(self) -> None:
        if self.over:
            return
        signal.setitimer(signal.ITIMER_REAL, 0)
        self.over = True
        self.caller = None
        if self.handler is not None:  # None: not installed from Python, and cannot be put back from it
            signal.signal(signal.SIGALRM, self.handler)
        if self.others:
            left = self.others - (time.monotonic() - self.began)
            signal.setitimer(signal.ITIMER_REAL, max(left, 1e-3), self.interval)


class _ByThread(Limit):
    def start(self) -> None:
        self.done = threading.Event()
        self.lock = threading.Lock()
        self.watcher = threading.Thread(target=self._watch, daemon=True)
        self.watcher.start()

    def _watch(self) -> None:
        wait = self.seconds
        while not self.done.wait(wait):
            with self.lock:
                if self.over or not self._inside():
                    return
                if not _leaving(sys._current_frames().get(self.thread)):
                    _raise_in(self.thread, OutOfTime)
            wait = AGAIN

    def _inside(self) -> bool:
        """Whether the thread still runs what the limit is for."""
        frame = sys._current_frames().get(self.thread)
        while frame is not None and frame is not self.caller:
            frame = frame.f_back
        return frame is not None

    def end(self) -> None:
        while not self.over:
            with contextlib.suppress(OutOfTime), self.lock:
                _raise_in(self.thread, None)  # what was on its way is taken back
                self.over = True
        self.caller = None
        self.done.set()
        self.watcher.join()


_ENDS = {method.__code__ for method in (Limit.__exit__, _BySignal.end, _ByThread.end)}


def _leaving(frame: FrameType | None) -> bool:
    """Whether a limit is being taken away there, or in what that has called."""
    while frame is not None and frame.f_code not in _ENDS:
        frame = frame.f_back
    return frame is not None


def _raise_in(thread: int, error: type[BaseException] | None) -> None:
    given = ctypes.py_object(error) if error is not None else None
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), given)


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
