"""What a run is asked for: refused before anything is timed, where it cannot be done."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from regard.look.files import check_target

__all__ = ["check_settings", "threads_set"]


def check_settings(
    *,
    repeats: int | None = None,
    threads: int | None = None,
    json: Path | None = None,
    figure: Path | None = None,
) -> None:
    """Numbers are at least 1, and files can be written.

    Raises:
        ValueError: naming the option.
        FileNotFoundError: when the folder of a file does not exist.
    """
    for name, number in (("--repeats", repeats), ("--threads", threads)):
        if number is not None and number < 1:
            raise ValueError(f"{name}: got {number}; expected at least 1")
    for name, path in (("--json", json), ("--figure", figure)):
        if path is None:
            continue
        if not path.absolute().parent.exists():
            raise FileNotFoundError(f"{name}: the folder {path.absolute().parent} does not exist")
        check_target(path, name)
    if figure is not None and figure.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise ValueError(f"--figure: got {figure.name!r}; expected a name that ends in .png, .svg or .pdf")


@contextmanager
def threads_set(number: int | None) -> Iterator[None]:
    """Meanwhile torch has this many threads; as many as before if None."""
    before = torch.get_num_threads()
    if number is not None:
        torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)
