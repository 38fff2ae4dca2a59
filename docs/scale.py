"""Draws docs/scale.png: the time of a step by the model of regard.distributed.costs, and where the ways change places.

``python docs/scale.py``
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import get_args

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.colors import ListedColormap

from regard.distributed import Strategy
from regard.distributed.costs import Attention, Machine, Step, best, crossings

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
        possible = [s.seconds if s.possible else np.nan for s in steps]
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
    found = [[WAYS.index(best(replace(attention, length=n), machine, w).strategy) for w in WORLDS] for n in LENGTHS]
    ax.imshow(found, origin="lower", aspect="auto", cmap=ListedColormap([COLOURS[w] for w in WAYS]), vmin=0, vmax=2)
    ax.set_xticks(range(len(WORLDS)), [str(w) for w in WORLDS], fontsize=7)
    ax.set_yticks(range(len(LENGTHS)), [f"{n >> 10}k" for n in LENGTHS], fontsize=7)
    ax.set(xlabel="GPUs", ylabel="tokens")
    ax.set_title(f"fastest way: {attention.num_kv_heads} key heads, {machine.name}", fontsize=9)


def main() -> None:
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
