"""What is wrong with the arguments of look(), said where they were given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

__all__ = ["check_batch", "check_given", "check_words"]


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
    if isinstance(max_bytes, bool) or not isinstance(max_bytes, int):
        raise TypeError(f"max_bytes is {max_bytes!r}; expected an integer, such as 2_000_000, or None")
    if max_bytes < 1:
        raise ValueError(f"max_bytes is {max_bytes}; expected a number of bytes, such as 2_000_000, or None")


def check_batch(batch: Any) -> None:
    """The sequence is named by its number.

    Raises:
        TypeError: it is not.
    """
    if isinstance(batch, bool) or not isinstance(batch, int):
        raise TypeError(f"batch is {batch!r}; expected the number of one sequence, from 0")


def check_given(weights: Any) -> None:
    """Several watches have names, which their tabs take.

    Raises:
        TypeError: they stand in a list.
    """
    from regard.watch import Seen

    if isinstance(weights, list | tuple) and any(isinstance(each, Seen) for each in weights):
        raise TypeError(
            "weights is a list of what regard.watch gave; pass one by itself, or a mapping of names to several: "
            '{"before": seen, "after": other}'
        )
