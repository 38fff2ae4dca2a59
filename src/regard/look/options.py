"""The options of `regard look` that need more than their type: what they mean, and what is wrong with them."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from contextlib import contextmanager

from regard.look.serve import check_port

__all__ = ["asked_queries", "check_queries", "check_serving", "most_bytes", "naming_max_mb"]


def asked_queries(given: str | None) -> list[int]:
    """The queries that --queries names.

    Example:
        >>> from regard.look.options import asked_queries
        >>> asked_queries("4711, 12"), asked_queries(None)
        ([4711, 12], [])

    Args:
        given: whole numbers with commas between them, or None.

    Returns:
        The numbers.

    Raises:
        ValueError: it is something else.
    """
    if given is None:
        return []
    parts = [part.strip() for part in given.split(",")]
    if not all(re.fullmatch(r"[0-9]{1,18}", part) for part in parts):
        raise ValueError(f"--queries is {given!r}; expected positions of tokens, counted from 0: --queries 4711,12")
    return [int(part) for part in parts]


def check_queries(queries: list[int], length: int) -> None:
    """The text has tokens at these positions.

    Args:
        queries: positions.
        length: how many tokens were read.

    Raises:
        ValueError: it has not.
    """
    for query in queries:
        if query >= length:
            count = f"{length:,} token{'' if length == 1 else 's'}"
            raise ValueError(
                f"--queries names {query:,}, but {count} of the text are read; expected 0 to {length - 1:,}"
            )


def most_bytes(given: float | None) -> int | None:
    """What --max-mb allows, in bytes.

    Args:
        given: millions of bytes, or None.

    Returns:
        Bytes, or None.

    Raises:
        ValueError: it is no positive number.
    """
    if given is None:
        return None
    if not (math.isfinite(given) and given > 0):
        raise ValueError(f"--max-mb is {given:g}; expected millions of bytes, more than 0: --max-mb 5")
    return int(given * 1_000_000)


@contextmanager
def naming_max_mb(given: float | None) -> Iterator[None]:
    """What is wrong with the number of bytes inside is said of --max-mb, where it was given."""
    try:
        yield
    except ValueError as error:
        if given is None:
            raise
        raise ValueError(f"--max-mb is {given:g}: {error}") from error


def check_serving(port: int | None, *, serve: bool) -> None:
    """The page can be served as it was asked for, as far as can be known before there is one.

    Args:
        port: --port, or None.
        serve: whether --serve was given.

    Raises:
        ValueError: a port without --serve, or one that cannot be listened on.
    """
    if port is not None and not serve:
        raise ValueError(f"--port is {port}, but nothing is served; expected --serve with it")
    if serve:
        try:
            check_port(port or 0)
        except ValueError as error:
            raise ValueError(f"--{error}") from error  # "port is ..." to "--port is ..."
