"""One call of a subject: limited in time, its output kept off the terminal, and everybody's state put back after it."""

from __future__ import annotations

import contextlib
import io
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, cast

from torch import Tensor

from regard.check.deadline import OutOfTime, deadline
from regard.check.state import kept, one_thread, others_drawn, random_state, seed_others
from regard.look.wording import one_line

__all__ = ["Findings", "SubjectError", "guarded", "no_warnings", "one_thread", "random_state"]

MOST_TEXT = 4000  # bytes that are kept of what a call prints
LOOKS = 6  # calls after which it is known whether a subject seeds generators
MESSAGE = 300  # characters of somebody's error message that are worth repeating


class SubjectError(Exception):
    """The subject raised, ran out of time or memory, or tried to exit; ``kind`` says which."""

    def __init__(self, kind: str, message: str, cause: BaseException | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.cause = cause


@dataclass
class Findings:
    """What a subject did beside answering: each with the first evidence.

    Args:
        printed: text it wrote to stdout or stderr.
        written: names of inputs that it changed.
        state: global state that it changed, in words.
        hangs: how many calls ran out of time.
        calls: how many there were.
        generators: the states of Python's and numpy's after the last of the first calls.
    """

    printed: str = ""
    written: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    hangs: int = 0
    calls: int = 0
    generators: dict[str, Any] = field(default_factory=dict)

    def note(self, changed: str) -> None:
        """Global state that it changed, once."""
        if changed not in self.state:
            self.state.append(changed)


def guarded(call: Callable[[], Any], inputs: dict[str, Any], seconds: float, findings: Findings) -> Any:
    """The result of ``call()``; what it does to others is noted in ``findings`` and undone.

    Args:
        call: the subject with its arguments.
        inputs: name -> tensor or array that it may read but not write.
        seconds: the limit.
        findings: where what it does is noted.

    Raises:
        SubjectError: for whatever it raises, but Ctrl-C.
    """
    findings.calls += 1
    before = {name: _copy(t) for name, t in inputs.items()}
    text = _Kept()
    try:
        with (
            kept(findings.note),
            _seeds(findings),
            contextlib.redirect_stdout(_stream(text)),
            contextlib.redirect_stderr(_stream(text)),
            no_warnings(),
            _no_unraisable(),
            deadline(seconds),
        ):
            result = call()
    except KeyboardInterrupt:
        raise
    except OutOfTime:
        findings.hangs += 1
        raise SubjectError("time", f"no answer within {seconds:g} s") from None
    except MemoryError as error:
        raise SubjectError("memory", "ran out of the memory it is allowed", error) from error
    except SystemExit as error:
        raise SubjectError("exit", f"called sys.exit({error.code!r})", error) from error
    except BaseException as error:
        said = describe(error)
        if "can't allocate memory" in said or "not enough memory" in said:
            raise SubjectError("memory", "ran out of the memory it is allowed", error) from error
        raise SubjectError("raised", said, error) from error
    finally:
        if text.kept and not findings.printed:
            findings.printed = text.kept.decode("utf-8", "replace")
        for name, old in before.items():
            if not _same(inputs[name], old):
                if name not in findings.written:
                    findings.written.append(name)
                _restore(inputs[name], old)
    return result


def describe(error: BaseException) -> str:
    """An exception on one line, not too long."""
    try:
        text = " ".join(str(error)[: 10 * MESSAGE].split())
    except Exception:
        text = "(its message cannot be read)"
    text = one_line(text if len(text) <= MESSAGE else text[:MESSAGE] + " ...")
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Kept(io.RawIOBase):
    """Keeps the first few thousand bytes: a subject that prints without end fills no memory."""

    def __init__(self) -> None:
        self.kept = bytearray()

    def writable(self) -> bool:
        return True

    def write(self, given: Any) -> int:
        self.kept += given[: MOST_TEXT - len(self.kept)]
        return len(given)


def _stream(kept: _Kept) -> io.TextIOWrapper:
    """A stream like sys.stdout, with a ``buffer`` for bytes; whoever closes it closes nothing of ours."""
    return io.TextIOWrapper(cast(Any, kept), encoding="utf-8", errors="replace", write_through=True)


def _copy(t: Any) -> Any:
    return t.detach().clone() if isinstance(t, Tensor) else t.copy()


def _same(t: Any, old: Any) -> bool:
    if isinstance(t, Tensor):
        t = t.detach()
        return t.shape == old.shape and bool(((t == old) | ((t != t) & (old != old))).all())
    return t.shape == old.shape and bool(((t == old) | ((t != t) & (old != old))).all())


def _restore(t: Any, old: Any) -> None:
    if isinstance(t, Tensor):
        t.data = old
    else:
        t[...] = old


@contextlib.contextmanager
def _seeds(findings: Findings) -> Iterator[None]:
    """Look in the first calls whether the generators of Python and numpy are as after another call: seeded anew."""
    looks = findings.calls <= LOOKS
    if looks:
        seed_others(findings.calls)
        before = others_drawn()
    try:
        yield
    finally:
        if looks:
            after = others_drawn()
            for name, state in after.items():
                if state != before.get(name) and state == findings.generators.get(name):
                    findings.note(f"seeds a global generator ({name})")
            findings.generators = after


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Keep every warning quiet."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def _no_unraisable() -> Iterator[None]:
    """An interruption that hits a destructor cannot be raised there and is told to nobody: the next one is at hand."""
    hook = sys.unraisablehook
    sys.unraisablehook = lambda raised: None
    try:
        yield
    finally:
        sys.unraisablehook = hook
