"""The figures of a training as a picture: four panels over the steps, one line a layer."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from regard.watch.log_history import History

__all__ = ["draw"]

_PANELS = {
    "entropy": ("Mean entropy", "nats"),
    "min_entropy": ("Entropy of the head with the smallest", "nats"),
    "max_logit": ("Largest logit", "before the softmax"),
    "first_token": ("Weight on the first token", "mean of all rows"),
}
# Up to this many layers, each is named; of more, a colour bar shows their order.
_NAMED = 8
# Up to this many steps, each is marked.
_MARKED = 20


def draw(history: History) -> Figure:
    """What :meth:`regard.watch.History.plot` returns."""
    if not len(history):
        raise ValueError("nothing to plot: no step was logged yet; the first one is, when its `with` ends")
    try:
        from matplotlib.cm import ScalarMappable
        from matplotlib.colors import BoundaryNorm, ListedColormap
        from matplotlib.ticker import MaxNLocator

        from regard.look.canvas import new_figure
        from regard.look.colours import ramp
    except ImportError as error:
        raise ImportError(
            "plot() needs matplotlib, which is not installed: pip install 'regard[plot]'", name="matplotlib"
        ) from error
    lines = _lines(history)
    count = len(lines)
    # The palest quarter of the ramp is too faint for a line, the darkest end too close to the text.
    shades = ramp()[70:236]
    colours = [
        tuple(channel / 255 for channel in shades[round(n * (len(shades) - 1) / max(1, count - 1))])
        for n in range(count)
    ]
    figure = new_figure(10.0, 6.4)
    panels: Any = figure.subplots(2, 2, sharex=True)
    panels[0, 0].sharey(panels[0, 1])  # before anything is drawn: the scale then is that of both
    for axes, (key, (title, unit)) in zip(panels.flat, _PANELS.items(), strict=True):
        for (name, points), colour in zip(lines.items(), colours, strict=True):
            steps = [step for step, _ in points]
            values = [told[key] for _, told in points]
            # A line through one finite point is invisible, so that few points are marked.
            marker = "o" if len(steps) <= _MARKED else None
            axes.plot(steps, values, color=colour, label=name, linewidth=1.6, marker=marker, markersize=3)
        if len(history) > 1:
            # Of all steps, those with nothing to draw too.
            room = 0.02 * (history.steps[-1] - history.steps[0])
            axes.set_xlim(history.steps[0] - room, history.steps[-1] + room)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        _mark_not_finite(axes, lines, key)
        axes.set_title(title, fontsize=10.5, loc="left")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
        if key != "max_logit":
            axes.set_ylim(bottom=0)
    for axes in panels[1]:
        axes.set_xlabel("Step")
    if count <= _NAMED:
        handles, names = panels[0, 0].get_legend_handles_labels()
        figure.legend(handles, names, loc="outside lower center", ncols=min(count, 4), frameon=False, fontsize=9)
    else:
        norm = BoundaryNorm([n - 0.5 for n in range(count + 1)], count)
        bar = figure.colorbar(ScalarMappable(norm, ListedColormap(colours)), ax=panels, shrink=0.7, pad=0.02)
        names = list(lines)
        ticks = sorted({0, count // 2, count - 1})
        bar.set_ticks(ticks, labels=[names[n] for n in ticks])
        bar.ax.tick_params(labelsize=8)
        bar.ax.invert_yaxis()
    return figure


def _mark_not_finite(axes: Any, lines: dict[str, list[tuple[int, dict[str, float]]]], key: str) -> None:
    """Where a figure first is NaN or infinite: what is not drawn must not look as if it were well."""
    broken = [step for points in lines.values() for step, told in points if not math.isfinite(told[key])]
    if broken:
        axes.axvline(min(broken), color="#b3261e", linewidth=1, linestyle=":")
        place = axes.get_xaxis_transform()
        low, high = axes.get_xlim()
        side = "right" if min(broken) > (low + high) / 2 else "left"
        words = f" not finite from step {min(broken)} "
        axes.text(min(broken), 0.97, words, transform=place, ha=side, va="top", fontsize=8, color="#b3261e")


def _lines(history: History) -> dict[str, list[tuple[int, dict[str, float]]]]:
    """Each layer's (step, summary), in the order in which the layers came."""
    lines: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for figures in history:
        for layer in figures.layers:
            lines.setdefault(layer.name, []).append((figures.step, layer.summary()))
    return lines
