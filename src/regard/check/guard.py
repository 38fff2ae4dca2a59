"""One call of a subject: limited in time, its output kept off the terminal, and everybody's state put back after it."""

from __future__ import annotations

import contextlib
import io
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from regard.check.deadline import OutOfTime, deadline

__all__ = ["Findings", "SubjectError", "guarded", "one_thread", "random_state"]

MOST_TEXT = 4000
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
    """

    printed: str = ""
    written: list[str] = field(default_factory=list)
    state: list[str] = field(default_factory=list)
    hangs: int = 0
    calls: int = 0


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
    text = _Capped()
    try:
        with (
            _state(findings),
            contextlib.redirect_stdout(text),
            contextlib.redirect_stderr(text),
            _no_warnings(),
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
        if "can't allocate memory" in str(error) or "not enough memory" in str(error):
            raise SubjectError("memory", "ran out of the memory it is allowed", error) from error
        raise SubjectError("raised", describe(error), error) from error
    finally:
        if text.getvalue() and not findings.printed:
            findings.printed = text.getvalue()
        for name, old in before.items():
            if not _same(inputs[name], old):
                if name not in findings.written:
                    findings.written.append(name)
                _restore(inputs[name], old)
    return result


def describe(error: BaseException) -> str:
    """An exception on one line, not too long."""
    text = " ".join(str(error).split())
    text = text if len(text) <= MESSAGE else text[:MESSAGE] + " ..."
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


class _Capped(io.StringIO):
    """Keeps the first few thousand characters: a subject that prints without end fills no memory."""

    def write(self, text: str) -> int:
        room = MOST_TEXT - self.tell()
        if room > 0:
            super().write(text[:room])
        return len(text)


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


def _set_device(device: torch.device) -> None:
    # The CPU is what torch starts with: setting it would install a mode that slows every call.
    torch.set_default_device(None if device.type == "cpu" else device)


# What is read before and after a call: name in words -> (read, put back).
_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the default device": (torch.get_default_device, _set_device),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
}


@contextlib.contextmanager
def _state(findings: Findings) -> Iterator[None]:
    before = {name: read() for name, (read, _) in _STATE.items()}
    seed = torch.initial_seed()
    try:
        yield
    finally:
        # Drawing random numbers is fair; seeding everybody's generator anew is not.
        if torch.initial_seed() != seed:
            _note(findings.state, f"seeds the global generator (torch.manual_seed({torch.initial_seed()}))")
        for name, (read, put_back) in _STATE.items():
            if (now := read()) != before[name]:
                _note(findings.state, f"changes {name} from {before[name]} to {now}")
                put_back(before[name])


@contextlib.contextmanager
def _no_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Tiny tensors on one thread: on a busy machine, waiting for another costs a hundred times the work."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def random_state() -> Iterator[None]:
    """Put every global random generator back afterwards."""
    seed, generator, plain = torch.initial_seed(), torch.get_rng_state(), random.getstate()
    numpy = sys.modules.get("numpy")
    arrays = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.default_generator.manual_seed(seed)
        torch.set_rng_state(generator)
        random.setstate(plain)
        if numpy is not None:
            numpy.random.set_state(arrays)


def _note(notes: list[str], text: str) -> None:
    if text not in notes:
        notes.append(text)
