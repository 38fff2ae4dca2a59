"""What the live server answers: tiles and rows of the weights, computed when they are asked for."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from regard.look import tiles

if TYPE_CHECKING:
    from regard.look.opened import Page

__all__ = ["Abandoned", "Answers", "Refused"]

#: The most cells along a side of a tile, the most pairs under it, and the most keys that a row names.
MOST_CELLS = 512
MOST_PAIRS = 1 << 26
MOST_KEYS = 1024

_TILE = ("group", "layer", "head", "q0", "q1", "k0", "k1", "rows", "cols")
_ROW = ("group", "layer", "head", "query", "k")
_BYTES = "application/octet-stream"


class Refused(Exception):
    """A request that is answered with an error: its status, a sentence that says why, and more headers."""

    def __init__(self, status: int, sentence: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(sentence)
        self.status = status
        self.headers = headers


class Abandoned(Exception):
    """Nobody waits for the answer any more."""


@dataclass(frozen=True)
class _Head:
    """A head that was asked for, and the sizes of its map."""

    layer: Any
    number: int
    query_len: int
    key_len: int


class Answers:
    """The page and its numbers, one computation at a time.

    Args:
        page: the page that is served.
        base: the path that its requests begin with.
    """

    def __init__(self, page: Page, base: str) -> None:
        self._page = page
        self._base = base
        self._document: bytes | None = None
        self._lock = threading.Lock()
        self._stopped = False

    def stop(self) -> None:
        """What is being computed is given up at its next block."""
        self._stopped = True

    def answer(self, what: str, query: str, hung_up: Callable[[], bool]) -> tuple[str, bytes]:
        """The kind of an answer and its bytes.

        Args:
            what: the path behind the base: "" for the page, "tile" or "row".
            query: what stands behind the question mark.
            hung_up: whether nobody waits for the answer any more.

        Returns:
            The content type and the content.

        Raises:
            Refused: there is no such thing, it is asked for wrongly, is too much, or cannot be had any more.
            Abandoned: nobody waits for it.
        """
        if what == "":
            with self._lock:
                if self._document is None:
                    self._document = self._page.live_document(self._base).encode("ascii")
            return "text/html; charset=utf-8", self._document
        if what not in ("tile", "row"):
            raise Refused(404, "there is nothing here")
        given = _numbers(query, _TILE if what == "tile" else _ROW)
        head = self._head(given)
        check = _check_tile if what == "tile" else _check_row
        check(head, given)

        def given_up() -> None:
            if self._stopped or hung_up():
                raise Abandoned

        with self._lock:
            given_up()
            try:
                return _BYTES, self._compute(what, head, given, given_up)
            except (ArithmeticError, LookupError, MemoryError, RuntimeError, TypeError, ValueError) as error:
                raise _failed(error) from error

    def _compute(self, what: str, head: _Head, given: Mapping[str, int], given_up: Callable[[], None]) -> bytes:
        place = tiles.Place(head.layer, self._page.batch, head.number)
        if what == "row":
            return tiles.row(place, given["query"], given["k"])
        return tiles.tile(
            place,
            queries=range(given["q0"], given["q1"]),
            keys=range(given["k0"], given["k1"]),
            cells=(given["rows"], given["cols"]),
            between=given_up,
        )

    def _head(self, given: Mapping[str, int]) -> _Head:
        groups: Sequence[Sequence[Any]] = self._page.layers
        layers = groups[_within(given, "group", len(groups))] if groups else ()
        if not layers:
            raise Refused(404, "this page has no heads")
        layer = layers[_within(given, "layer", len(layers))]
        shape = tuple(layer.shape)
        number = _within(given, "head", shape[-3] if len(shape) > 2 else 1)
        return _Head(layer, number, shape[-2], shape[-1])


def _failed(error: Exception) -> Refused:
    """Why the weights cannot be computed, for the page's reader."""
    sentence = " ".join(str(error).split()) or type(error).__name__
    # The weights say so themselves when query, key or a mask that they are computed from was written to since.
    changed = isinstance(error, RuntimeError) and "was written to" in sentence
    return Refused(409, sentence) if changed else Refused(500, f"the weights cannot be computed: {sentence}")


def _numbers(query: str, names: tuple[str, ...]) -> dict[str, int]:
    """The parameters by their names, each there once and a whole number."""
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=True, max_num_fields=len(names))
    except ValueError:
        pairs = []
    if sorted(name for name, _ in pairs) != sorted(names):
        raise Refused(400, f"expected {', '.join(names)}, each once")
    for name, value in pairs:
        if not re.fullmatch(r"[0-9]{1,9}", value):
            raise Refused(400, f"{name} is {value[:20]!a}; expected a whole number")
    return {name: int(value) for name, value in pairs}


def _within(given: Mapping[str, int], name: str, count: int) -> int:
    if given[name] >= count:
        raise Refused(400, f"{name} is {given[name]}; expected 0 to {count - 1}")
    return given[name]


def _check_tile(head: _Head, given: Mapping[str, int]) -> None:
    for start, stop, cells, length in (
        ("q0", "q1", "rows", head.query_len),
        ("k0", "k1", "cols", head.key_len),
    ):
        if not given[start] < given[stop] <= length:
            raise Refused(
                400, f"{start} is {given[start]} and {stop} is {given[stop]}; expected {start} < {stop} <= {length}"
            )
        if given[cells] > MOST_CELLS:
            raise Refused(413, f"{cells} is {given[cells]}; at most {MOST_CELLS} are answered")
        if not 1 <= given[cells] <= given[stop] - given[start]:
            raise Refused(400, f"{cells} is {given[cells]}; expected 1 to {given[stop] - given[start]}")
    pairs = (given["q1"] - given["q0"]) * (given["k1"] - given["k0"])
    if pairs > MOST_PAIRS:
        raise Refused(413, f"the rectangle holds {pairs:,} pairs; at most {MOST_PAIRS:,} are computed")


def _check_row(head: _Head, given: Mapping[str, int]) -> None:
    _within(given, "query", head.query_len)
    if given["k"] > MOST_KEYS:
        raise Refused(413, f"k is {given['k']}; at most {MOST_KEYS} keys are named")
    if head.key_len > MOST_PAIRS:
        raise Refused(413, f"a row holds {head.key_len:,} keys; at most {MOST_PAIRS:,} are computed")
