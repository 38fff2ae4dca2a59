"""A function in a process of its own, with a limit on its time and one on its memory.

This holds mistakes, not attacks: a function that does not end, that allocates without end, that ends the interpreter
or brings it down. It is no sandbox. What runs there may read and write files, use the network and send whatever it
likes as its result, as any program of this user may. The memory limit holds on Linux; on macOS and Windows only the
time limit does.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal

__all__ = ["Outcome", "run_isolated"]

Status = Literal["done", "timeout", "memory", "crashed"]
Message = dict[str, Any]
Progress = Callable[[dict[str, Any]], None]

#: Bytes kept of stdout and of stderr each; half of them from the beginning, half from the end.
KEPT_BYTES = 64 * 1024

#: A message longer than this is none of ours.
LONGEST_MESSAGE = 16 * 2**20

#: How long a fresh interpreter may take to import torch; it is not counted against the function.
START_SECONDS = 120.0

#: How often the parent looks whether a child that says nothing is still there.
POLL_SECONDS = 0.05

#: How long its last words are waited for; a process that it has started, and left, may hold the pipe open.
LAST_WORDS = 2.0

BOOT = "import sys, json; sys.path[:] = json.loads(sys.argv.pop()); from regard.check.child import main; main()"


@dataclass(frozen=True)
class Outcome:
    """What came of a function that ran in a process of its own.

    Args:
        status: "done"; "timeout": it was stopped when its time was up; "memory": it wanted more than it may have;
            "crashed": the process ended, or the function raised, before there was a result.
        value: what the function returned, None unless done.
        stdout: what was printed; of more than 64 kB the beginning and the end, with a line between that counts the
            bytes dropped.
        stderr: the same of the other stream, with the traceback of an exception.
        seconds: of wall clock, from when the child was ready.
        exit_code: of the process, negative for the signal that ended it; None if it had to be stopped.
        reason: one sentence for anything but done, where it is "".
    """

    status: Status
    value: Any
    stdout: str
    stderr: str
    seconds: float
    exit_code: int | None
    reason: str


def run_isolated(
    target: str,
    payload: dict[str, Any],
    *,
    seconds: float,
    memory_mb: int | None,
    progress: Progress | None = None,
) -> Outcome:
    """Call ``target(payload, report)`` in a fresh process and give back what it returned.

    >>> outcome = run_isolated("json:dumps", {}, seconds=60, memory_mb=None)
    >>> outcome.status, outcome.reason
    ('crashed', 'TypeError: dumps() takes 1 positional argument but 2 were given')

    ``report(message)`` in the child calls ``progress(message)`` here, at once: what was reported is not lost when the
    child is stopped later. What the function prints is kept apart from its result; its stdin is empty. When its time is
    up, the process and all that it started are killed, and whatever interrupts the waiting, Ctrl-C included, kills them
    too. This is no sandbox, and the memory limit holds on Linux alone: see :mod:`regard.check.isolate`.

    Args:
        target: "package.module:function", importable with this process's ``sys.path``.
        payload: its first argument, as JSON.
        seconds: wall-clock time from when the child has imported torch.
        memory_mb: megabytes beyond what the child uses when it has imported torch; None for no limit.
        progress: called with every message that the function reports.

    Returns:
        The outcome; no exception of the function is raised here.

    Raises:
        ValueError: seconds or memory_mb not above 0, a target without a colon.
        TypeError: a payload that JSON cannot hold.
    """
    if ":" not in target:
        raise ValueError(f"target is {target!r}; expected 'package.module:function'")
    if not seconds > 0:
        raise ValueError(f"seconds is {seconds}; expected more than 0")
    if memory_mb is not None and memory_mb < 1:
        raise ValueError(f"memory_mb is {memory_mb}; expected at least 1, or None for no limit")
    child = _Child(target, payload, seconds, memory_mb)
    try:
        return child.follow(progress)
    finally:
        child.end()


class _Child:
    """One process, and the threads that empty its pipes."""

    def __init__(self, target: str, payload: dict[str, Any], seconds: float, memory_mb: int | None) -> None:
        request = {"target": target, "payload": payload, "seconds": seconds, "memory_mb": memory_mb}
        self.seconds, self.memory_mb = seconds, memory_mb
        self.messages: queue.SimpleQueue[Message] = queue.SimpleQueue()
        self.stdout, self.stderr = _Kept(), _Kept()
        self.begun: float | None = None
        self.over = False
        pipes = [os.pipe() for _ in range(3)]
        try:
            self.process = _start(request, *(write for _, write in pipes))
        except BaseException:
            for read, _ in pipes:
                os.close(read)
            raise
        finally:
            for _, write in pipes:
                os.close(write)
        takers = (self.stdout.take, self.stderr.take, _Lines(self.messages).take)
        self.threads = [
            threading.Thread(target=_empty, args=(read, take), daemon=True)
            for (read, _), take in zip(pipes, takers, strict=True)
        ]
        for thread in self.threads:
            thread.start()

    def follow(self, progress: Progress | None) -> Outcome:
        last = self._last_message(progress)
        ended = time.monotonic()
        if last["kind"] == "timeout":
            return self._outcome("timeout", ended, None, reason=last["reason"])
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(0.0 if last["kind"] == "broken" else 5.0)
        code = self.process.poll()
        self.end()
        status: Status = last["kind"] if last["kind"] in ("done", "memory") else "crashed"
        reason = last.get("reason", "")
        if last["kind"] == "ended":
            status, reason = _explain(code, self.stderr.text())
        if status == "memory":
            allowed = "" if self.memory_mb is None else f" (it may take {self.memory_mb:,} MB)"
            reason = f"it wanted more memory than there is for it{allowed}: {reason}"
        return self._outcome(status, ended, code, value=last.get("value"), reason=reason)

    def _last_message(self, progress: Progress | None) -> Message:
        """Passes progress on until there is a result or none can come any more."""
        deadline = time.monotonic() + START_SECONDS
        gone = False
        while True:
            left = deadline - time.monotonic()
            if left <= 0:
                return {"kind": "timeout", "reason": self._late()}
            try:
                message = self.messages.get(timeout=min(POLL_SECONDS, left))
            except queue.Empty:
                if gone:
                    return {"kind": "ended"}
                gone = self.process.poll() is not None
                if gone:  # its last words may be on the way, on a busy machine for longer than a look
                    self.threads[-1].join(LAST_WORDS)
                continue
            if message["kind"] == "ready":
                self.begun = time.monotonic()
                deadline = self.begun + self.seconds
            elif message["kind"] != "progress":
                return message
            elif progress is not None:
                progress(message["value"])

    def _late(self) -> str:
        if self.begun is None:
            return f"a fresh Python did not import torch within {START_SECONDS:g} seconds"
        return f"it was stopped after {self.seconds:g} seconds, the time it may take"

    def _outcome(
        self, status: Status, ended: float, code: int | None, *, value: Any = None, reason: str = ""
    ) -> Outcome:
        self.end()
        seconds = 0.0 if self.begun is None else ended - self.begun
        return Outcome(status, value, self.stdout.text(), self.stderr.text(), seconds, code, reason)

    def end(self) -> None:
        """Kill what is left of it, and have its output to the end."""
        if self.over:
            return  # its number may be another's by now
        self.over = True
        with suppress(ProcessLookupError, PermissionError):
            if sys.platform == "win32":
                self.process.kill()
            else:
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        for thread in self.threads:
            # A process that left the group may hold a pipe open; it is not waited for.
            thread.join(1.0)


def _start(request: dict[str, Any], out: int, err: int, channel: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-u", "-X", "faulthandler", "-c", BOOT, json.dumps(sys.path)]
    environment = {**os.environ, "PYTHONIOENCODING": "utf-8"}
    options: dict[str, Any] = {"pass_fds": (channel,), "start_new_session": True}
    if sys.platform == "win32":
        import msvcrt

        channel = msvcrt.get_osfhandle(channel)
        os.set_handle_inheritable(channel, True)
        options = {"close_fds": False}
    # Not a pipe: a child that does not read would stop the parent.
    with tempfile.TemporaryFile() as given:
        given.write(json.dumps({**request, "channel": channel}).encode())
        given.seek(0)
        return subprocess.Popen(command, stdin=given, stdout=out, stderr=err, env=environment, **options)


def _empty(pipe: int, take: Callable[[bytes], None]) -> None:
    try:
        while chunk := os.read(pipe, 1 << 16):
            take(chunk)
    finally:
        os.close(pipe)


class _Kept:
    """The beginning and the end of a stream that may never end."""

    def __init__(self) -> None:
        self.head, self.tail, self.dropped = bytearray(), bytearray(), 0

    def take(self, chunk: bytes) -> None:
        room = KEPT_BYTES // 2 - len(self.head)
        self.head += chunk[:room]
        self.tail += chunk[room:]
        over = len(self.tail) - KEPT_BYTES // 2
        if over > 0:
            self.dropped += over
            del self.tail[:over]

    def text(self) -> str:
        note = f"\n[... {self.dropped:,} bytes dropped ...]\n".encode() if self.dropped else b""
        return bytes(self.head + note + self.tail).decode("utf-8", "replace")


class _Lines:
    """A stream of bytes as messages, one a line."""

    def __init__(self, messages: queue.SimpleQueue[Message]) -> None:
        self.messages, self.rest = messages, bytearray()

    def take(self, chunk: bytes) -> None:
        self.rest += chunk
        if b"\n" in chunk:
            *lines, self.rest = self.rest.split(b"\n")
            for line in lines:
                self.messages.put(_message(line))
        if len(self.rest) > LONGEST_MESSAGE:
            self.rest.clear()
            self.messages.put({"kind": "broken", "reason": "it sent a message without end"})


def _message(line: bytes | bytearray) -> Message:
    with suppress(ValueError, RecursionError):
        message = json.loads(line)
        if isinstance(message, dict) and isinstance(message.get("kind"), str):
            return message
    return {"kind": "broken", "reason": "it wrote into the pipe that its result comes through"}


def _explain(code: int | None, stderr: str) -> tuple[Status, str]:
    """Why a process is gone that left no result."""
    if code is None:
        return "crashed", "it closed the pipe that its result comes through"
    if "bad_alloc" in stderr[-2000:] or "Cannot allocate memory" in stderr[-2000:]:
        return "memory", "an allocation failed and ended the process"
    if code >= 0:
        return "crashed", f"the process ended with exit code {code} before there was a result"
    name = _signal_name(-code)
    if name == "SIGKILL":
        return "memory", "the process was killed (SIGKILL), most likely by the system for want of memory"
    if name in ("SIGSEGV", "SIGBUS"):
        return "crashed", f"a segmentation fault ({name}) ended the process"
    return "crashed", f"the signal {name} ended the process"


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"number {number}"
