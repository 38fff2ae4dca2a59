"""The peak memory of one call at one length: ``python -m regard.bench.scaling.memory KIND LENGTH THREADS``."""

from __future__ import annotations

import json
import sys

import torch

from regard.bench.memory import peak_extra
from regard.bench.scaling.kinds import inputs, subject

__all__ = ["main"]


def main(name: str, query_len: int, threads: int) -> None:
    """Measure it in this process, which has done nothing else, and print it as JSON."""
    torch.set_num_threads(threads)
    one = subject(name, query_len, inputs(query_len))
    given = one.prepare()
    print(json.dumps({"kind": name, "length": query_len, "peak_extra_mb": peak_extra(lambda: one.call(given))}))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
