"""Write the README's tables from a recorded run: `python docs/tables.py`. The tests check that they agree with it."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = ROOT / "benchmarks" / "cpu.json"

WEIGHTS = {
    "entropy": "`weights.entropy()`",
    "received": "`weights.received()`",
    "pool": "`weights.pool(512, 512)`",
    "topk": "`weights.topk(8)`",
    "row": "`weights[..., i, :]`, one row of every head",
}
SPEED = {
    "dense": ("`attention()`, dense, (1, 8, 2048, 64)", "`F.scaled_dot_product_attention`"),
    "causal": ("the same, causal", "the same, `is_causal=True`"),
    "dense-training": ("forward and backward, dense", "the same"),
    "causal-training": ("forward and backward, causal", "the same"),
    "exercise": ("`attention()` at the exercises' size, (20, 5, 512)", "`F.scaled_dot_product_attention`"),
    "layer": ("`MultiHeadAttention`, (8, 128, 512), 8 heads, inference", "`nn.MultiheadAttention`"),
    "layer-weights": ("inference, and the dense weights of every head", "the same"),
    "layer-mean": ("inference, and their mean over the heads", "the same"),
    "layer-training": ("training step", "the same"),
}


def table(name: str, run: dict[str, Any]) -> str:
    """The table `name` of the README, from the JSON of a run of `regard bench`."""
    cases = {case["name"]: case for case in run["cases"]}
    if name == "weights":
        lines = ["| question | time | peak extra memory |", "|---|---|---|"]
        for case, what in WEIGHTS.items():
            lines.append(f"| {what} | {_ratio(cases[case])} | {cases[case]['memory_mb']:.0f} MB |")
        return "\n".join(lines)
    lines = ["| regard | against | time | asked |", "|---|---|---|---|"]
    for case, (what, peer) in SPEED.items():
        lines.append(f"| {what} | {peer} | {_measured(cases[case])} | {_asked(cases[case])} |")
    machine = run["machine"]
    lines += [
        "",
        f"One run on {machine['cpu'].split(' @')[0]} ({machine['vector']}), {machine['threads']} threads, torch "
        f"{machine['torch']}, float32: medians of interleaved rounds, each result compared with the float64 definition "
        f"before it is timed. The machine multiplies matrices at {machine['peak_gflops']:.0f} GFLOP/s. What misses its "
        "bar says so. How it is measured, and the run itself: [benchmarks](benchmarks/README.md).",
    ]
    return "\n".join(lines)


def _ratio(case: dict[str, Any]) -> str:
    # Three places, or a ratio of 1.002 would miss its bar of 1 as "1.00x".
    return f"{case['ratio']['median']:.3f}x"


def _measured(case: dict[str, Any]) -> str:
    if case["bars"][0]["quantity"] == "difference":
        return f"{case['difference_us']['median']:+.0f} µs"
    return _ratio(case)


def _asked(case: dict[str, Any]) -> str:
    bar = case["bars"][0]
    limit = f"{bar['at_most']:g} µs more" if bar["quantity"] == "difference" else f"{bar['at_most']:g}x"
    return f"at most {limit}{'' if bar['met'] else ': **missed**'}"


def filled(text: str, run: dict[str, Any]) -> str:
    """The README with every table between `<!-- bench: NAME -->` and `<!-- end -->` written anew."""

    def replace(found: re.Match[str]) -> str:
        return f"<!-- bench: {found[1]} -->\n{table(found[1], run)}\n<!-- end -->"

    return re.sub(r"<!-- bench: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def main() -> None:
    readme = ROOT / "README.md"
    run = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else RUN).read_text(encoding="utf-8"))
    readme.write_text(filled(readme.read_text(encoding="utf-8"), run), encoding="utf-8")


if __name__ == "__main__":
    main()
