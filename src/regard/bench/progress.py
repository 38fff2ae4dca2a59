"""What a person sees on stderr while it runs: a live line in a terminal with rich, a plain line a case elsewhere."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Any, TextIO

__all__ = ["Progress"]


class Progress:
    """The progress of a run over ``cases`` cases; use as a context manager.

    Args:
        cases: how many there will be.
        stream: where it goes; stderr, so that the table alone is on stdout.
    """

    def __init__(self, cases: int, stream: TextIO | None = None) -> None:
        self.cases = cases
        self.case = ""
        self.number = 0
        self.stream = sys.stderr if stream is None else stream
        self._live = _live_display(self.stream, cases)

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._live.start()
            self._task = self._live.add_task("", total=max(1, self.cases))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def begin(self, case: str) -> None:
        """A case begins."""
        self.number += 1
        self.case = case
        if self._live is None:
            print(f"[{self.number}/{self.cases}] {case}", file=self.stream, flush=True)

    def stage(self, what: str) -> None:
        """The case is at this stage."""
        self._show(f"{self.case}: {what}" if self.case else what, 0.0)

    def advance(self, done: int, of: int) -> None:
        """So many samples of the case are taken."""
        self._show(f"{self.case}: sample {done} of {of}", done / of)

    def _show(self, text: str, share: float) -> None:
        if self._live is not None:
            self._live.update(self._task, description=text, completed=max(0, self.number - 1) + share)


def _live_display(stream: TextIO, cases: int) -> Any:
    if not stream.isatty():
        return None
    try:
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ModuleNotFoundError:
        return None
    columns = (BarColumn(bar_width=24), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    return Bar(*columns, console=Console(file=stream), transient=True)
