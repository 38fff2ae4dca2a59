"""One guarded call: what the subject does to others is noted, told, and undone."""

# ruff: noqa: T201 (printing is what some subjects do)
from __future__ import annotations

import gc
import io
import logging
import os
import random
import signal
import sys
import threading
import warnings

import numpy as np
import pytest
import torch

from regard.check.guard import MOST_TEXT, Findings, SubjectError, describe, guarded
from regard.check.state import global_state


def everything() -> dict[str, object]:
    """What a subject could change for everybody else."""
    return {
        "dtype": torch.get_default_dtype(),
        "device": torch.get_default_device(),
        "grad": torch.is_grad_enabled(),
        "threads": torch.get_num_threads(),
        "autocast": (torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")),
        "torch": (torch.initial_seed(), torch.get_rng_state().tolist()),
        "random": random.getstate(),
        "numpy": [str(part) for part in np.random.get_state()],  # noqa: NPY002
        "numpy errors": np.geterr(),
        "filters": list(warnings.filters),
        "streams": (sys.stdout, sys.stderr, sys.stdin),
        "signals": [signal.getsignal(number) for number in (signal.SIGALRM, signal.SIGINT)],
        "timer": signal.getitimer(signal.ITIMER_REAL)[1],
        "limits": __import__("resource").getrlimit(__import__("resource").RLIMIT_DATA),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "fill": torch.utils.deterministic.fill_uninitialized_memory,
        "matmul": torch.get_float32_matmul_precision(),
        "anomaly": torch.is_anomaly_enabled(),
        "flash": torch.backends.cuda.flash_sdp_enabled(),
        "folder": os.getcwd(),  # noqa: PTH109
        "handlers": list(logging.root.handlers),
        "collector": gc.isenabled(),
    }


CHANGES = {
    "changes the default dtype from torch.float32 to torch.float64": lambda: torch.set_default_dtype(torch.float64),
    "changes the default device from cpu to meta": lambda: torch.set_default_device("meta"),
    "changes grad mode from True to False": lambda: torch.set_grad_enabled(False),
    "changes the number of threads from": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "changes autocast from (False, False) to (True, False)": lambda: torch.set_autocast_enabled("cpu", True),
    "changes deterministic algorithms from (False,": lambda: torch.use_deterministic_algorithms(True),
    "changes anomaly detection from False": lambda: torch.autograd.set_detect_anomaly(True, check_nan=True),
    "changes the precision of matrix products from highest": lambda: torch.set_float32_matmul_precision("medium"),
    "changes which kernels torch may use": lambda: torch.backends.cuda.enable_flash_sdp(False),
    "changes numpy's handling of errors from {": lambda: np.seterr(all="raise"),
    # Not SIG_IGN: what runs in the background of a shell ignores Ctrl-C already.
    "changes the handler of Ctrl-C": lambda: signal.signal(signal.SIGINT, lambda *_: None),
    "changes the working directory from": lambda: os.chdir("/"),
    "changes the handlers of the root logger": lambda: logging.root.addHandler(logging.NullHandler()),
    "changes the garbage collector from True to False": gc.disable,
    "seeds the global generator (torch.manual_seed(3))": lambda: torch.manual_seed(3),
    "seeds a global generator (random.seed())": lambda: random.seed(3),
    "seeds a global generator (numpy.random.seed())": lambda: np.random.seed(3),  # noqa: NPY002
    "changes the filling of uninitialized memory from True": lambda: setattr(
        torch.utils.deterministic, "fill_uninitialized_memory", False
    ),
}


@pytest.mark.filterwarnings("ignore:Anomaly Detection has been enabled")
@pytest.mark.parametrize("raises", [False, True])
@pytest.mark.parametrize("said", CHANGES)
def test_global_state_that_is_changed_is_told_and_put_back(said, raises):
    def subject() -> None:
        CHANGES[said]()
        if raises:
            raise ValueError("mine")

    before, findings = everything(), Findings()
    with global_state():
        for _ in range(2):
            if raises:
                with pytest.raises(SubjectError, match="ValueError: mine"):
                    guarded(subject, {}, 5, findings)
            else:
                guarded(subject, {}, 5, findings)
    assert len(findings.state) == 1
    assert findings.state[0].startswith(said)
    assert everything() == before


@pytest.mark.parametrize(
    "draw",
    [lambda: torch.rand(3), random.random, lambda: np.random.rand(700), lambda: warnings.warn("mine", stacklevel=1)],  # noqa: NPY002
)
def test_drawing_numbers_and_warning_are_no_change(draw):
    before, findings = everything(), Findings()
    with global_state():
        for _ in range(4):
            guarded(draw, {}, 5, findings)
    assert findings.state == []
    assert everything() == before


def swap_streams() -> None:
    sys.stdout = sys.stderr = io.StringIO()


def close_streams() -> None:
    print("closing")
    sys.stdout.close()
    sys.stderr.close()


PRINTS = {
    "out": lambda: print("hello"),
    "err": lambda: print("hello", file=sys.stderr),
    "bytes": lambda: sys.stdout.buffer.write(b"hello\n"),
    "no text": lambda: sys.stdout.buffer.write(b"\xff\xfe"),
    "surrogates": lambda: print("\udcff"),
    "log": lambda: logging.getLogger("mine").warning("hello") or print("hello"),
    "close": close_streams,
}


@pytest.mark.parametrize("way", PRINTS)
def test_what_is_printed_is_kept_and_not_shown(way, capsys):
    findings = Findings()
    before = everything()
    for _ in range(2):
        guarded(PRINTS[way], {}, 5, findings)
    assert findings.printed
    assert capsys.readouterr() == ("", "")
    assert everything()["streams"] == before["streams"]


def test_printing_without_end_fills_no_memory():
    findings = Findings()
    guarded(lambda: [print("x" * 1000) for _ in range(2000)], {}, 5, findings)
    assert findings.printed == "".join(("x" * 1000 + "\n") * 4)[:MOST_TEXT]


def test_streams_that_are_exchanged_are_put_back():
    before = sys.stdout, sys.stderr
    guarded(swap_streams, {}, 5, Findings())
    assert (sys.stdout, sys.stderr) == before


class Unreadable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


ERRORS = {
    "ValueError: no": (lambda: int("x") and None, "raised", "ValueError: invalid literal for int() with base 10: 'x'"),
    "exit": (lambda: sys.exit(3), "exit", "called sys.exit(3)"),
    "memory": (lambda: torch.empty(10**15), "memory", "ran out of the memory it is allowed"),
    "python memory": (lambda: bytearray(10**15), "memory", "ran out of the memory it is allowed"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_every_error_becomes_one_kind(name):
    call, kind, said = ERRORS[name]
    with pytest.raises(SubjectError) as error:
        guarded(call, {}, 5, Findings())
    assert (error.value.kind, str(error.value)) == (kind, said)
    assert error.value.cause is not None


@pytest.mark.parametrize("error", [GeneratorExit, StopIteration, AssertionError, RecursionError, BaseException])
def test_unusual_exceptions_are_errors_too(error):
    def subject() -> None:
        raise error

    with pytest.raises(SubjectError, match=f"^{error.__name__}$"):
        guarded(subject, {}, 5, Findings())


def test_a_hang_is_counted_and_told():
    def subject() -> None:
        while True:
            pass

    findings = Findings()
    with pytest.raises(SubjectError, match=r"^no answer within 0\.05 s$") as error:
        guarded(subject, {}, 0.05, findings)
    assert (error.value.kind, findings.hangs, findings.calls) == ("time", 1, 1)


class Fragile:
    def __del__(self) -> None:
        raise ValueError("in a destructor")


def test_what_a_destructor_raises_is_neither_printed_nor_left_behind():
    hook, findings = sys.unraisablehook, Findings()
    guarded(lambda: Fragile() and None, {}, 5, findings)
    assert findings.printed == ""
    assert sys.unraisablehook is hook


def test_ctrl_c_passes_and_leaves_everything_as_it_was():
    t = torch.zeros(3)

    def subject() -> None:
        t.add_(1)
        torch.set_default_dtype(torch.float64)
        print("hello")
        raise KeyboardInterrupt

    before = everything()
    with pytest.raises(KeyboardInterrupt):
        guarded(subject, {"t": t}, 5, Findings())
    assert everything() == before
    assert t.tolist() == [0, 0, 0]


def test_from_another_thread():
    came: list[object] = []

    def subject() -> None:
        torch.set_grad_enabled(False)
        while True:
            pass

    def run() -> None:
        findings = Findings()
        try:
            guarded(subject, {}, 0.05, findings)
        except SubjectError as error:
            came.extend([error.kind, findings.state, torch.is_grad_enabled()])

    before = everything()
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(20)
    assert came == ["time", ["changes grad mode from True to False"], True]
    assert everything() == before


def write(t) -> None:
    t += 1


INPUTS = {
    "tensor": lambda: torch.arange(6.0).reshape(2, 3),
    "nan": lambda: torch.tensor([[float("nan"), 1.0, 2.0]]),
    "mask": lambda: torch.zeros(2, 3, dtype=torch.bool),
    "strided": lambda: torch.arange(6.0).reshape(3, 2).T,
    "array": lambda: np.arange(6.0).reshape(2, 3),
    "leaf": lambda: torch.arange(6.0).requires_grad_(),
}


@pytest.mark.parametrize("name", INPUTS)
def test_inputs_that_are_written_to_are_named_and_restored(name):
    t = INPUTS[name]()
    before = np.array(t.tolist())
    findings = Findings()

    def subject() -> None:
        with torch.no_grad():
            t[...] = 1 if name == "mask" else 7.0

    guarded(subject, {"query": t, "key": INPUTS[name]()}, 5, findings)
    assert findings.written == ["query"]
    np.testing.assert_array_equal(np.array(t.tolist()), before)


def test_an_input_that_is_resized_is_restored():
    t, findings = torch.arange(6.0), Findings()
    guarded(lambda: t.resize_(2), {"query": t}, 5, findings)
    assert (findings.written, t.tolist()) == (["query"], [0, 1, 2, 3, 4, 5])


def test_reading_is_not_writing():
    t, findings = torch.tensor([float("nan"), 1.0]), Findings()
    assert guarded(lambda: t * 2, {"t": t}, 5, findings)[1] == 2
    assert findings.written == []


def test_describe_is_one_line_and_not_too_long():
    assert describe(ValueError("a\n  b")) == "ValueError: a b"
    assert describe(ValueError()) == "ValueError"
    assert describe(Unreadable()) == "Unreadable: (its message cannot be read)"
    assert len(describe(ValueError("x" * 10**6))) < 400
