"""Attention over processes, in speed, memory and bytes: `python benchmarks/scale.py --json benchmarks/scale.json`.

Processes of one thread each on this machine, on gloo. The order of the tokens: zigzag beside contiguous, in turns,
after the results were compared; seconds on the clock, and the busiest process's seconds of computing, which tell the
same of a machine that does other things as well. Memory: the most that a process takes beyond what it had, from /proc,
so on Linux alone. Bytes: those that were sent beside those that regard.distributed.costs counts.
"""

from __future__ import annotations

import argparse
import gc
import json
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

import regard
from regard import masks
from regard.distributed import ContextParallel, context_parallel
from regard.distributed.costs import Attention, sent

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.distributed.processes import Crew  # noqa: E402

SPEED = {"length": 16_384, "heads": 8, "width": 64, "world": 2}
MEMORY = {"length": 65_536, "heads": 16, "width": 64, "window": 1024}
BYTES = Attention(4096, 8, 4, 64, element_size=4)
WORLDS = (1, 2, 4)
WAYS = ("ring", "gather", "heads")
BARS = {"zigzag": 1.25, "memory": 0.15}


def shares(parallel: ContextParallel, length: int, heads: int, width: int) -> list[torch.Tensor]:
    """query, key, value and the gradient of the output: of a whole text that every process draws."""
    generator = torch.Generator().manual_seed(0)
    return [parallel.shard(torch.randn(1, heads, length, width, generator=generator), 2) for _ in range(4)]


def step(parallel: ContextParallel, given: list[torch.Tensor], mask: masks.Mask) -> list[torch.Tensor]:
    """The output and the gradients of query, key and value."""
    leaves = [t.detach().requires_grad_() for t in given[:3]]
    out, _ = parallel.attention(*leaves, mask)
    return [out.detach(), *torch.autograd.grad(out, leaves, given[3])]


def speed(rounds: int) -> dict[str, Any]:
    """Seconds of forward and backward in either order, in turns, and how far their results differ."""
    ways = {order: context_parallel(strategy="ring", order=order) for order in ("zigzag", "contiguous")}
    sizes = SPEED["length"], SPEED["heads"], SPEED["width"]
    given = {order: shares(parallel, *sizes) for order, parallel in ways.items()}
    found = {order: step(ways[order], given[order], masks.causal()) for order in ways}
    whole = [[ways[order].unshard(t, 2) for t in found[order]] for order in ways]
    differ = max((a - b).abs().max().item() for a, b in zip(*whole, strict=True))
    del found, whole
    seconds: dict[str, list[float]] = {order: [] for order in ways}
    computing: dict[str, list[float]] = {order: [] for order in ways}
    for _ in range(rounds):
        for order, parallel in ways.items():
            dist.barrier()
            start, busy = time.perf_counter(), time.process_time()
            step(parallel, given[order], masks.causal())
            most = torch.tensor(time.process_time() - busy)
            dist.barrier()  # a step ends when the last process has ended it
            seconds[order].append(time.perf_counter() - start)
            dist.all_reduce(most, op=dist.ReduceOp.MAX)
            computing[order].append(most.item())
    return {"seconds": seconds, "computing": computing, "differ": differ}


def resident(name: str) -> float:
    """VmRSS or VmHWM, in MB."""
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 1024


def memory(way: str) -> float:
    """The most that this process takes beyond what it had, in MB, inputs and gradients included."""
    parallel = context_parallel(strategy=way)  # type: ignore[arg-type]
    mask = masks.causal() & masks.window(MEMORY["window"])

    def work(length: int) -> None:
        q, k, v, grad = torch.randn(4, 1, MEMORY["heads"], length // parallel.world, MEMORY["width"])
        step(parallel, [q, k, v, grad], mask)

    work(4096)  # what is loaded once
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    work(MEMORY["length"])
    return resident("VmHWM") - before


def traffic(way: str) -> tuple[int, int]:
    """Bytes sent by this process in the forward and in the backward pass."""
    parallel = context_parallel(strategy=way)  # type: ignore[arg-type]
    tokens = BYTES.length // parallel.world
    counts = BYTES.num_heads, BYTES.num_kv_heads, BYTES.num_kv_heads
    leaves = [torch.randn(1, heads, tokens, BYTES.head_dim, requires_grad=True) for heads in counts]
    out, _ = parallel.attention(*leaves, masks.causal())
    forward = parallel.sent
    out.sum().backward()
    return forward, parallel.sent - forward


def on(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    crew = Crew(world)
    try:
        return crew(function, *args)
    finally:
        crew.close()


def ratio(seconds: dict[str, list[float]]) -> float:
    """How many times as fast zigzag is, the median of the rounds."""
    return statistics.median(c / z for z, c in zip(seconds["zigzag"], seconds["contiguous"], strict=True))


def measured(rounds: int) -> dict[str, Any]:
    found: dict[str, Any] = {"speed": SPEED, "memory": {**MEMORY, "mb": {}}, "bytes": {"rows": []}}
    timed = on(SPEED["world"], speed, rounds)[0]
    found["speed"] = {**SPEED, **timed, "ratio": ratio(timed["seconds"]), "even": ratio(timed["computing"])}
    print(f"zigzag is {found['speed']['ratio']:.2f} times as fast as contiguous", flush=True)
    print(f"its busiest process computes {1 / found['speed']['even']:.2f} times as long", flush=True)
    for world in WORLDS:
        found["memory"]["mb"][str(world)] = max(on(world, memory, "ring"))
        print(f"{world} processes: {found['memory']['mb'][str(world)]:,.0f} MB each", flush=True)
    for world in WORLDS[1:]:
        for way in WAYS:
            for forward, backward in set(on(world, traffic, way)):
                counted = sent(way, BYTES, world)  # type: ignore[arg-type]
                row = {"way": way, "world": world, "sent": [forward, backward], "counted": list(counted)}
                found["bytes"]["rows"].append(row)
                print(row, flush=True)
    return found


def missed(found: dict[str, Any]) -> list[str]:
    """The bars that a run does not reach."""
    said = []
    if found["speed"]["differ"] > 1e-4:  # float32 sums of up to 16,384 terms, in another order
        said.append(f"the orders differ by {found['speed']['differ']:.1e}")
    if found["speed"]["ratio"] < BARS["zigzag"]:
        said.append(f"zigzag is {found['speed']['ratio']:.2f} times as fast as contiguous, {BARS['zigzag']} were asked")
    mb = found["memory"]["mb"]
    for world in WORLDS[1:]:
        share = mb[str(world)] * world / mb["1"]
        if share > 1 + BARS["memory"]:
            said.append(f"{world} processes take {share:.2f} times the memory of one together")
    said += [f"bytes: {row}" for row in found["bytes"]["rows"] if row["sent"] != row["counted"]]
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where the run is recorded")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    found = {"regard": regard.__version__, "torch": torch.__version__, "machine": platform.processor() or "CPU"}
    found |= measured(options.rounds)
    found["missed"] = missed(found)
    for line in found["missed"]:
        print("MISSED:", line)
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
