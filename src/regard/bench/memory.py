"""The peak memory of one call, measured in a process that does nothing else.

``python -m regard.bench.memory NAME THREADS [subject|peer]`` builds the case and makes one call, so that the code of
the libraries is in memory and does not count; then it makes the input of another, so the forward pass is done, asks the
kernel to forget the peak so far, makes the call and reads the peak again. Only the difference counts: inputs and the
forward's own memory are there before, and memory that was freed has been given back.
"""

from __future__ import annotations

import ctypes
import gc
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

__all__ = ["once", "peak_extra", "peak_extra_of_case", "peak_extra_of_module"]

STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")


def peak_extra(call: Callable[[], object]) -> float:
    """Make the call and return the peak of resident memory during it, beyond what was resident before, in MB.

    Without Linux's ``/proc`` the peak since the process began stands in for the one that was reset; it is then an
    underestimate when something before the call needed more.
    """
    gc.collect()
    _give_back_freed_memory()
    before = _resident()
    kept = call()
    after = _peak()
    del kept
    return max(0.0, (after - before) / 1e6)


def peak_extra_of_case(name: str, *, threads: int, of: str = "subject") -> float:
    """:func:`peak_extra` of the subject of a case, or ``of`` its "peer", in a fresh process, in MB.

    Raises:
        RuntimeError: with the process's last line, if it fails.
    """
    return peak_extra_of_module("regard.bench.memory", name, str(threads), of, what=repr(name))


def once(name: str, *, threads: int) -> tuple[float, float]:
    """Seconds and :func:`peak_extra` of a case that is run once, in a fresh process.

    Raises:
        RuntimeError: with the process's last line, if it fails.
    """
    found = _measured("regard.bench.memory", name, str(threads), what=repr(name))
    return found["seconds"], found["peak_extra_mb"]


def peak_extra_of_module(module: str, *arguments: str, what: str) -> float:
    """What ``python -m module arguments`` measured: its last line on stdout is JSON with ``peak_extra_mb``.

    Args:
        module: that measures.
        arguments: of the process.
        what: how to call it in the error.

    Raises:
        RuntimeError: with the process's last line, if it fails.
    """
    return _measured(module, *arguments, what=what)["peak_extra_mb"]


def _measured(module: str, *arguments: str, what: str) -> dict[str, float]:
    done = subprocess.run([sys.executable, "-m", module, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(
            f"measuring the memory of {what} failed: {(done.stderr.strip() or 'no output').splitlines()[-1]}"
        )
    found = json.loads(done.stdout.splitlines()[-1])
    return {key: float(value) for key, value in found.items() if key in ("peak_extra_mb", "seconds")}


def _give_back_freed_memory() -> None:
    # Memory that was freed but not returned would be used again by the call without being seen.
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return


def _resident() -> int:
    """Bytes resident now; the recorded peak is reset to it where the system can do that."""
    try:
        CLEAR.write_text("5")
        return _status("VmRSS")
    except OSError:
        return _peak()


def _peak() -> int:
    try:
        return _status("VmHWM")
    except OSError:
        import resource

        # Kilobytes on Linux, bytes on macOS.
        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _status(field: str) -> int:
    for line in STATUS.read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"{STATUS} has no {field}")


def _main(name: str, threads: int, of: str = "subject") -> None:
    from regard.bench.case import Duel, Solo
    from regard.bench.cases import select

    torch.set_num_threads(threads)
    (case,) = select([name])
    duel = case.build()
    if isinstance(duel, Solo):
        seconds: list[float] = []
        print(json.dumps({"peak_extra_mb": peak_extra(lambda: seconds.append(duel.sample())), "seconds": max(seconds)}))
        return
    assert isinstance(duel, Duel)
    measured = duel.subject if of == "subject" else duel.peer
    measured.call(measured.prepare())
    given = measured.prepare()
    print(json.dumps({"case": name, "peak_extra_mb": peak_extra(lambda: measured.call(given))}))


if __name__ == "__main__":
    _main(sys.argv[1], int(sys.argv[2]), *sys.argv[3:])
