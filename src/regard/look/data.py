"""The data of the page, as plain values: what is shown, and nothing about how.

Its JSON form is the boundary between regard and the page, and SCHEMA names its version. "packed" is base64 of deflated
bytes, little-endian. Letters: L queries, S keys; R x C cells of the mean map; N queries kept exactly, K keys of each;
P most read keys. Cell r of R covers the queries ``r * L // R`` up to ``(r + 1) * L // R``; all other cells likewise.

    schema, kind                "attention", "encoding" or "mask"
    title, source               texts
    notes, guide, reduced       sentences: what to know, where to look, what was made coarser to fit
    ramp                        base64 of 256 x RGB, no weight to all the weight
    signed, signed_dark         base64 of 256 x RGB, -1 to +1 on light and on dark paper
    floor, fine_floor           the weights of code 1 in 8 and in 16 bits; log_floor: where the log scale starts
    live                        null, or the path that a live server answers under
    texts                       packed JSON lists of tokens
    groups                      what is shown together: all of one L and S (kind "attention")
    encoding, mask              of the other kinds

A group has name; query_len, key_len; shift (S - L, or null where queries and keys are different texts); query_tokens
and key_tokens (which text, or null); rows, cols, depth (8 or 16 bits) of the mean map; max ([rows, cols], [0, 0] where
there is none); margins ([queries, keys]); thumbnail; top (K); most_read (P); queries (packed uint32 N); statistics;
selected; layers (names); masked (whether what is forbidden is known); thumbnails (packed, heads x T x T); and heads.

A head has layer, head, scores, top_key; entropy_max, received_max, peak_max (of code 65535); without_first ({scores,
top_key, entropy_max}: the same of the weights without key 0, A_ij / (1 - A_i0); null where there is no other key);
highest (its largest weight); windows ([{name, query, key, rows, cols}], kept pair by pair); and data, packed, one after
the other

    uint32   N x K   the keys that each exact query gives most to; 0xFFFFFFFF where it reads fewer
    uint32   P       the most read keys, the most read first
    float32  P       what they receive
    float32  N       the entropy of the exact queries, then their total weight, then their weight on key 0: 3 x N
    uint16   N x K   the weights of those keys
    uint16   N       the weight of the exact queries on all other keys, without key 0
    uint16   N       the entropy of the exact queries without key 0; linear, of without_first.entropy_max
    uint16   R       the weight on key 0, averaged over the queries of a cell
    uint16           entropy of the queries, averaged over a cell; linear, of entropy_max
    uint16           entropy of the queries without key 0, likewise; a query that has nothing left counts 0
    uint16           received of the keys, averaged over a cell; of received_max, on the scale of 16-bit weights
    uint16           the most received of a cell; of peak_max, likewise
    uint16           every window, rows x cols
    uint8 or 16      R x C: the mean map, summed over the keys of a cell and averaged over its queries
    uint8            the max map: the largest weight of a cell

Nothing in it grows with L times S: a longer text has coarser cells, and only its tokens take more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Any

SCHEMA = "regard.look/3"


@dataclass(frozen=True)
class HeadData:
    """One head of the page; the fields are described above."""

    layer: int
    head: int
    scores: dict[str, float | None]
    top_key: int
    entropy_max: float
    received_max: float
    peak_max: float
    highest: float
    windows: tuple[dict[str, str | int], ...]
    data: str
    without_first: dict[str, Any] | None


@dataclass(frozen=True)
class GroupData:
    """The heads of one L and S; the fields are described above."""

    name: str
    query_len: int
    key_len: int
    shift: int | None
    query_tokens: int | None
    key_tokens: int | None
    rows: int
    cols: int
    depth: int
    max: tuple[int, int]
    margins: tuple[int, int]
    thumbnail: tuple[int, int]
    top: int
    most_read: int
    queries: str
    statistics: tuple[dict[str, str | int | bool], ...]
    selected: tuple[int, int]
    layers: tuple[str, ...]
    masked: bool
    thumbnails: str
    heads: tuple[HeadData, ...]


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows; the fields are described above."""

    schema: str
    kind: str
    title: str
    source: str
    notes: tuple[str, ...]
    guide: tuple[str, ...]
    reduced: tuple[str, ...]
    ramp: str
    signed: str
    signed_dark: str
    floor: float
    fine_floor: float
    log_floor: float
    texts: tuple[str, ...] = ()
    groups: tuple[GroupData, ...] = ()
    encoding: dict[str, Any] | None = None
    mask: dict[str, Any] | None = None
    live: str | None = None

    def to_json(self) -> str:
        """The data as JSON that can stand in a script element whatever the tokens hold: in ASCII, without a "<"."""
        text = json.dumps(asdict(self), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")
