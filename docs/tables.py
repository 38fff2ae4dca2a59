"""Write the tables of recorded runs: `python docs/tables.py`. The tests check that they agree with them.

Between `<!-- bench: NAME -->` and `<!-- end -->` of the README: "weights", "speed", "promises", "watch" and "peers" are
made from benchmarks/cpu.json, and "scaling" from benchmarks/scaling.json; of docs/look.md: "page" and "bertviz" from
benchmarks/page.json.
"""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RUN = ROOT / "benchmarks" / "cpu.json"
SCALING = ROOT / "benchmarks" / "scaling.json"
PAGE = ROOT / "benchmarks" / "page.json"

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


CAUSAL, DENSE_MASK = "SDPA, `is_causal=True`", "SDPA, dense boolean mask"
PROMISES = {
    "window": ("`window(512)`, L 16,384", CAUSAL),
    "dense-mask": ("the same", DENSE_MASK),
    "window-training": ("the same, forward and backward", CAUSAL),
    "dense-mask-training": ("the same, forward and backward", DENSE_MASK),
    "window-peak": ("`window(256)`, L 8,192", "one matrix product of as many operations"),
    "documents": ("16 documents of 512, causal", CAUSAL),
    "documents-training": ("the same, forward and backward", CAUSAL),
    "ragged": ("16 documents of 256 to 768, causal", CAUSAL),
    "ragged-training": ("the same, forward and backward", CAUSAL),
    "prefix": ("`prefix(1024) \\| causal()`, L 8,192", DENSE_MASK),
    "padding": ("padding to 25..100% of L 2,048, batch of 8", DENSE_MASK),
    "decode": ("decoding: one query, 32 heads over 8 of 128, S 16,384", "SDPA, `enable_gqa=True`"),
    "decode-read": ("the same", "reading K and V once"),
    "narrow-values": ("values half as wide as keys, L 2,048", "SDPA"),
    "wide-values": ("values twice as wide as keys, L 2,048", "SDPA"),
    "dropout-training": ("dropout 0.1, forward and backward, L 2,048", "SDPA, `dropout_p=0.1`"),
    "bfloat16": ("bfloat16, causal, L 2,048", CAUSAL),
    "float16": ("float16, causal, L 2,048", CAUSAL),
}
WATCH = {
    "watch-forward": ("forward of a 6-layer decoder under `regard.watch`, L 2,048", "the same, not watched"),
    "watch-statistics": (
        "watch it, and entropy, weight received, 512 x 512 map and top 8 of every head, L 4,096",
        "eager `output_attentions=True`, and the same statistics",
    ),
    "watch-long": ("the same at L 32,768, where the weights would be 206 GB", "nothing"),
    "registered": ('Hugging Face forward, `attn_implementation="regard"`, L 2,048', '`"sdpa"`'),
}
PARTS = {
    "layer-forward-hf": ("the layer of a Llama, forward, (1, 2048, 1024)", "`LlamaAttention`, sdpa"),
    "layer-decode-hf": ("the same, one token against 4,096", "the same, `DynamicCache`"),
    "rotary": ("rotary positions of q and k, L 2,048, halves", "a copy of both"),
    "rotary-interleaved": ("the same, neighbours paired", "the same"),
    "generate-25m": ("`generate()`, a Llama of 25 million parameters", "`model.generate` of Hugging Face"),
    "generate-100m": ("the same, 98 million", "the same"),
}
PEERS = {
    "peer-sdpa": "`F.scaled_dot_product_attention`, `is_causal=True`",
    "peer-sdpa-mask": "`F.scaled_dot_product_attention`, dense boolean mask",
    "peer-flex": "FlexAttention, compiled",
    "peer-x-transformers": "x-transformers, `Attend(flash=True)`",
    "peer-hf-eager": "Hugging Face, eager",
    "peer-hf-sdpa": "Hugging Face, sdpa",
    "peer-layer": "`nn.MultiheadAttention`, beside `MultiHeadAttention`",
}


def table(name: str, run: dict[str, Any]) -> str:
    """The table `name`, from the JSON of a run of `regard bench`, `regard bench --scaling` or benchmarks/page.py."""
    makers = {
        "weights": _weights,
        "speed": _speed,
        "promises": _promises,
        "watch": _watch,
        "parts": _parts,
        "peers": _peers,
        "scaling": _scaling,
        "page": _page,
        "bertviz": _bertviz,
    }
    return makers[name](run)


def _weights(run: dict[str, Any]) -> str:
    cases = _cases(run)
    lines = ["| question | time | peak extra memory |", "|---|---|---|"]
    for case, what in WEIGHTS.items():
        lines.append(f"| {what} | {_ratio(cases[case])} | {cases[case]['memory_mb']:.0f} MB |")
    return "\n".join(lines)


def _speed(run: dict[str, Any]) -> str:
    lines = _rows(run, SPEED, "time")
    machine = run["machine"]
    lines += [
        "",
        f"One run on {machine['cpu'].split(' @')[0]} ({machine['vector']}), {machine['threads']} threads, torch "
        f"{machine['torch']}, float32: medians of interleaved rounds, each result compared with the float64 definition "
        f"before it is timed. The machine multiplies matrices at {machine['peak_gflops']:.0f} GFLOP/s. What misses its "
        "bar says so. How it is measured, and the run itself: [benchmarks](benchmarks/README.md).",
    ]
    return "\n".join(lines)


def _promises(run: dict[str, Any]) -> str:
    return "\n".join(_rows(run, PROMISES, "measured"))


def _watch(run: dict[str, Any]) -> str:
    return "\n".join(_rows(run, WATCH, "measured"))


def _parts(run: dict[str, Any]) -> str:
    return "\n".join(_rows(run, PARTS, "measured"))


def _rows(run: dict[str, Any], rows: dict[str, tuple[str, str]], heading: str) -> list[str]:
    cases = _cases(run)
    lines = [f"| regard | against | {heading} | asked |", "|---|---|---|---|"]
    for name, (what, peer) in rows.items():
        case = cases[name]
        measured = "; ".join(_measured(case, bar) for bar in case["bars"])
        asked = "; ".join(_asked(bar) for bar in case["bars"])
        lines.append(f"| {what} | {peer} | {measured} | {asked} |")
    return lines


def _peers(run: dict[str, Any]) -> str:
    cases = _cases(run)
    lines = ["| causal, (1, 8, 2048, 64), inference | its time over regard's |", "|---|---|"]
    for name, what in PEERS.items():
        case = cases[name]
        lines.append(f"| {what} | {case['skipped'] or _times(case['speedup']['median']) + 'x'} |")
    return "\n".join(lines)


def _scaling(run: dict[str, Any]) -> str:
    lines = ["| | longest | time | memory | asked |", "|---|---|---|---|---|"]
    for curve in run["curves"]:
        slopes = {slope["quantity"]: slope for slope in run["slopes"] if slope["name"] == curve["name"]}
        limits = {slope["at_most"] for slope in slopes.values()} - {None}
        missed = any(slope["met"] is False for slope in slopes.values())
        asked = "".join(f"at most L^{limit:g}" for limit in limits) + (": **missed**" if missed else "")
        powers = " | ".join(f"L^{slopes[quantity]['slope']:.2f}" for quantity in ("time", "memory"))
        lines.append(f"| {curve['what']} | {max(curve['lengths']):,} | {powers} | {asked} |")
    return "\n".join(lines)


def _page(run: dict[str, Any]) -> str:
    bars = run["bars"]
    lines = [
        "| tokens | page | ready | elements | another head | made, beyond the statistics |",
        "|---|---|---|---|---|---|",
    ]
    for page in run["pages"]:
        cells = [
            _held(f"{page['bytes'] / 1e6:.2f} MB", met=page["bytes"] / 1e6 <= bars["mb"]),
            _held(f"{page['ready_ms']:.0f} ms", met=page["ready_ms"] <= bars["ready_ms"]),
            f"{page['nodes']:,}",
            _held(
                f"{page['head_ms']:.0f} ms, worst {page['head_worst_ms']:.0f}", met=page["head_ms"] <= bars["head_ms"]
            ),
            _held(f"{page['build_s']:.2f} s", met=page["tokens"] != 10_000 or page["build_s"] <= bars["build_s"]),
        ]
        lines.append(f"| {page['tokens']:,} | {' | '.join(cells)} |")
    asked = f"at most {bars['mb']:g} MB, {bars['ready_ms']:g} ms, {bars['head_ms']:g} ms and, at 10,000 tokens"
    lines += ["", f"Asked: {asked}, {bars['build_s']:g} s. {run['what']}, {run['machine']['browser']}."]
    lines[-1] += f" Masks: {'; '.join(f'`{mask}`' for mask in dict.fromkeys(page['mask'] for page in run['pages']))}."
    return "\n".join(lines)


def _bertviz(run: dict[str, Any]) -> str:
    theirs, bars = run["bertviz"], run["bars"]
    (ours,) = (page for page in run["pages"] if page["tokens"] == theirs["tokens"])
    lines = [
        f"| {run['what'].partition(',')[0]}, {theirs['tokens']} tokens | ready | size | elements |",
        "|---|---|---|---|",
    ]
    for name, page in (("regard", ours), (f"BertViz {theirs['version']}, `model_view`", theirs)):
        ready = f"{page['ready_ms'] / 1000:.2f} s"
        lines.append(f"| {name} | {ready} | {page['bytes'] / 1e6:.1f} MB | {page['nodes']:,} |")
    faster = _held(f"{_times(theirs['times_faster'])}x", met=theirs["times_faster"] >= bars["times_faster"])
    smaller = _held(f"{_times(theirs['times_smaller'])}x", met=theirs["times_smaller"] >= bars["times_smaller"])
    lines.append(f"| BertViz / regard | {faster} | {smaller} | {_times(theirs['nodes'] / ours['nodes'])}x |")
    return "\n".join(lines)


def _held(measured: str, *, met: bool) -> str:
    return measured if met else f"{measured}: **missed**"


def _cases(run: dict[str, Any]) -> dict[str, dict[str, Any]]:
    return {case["name"]: case for case in run["cases"]}


def _ratio(case: dict[str, Any]) -> str:
    # Three places, or a ratio of 1.002 would miss its bar of 1 as "1.00x".
    return f"{case['ratio']['median']:.3f}x"


def _times(speedup: float) -> str:
    """Three digits, but never rounded up to a bar that is missed: 6.996 is 6.99."""
    places = max(0, 3 - len(str(int(speedup))))
    return f"{math.floor(speedup * 10**places) / 10**places:.{places}f}"


def _measured(case: dict[str, Any], bar: dict[str, Any]) -> str:
    if bar["quantity"] == "difference":
        return f"{case['difference_us']['median']:+.0f} µs"
    if bar["quantity"] == "memory":
        return f"{case['memory_mb']:.0f} MB"
    if bar["quantity"] == "share":
        return f"{bar['measured']:.3f} of the memory"
    return f"{_times(case['speedup']['median'])}x as fast" if bar["quantity"] == "speedup" else _ratio(case)


def _asked(bar: dict[str, Any]) -> str:
    missed = "" if bar["met"] else ": **missed**"
    if bar["quantity"] == "speedup":
        return f"at least {bar['at_least']:g}x{missed}"
    unit = {"ratio": "x", "difference": " µs more", "memory": " MB", "share": " of it"}[bar["quantity"]]
    return f"at most {bar['at_most']:g}{unit}{missed}"


def filled(
    text: str,
    run: dict[str, Any],
    scaling: dict[str, Any] | None = None,
    page: dict[str, Any] | None = None,
) -> str:
    """A text with every table between `<!-- bench: NAME -->` and `<!-- end -->` written anew.

    Args:
        text: of the README, or of docs/look.md.
        run: of `regard bench`.
        scaling: of `regard bench --scaling`; its table stays as it is without it.
        page: of benchmarks/page.py; likewise.
    """

    def replace(found: re.Match[str]) -> str:
        source = {"scaling": scaling, "page": page, "bertviz": page}.get(found[1], run)
        if source is None:
            return found[0]
        return f"<!-- bench: {found[1]} -->\n{table(found[1], source)}\n<!-- end -->"

    return re.sub(r"<!-- bench: (\w+) -->\n.*?<!-- end -->", replace, text, flags=re.DOTALL)


def recorded(file: Path) -> dict[str, Any] | None:
    """The JSON of a record; None if there is none."""
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else None


def main() -> None:
    run = json.loads((Path(sys.argv[1]) if len(sys.argv) > 1 else RUN).read_text(encoding="utf-8"))
    for file in (ROOT / "README.md", ROOT / "docs" / "look.md"):
        text = filled(file.read_text(encoding="utf-8"), run, recorded(SCALING), recorded(PAGE))
        file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
