"""Draw the curves, time and memory against the length on logarithmic axes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from regard.bench.scaling.curves import FIT_FROM, Curve, Scaling
from regard.bench.scaling.kinds import KINDS

# matplotlib is looked for here, before anything is timed; the error that says it is missing names the extra.
from regard.look import canvas, figures

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["draw", "write"]

# Blue and ink of the ramp of weights, and a grey; told apart by their dashes too.
STYLES = {
    "window": ("#2f7fb8", "-", "o"),
    "window-training": ("#2b2c6e", "-", "s"),
    "causal": ("#8a8a86", "--", "o"),
    "causal-training": ("#8a8a86", ":", "s"),
}


def draw(report: Scaling) -> Figure:
    """The curves of a run: milliseconds on the left, megabytes on the right, with their slopes in the legend."""
    figure = canvas.new_figure(9.0, 4.8)
    left, right = figure.subplots(1, 2)
    _panel(left, report, "time", "ms a call", lambda curve: [1e3 * seconds for seconds in curve.seconds])
    _panel(right, report, "memory", "peak memory of a call, MB", lambda curve: list(curve.memory))
    figure.suptitle(f"1 x 8 heads of 64, float32; slopes from {FIT_FROM} tokens on", fontsize=canvas.SMALL + 1)
    return figure


def _panel(ax: Axes, report: Scaling, quantity: str, label: str, values: Callable[[Curve], list[float]]) -> None:
    slopes = {fit.name: fit.slope for fit in report.fits if fit.quantity == quantity}
    for curve in report.curves:
        colour, line, marker = STYLES[curve.name]
        words = KINDS[curve.name].words
        if curve.name in slopes:
            words += f" ({slopes[curve.name]:.2f})"
        ax.plot(curve.lengths, values(curve), color=colour, linestyle=line, marker=marker, markersize=4, label=words)
    ax.set_xscale("log", base=2)
    ax.set_yscale("log")
    lengths = sorted({length for curve in report.curves for length in curve.lengths})
    ax.set_xticks(lengths, [f"{length // 1024}k" if length >= 1024 else str(length) for length in lengths])
    ax.set_xlabel("L, tokens", fontsize=canvas.SMALL + 1)
    ax.set_ylabel(label, fontsize=canvas.SMALL + 1)
    ax.tick_params(labelsize=canvas.SMALL)
    ax.grid(alpha=0.3)
    # Below the curves, which leave no corner free.
    ax.legend(frameon=False, fontsize=canvas.SMALL, loc="upper center", bbox_to_anchor=(0.5, -0.13))


def write(report: Scaling, path: Path) -> Path:
    """Draw the curves to a file: .png, .svg or .pdf."""
    return figures.save(draw(report), path)
