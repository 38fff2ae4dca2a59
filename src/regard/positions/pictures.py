"""What positions look like, drawn with matplotlib, which is imported when it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.biases import Alibi
from regard.positions.scalings import Scaling, plain_frequencies

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__: list[str] = []

#: The distances that a picture of ALiBi shows.
REACH = 128


def wavelengths(dim: int, base: float, scaling: Scaling | None, ax: Axes | None) -> Figure:
    """How many positions each pair takes for one turn, without and with a scaling."""
    from regard.look.canvas import own_or_given

    figure, ax = own_or_given(ax, 6.4, 4.0)
    pair = range(dim // 2)
    turn = 2 * torch.pi
    ax.plot(pair, (turn / plain_frequencies(dim, base)).numpy(), color="0.6", label="as trained")
    if scaling is not None:
        longest: int | None = getattr(scaling, "original_len", None)
        length = None if longest is None else 8 * longest
        name = type(scaling).__name__ + (f" at {length} tokens" if scaling.needs_length else "")
        ax.plot(pair, (turn / scaling.frequencies(dim, base, length)).numpy(), label=name)
        if longest is not None:
            ax.axhline(longest, color="0.8", linestyle=":", label=f"original_len = {longest}")
    ax.set(xlabel="pair of columns", ylabel="positions for one turn", yscale="log")
    ax.legend(frameon=False)
    return figure


def by_distance(bias: Alibi, ax: Axes | None) -> Figure:
    """ALiBi's bias of the last query."""
    values = bias.to_dense(1, REACH + 1)[:, 0].detach().float().cpu()  # (H, S)
    return lines(torch.arange(-REACH, 1), values, ax, across="key's position less query's", up="bias")


def lines(
    across_at: Tensor, values: Tensor, ax: Axes | None, *, across: str, up: str, drawn: str | None = None
) -> Figure:
    """One line a head; values (H, n)."""
    from regard.look.canvas import own_or_given

    figure, ax = own_or_given(ax, 6.4, 4.0)
    style: dict[str, Any] = {} if drawn is None else {"drawstyle": "steps-mid"}
    for head, line in enumerate(values):
        ax.plot(across_at.numpy(), line.numpy(), label=f"head {head}", **style)
    ax.set(xlabel=across, ylabel=up)
    if len(values) <= 12:
        ax.legend(frameon=False)
    return figure


def patches(alike: Tensor, ax: Axes | None) -> Figure:
    """A number for each patch of a picture."""
    from regard.look.canvas import own_or_given

    figure, ax = own_or_given(ax, 5.2, 4.4)
    image = ax.imshow(alike.numpy(), cmap="viridis", interpolation="nearest")
    figure.colorbar(image, ax=ax, label="mean cosine of the angle to the middle")
    ax.set(xlabel="column", ylabel="row")
    return figure
