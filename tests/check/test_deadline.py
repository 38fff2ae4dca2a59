"""The time and memory limits: they end what hangs, leave what does not, and put timers and handlers back."""

# ruff: noqa: PERF203, SIM105 (subjects that swallow exceptions in loops are what this is about)
from __future__ import annotations

import signal
import sys
import threading
import time

import pytest

from regard.check.deadline import OutOfTime, deadline, memory_limit

posix = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="timers that signal")
linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the memory limit holds on Linux alone")


@pytest.fixture(autouse=True)
def _signals_are_kept():
    """The runner's own timer and handler, which every limit has to leave alone."""
    handler = signal.getsignal(signal.SIGALRM)
    left, interval = signal.getitimer(signal.ITIMER_REAL)
    yield
    assert signal.getsignal(signal.SIGALRM) == handler
    now, again = signal.getitimer(signal.ITIMER_REAL)
    assert again == interval
    assert bool(now) == bool(left)
    assert left - 60 < now <= left or not left


def spin() -> None:
    while True:
        pass


def swallow() -> None:
    while True:
        try:
            for n in range(10**9):
                str(n)
        except BaseException:
            pass


def swallow_twice() -> None:
    while True:
        try:
            swallow()
        except BaseException:
            pass


def swallow_in_c() -> None:
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass


def in_a_thread(work) -> list[object]:
    came: list[object] = []

    def run() -> None:
        try:
            came.append(work())
        except BaseException as error:
            came.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    return came


@pytest.mark.parametrize("hang", [spin, swallow, swallow_twice, swallow_in_c])
def test_what_hangs_on_the_main_thread_ends(hang):
    began = time.monotonic()
    with pytest.raises(OutOfTime), deadline(0.05):
        hang()
    assert 0.05 <= time.monotonic() - began < 20


def test_what_hangs_on_another_thread_ends_and_no_other_is_touched():
    def work() -> None:
        with deadline(0.05):
            spin()

    assert [type(error) for error in in_a_thread(work)] == [OutOfTime]


def test_an_exception_on_its_way_is_taken_back_on_another_thread():
    def work() -> int:
        for _ in range(200):
            try:
                with deadline(0.0005):
                    sum(range(5000))
            except OutOfTime:
                pass
        return sum(range(100_000))  # would be hit by what is left over

    assert in_a_thread(work) == [sum(range(100_000))]


def test_what_ends_in_time_is_left_alone():
    with deadline(5):
        assert sum(range(10)) == 45
    assert in_a_thread(lambda: deadline(5).__enter__().__exit__(None, None, None)) == [None]


def test_an_exception_passes():
    with pytest.raises(KeyError, match="mine"), deadline(5):
        raise KeyError("mine")


@posix
def test_the_inner_of_two_limits_ends_first():
    with deadline(20):
        with pytest.raises(OutOfTime), deadline(0.05):
            spin()
        assert signal.getitimer(signal.ITIMER_REAL)[0] > 10


@posix
def test_the_outer_of_two_limits_ends_an_inner_one_that_is_longer():
    began = time.monotonic()
    with pytest.raises(OutOfTime), deadline(0.05), deadline(60):
        spin()
    assert time.monotonic() - began < 10


@posix
def test_somebody_elses_timer_goes_off_in_time_and_again(monkeypatch):
    rang: list[float] = []
    began = time.monotonic()
    before = signal.signal(signal.SIGALRM, lambda *_: rang.append(time.monotonic() - began))
    others = signal.setitimer(signal.ITIMER_REAL, 0.05, 0.05)
    try:
        with pytest.raises(OutOfTime), deadline(0.3):
            spin()
        within = len(rang)
        while len(rang) == within:
            pass  # it goes on after the limit
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
        signal.signal(signal.SIGALRM, before)
    assert within >= 3
    assert rang[0] < 0.25


@posix
def test_a_timer_that_nobody_takes_care_of_is_put_back():
    others = signal.setitimer(signal.ITIMER_REAL, 50)
    try:
        with deadline(5):
            pass
        left = signal.getitimer(signal.ITIMER_REAL)[0]
    finally:
        signal.setitimer(signal.ITIMER_REAL, *others)
    assert 40 < left <= 50


@linux
def test_allocations_fail_beyond_the_memory_limit_and_work_again_afterwards():
    import resource

    import torch

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(300):
        with pytest.raises(MemoryError):
            bytearray(400_000_000)
        with pytest.raises(RuntimeError, match="can't allocate memory"):
            torch.ones(100_000_000)
        bytearray(100_000_000)
    assert resource.getrlimit(resource.RLIMIT_DATA) == before
    bytearray(400_000_000)


@linux
def test_the_memory_limit_is_lifted_after_an_exception_and_never_raises_one_that_is_lower():
    import resource

    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory_limit(1000):
        limit = resource.getrlimit(resource.RLIMIT_DATA)[0]
        with memory_limit(100_000):
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] == limit
    with pytest.raises(KeyError), memory_limit(1000):
        raise KeyError
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_no_memory_limit():
    with memory_limit(None):
        pass
