"""The profiles of a layer: entropy along the queries, weight received along the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from regard.look.canvas import SMALL, new_figure, own_or_given
from regard.look.colours import colour
from regard.look.maps import average, one_sequence

if TYPE_CHECKING:
    from regard import AttentionWeights

# Keys that receive less are drawn at the lower edge: the logarithm of nothing has no place.
_RECEIVED_FLOOR = 1e-3
_GUIDE = {"color": "#8a8d91", "linewidth": 0.9, "linestyle": (0, (4, 3))}


def profiles(weights: AttentionWeights, *, ax: Sequence[Axes] | None = None, size: int = 512, batch: int = 0) -> Figure:
    """Every head's entropy along the queries, and the weight it gives along the keys.

    The dashed lines are a head that spreads evenly over the keys up to the query (over all of them without a mask),
    and a key that receives as much weight as one query gives.

    Args:
        weights: (..., H, L, S).
        ax: two axes to draw on, the first for entropy, the second for received weight.
        size: the most points of a line; longer sequences show the means of stretches.
        batch: the sequence, where weights holds several.

    Returns:
        The figure.

    Raises:
        ValueError: if ax is given and is not two axes.
    """
    if ax is not None and len(ax) != 2:
        raise ValueError(f"ax holds {len(ax)} axes; expected two, one for entropy and one for received weight")
    if ax is None:
        figure = new_figure(7.0, 4.6)
        top, bottom = figure.subplots(2)
    else:
        top, bottom = ax
        figure, _ = own_or_given(top, 0, 0)
    entropy = one_sequence(weights.entropy(), 1, batch).detach().float().cpu()  # (H, L)
    received = one_sequence(weights.received(), 1, batch).detach().float().cpu()  # (H, S)
    query_len = weights.shape[-2]
    _lines(top, entropy, size)
    _lines(bottom, received.clamp(min=_RECEIVED_FLOOR), size)
    even = average(_keys_in_reach(weights).log()[None], min(query_len, size))[0]
    top.plot(_middles(query_len, len(even)), even.numpy(), label="even", **_GUIDE)
    bottom.axhline(1.0, **_GUIDE)
    top.set(xlabel="query", ylabel="entropy (nats)", ylim=(0, None))
    bottom.set(xlabel="key", ylabel="weight received", yscale="log")
    for axes in (top, bottom):
        axes.tick_params(labelsize=SMALL, length=2.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    if len(entropy) <= 16:
        top.legend(fontsize=SMALL - 0.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    return figure


def _lines(ax: Axes, values: Tensor, size: int) -> None:
    """A line a head, along the ramp so that neighbouring heads can be told apart without colour vision."""
    num_heads, length = values.shape
    drawn = average(values, min(length, size))
    for number in range(num_heads):
        shade = tuple(channel / 255 for channel in colour(0.28 + 0.62 * number / max(1, num_heads - 1)))
        ax.plot(
            _middles(length, drawn.shape[1]), drawn[number].numpy(), color=shade, linewidth=0.9, label=f"head {number}"
        )


def _keys_in_reach(weights: AttentionWeights) -> Tensor:
    query_len, key_len = weights.shape[-2:]
    if weights.mask is None:
        return torch.full((query_len,), float(key_len))
    return (torch.arange(query_len) + key_len - query_len + 1.0).clamp(min=1.0)


def _middles(length: int, cells: int) -> list[float]:
    """Where each cell's middle lies, in tokens."""
    return [(cell + 0.5) * length / cells - 0.5 for cell in range(cells)]
