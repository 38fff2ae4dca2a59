"""The profiles of a layer: entropy along the queries, weight received along the keys."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.canvas import SMALL, new_figure, own_or_given
from regard.look.checks import whole
from regard.look.colours import colour
from regard.look.dense import wrapped
from regard.look.figures_source import sequence
from regard.look.maps import average, count, one_sequence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

# Keys that receive less are drawn at the lower edge: the logarithm of nothing has no place.
_RECEIVED_FLOOR = 1e-3
_GUIDE = {"color": "#8a8d91", "linewidth": 0.9, "linestyle": (0, (4, 3))}


def profiles(
    weights: AttentionWeights | Tensor,
    *,
    ax: Sequence[Axes] | None = None,
    size: int = 64,
    batch: int = 0,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
) -> Figure:
    """Every head's entropy along the queries, and the weight it gives along the keys.

    Dots mark the key that each head reads most. The dashed lines are a head that spreads evenly over the keys that its
    queries may read, and a key that receives as much weight as one query gives.

    Args:
        weights: (..., H, L, S).
        ax: two axes to draw on, the first for entropy, the second for received weight.
        size: the most points of a line; longer sequences show the means of stretches, as the labels then say.
        batch: the sequence, where weights holds several.
        title: a line above them.
        mask: of dense weights, which pairs are allowed: a mask, or booleans that broadcast to them.

    Returns:
        The figure.

    Raises:
        TypeError: if ax is no axes.
        ValueError: if ax is given and is not two axes.
    """
    if ax is not None and not hasattr(ax, "__len__"):
        raise TypeError(f"ax is {ax!r}; expected two axes, one for entropy and one for received weight")
    if ax is not None and len(ax) != 2:
        raise ValueError(f"ax holds {len(ax)} axes; expected two, one for entropy and one for received weight")
    size, batch = whole("size", size, "the most points of a line, at least 1", least=1), sequence(batch)
    if ax is None:
        figure = new_figure(7.0, 4.6)
        top, bottom = figure.subplots(2)
    else:
        top, bottom = ax
        figure, _ = own_or_given(top, 0, 0)
        own_or_given(bottom, 0, 0)
    (asked,) = wrapped([weights], ["weights"], mask)
    with torch.no_grad():
        answers = asked.ask("entropy", "received")
    entropy, received = (one_sequence(answer, 1, batch).float().cpu() for answer in answers)  # (H, L), (H, S)
    query_len = asked.shape[-2]
    _lines(top, entropy, size)
    _lines(bottom, received.clamp(min=_RECEIVED_FLOOR), size)
    even = average(_keys_in_reach(asked, batch).log()[None], min(query_len, size))[0]
    top.plot(_middles(query_len, len(even)), even.numpy(), label="even", **_GUIDE)
    bottom.axhline(1.0, **_GUIDE)
    _mark_top_keys(bottom, received)
    top.set(xlabel=_of("query", query_len, size), ylabel="entropy (nats)", ylim=(0, None))
    bottom.set(xlabel=_of("key", received.shape[1], size), ylabel="weight received", yscale="log")
    dots = bottom.plot([], [], "o", markersize=4, color="#5b6068", label="most read key")
    bottom.legend(handles=dots, fontsize=SMALL - 0.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    for axes in (top, bottom):
        axes.xaxis.label.set_fontsize(SMALL + 1)
        axes.yaxis.label.set_fontsize(SMALL + 1)
        axes.tick_params(labelsize=SMALL, length=2.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.01)
    if title:
        top.set_title(title, fontsize=SMALL + 2, loc="left")
    if len(entropy) <= 16:
        top.legend(fontsize=SMALL - 0.5, frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.05))
    return figure


def _lines(ax: Axes, values: Tensor, size: int) -> None:
    """A line a head."""
    num_heads, length = values.shape
    drawn = average(values, min(length, size))
    for number in range(num_heads):
        at, shade = _middles(length, drawn.shape[1]), _shade(number, num_heads)
        ax.plot(at, drawn[number].numpy(), color=shade, linewidth=1.1, label=f"head {number}")


def _mark_top_keys(ax: Axes, received: Tensor) -> None:
    """A dot at the key that each head reads most, which the mean over a stretch would hide."""
    highest, at = received.clamp(min=_RECEIVED_FLOOR).max(-1)
    for number, (key, weight) in enumerate(zip(at.tolist(), highest.tolist(), strict=True)):
        ax.plot([key], [weight], "o", markersize=4, color=_shade(number, len(received)))


def _of(name: str, length: int, size: int) -> str:
    """An axis' name, with what a point of the lines stands for."""
    return name if length <= size else f"{name} (means over {count(length, size)})"


def _shade(number: int, num_heads: int) -> tuple[float, ...]:
    """A head's colour, along the ramp so that neighbouring heads can be told apart without colour vision."""
    return tuple(channel / 255 for channel in colour(0.28 + 0.62 * number / max(1, num_heads - 1)))


def _keys_in_reach(weights: Any, batch: int) -> Tensor:
    """How many keys each query may read, (L,), at least 1; the mean of the heads where they differ."""
    query_len, key_len = weights.shape[-2:]
    if weights.mask is None:
        return torch.full((query_len,), float(key_len))
    sequences, num_heads = (1, 1, *weights.shape[:-2])[-2:]
    sizes = {"batch": sequences, "num_heads": num_heads, "device": weights.device}
    share: Tensor = weights.mask.pool(query_len, key_len, query_len, 1, **sizes)  # (L, 1) or (B or 1, H or 1, L, 1)
    share = share.reshape(-1, *share.shape[-3:]) if share.ndim == 4 else share[None, None]
    reached: Tensor = share[batch % len(share)].mean(0)[:, 0] * key_len  # (L,)
    return reached.clamp(min=1.0).float().cpu()


def _middles(length: int, cells: int) -> list[float]:
    """Where each cell's middle lies, in tokens."""
    return [(cell + 0.5) * length / cells - 0.5 for cell in range(cells)]
