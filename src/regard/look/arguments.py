"""What is wrong with the arguments of look(), said where they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from regard.look.checks import whole

__all__ = ["check_batch", "check_given", "check_place", "check_places", "check_windows", "check_words"]


def check_words(*, title: Any, source: Any, notes: Any, max_bytes: Any) -> None:
    """What every page is told of itself is text, and its bytes are a number.

    Raises:
        TypeError: something is not.
        ValueError: no bytes are allowed.
    """
    for name, text in (("title", title), ("source", source)):
        if not isinstance(text, str):
            raise TypeError(f"{name} is {text!r}; expected a text")
    if isinstance(notes, str) or not isinstance(notes, Sequence) or not all(isinstance(note, str) for note in notes):
        raise TypeError(f"notes is {notes!r}; expected a list of sentences")
    if max_bytes is None:
        return
    whole("max_bytes", max_bytes, "a number of bytes, such as 2_000_000, or None", least=1)


def check_batch(batch: Any) -> int:
    """The number of a sequence.

    Raises:
        TypeError: it is none.
        ValueError: it is below 0.
    """
    return whole("batch", batch, "the number of one sequence, from 0", least=0)


def check_places(queries: Any, windows: Any) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
    """The queries and windows that were asked for, which may come from what can be read only once.

    Raises:
        TypeError: they are no lists.
    """
    return _read("queries", queries, "numbers of queries, from 0"), _read("windows", windows, "(query, key) pairs")


def _read(name: str, given: Any, kind: str) -> tuple[Any, ...]:
    try:
        return tuple(given)
    except TypeError:
        raise TypeError(f"{name} is {given!r}; expected a list of {kind}") from None


def check_windows(windows: Sequence[Any], query_len: int, key_len: int, most: int) -> tuple[tuple[Any, Any], ...]:
    """The windows with plain integers, each on queries and keys that there are.

    Raises:
        TypeError: something else than pairs of numbers or slices.
        ValueError: a place that is not there, or a slice that holds too many.
    """
    return tuple(_window(place, query_len, key_len, most) for place in windows)


def _window(place: Any, query_len: int, key_len: int, most: int) -> tuple[Any, Any]:
    told = f"windows holds {place!r}"
    if not isinstance(place, tuple) or len(place) != 2:
        raise TypeError(f"{told}; expected (query, key) pairs, each a number or a slice")
    found: list[Any] = []
    for part, length, what in zip(place, (query_len, key_len), ("queries", "keys"), strict=True):
        if not isinstance(part, slice):
            found.append(check_place(part, length, told, what))
            continue
        wanted = f"expected slices of step 1 that hold 1 to {most} of {length:,} {what}, counted from 0"
        try:
            start, stop, step = part.indices(length)
        except TypeError:
            raise TypeError(f"{told}; {wanted}") from None
        below = any(end is not None and end < 0 for end in (part.start, part.stop))
        if below or step != 1 or not 1 <= stop - start <= most:
            raise ValueError(f"{told}; {wanted}")
        found.append(slice(start, stop))
    return found[0], found[1]


def check_place(place: Any, length: int, told: str, what: str) -> int:
    """The number of a query or a key that there is.

    Raises:
        TypeError: it is no integer.
        ValueError: there is no such one.
    """
    try:
        number = whole(what, place, "")
    except TypeError:
        raise TypeError(f"{told}; expected integers, the numbers of {what} from 0") from None
    if not 0 <= number < length:
        raise ValueError(f"{told}, but there are {length:,} {what}; expected 0 to {length - 1:,}")
    return number


def check_given(weights: Any) -> None:
    """Several watches have names, which their tabs take.

    Raises:
        TypeError: they stand in a list.
    """
    from regard.watch import Seen

    for each in weights if isinstance(weights, list | tuple) else (weights,):
        if type(each).__name__ == "ShardedWeights":
            raise TypeError(
                "weights are of a text that is cut over ranks, which no page is made of; ask them for rows() and "
                "pool(), or gather query and key with unshard() and look at regard.attention_weights(query, key, mask)"
            )
    if isinstance(weights, list | tuple) and any(isinstance(each, Seen) for each in weights):
        raise TypeError(
            "weights is a list of what regard.watch gave; pass one by itself, or a mapping of names to several: "
            '{"before": seen, "after": other}'
        )
