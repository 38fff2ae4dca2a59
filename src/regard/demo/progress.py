"""Progress of a training run: a live bar on a terminal, plain lines anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import rich.progress


@dataclass(frozen=True)
class Progress:
    """What a training loop reports to.

    Args:
        advance: call after each step with its loss.
        say: call with a line worth keeping.
    """

    advance: Callable[[float], None]
    say: Callable[[str], None]


@contextmanager
def progress(steps: int) -> Iterator[Progress]:
    """Report the progress of a run of so many steps on standard output.

    Example:
        >>> with progress(1) as report:
        ...     report.advance(0.5)
        ...     report.say("done")
        done

    Args:
        steps: the length of the run.

    Yields:
        A `Progress`.
    """
    bar = _bar() if sys.stdout.isatty() else None
    if bar is None:
        yield Progress(advance=lambda loss: None, say=lambda line: print(line, flush=True))
        return
    with bar:
        task = bar.add_task("training", total=steps, loss="")
        yield Progress(
            advance=lambda loss: bar.update(task, advance=1, loss=f"loss {loss:.3f}"),
            # The lines hold brackets and numbers of their own; rich would read them as markup.
            say=lambda line: bar.console.print(line, markup=False, highlight=False),
        )


def _bar() -> rich.progress.Progress | None:
    try:
        from rich import progress
    except ImportError:
        return None
    return progress.Progress(
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        progress.TimeRemainingColumn(),
        progress.TextColumn("{task.fields[loss]}"),
    )
