"""Measures all that the page and the table show of some layers, in one sweep a layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from regard.look.arguments import check_batch, check_place, check_places, check_windows
from regard.look.encode import weight_codes
from regard.look.exact import (
    QUERIES,
    ROWS_OF_ALL,
    TOP_KEYS,
    WINDOW,
    Rectangle,
    Window,
    allowed_block,
    around,
    chosen_queries,
    strongest,
    windows_of,
)
from regard.look.groups import Shown, grouped
from regard.look.heads import HeadTable
from regard.look.maps import allowed_cells, one_sequence
from regard.look.margins import Margins, layer_margins
from regard.look.over_ranks import Ranks, joined, share
from regard.look.spoilt import check_some_left, repaired, spoilt_rows

if TYPE_CHECKING:
    from regard import AttentionWeights

#: The most cells along a side of a map.
SIDE = 512

# Cells of all maps together that are kept in memory: 256 MB of float32. A thousand heads have maps of half the side.
MOST_CELLS = 1 << 26


@dataclass(frozen=True)
class LayerMeasure:
    """What was measured of one layer, on the CPU.

    Attributes:
        margins: scores, entropy, received and more.
        mean: (H, R, C), summed over the keys of a cell and averaged over its queries.
        most: (H, R, C) uint8 codes of the largest weight of each cell; None where every pair has a cell of its own.
        allowed: (H or 1, R, C), whether a cell holds an allowed pair.
        first_allowed: (H or 1, L), which queries may read key 0.
        highest: (H,), the largest weight.
        top_keys: (H, N, K), the keys that the exact queries give most to; -1 where fewer are read.
        top_weights: (H, N, K), their weights.
        rest: (H, N), what the exact queries give to all other keys, without key 0.
        most_read: (H, P), the keys that receive most.
        windows: the windows of each head.
        spoilt: (H, L), the queries whose weights are NaN: what is kept of them is as if they might read nothing.
    """

    margins: Margins
    mean: Tensor
    most: Tensor | None
    allowed: Tensor
    first_allowed: Tensor
    highest: Tensor
    top_keys: Tensor
    top_weights: Tensor
    rest: Tensor
    most_read: Tensor
    windows: tuple[tuple[Window, ...], ...]
    spoilt: Tensor


@dataclass(frozen=True)
class Group:
    """The layers of one L and S that are shown together, and what was measured of them.

    Attributes:
        shown: names, tokens and the weights themselves.
        queries: (N,), those that were looked at exactly.
        asked: the queries among them that were asked for.
        measures: one a layer.
        table: the scores of the heads.
    """

    shown: Shown
    queries: Tensor
    asked: tuple[int, ...]
    measures: tuple[LayerMeasure, ...]
    table: HeadTable

    @property
    def name(self) -> str:
        """What the group is called; "" where it is the only one."""
        return self.shown.name

    @property
    def names(self) -> tuple[str, ...]:
        """What its layers are called."""
        return self.shown.names

    @property
    def layers(self) -> tuple[AttentionWeights, ...]:
        """The weights of its layers."""
        return self.shown.layers

    @property
    def query_len(self) -> int:
        """L."""
        return self.shown.query_len

    @property
    def key_len(self) -> int:
        """S."""
        return self.shown.key_len

    @property
    def num_heads(self) -> int:
        """The heads of all its layers."""
        return len(self.table.heads)


@dataclass(frozen=True)
class Measured:
    """All that a page shows of some weights.

    Attributes:
        groups: what is shown together, one a tab and (L, S).
        batch: which sequence was looked at.
        sequences: how many there are.
    """

    groups: tuple[Group, ...]
    batch: int
    sequences: int

    @property
    def table(self) -> HeadTable:
        """The scores of the first group's heads."""
        return self.groups[0].table

    def __repr__(self) -> str:
        heads = sum(group.num_heads for group in self.groups)
        sizes = ", ".join(f"{group.query_len:,} x {group.key_len:,}" for group in self.groups)
        return f"Measured({sum(len(g.layers) for g in self.groups)} layers, {heads} heads, {sizes})"


@torch.no_grad()
def measure(
    weights: Any,
    *,
    tokens: Any = None,
    query_tokens: Any = None,
    token_ids: Any = None,
    mask: Any = None,
    queries: Iterable[int] = (),
    windows: Iterable[tuple[int | slice, int | slice]] = (),
    batch: int = 0,
    side: int = SIDE,
    progress: Callable[[int, int], None] | None = None,
    ranks: Ranks | None = None,
) -> Measured:
    """Measures what a page shows, in one sweep over the weights of each layer, in O(L) memory.

    Example:
        >>> import torch
        >>> from regard import attention, masks
        >>> from regard.look.measure import measure
        >>> q, k, v = torch.randn(3, 1, 2, 6, 4)  # B 1, H 2, L 6, D 4
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> measure([weights], tokens=list("abcdef"))
        Measured(1 layers, 2 heads, 6 x 6)

    Args:
        weights: a layer or a list of layers, each an AttentionWeights or a dense tensor or array, (B, H, L, S), (H, L,
            S) or (L, S); or a mapping of names to such lists, a tab each. In place of a list, a mapping of the layers'
            names to layers. Layers of another (L, S) become a group of their own.
        tokens: S texts; or a mapping of the tabs' names to such.
        query_tokens: L texts, where the queries are not the last of the keys (cross-attention); or a mapping.
        token_ids: S integers that say which tokens are the same; or a mapping.
        mask: a mask or booleans, for dense weights only: what is forbidden is then drawn so.
        queries: queries to keep exactly, whatever else is given up; counted from 0, as are keys and sequences.
        windows: (query, key) places around which every pair is kept, or (slice, slice) of at most WINDOW each.
        batch: which sequence of a batch.
        side: the most cells along a side of a map, a power of two up to SIDE; of very many heads half of it or less.
        progress: called with (layers done, layers in all).
        ranks: the processes that share the layers; every one calls this, with the same weights.

    Returns:
        What was measured.

    Raises:
        TypeError: weights, tokens or queries that are none of these.
        ValueError: weights that are empty or no weights, or all NaN; tokens that do not fit, or a query or sequence
            that there is not.
    """
    batch = check_batch(batch)
    queries, windows = check_places(queries, windows)
    shown = grouped(weights, tokens=tokens, query_tokens=query_tokens, token_ids=token_ids, mask=mask)
    total = sum(len(share(each.layers, ranks)) for each in shown)
    num_heads = sum(_heads(layer) for each in shown for layer in each.layers)
    if side not in (SIDE >> n for n in range(10)):
        raise ValueError(f"side is {side!r}; expected a power of two up to {SIDE}")
    while side > 32 and num_heads * side * side > MOST_CELLS:
        side //= 2
    longest = max(each.query_len for each in shown), max(each.key_len for each in shown)
    queries = [check_place(query, longest[0], f"queries holds {query!r}", "queries") for query in queries]
    windows = check_windows(windows, *longest, WINDOW)
    groups: list[Group] = []
    done = 0
    for each in shown:
        asked = tuple(sorted({query for query in queries if query < each.query_len}))
        every = each.query_len * sum(map(_heads, each.layers)) <= ROWS_OF_ALL
        exact = chosen_queries(each.query_len, asked, each.query_len if every else QUERIES)
        rectangles = _rectangles(each, windows)
        masks: dict[Any, Any] = {}
        measures = []
        for number in share(range(len(each.layers)), ranks):
            measures.append(_layer(each.layers[number], number, each, exact, rectangles, side, batch, masks))
            done += 1
            if progress is not None:
                progress(done, total)
        measures = joined(measures, len(each.layers), ranks)
        table = HeadTable(
            tuple(scores for found in measures for scores in found.margins.scores),
            each.key_tokens,
            tuple(found.margins.entropy for found in measures),
            tuple(found.margins.received for found in measures),
            None if each.names == tuple(f"layer {n}" for n in range(len(each.names))) else each.names,
        )
        groups.append(Group(each, exact, asked, tuple(measures), table))
    check_some_left(measure for group in groups for measure in group.measures)
    return Measured(tuple(groups), batch, max(_sequences(layer) for each in shown for layer in each.layers))


def _layer(
    weights: AttentionWeights,
    number: int,
    shown: Shown,
    queries: Tensor,
    rectangles: Sequence[Rectangle],
    side: int,
    batch: int,
    masks: dict[Any, Any],
) -> LayerMeasure:
    """One sweep over a layer, and the single weights that are kept of it."""
    query_len, key_len = weights.shape[-2:]
    rows, cols, top = min(side, query_len), min(side, key_len), min(TOP_KEYS, key_len)
    pooled = (rows, cols) != (query_len, key_len)
    # The top keys of some rows cost less than a sort of all of them; but single weights have the dtype of query.
    sweeps_top = len(queries) == query_len or weights.dtype in (torch.float16, torch.bfloat16)
    questions: list[Any] = [("pool", rows, cols)]
    questions += [("pool", rows, cols, "max")] if pooled else []
    questions += [("topk", top)] if sweeps_top else []
    aligned = shown.shift is not None
    margins, answers = layer_margins(weights, number, shown.same, batch=batch, aligned=aligned, also=questions)
    spoilt = spoilt_rows(margins)  # (H, L)
    margins = repaired(margins, spoilt, weights, batch)
    mean = one_sequence(answers[0], 2, batch).float().cpu()  # (H, R, C)
    most = one_sequence(answers[1], 2, batch).float().cpu() if pooled else mean  # (H, R, C)
    allowed = allowed_cells(weights, rows, cols, batch=batch, known=masks)  # (H or 1, R, C)
    first_allowed = allowed_block(weights, batch, slice(0, query_len), slice(0, 1))[..., 0]  # (H or 1, L)
    swept = answers[-1] if sweeps_top else None
    keys, values, rest = strongest(weights, queries, top, margins=margins, batch=batch, swept=swept)
    most_read = margins.received.topk(top, dim=-1).indices  # (H, P)
    diagonal = next((each for each in rectangles if each.name == "diagonal"), None)
    windows = windows_of(weights, rectangles, most_read[:, 0], batch=batch, diagonal=diagonal)
    if bool(spoilt.any()):  # nothing of it is a number that could be shown
        allowed, first_allowed = allowed & mean.isfinite() & most.isfinite(), first_allowed & ~spoilt
        mean, most = mean.nan_to_num(0.0), most.nan_to_num(0.0)
        keys = keys.masked_fill(values.isnan(), -1)
        windows = [tuple(replace(w, allowed=w.allowed & w.values.isfinite()) for w in each) for each in windows]
    return LayerMeasure(
        margins=margins,
        mean=mean,
        most=weight_codes(most, allowed) if pooled else None,
        allowed=allowed,
        first_allowed=first_allowed,
        highest=most.amax((-1, -2)),
        top_keys=keys,
        top_weights=values,
        rest=rest,
        most_read=most_read,
        windows=tuple(windows),
        spoilt=spoilt,
    )


def _rectangles(shown: Shown, windows: Sequence[tuple[int | slice, int | slice]]) -> list[Rectangle]:
    """The windows of every head: at the end of the diagonal, where there is one, and those asked for."""
    lengths = query_len, key_len = shown.query_len, shown.key_len
    found = []
    if shown.shift is not None:
        queries, keys = (slice(max(0, length - WINDOW), length) for length in lengths)
        found.append(Rectangle("diagonal", queries, keys, (query_len - 1, key_len - 1)))
    for place in windows:
        queries, keys = (_side(part, length) for part, length in zip(place, lengths, strict=True))
        if queries.start < queries.stop and keys.start < keys.stop:  # it may lie in another group
            middle = [
                (side.start + side.stop) // 2 if isinstance(part, slice) else part
                for part, side in zip(place, (queries, keys), strict=True)
            ]
            found.append(Rectangle("asked for", queries, keys, (middle[0], middle[1])))
    return found


def _side(part: int | slice, length: int) -> slice:
    """One side of a window, empty where it lies past the end."""
    if isinstance(part, slice):
        start, stop, _ = part.indices(length)
        return slice(start, stop)
    return around(part, length, WINDOW) if part < length else slice(0, 0)


def _heads(layer: AttentionWeights) -> int:
    return int((1, *layer.shape[:-2])[-1])


def _sequences(layer: AttentionWeights) -> int:
    return math.prod(layer.shape[:-3])
