"""The loss curve of a training run as a figure: `python -m regard.demo.curve FOLDER FILE.png`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_LOSSES = {"train_loss": "training batches", "text_loss": "held-out text", "repeat_loss": "repeated random tokens"}
_SCORES = {"best_previous_token": "best previous-token head", "best_induction": "best induction head"}


def draw(training: dict[str, Any]) -> Figure:
    """Losses and best head scores against training steps.

    Example:
        >>> figure = draw({"text": "a text", "curve": [{"step": 0, "text_loss": 7.0}, {"step": 9, "text_loss": 3.0}]})
        >>> figure.axes[0].get_ylabel()
        'Cross-entropy (nats per token)'

    Args:
        training: the content of a training.json.

    Returns:
        The figure.

    Raises:
        ImportError: matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("regard.demo.curve needs matplotlib: pip install 'regard[plot]'") from error
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    losses, scores = figure.subplots(1, 2)
    for axes, names in ((losses, _LOSSES), (scores, _SCORES)):
        for name, label in names.items():
            points = [(point["step"], point[name]) for point in training["curve"] if name in point]
            if points:
                axes.plot(*zip(*points, strict=True), label=label)
        axes.set_xlabel("Step")
        axes.grid(alpha=0.3)
        if axes.lines:
            axes.legend(frameon=False)
    losses.set_ylabel("Cross-entropy (nats per token)")
    losses.set_ylim(bottom=0)
    scores.set_ylabel("Mean attention weight")
    scores.set_ylim(0, 1)
    figure.suptitle(f"A small decoder learns {training['text']}")
    return figure


def main(arguments: Sequence[str] | None = None) -> int:
    """Read FOLDER/training.json and write the figure.

    Args:
        arguments: the folder and the file; those of the process without it.

    Returns:
        The exit status: 0, or 2 for a wrong argument.
    """
    given = sys.argv[1:] if arguments is None else arguments
    if len(given) != 2:
        print("usage: python -m regard.demo.curve FOLDER FILE.png", file=sys.stderr)
        return 2
    source = Path(given[0], "training.json")
    if not source.is_file():
        print(f"error: {source} does not exist; expected the output of python -m regard.demo.train", file=sys.stderr)
        return 2
    draw(json.loads(source.read_text(encoding="utf-8"))).savefig(given[1], dpi=120)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
