"""What belongs to everybody in a process: read before a subject is called, compared afterwards and put back."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.utils import deterministic

__all__ = ["global_state", "kept", "one_thread", "others_drawn", "random_state", "seed_others", "seed_torch"]


def _set_device(device: torch.device) -> None:
    # The CPU is what torch starts with: setting it would install a mode that slows every call.
    torch.set_default_device(None if device.type == "cpu" else device)


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _set_deterministic(given: tuple[bool, bool]) -> None:
    torch.use_deterministic_algorithms(given[0], warn_only=given[1])


def _autocast() -> tuple[bool, bool]:
    return torch.is_autocast_enabled("cpu"), torch.is_autocast_enabled("cuda")


def _set_autocast(given: tuple[bool, bool]) -> None:
    for device, enabled in zip(("cpu", "cuda"), given, strict=True):
        torch.set_autocast_enabled(device, enabled)


def _kernels() -> tuple[bool, ...]:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    sdp = (cuda.flash_sdp_enabled(), cuda.mem_efficient_sdp_enabled(), cuda.math_sdp_enabled())
    return (*sdp, cudnn.enabled, cudnn.benchmark, cudnn.deterministic)


def _set_kernels(given: tuple[bool, ...]) -> None:
    cuda, cudnn = torch.backends.cuda, torch.backends.cudnn
    for put_back, value in zip(
        (cuda.enable_flash_sdp, cuda.enable_mem_efficient_sdp, cuda.enable_math_sdp), given[:3], strict=True
    ):
        put_back(value)
    cudnn.enabled, cudnn.benchmark, cudnn.deterministic = given[3:]


def _fill() -> bool:
    return bool(deterministic.fill_uninitialized_memory)  # type: ignore[attr-defined]


def _set_fill(given: bool) -> None:
    deterministic.fill_uninitialized_memory = given  # type: ignore[attr-defined]


def _numpy() -> Any:
    return sys.modules.get("numpy")


def _numpy_errors() -> dict[str, str]:
    numpy = _numpy()
    return numpy.geterr() if numpy is not None else {}


def _set_numpy_errors(given: dict[str, str]) -> None:
    if given:
        _numpy().seterr(**given)


def _interrupt() -> Any:
    return signal.getsignal(signal.SIGINT)


def _set_interrupt(given: Any) -> None:
    if given is not None and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, given)


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 (Path.cwd() does more, a thousand times a check)
    except FileNotFoundError:
        return ""


def _set_folder(given: str) -> None:
    if given:
        os.chdir(given)


def _set_handlers(given: list[logging.Handler]) -> None:
    logging.root.handlers[:] = given


def _set_collector(given: bool) -> None:
    (gc.enable if given else gc.disable)()


# Name in words -> (read, put back).
_STATE: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "the default dtype": (torch.get_default_dtype, torch.set_default_dtype),
    "grad mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the number of threads": (torch.get_num_threads, torch.set_num_threads),
    "deterministic algorithms": (_deterministic, _set_deterministic),
    "anomaly detection": (torch.is_anomaly_enabled, torch.autograd.set_detect_anomaly),
    "the default device": (torch.get_default_device, _set_device),
    "the precision of matrix products": (torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
    "autocast": (_autocast, _set_autocast),
    "which kernels torch may use": (_kernels, _set_kernels),
    "the filling of uninitialized memory": (_fill, _set_fill),
    "numpy's handling of errors": (_numpy_errors, _set_numpy_errors),
    "the handler of Ctrl-C": (_interrupt, _set_interrupt),
    "the working directory": (_folder, _set_folder),
    "the handlers of the root logger": (lambda: list(logging.root.handlers), _set_handlers),
    "the garbage collector": (gc.isenabled, _set_collector),
}
QUIET = ("which kernels torch may use", "the handler of Ctrl-C", "the handlers of the root logger")
"""Those whose values are too long to tell."""


@contextlib.contextmanager
def kept(note: Callable[[str], None]) -> Iterator[None]:
    """Put all of it back afterwards, and tell ``note`` in words what had changed."""
    before = {name: read() for name, (read, _) in _STATE.items()}
    seed = torch.initial_seed()
    try:
        yield
    finally:
        # Drawing random numbers is fair; seeding everybody's generator anew is not.
        if torch.initial_seed() != seed:
            note(f"seeds the global generator (torch.manual_seed({torch.initial_seed()}))")
        for name, (read, put_back) in _STATE.items():
            if (now := read()) != before[name]:
                note(f"changes {name}" + ("" if name in QUIET else f" from {before[name]} to {now}"))
                put_back(before[name])


@contextlib.contextmanager
def global_state() -> Iterator[None]:
    """Put it all back after a whole check: backward passes and lazy imports change it outside of guarded calls."""
    trace = sys.gettrace()
    try:
        with random_state(), warnings.catch_warnings(), kept(lambda said: None):
            yield
    finally:
        if sys.gettrace() is not trace:
            sys.settrace(trace)


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
    on_devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None
    numpy = _numpy()
    arrays = numpy.random.get_state() if numpy is not None else None
    try:
        yield
    finally:
        torch.default_generator.manual_seed(seed)
        torch.set_rng_state(generator)
        if on_devices is not None:
            torch.cuda.set_rng_state_all(on_devices)
        random.setstate(plain)
        if numpy is not None:
            numpy.random.set_state(arrays)


def seed_torch(seed: int) -> None:
    """Seed torch's generators, those of devices that are in use too."""
    torch.default_generator.manual_seed(seed)
    if torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(seed)


def seed_others(seed: int) -> None:
    """Seed the generators of Python and numpy."""
    random.seed(seed)
    if (numpy := _numpy()) is not None:
        numpy.random.seed(seed)


def others_drawn() -> dict[str, Any]:
    """Their states, but for how many numbers of a block were used: alike after the same seed."""
    found: dict[str, Any] = {"random.seed()": random.getstate()[1][:-1]}
    if (numpy := _numpy()) is not None:
        found["numpy.random.seed()"] = numpy.random.get_state()[1].tobytes()
    return found
