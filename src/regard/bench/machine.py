"""The machine under the numbers: what it is, how fast it multiplies matrices, how long an import takes."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

__all__ = ["Machine", "describe", "import_seconds", "matmul_peak"]

IMPORT = """
import time, torch
start = time.perf_counter()
import regard
print(time.perf_counter() - start)
"""


@dataclass(frozen=True)
class Machine:
    """What a record must say for its numbers to be read.

    Args:
        cpu: the processor's own name for itself.
        cores: that this process may use.
        threads: that torch uses.
        vector: the widest instructions torch uses, such as "AVX512".
        torch: its version.
        python: its version.
        system: operating system.
        peak: GFLOP/s of a float32 matrix product.
        load: processes that wanted the processor in the minute before, on average; None where the system does not say.
    """

    cpu: str
    cores: int
    threads: int
    vector: str
    torch: str
    python: str
    system: str
    peak: float
    load: float | None = None

    @property
    def busy(self) -> bool:
        """Whether others used the machine so much that its numbers say little."""
        return self.load is not None and self.load > 0.5 * self.cores


def describe() -> Machine:
    """This machine, with the matrix-product peak measured now."""
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    return Machine(
        load=load,
        cpu=_cpu_name(),
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        vector=str(torch.backends.cpu.get_cpu_capability()),
        torch=str(torch.__version__),
        python=platform.python_version(),
        system=f"{platform.system()} {platform.machine()}",
        peak=matmul_peak(),
    )


def matmul_peak(size: int = 2048, *, repeats: int = 7) -> float:
    """GFLOP/s of the fastest of ``repeats`` float32 products of two (size, size) matrices."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, size, size, generator=generator).unbind()
    out = torch.empty_like(a)
    torch.mm(a, b, out=out)
    fastest = float("inf")
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * size**3 / fastest / 1e9


def import_seconds() -> float:
    """Seconds that ``import regard`` takes in a fresh interpreter that has imported torch."""
    done = subprocess.run([sys.executable, "-c", IMPORT], capture_output=True, text=True, check=True)
    return float(done.stdout)


def _cpu_name() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
