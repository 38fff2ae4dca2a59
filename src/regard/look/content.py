"""The bytes of one head, in the parts that the page's data have and as fine as is asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from regard.look.encode import fine_codes, floats, linear_codes, log_codes, longs, octets, weight_codes, words
from regard.look.exact import Window, chosen_queries
from regard.look.ladder import Detail
from regard.look.maps import average, coarser, largest, peaks

if TYPE_CHECKING:
    from regard.look.measure import Group, LayerMeasure


@dataclass(frozen=True)
class Sizes:
    """The cells that a group's heads have at a detail."""

    rows: int
    cols: int
    depth: int
    max: tuple[int, int]
    margins: tuple[int, int]
    thumbnail: tuple[int, int]
    top: int

    @classmethod
    def of(cls, group: Group, detail: Detail) -> Sizes:
        """The sizes of a group at a detail: never more cells than queries or keys, or than were measured."""
        query_len, key_len = group.query_len, group.key_len
        full_rows, full_cols = group.measures[0].mean.shape[-2:]
        rows, cols = min(detail.mean, full_rows), min(detail.mean, full_cols)
        pooled = (rows, cols) != (query_len, key_len)
        most = (min(detail.max, full_rows), min(detail.max, full_cols)) if pooled else (0, 0)
        return cls(
            rows=rows,
            cols=cols,
            depth=8 if pooled else detail.depth,
            max=most,
            margins=(min(detail.margins, query_len), min(detail.margins, key_len)),
            thumbnail=(min(detail.thumbnails, full_rows), min(detail.thumbnails, full_cols)),
            top=min(detail.top, key_len),
        )


def kept_queries(group: Group, detail: Detail) -> Tensor:
    """The queries that are kept exactly at a detail, (N,) sorted."""
    if detail.queries >= len(group.queries):
        return group.queries
    return chosen_queries(group.query_len, group.asked, detail.queries)


def kept_windows(windows: tuple[Window, ...], sizes: Sizes, detail: Detail) -> tuple[Window, ...]:
    """A head's windows at a detail; none where the map itself holds every pair as finely."""
    if sizes.depth == 16:
        return ()
    sides = [detail.asked_windows if window.name == "asked for" else detail.windows for window in windows]
    return tuple(window.cut(side) for window, side in zip(windows, sides, strict=True) if side)


def queries_part(group: Group, measure: LayerMeasure, head: int, sizes: Sizes, detail: Detail) -> tuple[bytes, bytes]:
    """What is kept of the exact queries and the most read keys: the 4-byte numbers, and the 2-byte ones."""
    queries = kept_queries(group, detail)
    at = torch.searchsorted(group.queries, queries)  # (N,)
    keys, weights = measure.top_keys[head, at], measure.top_weights[head, at]  # (N, 8)
    margins, read = measure.margins, measure.most_read[head]
    numbers = (
        longs(keys[:, : sizes.top]),
        longs(read),
        floats(margins.received[head, read]),
        floats(margins.entropy[head, queries]),
        floats(margins.total[head, queries]),
        floats(margins.first[head, queries]),
    )
    more = weights.double().masked_fill(keys <= 0, 0)[:, sizes.top :].sum(-1)  # (N,) of keys not named
    left = margins.left.entropy[head]  # (L,)
    codes = (
        fine_codes(weights, keys >= 0)[:, : sizes.top],
        fine_codes(measure.rest[head, at] + more, margins.total[head, queries] > 0),
        linear_codes(left[queries], float(left.max())),
    )
    return b"".join(numbers), b"".join(words(each) for each in codes)


def first_part(group: Group, measure: LayerMeasure, head: int, sizes: Sizes) -> bytes:
    """The weight on key 0 of each row of the map."""
    allowed = measure.first_allowed[min(head, len(measure.first_allowed) - 1)]  # (L,)
    mean = average(measure.margins.first[head].double(), sizes.rows)
    return words(fine_codes(mean, peaks(allowed.float(), sizes.rows) > 0))


class Highest(NamedTuple):
    """The values of the highest codes of the margins."""

    entropy: float
    received: float
    peak: float
    entropy_left: float


def margins_part(measure: LayerMeasure, head: int, sizes: Sizes) -> tuple[bytes, Highest]:
    """The margins, and the values of their highest codes."""
    margins = measure.margins
    entropy = average(margins.entropy[head].double().nan_to_num(0.0), sizes.margins[0])
    left = margins.left.entropy[head]
    received = margins.received[head].double().nan_to_num(0.0)
    mean, most = average(received, sizes.margins[1]), peaks(received, sizes.margins[1])
    highest = Highest(*(float(each.max()) for each in (entropy, mean, most, left)))
    codes = (
        linear_codes(entropy, highest.entropy),
        linear_codes(average(left, sizes.margins[0]), highest.entropy_left),
        log_codes(mean, highest.received),
        log_codes(most, highest.peak),
    )
    return b"".join(words(each) for each in codes), highest


def windows_part(windows: tuple[Window, ...]) -> bytes:
    """The pairs of the windows."""
    return b"".join(words(fine_codes(each.values, each.allowed)) for each in windows)


def mean_part(group: Group, measure: LayerMeasure, head: int, sizes: Sizes) -> bytes:
    """The mean map."""
    allowed = measure.allowed[min(head, len(measure.allowed) - 1)]  # (R, C)
    lengths, cells = (group.query_len, group.key_len), (sizes.rows, sizes.cols)
    mean, some = coarser(measure.mean[head], lengths, cells), largest(allowed.byte(), lengths, cells) > 0
    return words(fine_codes(mean, some)) if sizes.depth == 16 else octets(weight_codes(mean, some))


def max_part(group: Group, measure: LayerMeasure, head: int, sizes: Sizes) -> bytes:
    """The max map, or nothing."""
    if not all(sizes.max):
        return b""
    codes = measure.most
    if codes is None:  # every pair had a cell of its own
        allowed = measure.allowed[min(head, len(measure.allowed) - 1)]
        one = weight_codes(measure.mean[head], allowed)
    else:
        one = codes[head]
    return octets(largest(one, (group.query_len, group.key_len), sizes.max))


def thumbnails(group: Group, measure: LayerMeasure, sizes: Sizes) -> bytes:
    """The maps of a layer once more, small."""
    lengths = group.query_len, group.key_len
    mean = coarser(measure.mean, lengths, sizes.thumbnail)  # (H, T, T)
    return octets(weight_codes(mean, largest(measure.allowed.byte(), lengths, sizes.thumbnail) > 0))
