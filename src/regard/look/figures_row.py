"""What one query reads: its largest weights as bars, and what is left over."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.canvas import SMALL, own_or_given
from regard.look.checks import whole
from regard.look.colours import colour
from regard.look.exact import by_weight
from regard.look.figures_heads import WITHOUT_FIRST, both_axes
from regard.look.figures_labels import drawable, plain, token_label
from regard.look.figures_source import OneHead, entropy_of, one_head

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from regard import AttentionWeights
    from regard.masks import Mask

_REST, _SINK = "#b4b7ba", "#ffffff"
_EDGE = "#6d7278"


@dataclass(frozen=True)
class Row:
    """What a query reads.

    Attributes:
        query: which query, from 0.
        weights: (S,) float64, without key 0 and renormalised where that was asked for.
        allowed: (S,), which keys it may read.
        entropy: in nats; a sink is not an entry.
        sink: what no key received, 0 without a sink.
    """

    query: int
    weights: Tensor
    allowed: Tensor
    entropy: float
    sink: float


def read(shown: OneHead, query: int, *, hide_first: bool = False) -> Row:
    """Everything about one query, from its S weights alone.

    Raises:
        ValueError: if there is no such query.
    """
    length = shown.query_len
    query = whole("query", query, f"the number of one of {length} queries; -1 is the last")
    if not -length <= query < length:
        raise ValueError(f"query is {query}, but weights has {length} queries; expected {-length} to {length - 1}")
    query %= length
    weights, allowed = shown.everything(query, hide_first=hide_first)
    total = float(weights.sum())
    sink = 1 - total if 1 - total > shown.rounding else 0.0
    return Row(query, weights, allowed, float(entropy_of(weights)), sink)


def row(
    weights: AttentionWeights | Tensor,
    query: int,
    *,
    k: int = 10,
    tokens: Sequence[str] | None = None,
    query_tokens: Sequence[str] | None = None,
    which: int | None = None,
    batch: int = 0,
    hide_first: bool = False,
    ax: Axes | None = None,
    title: str | None = None,
    mask: Mask | Tensor | None = None,
    width: float = 3.5,
) -> Figure:
    """The keys that a query gives most to, as bars; what the other keys share and what a sink takes have their own.

    The bars sum to 1. All numbers are exact, and only the query's own S weights are computed.

    Example:
        >>> import torch
        >>> from regard.look import figures
        >>> figure = figures.row(torch.tensor([[0.1, 0.6, 0.3]]), 0, k=2, tokens=["a", "b", "c"])
        >>> [text.get_text() for text in figure.axes[0].get_yticklabels()]
        ['b  1', 'c  2', 'the other key']

    Args:
        weights: (L, S), or (..., H, L, S) with which.
        query: which query, from 0; -1 is the last.
        k: how many keys have a bar of their own.
        tokens: S texts, which name the bars.
        query_tokens: L texts, where the queries are not the last of the keys.
        which: the head, where weights holds several.
        batch: the sequence, where weights holds several.
        hide_first: leave key 0 out and renormalise: w / (1 - w_0), as the axis says.
        ax: draw here instead of on a new figure.
        title: a line above the one that names the query and its entropy.
        mask: of dense weights, which pairs are allowed.
        width: inches of a new figure.

    Returns:
        The figure.

    Raises:
        ValueError: if there is no such query, it may read no key, k is below 1, or as for `head`.
    """
    k = whole("k", k, "at least 1, the keys that have a bar of their own", least=1)
    shown = one_head(weights, which, batch, mask)
    queries, named = both_axes(tokens, query_tokens, shown)
    facts = read(shown, query, hide_first=hide_first)
    if float(facts.weights.sum()) == 0 and (not facts.sink or not bool(facts.allowed.any()) or facts.sink == 1):
        what = "may read nothing but key 0" if hide_first else "reads no key, as padding does"
        raise ValueError(f"query is {facts.query}, which {what}: there is nothing to draw; choose another query")
    values, at = by_weight(*facts.weights.topk(min(k, shown.key_len)))  # (k,)
    read_keys = int((values > 0).sum())
    names = [_named(key, named) for key in at[:read_keys].tolist()]
    heights = values[:read_keys].tolist()
    fills: list[Any] = [_ramp(0.62)] * read_keys
    others = int(facts.allowed.sum()) - read_keys - (1 if hide_first and bool(facts.allowed[0]) else 0)
    if others > 0:
        left = facts.weights.clone().index_fill_(0, at[:read_keys], 0.0)
        names.append("the other key" if others == 1 else f"the other {others:,} keys")
        heights.append(float(left.sum()))
        fills.append(_REST)
    if facts.sink:
        names.append("sink (no key)")
        heights.append(facts.sink)
        fills.append(_SINK)
    figure, ax = own_or_given(ax, width, 0.19 * len(names) + (1.1 if title else 0.92))
    _bars(ax, names, heights, fills, of_keys=read_keys)
    ax.set_xlabel(f"attention weight, exact{f', {WITHOUT_FIRST}' if hide_first else ''}", fontsize=SMALL + 1)
    heading = f"query {facts.query:,}{_quoted(queries, facts.query)}: entropy {facts.entropy:.3f} nats"
    label = ax.set_title(f"{title}\n{heading}" if title else heading, fontsize=SMALL + 1, loc="left")
    plain(label)
    label.set_fontfamily(["sans-serif", *label.get_fontfamily()])
    return figure


def _bars(ax: Axes, names: Sequence[str], heights: Sequence[float], fills: Sequence[Any], *, of_keys: int) -> None:
    places = range(len(names))
    ax.barh(places, heights, height=0.74, color=fills, edgecolor=[_EDGE] * len(names), linewidth=0.5)
    for place, height in zip(places, heights, strict=True):
        ax.annotate(
            number(height),
            (height, place),
            xytext=(3, 0),
            textcoords="offset points",
            va="center",
            fontsize=SMALL - 0.5,
        )
    ax.set_yticks(places, labels=names)
    ax.invert_yaxis()
    ax.set_xlim(0, 1.2 * max(heights))
    ax.tick_params(labelsize=SMALL, length=2.5)
    ax.tick_params(axis="y", length=0)
    ax.locator_params(axis="x", nbins=5)
    ax.spines[["top", "right"]].set_visible(False)
    for spine in ax.spines.values():
        spine.set_linewidth(0.6)
    for place, text in enumerate(ax.get_yticklabels()):
        if place < of_keys:
            plain(text)
        else:
            text.set_fontstyle("italic")


def number(weight: float) -> str:
    """A weight in as many digits as tell something."""
    if weight >= 0.001 or weight == 0:
        return f"{weight:.3f}"
    return f"{weight:.5f}" if weight >= 0.00001 else "< 0.00001"


def _named(key: int, tokens: Sequence[str] | None) -> str:
    return f"key {key:,}" if tokens is None else f"{token_label(tokens[key], 18)}  {key:,}"


def _quoted(tokens: Sequence[str] | None, place: int) -> str:
    return (
        ""
        if tokens is None
        else drawable(f" \N{LEFT DOUBLE QUOTATION MARK}{token_label(tokens[place])}\N{RIGHT DOUBLE QUOTATION MARK}")
    )


def _ramp(share: float) -> tuple[float, ...]:
    return tuple(channel / 255 for channel in colour(share))


def total_of(facts: Row, keys: slice) -> float:
    """What a stretch of keys receives from the query."""
    return float(torch.nansum(facts.weights[keys]))
