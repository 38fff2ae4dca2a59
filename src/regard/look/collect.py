"""Collects the data of the page from weights, as fine as a number of bytes allows."""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from regard.look.colours import LOG_FLOOR, ramp
from regard.look.data import SCHEMA, THUMBNAIL, TOKEN_LENGTH, TOP_KEYS, HeadData, PageData
from regard.look.encode import FLOOR, linear_codes, octets, packed, weight_codes, words
from regard.look.guide import best
from regard.look.heads import SCORES, HeadScores, HeadTable
from regard.look.maps import Maps, average, pool_dense, pooled

if TYPE_CHECKING:
    from regard import AttentionWeights

#: The sizes of map that are tried, until the data fit.
SIZES = (512, 384, 256, 192, 128, 96, 64, 48, 32)

# How many cells a byte of JSON holds at the very best: more is not worth trying.
_BEST_PACKING = 6.0

# Layers pack differently well: a size is given up only when those so far take this many times their part.
_SLACK = 1.2

_STATISTICS = (
    ("induction", "induction", "", 2, "share on what followed earlier occurrences of the token"),
    ("previous_token", "previous token", "", 2, "share on the key just before the query"),
    ("first_token", "first token", "", 2, "share on the first key"),
    ("entropy", "entropy", "nats", 2, "0 is one key, log n is n keys alike; mean over the queries"),
    ("distance", "mean distance", "tokens", 1, "from the query to what it reads"),
    ("concentration", "concentration", "", 2, "share of all weight on the most read key"),
)


def page_data(
    weights: Sequence[AttentionWeights],
    table: HeadTable,
    *,
    title: str = "attention",
    source: str = "",
    notes: Sequence[str] = (),
    selected: tuple[int, int] | None = None,
    max_bytes: int = 5_000_000,
    batch: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PageData:
    """Collects what the page shows, in at most max_bytes of JSON.

    The maps give way first: their side shrinks through SIZES until everything fits.

    Args:
        weights: one AttentionWeights a layer, as `head_table` took them; all of one L and S.
        table: what `head_table` returned for them.
        title: what the page is called.
        source: where the text came from.
        notes: what the reader must know, such as a text cut short.
        selected: (layer, head) to show first; without it the most telling one.
        max_bytes: the most that the JSON may take.
        batch: which sequence of a batch.
        progress: called with (layers done, layers in all), again from the start for every size tried.

    Returns:
        The data.

    Raises:
        ValueError: if the layers differ in L or S, or even the smallest maps do not fit max_bytes.
    """
    query_len, key_len = _lengths(weights)
    key_tokens = None if table.tokens is None else tuple(token[:TOKEN_LENGTH] for token in table.tokens)
    first = best(table)
    frame = PageData(
        schema=SCHEMA,
        title=title,
        source=source,
        notes=tuple(notes),
        query_len=query_len,
        key_len=key_len,
        rows=0,
        cols=0,
        thumbnail=(0, 0),
        top=0,
        floor=FLOOR,
        log_floor=LOG_FLOOR,
        query_tokens=key_tokens[key_len - query_len :] if key_tokens and query_len <= key_len else None,
        key_tokens=key_tokens,
        guide=tuple(table.where_to_look()),
        selected=selected or (first.layer, first.head),
        statistics=_statistics(table),
        ramp=base64.b64encode(bytes(channel for colour in ramp() for channel in colour)).decode("ascii"),
        thumbnails="",
        heads=(),
    )
    sizes = _sizes_to_try(max(query_len, key_len), len(table.heads), max_bytes)
    while sizes:
        data, excess = _with_maps(frame, weights, table, sizes[0], max_bytes, batch, progress)
        if data is not None and len(data.to_json()) <= max_bytes:
            return data
        # A map's bytes grow with the square of its side: sizes that cannot fit are not tried.
        sizes = [size for size in sizes[1:] if size <= sizes[0] * math.sqrt(_SLACK / excess)] or sizes[1:][-1:]
    raise ValueError(
        f"max_bytes is {max_bytes:,}, which the tokens and the smallest maps of {len(table.heads)} heads exceed; "
        "allow more, or look at fewer tokens or layers"
    )


def _with_maps(
    frame: PageData,
    weights: Sequence[AttentionWeights],
    table: HeadTable,
    size: int,
    max_bytes: int,
    batch: int,
    progress: Callable[[int, int], None] | None,
) -> tuple[PageData | None, float]:
    """The page's data with maps of this size, or None as soon as the layers so far show that they will not fit.

    The number is how many times max_bytes the maps take, as far as is known.
    """
    scores = {(head.layer, head.head): head for head in table.heads}
    heads: list[HeadData] = []
    thumbnails: list[bytes] = []
    maps = None
    for number, layer in enumerate(weights):
        maps = pooled(layer, size, batch=batch)
        small = _thumbnails(maps)
        thumbnails.append(octets(small))
        entropy, received = table.entropy[number], table.received[number]
        heads += [_head(scores[number, h], maps, h, entropy[h], received[h]) for h in range(len(maps.values))]
        if progress is not None:
            progress(number + 1, len(weights))
        excess = sum(len(head.data) for head in heads) / (number + 1) * len(weights) / max_bytes
        if excess > _SLACK:
            return None, excess
    assert maps is not None
    rows, cols = maps.values.shape[-2:]
    data = replace(
        frame,
        rows=rows,
        cols=cols,
        thumbnail=(small.shape[-2], small.shape[-1]),
        top=min(TOP_KEYS, cols),
        thumbnails=packed(b"".join(thumbnails)),
        heads=tuple(heads),
    )
    return data, max(excess, 1.0)


def _head(scores: HeadScores, maps: Maps, number: int, entropy: Tensor, received: Tensor) -> HeadData:
    """One head's part, entropy (L,) and received (S,) being its margins."""
    values = maps.values[number]  # (R, C)
    rows, cols = values.shape
    shares, columns = values.topk(min(TOP_KEYS, cols), dim=-1)  # (R, K)
    entropy, received = average(entropy, rows), average(received, cols)  # (R,), (C,)
    entropy_max, received_max = _highest(entropy), _highest(received)
    content = (
        words(columns.to(torch.int32)),
        words(linear_codes(shares, 1.0)),
        words(linear_codes(entropy, entropy_max)),
        words(linear_codes(received, received_max)),
        octets(weight_codes(values, maps.allowed[number])),
    )
    return HeadData(
        layer=scores.layer,
        head=scores.head,
        scores={name: _finite(getattr(scores, name)) for name in SCORES},
        top_key=scores.top_key,
        entropy_max=entropy_max,
        received_max=received_max,
        data=packed(b"".join(content)),
    )


def _thumbnails(maps: Maps) -> Tensor:
    """The maps of a layer once more, as small codes (H, T, T)."""
    rows, cols = (min(THUMBNAIL, cells) for cells in maps.values.shape[-2:])
    allowed = pool_dense(maps.allowed.float(), rows, cols) > 0
    return weight_codes(pool_dense(maps.values, rows, cols), allowed)


def _statistics(table: HeadTable) -> tuple[dict[str, str | int], ...]:
    """The scores that this table has."""
    known = [row for row in _STATISTICS if any(_finite(getattr(scores, row[0])) is not None for scores in table.heads)]
    return tuple(dict(zip(("name", "label", "unit", "decimals", "about"), row, strict=True)) for row in known)


def _lengths(weights: Sequence[AttentionWeights]) -> tuple[int, int]:
    lengths = {(layer.shape[-2], layer.shape[-1]) for layer in weights}
    if len(lengths) != 1:
        raise ValueError(f"weights has layers of (L, S) {sorted(lengths)}; expected the same L and S in all layers")
    return lengths.pop()


def _sizes_to_try(length: int, num_heads: int, max_bytes: int) -> list[int]:
    """SIZES without those that no packing makes fit, and with no more than one that gives each token its own cell."""
    most = math.sqrt(max_bytes * _BEST_PACKING / num_heads)
    enough = next((size for size in reversed(SIZES) if size >= length), SIZES[0])
    return [size for size in SIZES if size <= min(enough, most)] or [SIZES[-1]]


def _highest(values: Tensor) -> float:
    return float(values.nan_to_num(0.0, 0.0, 0.0).max())


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
