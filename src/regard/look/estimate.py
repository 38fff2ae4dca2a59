"""About how many bytes a page takes at a detail, from a sample of its heads: a step costs no compression of all."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable
from functools import partial
from typing import TYPE_CHECKING

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
from regard.look.encode import longs, packed
from regard.look.ladder import Detail

if TYPE_CHECKING:
    from regard.look.measure import Group, LayerMeasure, Measured

_LONE = re.compile("[\ud800-\udfff]")

# Heads of a group that stand for all of it.
SAMPLED = 8

# Bytes of JSON beside what is packed: of a head, of one of its windows, and of a group.
HEAD, WINDOW, GROUP = 480, 60, 700


class Estimate:
    """The bytes of the groups and texts of a page; a part that two details have alike is compressed once.

    Args:
        measured: what the page is to show.
    """

    def __init__(self, measured: Measured) -> None:
        self.measured = measured
        self.known: dict[tuple[object, ...], int] = {}
        self.samples = [_sample(group) for group in measured.groups]

    def of(self, detail: Detail) -> int:
        """The bytes at a detail."""
        texts = {text for g in self.measured.groups for text in (g.shown.query_tokens, g.shown.key_tokens) if text}
        total = sum(
            self._once(("text", text, detail.tokens), partial(packed_text, text, detail.tokens)) for text in texts
        )
        for number, group in enumerate(self.measured.groups):
            heads = [self._head(number, group, measure, head, detail) for measure, head in self.samples[number]]
            total += round(sum(heads) / len(heads) * group.num_heads) + GROUP + sum(map(len, group.names))
            queries = kept_queries(group, detail)
            total += self._once(("queries", number, len(queries)), partial(_packed, partial(longs, queries)))
        return total

    def _head(self, number: int, group: Group, measure: LayerMeasure, head: int, detail: Detail) -> float:
        """The bytes of one head, its part of the thumbnails included."""
        sizes = Sizes.of(group, detail)
        windows = kept_windows(measure.windows[head], sizes, detail)

        def exact() -> bytes:
            return b"".join(queries_part(group, measure, head, sizes, detail))

        def margins() -> bytes:
            return margins_part(measure, head, sizes)[0]

        parts: tuple[tuple[tuple[object, ...], Callable[[], bytes]], ...] = (
            (("exact", detail.queries, sizes.top), exact),
            (("first", sizes.rows), partial(first_part, group, measure, head, sizes)),
            (("margins", sizes.margins), margins),
            (("windows", sizes.depth, detail.windows, detail.asked_windows), partial(windows_part, windows)),
            (("mean", sizes.rows, sizes.cols, sizes.depth), partial(mean_part, group, measure, head, sizes)),
            (("max", sizes.max), partial(max_part, group, measure, head, sizes)),
        )
        here = (number, id(measure), head)
        known = sum(self._once((*here, *name), partial(_packed, part)) for name, part in parts)
        small = partial(_packed, partial(thumbnails, group, measure, sizes))
        layer = self._once((number, id(measure), "small", sizes.thumbnail), small)
        return known + layer / len(measure.mean) + HEAD + WINDOW * len(windows)

    def _once(self, name: tuple[object, ...], make: Callable[[], str]) -> int:
        if name not in self.known:
            self.known[name] = len(make())
        return self.known[name]


def _packed(make: Callable[[], bytes]) -> str:
    return packed(make())


def _sample(group: Group) -> list[tuple[LayerMeasure, int]]:
    """Some heads of a group, evenly spread."""
    heads = [(measure, head) for measure in group.measures for head in range(len(measure.mean))]
    count = min(SAMPLED, len(heads))
    return [heads[(2 * n + 1) * len(heads) // (2 * count)] for n in range(count)]


def packed_text(tokens: Iterable[str], length: int) -> str:
    """Tokens, each cut at a length, as the page takes them."""
    # Half a surrogate pair is no text that could be written: it becomes the character that stands for one lost.
    cut = [_LONE.sub("\ufffd", token[:length]) for token in tokens]
    return packed(json.dumps(cut, ensure_ascii=True, separators=(",", ":")).encode("ascii"))
