"""The data of the page, as plain values: what is shown, and nothing about how.

Its JSON form is the boundary between regard and the page, and SCHEMA names its version. For H heads in all, R x C
cells of a map, K = TOP_KEYS and T = THUMBNAIL (or less, for a shorter text), it holds

    schema, title, source, notes        texts
    query_len, key_len                  L and S; rows, cols: R and C; thumbnail: [rows, cols]; top: K
    floor, log_floor                    the weight of code 1; the weight that the log scale starts at
    query_tokens, key_tokens            texts, cut at TOKEN_LENGTH characters; null where they are not known
    guide                               where to look, sentences
    selected                            [layer, head] that is shown first
    statistics                          [{name, label, unit, decimals, about}], the columns that heads can be sorted by
    ramp                                base64 of 256 x (red, green, blue)
    thumbnails                          deflated, base64: H x T x T codes of weights
    heads                               [{layer, head, scores, top_key, entropy_max, received_max, data}]

and a head's data are, deflated and in base64, one after the other

    R x K  uint16   the K columns of each row that hold the most weight, the most first
    R x K  uint16   their weights, 65535 for 1
    R      uint16   the entropy of the queries, averaged over each row, 65535 for entropy_max
    C      uint16   the weight that the keys receive, averaged over each column, 65535 for received_max
    R x C  uint8    the weights: 0 forbidden, 1 at most floor, 255 for 1, and equal ratios between

Nothing in it grows with L times S: a longer text has coarser cells, and only its tokens take more.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

SCHEMA = "regard.look/1"
THUMBNAIL = 32
TOP_KEYS = 5
TOKEN_LENGTH = 100


@dataclass(frozen=True)
class HeadData:
    """One head of the page; the fields are described above."""

    layer: int
    head: int
    scores: dict[str, float | None]
    top_key: int
    entropy_max: float
    received_max: float
    data: str


@dataclass(frozen=True)
class PageData:
    """Everything that the page shows; the fields are described above."""

    schema: str
    title: str
    source: str
    notes: tuple[str, ...]
    query_len: int
    key_len: int
    rows: int
    cols: int
    thumbnail: tuple[int, int]
    top: int
    floor: float
    log_floor: float
    query_tokens: tuple[str, ...] | None
    key_tokens: tuple[str, ...] | None
    guide: tuple[str, ...]
    selected: tuple[int, int]
    statistics: tuple[dict[str, str | int], ...]
    ramp: str
    thumbnails: str
    heads: tuple[HeadData, ...]

    def to_json(self) -> str:
        """The data as JSON that can stand in a script element whatever the tokens hold: in ASCII, without a "<"."""
        text = json.dumps(asdict(self), ensure_ascii=True, allow_nan=False, separators=(",", ":"))
        return text.replace("<", "\\u003c")
