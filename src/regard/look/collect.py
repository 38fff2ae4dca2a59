"""Collects the data of the page from what was measured, as fine as a number of bytes allows."""

from __future__ import annotations

import base64
import math
from collections.abc import Sequence
from dataclasses import replace

from regard.look.colours import LOG_FLOOR, ramp, signed_ramp
from regard.look.content import (
    Sizes,
    first_part,
    kept_queries,
    kept_windows,
    margins_part,
    max_part,
    mean_part,
    queries_part,
    thumbnails,
    windows_part,
)
from regard.look.data import SCHEMA, GroupData, HeadData, PageData
from regard.look.encode import FINE_FLOOR, FLOOR, longs, packed
from regard.look.estimate import Estimate, packed_text
from regard.look.guide import best, said_of_groups
from regard.look.heads import SCORES, HeadScores, HeadTable
from regard.look.ladder import Detail, details, restored
from regard.look.measure import Group, LayerMeasure, Measured
from regard.look.reduced import sentences

#: The most bytes of data of a page in a file, where the user does not say: with its code it is less than 5 MB.
MAX_BYTES = 4_900_000

# The part of max_bytes that an estimate may take to be sure enough to be tried.
SURE = 0.97

# An estimate of the whole page is at most so far from what it takes.
NEAR = 0.05

_STATISTICS = (
    ("induction", "induction", "", 2, "share on what followed earlier occurrences of the token", False),
    ("previous_token", "previous token", "", 2, "share on the key just before the query", False),
    ("first_token", "first token", "", 2, "share on the first key", False),
    ("entropy", "entropy", "nats", 2, "0 is one key, log n is n keys alike; mean over the queries", True),
    ("distance", "mean distance", "tokens", 1, "from the query to what it reads", False),
    ("concentration", "concentration", "", 2, "share of all weight on the most read key", False),
)


def page_data(
    measured: Measured,
    *,
    title: str = "attention",
    source: str = "",
    notes: Sequence[str] = (),
    selected: tuple[int, int] | None = None,
    max_bytes: int = MAX_BYTES,
) -> PageData:
    """What the page shows, in at most max_bytes of JSON.

    Where it does not fit, it gets coarser step by step, in the order of `ladder.LADDER`; what still fits is then put
    back, what was given up last first. ``reduced`` says what is left out.

    Args:
        measured: what `measure` returned.
        title: what the page is called.
        source: where the text came from.
        notes: what the reader must know, such as a text cut short.
        selected: (layer, head) of the first group to show first; without it the most telling one.
        max_bytes: the most that the JSON may take.

    Returns:
        The data.

    Raises:
        ValueError: if there is no such head, or even the coarsest data do not fit max_bytes.
    """
    if selected is not None and selected not in [(each.layer, each.head) for each in measured.table.heads]:
        raise ValueError(f"selected is {selected}, a head that weights has not; expected (layer, head), both from 0")
    page = frame(
        "attention",
        title=title,
        source=source,
        notes=notes,
        guide=said_of_groups([(g.name, g.table) for g in measured.groups]),
    )
    sizes, rest = Estimate(measured), len(page.to_json())
    ratio = 1.0  # of the bytes to those estimated
    least = math.inf
    *_, coarsest = steps = list(details())
    for detail in steps:
        estimate = sizes.of(detail) + rest
        # An estimate of everything that is a little too much may be wrong: nothing is given up before that is known.
        # The coarsest is tried whatever the estimate: nobody is refused what fits.
        most = max_bytes * (1 + NEAR) if detail == steps[0] else max_bytes
        if (estimate * ratio > most or estimate >= least) and detail != coarsest:
            continue
        least = estimate
        built = _built(page, measured, detail, selected)
        taken = len(built.to_json())
        ratio = max(ratio, taken / estimate)
        if taken <= max_bytes:
            sure = max_bytes * SURE / ratio - rest
            finer = restored(detail, lambda more, sure=sure: sizes.of(more) <= sure)  # type: ignore[misc]
            again = built if finer == detail else _built(page, measured, finer, selected)
            return again if len(again.to_json()) <= max_bytes else built
    num_heads = sum(group.num_heads for group in measured.groups)
    raise ValueError(
        f"max_bytes is {max_bytes:,}, which the tokens and the smallest maps of {num_heads} heads exceed; "
        "allow more, or look at fewer tokens or layers"
    )


def frame(
    kind: str, *, title: str, source: str, notes: Sequence[str], guide: Sequence[str] = (), reduced: Sequence[str] = ()
) -> PageData:
    """A page of some kind that shows nothing yet."""
    return PageData(
        schema=SCHEMA,
        kind=kind,
        title=title,
        source=source,
        notes=tuple(notes),
        guide=tuple(guide),
        reduced=tuple(reduced),
        ramp=_colours(ramp()),
        signed=_colours(signed_ramp()),
        signed_dark=_colours(signed_ramp(dark=True)),
        floor=FLOOR,
        fine_floor=FINE_FLOOR,
        log_floor=LOG_FLOOR,
    )


def _built(page: PageData, measured: Measured, detail: Detail, selected: tuple[int, int] | None) -> PageData:
    """The whole page at a detail."""
    texts: dict[tuple[str, ...], int] = {}
    groups = tuple(
        _group(group, detail, texts, selected if number == 0 else None) for number, group in enumerate(measured.groups)
    )
    return replace(
        page,
        reduced=tuple(sentences(measured, detail)),
        texts=tuple(packed_text(text, detail.tokens) for text in texts),
        groups=groups,
    )


def _group(
    group: Group, detail: Detail, texts: dict[tuple[str, ...], int], selected: tuple[int, int] | None
) -> GroupData:
    sizes, first = Sizes.of(group, detail), best(group.table)
    scored = iter(group.table.heads)
    heads = [
        _head(group, measure, head, next(scored), sizes, detail)
        for measure in group.measures
        for head in range(len(measure.mean))
    ]
    shown = group.shown
    return GroupData(
        name=group.name,
        query_len=group.query_len,
        key_len=group.key_len,
        shift=shown.shift,
        query_tokens=_index(texts, shown.query_tokens),
        key_tokens=_index(texts, shown.key_tokens),
        rows=sizes.rows,
        cols=sizes.cols,
        depth=sizes.depth,
        max=sizes.max,
        margins=sizes.margins,
        thumbnail=sizes.thumbnail,
        top=sizes.top,
        most_read=group.measures[0].most_read.shape[-1],
        queries=packed(longs(kept_queries(group, detail))),
        statistics=_statistics(group.table),
        selected=selected or (first.layer, first.head),
        layers=group.names,
        # What is NaN is drawn as forbidden: then that means something.
        masked=any(layer.mask is not None for layer in group.layers)
        or any(bool(measure.spoilt.any()) for measure in group.measures),
        thumbnails=packed(b"".join(thumbnails(group, measure, sizes) for measure in group.measures)),
        heads=tuple(heads),
    )


def _head(group: Group, measure: LayerMeasure, head: int, scores: HeadScores, sizes: Sizes, detail: Detail) -> HeadData:
    windows = kept_windows(measure.windows[head], sizes, detail)
    margins, highest = margins_part(measure, head, sizes)
    longer, shorter = queries_part(group, measure, head, sizes, detail)
    content = (
        longer,
        shorter,
        first_part(group, measure, head, sizes),
        margins,
        windows_part(windows),
        mean_part(group, measure, head, sizes),
        max_part(group, measure, head, sizes),
    )
    left = None
    if group.key_len > 1:
        others = measure.margins.scores_left[head]
        left = {"scores": _known(others), "top_key": others.top_key, "entropy_max": highest.entropy_left}
    return HeadData(
        layer=scores.layer,
        head=scores.head,
        scores=_known(scores),
        top_key=scores.top_key,
        entropy_max=highest.entropy,
        received_max=highest.received,
        peak_max=highest.peak,
        without_first=left,
        highest=float(measure.highest[head]),
        windows=tuple(
            {
                "name": each.name,
                "query": each.query,
                "key": each.key,
                "rows": each.values.shape[0],
                "cols": each.values.shape[1],
            }
            for each in windows
        ),
        data=packed(b"".join(content)),
    )


def _index(texts: dict[tuple[str, ...], int], text: tuple[str, ...] | None) -> int | None:
    return None if text is None else texts.setdefault(text, len(texts))


def _statistics(table: HeadTable) -> tuple[dict[str, str | int | bool], ...]:
    """The scores that this table has."""
    known = [row for row in _STATISTICS if any(_finite(getattr(scores, row[0])) is not None for scores in table.heads)]
    names = ("name", "label", "unit", "decimals", "about", "low_first")
    return tuple(dict(zip(names, row, strict=True)) for row in known)


def _colours(colours: Sequence[tuple[int, int, int]]) -> str:
    return base64.b64encode(bytes(channel for colour in colours for channel in colour)).decode("ascii")


def _known(scores: HeadScores) -> dict[str, float | None]:
    return {name: _finite(getattr(scores, name)) for name in SCORES}


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
