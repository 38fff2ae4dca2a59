"""Where the figures go: a CSV file, TensorBoard, a function."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

from regard.watch.log_figures import Figures
from regard.watch.log_history import COLUMNS, as_csv, read_csv

__all__ = ["CsvFile", "Function", "Target", "TensorBoard", "To", "targets"]

#: A path, a SummaryWriter, a function of (step, figures), or several of these.
To = str | os.PathLike[str] | Callable[[int, Figures], Any] | Any

# A name that ends so is meant to be a file, and a folder of that name for TensorBoard would surprise.
_FILES = {".json", ".jsonl", ".txt", ".tsv", ".log", ".parquet", ".feather", ".xlsx", ".db", ".npz", ".pt", ".png"}


class Target(Protocol):
    """Something that takes the figures of a step."""

    def begin(self, start: int, *, callback: bool = False) -> list[Figures]:
        """What it holds of the steps before ``start``; refuses what is another run's, in words for ``callback``."""
        ...

    def write(self, figures: Figures) -> None:
        """Takes one step."""
        ...

    def close(self) -> None:
        """No more steps come."""
        ...


class CsvFile:
    """One row a step, layer and head; each step is handed to the system when it has been written."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._start = 0
        self._joined = False
        self._found = b""  # what the file held at the beginning
        self._size = 0  # of the file, as this object left it

    def begin(self, start: int, *, callback: bool = False) -> list[Figures]:
        """Reads the file, and refuses it if it is none of a log's, or another run's."""
        if self.path.is_dir():
            raise ValueError(f"to={str(self.path)!r} is a folder; expected the path of a CSV file")
        # A training that is started again, with smaller batches say, replaces the rows that this object wrote.
        own = self._joined and self._now() == self._size
        self._start, self._joined = start, False
        self._found = self._bytes()
        steps = self._before()
        if steps and start == 0 and not own:
            how = (
                "resume the training from its checkpoint to continue the file"
                if callback
                else "or the step that training resumes at, start=..., to continue the file"
            )
            raise ValueError(
                f"{self.path} holds the steps up to {steps[-1].step} of another run, and this one starts at 0: give "
                f"another path, {'or ' if callback else ''}{how}"
            )
        return [figures for figures in steps if figures.step < start]

    def write(self, figures: Figures) -> None:
        """Appends the rows of a step."""
        try:
            if not self._joined or not self._now():
                self._join(figures)
            else:
                self._append(figures)
        except OSError as error:
            what = f"the log of step {figures.step} could not be written: {error.strerror or error}"
            raise OSError(error.errno, what, str(self.path)) from error
        self._size = self._now()

    def close(self) -> None:
        """Nothing is open."""

    def _now(self) -> int:
        return self.path.stat().st_size if self.path.exists() else 0

    def _bytes(self) -> bytes:
        return hashlib.sha256(self.path.read_bytes()).digest() if self._now() else b""

    def _before(self) -> list[Figures]:
        return read_csv(self.path) if self._now() else []

    def _append(self, figures: Figures) -> None:
        if self._now() != self._size:
            raise self._shared(figures)
        try:
            # Opened for each step: what was written survives the process, and nobody has to close anything.
            with self.path.open("a", encoding="utf-8", newline="") as file:
                file.write(as_csv(figures))
        except OSError:
            with suppress(OSError):  # a part of a step is worth nothing
                os.truncate(self.path, self._size)
            raise

    def _join(self, figures: Figures) -> None:
        """The first step: on a new file, or after those of the old one that are not trained again."""
        from regard.look.files import write_atomically

        if not self._joined and self._now() and self._bytes() != self._found:
            raise self._shared(figures)
        kept = [as_csv(old) for old in self._before() if old.step < self._start]
        lines = [",".join(COLUMNS) + "\n", *kept, as_csv(figures)]
        write_atomically(self.path, "".join(lines).encode())
        self._joined = True

    def _shared(self, figures: Figures) -> RuntimeError:
        return RuntimeError(
            f"{self.path} has changed since this log began or last wrote to it, and step {figures.step} is not "
            "written: another log or callback writes to the same file; give each a path of its own"
        )


class TensorBoard:
    """Scalars of the model and of each layer; the heads one by one would be thousands of curves."""

    def __init__(self, given: Any) -> None:
        self._folder = given if isinstance(given, str | os.PathLike) else None
        self._writer: Any = None if self._folder is not None else given
        self._start = 0
        if self._folder is not None:
            if Path(self._folder).is_file():
                raise ValueError(f"to={os.fspath(self._folder)!r} is a file; expected a .csv file, or a folder")
            self._class = summary_writer()

    def begin(self, start: int, *, callback: bool = False) -> list[Figures]:
        """Holds nothing that can be read."""
        self._start = start
        return []

    def write(self, figures: Figures) -> None:
        """Adds the scalars of a step."""
        if self._writer is None and self._folder is not None:
            # What TensorBoard holds from this step on is of a run that was resumed before it: purged from its display.
            purge = self._start if self._start else None
            self._writer = self._class(os.fspath(self._folder), purge_step=purge)
        for tag, value in figures.scalars().items():
            self._writer.add_scalar(tag, value, figures.step)
        self._writer.flush()

    def close(self) -> None:
        """Closes the writer, unless somebody else made it."""
        if self._folder is not None and self._writer is not None:
            self._writer.close()
            self._writer = None


class Function:
    """A function of (step, figures)."""

    def __init__(self, function: Callable[[int, Figures], Any]) -> None:
        self._function = function

    def begin(self, start: int, *, callback: bool = False) -> list[Figures]:
        """Holds nothing."""
        return []

    def write(self, figures: Figures) -> None:
        """Calls it."""
        self._function(figures.step, figures)

    def close(self) -> None:
        """Nothing is open."""


def summary_writer() -> Any:
    """The class SummaryWriter of torch, which needs the package tensorboard."""
    try:
        return import_module("torch.utils.tensorboard").SummaryWriter
    except ImportError as error:
        raise ImportError(
            "a log for TensorBoard needs tensorboard, which is not installed: pip install 'regard[log]'; a path that "
            "ends in .csv needs nothing",
            name="tensorboard",
        ) from error


def targets(to: To | Sequence[To] | None) -> list[Target]:
    """What ``to=`` means.

    Raises:
        TypeError: none of the kinds that it may be.
        ValueError: a path that looks like a file and does not end in .csv.
        ImportError: a folder, and tensorboard is not installed.
    """
    if to is None:
        return []
    if isinstance(to, list | tuple):
        return [target for each in to for target in targets(each)]
    if isinstance(to, str | os.PathLike):
        suffix = Path(to).suffix.lower()
        if suffix == ".csv":
            return [CsvFile(to)]
        if suffix in _FILES or not os.fspath(to):
            raise ValueError(
                f"to={os.fspath(to)!r}: expected a path that ends in .csv, or a folder for TensorBoard; for another "
                "format pass a function of (step, figures)"
            )
        return [TensorBoard(to)]
    if callable(getattr(to, "add_scalar", None)):
        return [TensorBoard(to)]
    if callable(to):
        return [Function(to)]
    raise TypeError(
        "to: expected a path that ends in .csv, a folder or a SummaryWriter for TensorBoard, a function of (step, "
        f"figures), or a list of these, got {type(to).__name__}"
    )
