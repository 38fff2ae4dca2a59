"""Draws the pictures of docs/scale.md, and writes its tables from benchmarks/scale.json: ``python docs/scale.py``.

docs/scale.png is the time of a step by the model of regard.distributed.costs, and where the ways change places;
docs/scale_order.png is who computes what under a causal mask. The tests check that the tables agree with the record.
"""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from regard.distributed import Order, Strategy
from regard.distributed.costs import Attention, Machine, Step, best, crossings
from regard.distributed.order import positions

ROOT = Path(__file__).parents[1]
PAGE, RECORD = ROOT / "docs" / "scale.md", ROOT / "benchmarks" / "scale.json"

WORLDS = [8 << n for n in range(8)]
LENGTHS = [1 << n for n in range(13, 21)]
# 64 query heads of width 128, as in a model of 70 billion parameters, over 8 key heads or as many as there are queries.
GROUPED = Attention(1 << 20, 64, 8, 128)
WHOLE = replace(GROUPED, num_kv_heads=64)
# What attention reaches on one GPU, half of its peak in bfloat16; the network is one adapter of 400 Gbit/s for each.
CLUSTER = Machine(4e14, 4.5e10, 1e-5, "400 Gbit/s a GPU")
SLOWER = Machine(4e14, 1.2e10, 3e-5, "100 Gbit/s a GPU")
WAYS = get_args(Strategy)
COLOURS = {"ring": "#0072b2", "gather": "#e69f00", "heads": "#009e73"}


def times(ax, attention: Attention, machine: Machine) -> None:
    for way in WAYS:
        steps = [Step(way, attention, machine, world) for world in WORLDS]
        possible = [s.seconds if s.possible else float("nan") for s in steps]
        ax.plot(WORLDS, possible, "o-", color=COLOURS[way], label=way, ms=4)
        ax.plot(WORLDS, [s.seconds for s in steps], ":", color=COLOURS[way], lw=1)
    ax.plot(
        WORLDS, [Step("ring", attention, machine, w).compute for w in WORLDS], "k--", lw=0.8, label="products alone"
    )
    for world, way in crossings(attention, machine, WORLDS)[1:]:
        ax.axvline(world, color="0.7", lw=0.8)
        ax.annotate(
            f"{way}\nfrom {world}", (world, ax.get_ylim()[1]), va="top", ha="left", fontsize=7, color=COLOURS[way]
        )
    ax.set(xscale="log", yscale="log", xlabel="GPUs", ylabel="seconds, forward + backward")
    ax.set_xticks(WORLDS, [str(w) for w in WORLDS], fontsize=7)
    ax.minorticks_off()
    ax.set_title(f"{attention.num_kv_heads} key heads, {machine.name}", fontsize=9)


def fastest(ax, attention: Attention, machine: Machine) -> None:
    from matplotlib.colors import ListedColormap

    found = [[WAYS.index(best(replace(attention, length=n), machine, w).strategy) for w in WORLDS] for n in LENGTHS]
    ax.imshow(found, origin="lower", aspect="auto", cmap=ListedColormap([COLOURS[w] for w in WAYS]), vmin=0, vmax=2)
    ax.set_xticks(range(len(WORLDS)), [str(w) for w in WORLDS], fontsize=7)
    ax.set_yticks(range(len(LENGTHS)), [f"{n >> 10}k" for n in LENGTHS], fontsize=7)
    ax.set(xlabel="GPUs", ylabel="tokens")
    ax.set_title(f"fastest way: {attention.num_kv_heads} key heads, {machine.name}", fontsize=9)


def orders(world: int = 4, length: int = 32) -> Any:
    """Who computes what under a causal mask, in either order: a row is a query, a colour its rank."""
    import matplotlib.pyplot as plt
    import torch
    from matplotlib.colors import ListedColormap

    figure, axes = plt.subplots(1, 2, figsize=(8, 4.4), layout="constrained")
    colours = ["#0072b2", "#e69f00", "#009e73", "#cc79a7"]
    allowed = torch.ones(length, length).tril().bool()
    for ax, order in zip(axes, get_args(Order), strict=True):
        owner = torch.empty(length, dtype=torch.long)
        for rank in range(world):
            owner[positions(length, rank, world, order)] = rank
        work = [int(allowed[owner == rank].sum()) for rank in range(world)]
        shown = torch.where(allowed, owner[:, None], torch.nan).float()
        ax.imshow(shown.numpy(), cmap=ListedColormap(colours[:world]), vmin=0, vmax=world - 1)
        for rank in range(world):
            ax.plot([], [], "s", color=colours[rank], label=f"rank {rank}: {work[rank]} pairs")
        ax.legend(fontsize=8, loc="upper right")
        ax.set(title=f"{order}: the busiest rank has {max(work) / sum(work) * world:.2f} of its share")
        ax.set(xlabel="key", ylabel="query")
        ax.title.set_fontsize(9)
    return figure


def tables(run: dict[str, Any]) -> dict[str, str]:
    """The tables of docs/scale.md by their names, from a run of benchmarks/scale.py."""
    speed, memory = run["speed"], run["memory"]
    text = {
        "speed": (
            f"Two processes of one thread each, L {speed['length']:,}, {speed['heads']} heads of {speed['width']}, "
            f"causal, forward and backward: zigzag is **{speed['ratio']:.2f} times** as fast as contiguous on the "
            f"clock (the median of {len(speed['seconds']['zigzag'])} rounds in turns; asked are 1.25), and its busiest "
            f"process computes {1 / speed['even']:.2f} times as long. Their results differ by {speed['differ']:.0e} at "
            "most."
        )
    }
    missed = [line for line in run["missed"] if "zigzag" in line]
    text["speed"] += "".join(f" **Missed**: {line}." for line in missed)
    rows = ["| processes | memory of each | times their number, over that of one |", "|---|---|---|"]
    for world, mb in memory["mb"].items():
        rows.append(f"| {world} | {mb:,.0f} MB | {mb * int(world) / memory['mb']['1']:.2f} |")
    text["memory"] = "\n".join(rows)
    rows = ["| | the fastest way |", "|---|---|"]
    for attention in (GROUPED, WHOLE):
        for machine in (CLUSTER, SLOWER):
            found = ", ".join(f"{way} from {world} GPUs" for world, way in crossings(attention, machine, WORLDS))
            rows.append(f"| {attention.num_kv_heads} key heads of 64 query heads, {machine.name} | {found} |")
    text["model"] = "\n".join(rows)
    rows = ["| way | ranks | sent forward | sent backward | counted |", "|---|---|---|---|---|"]
    for row in run["bytes"]["rows"]:
        same = "the same" if row["sent"] == row["counted"] else f"**{row['counted']}**"
        rows.append(f"| {row['way']} | {row['world']} | {row['sent'][0]:,} | {row['sent'][1]:,} | {same} |")
    text["bytes"] = "\n".join(rows)
    return text


def filled(text: str) -> str:
    """The page with every table between ``<!-- scale: NAME -->`` and ``<!-- end -->`` written anew."""
    made = tables(json.loads(RECORD.read_text(encoding="utf-8")))
    return re.sub(
        r"<!-- scale: (\w+) -->\n.*?<!-- end -->",
        lambda found: f"<!-- scale: {found[1]} -->\n{made[found[1]]}\n<!-- end -->",
        text,
        flags=re.DOTALL,
    )


def main() -> None:
    import matplotlib.pyplot as plt

    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    orders().savefig(ROOT / "docs" / "scale_order.png", dpi=110)
    figure, axes = plt.subplots(2, 3, figsize=(12, 7), layout="constrained")
    for column, (attention, machine) in enumerate([(GROUPED, CLUSTER), (WHOLE, CLUSTER), (WHOLE, SLOWER)]):
        times(axes[0, column], attention, machine)
        fastest(axes[1, column], attention, machine)
    axes[0, 0].legend(fontsize=8)
    figure.suptitle(
        "1 million tokens, causal, bfloat16: one attention layer (dotted: heads would run out)", fontsize=10
    )
    out = Path(__file__).with_suffix(".png")
    figure.savefig(out, dpi=110)
    plt.close(figure)
    for attention in (GROUPED, WHOLE):
        for machine in (CLUSTER, SLOWER):
            print(f"{attention.num_kv_heads} key heads, {machine.name}: {crossings(attention, machine, WORLDS)}")


if __name__ == "__main__":
    main()
