"""Where training text comes from, and the sequences cut from it.

A batch holds two kinds of sequence. Most are windows of text. The rest are random tokens that repeat with a random
period: text alone does teach a small model to copy, but slowly, and the repetition makes induction heads form early and
clearly. Their first period cannot be predicted, so it does not count towards the loss.
"""

from __future__ import annotations

import os
import platform
import sysconfig
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

IGNORED = -100
"""The target of a position that does not count, as in torch.nn.functional.cross_entropy."""

_FOLDERS_TO_SKIP = {"site-packages", "dist-packages", "__pycache__"}


@dataclass(frozen=True)
class Corpus:
    """The texts of a folder or file.

    Args:
        name: what the corpus is, in words.
        documents: the text of each file.
        skipped: how many files were left out because they are not UTF-8 text.
    """

    name: str
    documents: tuple[str, ...]
    skipped: int = 0


def standard_library() -> Corpus:
    """The source text of the standard library of the running Python, its tests included.

    Example:
        >>> standard_library().name.startswith("the standard library of Python 3.")
        True

    Returns:
        One document a .py file, in order of path.
    """
    folder = Path(sysconfig.get_paths()["stdlib"])
    documents, skipped = _read_folder(folder, suffix=".py")
    return Corpus(f"the standard library of Python {platform.python_version()}", documents, skipped)


def read_corpus(path: str | Path) -> Corpus:
    """The text of one file, or of all files below a folder, hidden ones apart.

    Args:
        path: a UTF-8 text file, or a folder; in a folder, files that are not UTF-8 text are skipped and counted.

    Returns:
        The corpus, named after the last part of the path.

    Raises:
        FileNotFoundError: there is nothing at the path.
        ValueError: the file is binary, or there is no text.
    """
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"text {str(path)!r} does not exist; expected a text file or a folder of them")
    if path.is_dir():
        documents, skipped = _read_folder(path, suffix="")
    else:
        text = _read_text(path)
        if text is None:
            raise ValueError(f"text {str(path)!r} is not UTF-8 text; expected a text file or a folder of them")
        documents, skipped = (text,), 0
    documents = tuple(text for text in documents if text.strip())
    if not documents:
        note = f" ({skipped} binary files skipped)" if skipped else ""
        raise ValueError(f"text {str(path)!r} is empty: no file in it holds text{note}")
    return Corpus(path.resolve().name, documents, skipped)


def _read_folder(folder: Path, *, suffix: str) -> tuple[tuple[str, ...], int]:
    texts: list[str | None] = []
    for parent, names, files in os.walk(folder):
        names[:] = sorted(name for name in names if name not in _FOLDERS_TO_SKIP and not name.startswith("."))
        paths = [Path(parent, name) for name in sorted(files) if name.endswith(suffix) and not name.startswith(".")]
        texts.extend(_read_text(path) for path in paths if path.is_file())
    return tuple(text for text in texts if text is not None), sum(text is None for text in texts)


def _read_text(path: Path) -> str | None:
    data = path.read_bytes()
    # NUL is legal UTF-8, and yet the surest sign of a binary file.
    if b"\0" in data:
        return None
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return None


def shuffled(documents: tuple[str, ...], generator: torch.Generator) -> list[str]:
    """The documents in random order, so that the end of the corpus is a fair sample of it.

    Example:
        >>> sorted(shuffled(("b", "a"), torch.Generator().manual_seed(0)))
        ['a', 'b']
    """
    return [documents[index] for index in torch.randperm(len(documents), generator=generator).tolist()]


def windows(tokens: Tensor, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random windows of a long sequence, with the next token of each position as its target.

    Example:
        >>> inputs, targets = windows(torch.arange(100), 2, 5, torch.Generator().manual_seed(0))
        >>> bool((targets == inputs + 1).all())
        True

    Args:
        tokens: (N,) ids, N more than length.
        count: number of windows, B.
        length: tokens in a window, L.
        generator: source of randomness.

    Returns:
        inputs (B, L) and targets (B, L).
    """
    starts = torch.randint(len(tokens) - length, (count, 1), generator=generator)
    rows = tokens[starts + torch.arange(length + 1)]  # (B, L + 1)
    return rows[:, :-1], rows[:, 1:]


def repeats(vocab_size: int, count: int, length: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Random tokens that repeat, each row with a period between 4 and half its length.

    Example:
        >>> inputs, targets = repeats(1000, 1, 8, torch.Generator().manual_seed(0))
        >>> bool((inputs[:, :4] == inputs[:, 4:]).all()), targets[0, :3].tolist()
        (True, [-100, -100, -100])

    Args:
        vocab_size: tokens are drawn uniformly from this many.
        count: number of rows, B.
        length: tokens in a row, L, at least 8.
        generator: source of randomness.

    Returns:
        inputs (B, L) and targets (B, L), `IGNORED` where the target belongs to the first period.
    """
    period = torch.randint(4, length // 2 + 1, (count, 1), generator=generator)
    drawn = torch.randint(vocab_size, (count, length), generator=generator)
    place = torch.arange(length + 1)  # (L + 1,)
    rows = drawn.gather(1, place % period)  # (B, L + 1)
    return rows[:, :-1], rows[:, 1:].masked_fill(place[1:] < period, IGNORED)
