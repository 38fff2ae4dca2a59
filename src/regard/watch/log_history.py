"""The figures of all logged steps, and the file they are kept in."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from regard.watch.log_figures import FIGURES, Figures, LayerFigures

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["COLUMNS", "History", "as_csv", "read_csv"]

#: The columns of the file.
COLUMNS = ("step", "layer", "head", *FIGURES, "keys")


class History:
    """The figures of the steps that were logged, in their order: a sequence of :class:`Figures`.

    >>> from regard.watch.log_figures import LayerFigures
    >>> layer = LayerFigures("a", *torch.tensor([[1.0, 2.0], [3.0, 5.0], [0.25, 0.75]]), keys=8)
    >>> history = History([Figures(0, (layer,)), Figures(100, (layer,))])
    >>> len(history), history.steps, history[-1]["a"].max_logit
    (2, [0, 100], tensor([3., 5.]))
    """

    def __init__(self, figures: list[Figures] | None = None) -> None:
        self._figures = list(figures or [])

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> History:
        """What a log wrote to a CSV file.

        Args:
            path: the file.

        Raises:
            ValueError: the file is none of a log's.
        """
        return cls(read_csv(path))

    @property
    def steps(self) -> list[int]:
        """The steps."""
        return [figures.step for figures in self._figures]

    def add(self, figures: Figures) -> None:
        """Append the figures of one more step."""
        self._figures.append(figures)

    def plot(self) -> Figure:
        """Entropy, the smallest head's entropy, max logit and first-token mass over the steps, one line a layer.

        Returns:
            A matplotlib figure; ``.savefig(path)`` writes it.

        Raises:
            ValueError: nothing was logged yet.
            ImportError: matplotlib is not installed.
        """
        from regard.watch.log_plot import draw

        return draw(self)

    def __len__(self) -> int:
        return len(self._figures)

    def __iter__(self) -> Iterator[Figures]:
        return iter(self._figures)

    def __getitem__(self, index: int) -> Figures:
        return self._figures[index]

    def __repr__(self) -> str:
        if not self._figures:
            return "History: nothing logged yet"
        steps, latest = self.steps, self._figures[-1]
        return f"History: {len(steps)} steps from {steps[0]} to {steps[-1]}, {len(latest)} layers\n{latest!r}"


def as_csv(figures: Figures) -> str:
    """The lines of one step."""
    lines = io.StringIO()
    writer = csv.writer(lines, lineterminator="\n")
    for step, layer, head, *numbers, keys in figures.rows():
        writer.writerow([step, layer, head, *(f"{number:.7g}" for number in numbers), keys])
    return lines.getvalue()


def read_csv(path: str | os.PathLike[str]) -> list[Figures]:
    """The steps of a file; a last step that was cut off while it was written counts as not there."""
    rows = _rows(path)
    layers: dict[tuple[int, str], list[list[str]]] = {}
    latest = 0
    for number, row in enumerate(rows, 2):
        if len(row) != len(COLUMNS):
            raise ValueError(f"{path}, line {number}: expected {len(COLUMNS)} columns, got {len(row)}: {row}")
        try:
            step, head, _ = (int(cell) for cell in (row[0], row[2], row[6]))
            for cell in row[3:6]:
                float(cell)
        except ValueError:
            raise ValueError(
                f"{path}, line {number}: expected numbers in all columns but the layer's, got {row}"
            ) from None
        heads = layers.setdefault((step, row[1]), [])
        if head != len(heads):
            # Two runs in one file: read on, the second would pass for more heads of the first.
            raise ValueError(
                f"{path}, line {number}: head {row[2]} of {row[1]} at step {row[0]}, expected head {len(heads)}; a "
                "step is there twice, or lines are missing"
            )
        if step < latest:
            raise ValueError(f"{path}, line {number}: step {step} after step {latest}; expected steps in their order")
        latest = step
        heads.append(row)
    steps: dict[int, list[LayerFigures]] = {}
    for (step, name), lines in layers.items():
        numbers = torch.tensor([[float(cell) for cell in row[3:6]] for row in lines], dtype=torch.float64)  # (H, 3)
        entropy, logit, first = numbers.T  # (H,) each
        steps.setdefault(step, []).append(LayerFigures(name, entropy, logit, first, int(lines[0][6])))
    found = [Figures(step, tuple(told)) for step, told in steps.items()]
    return found[:-1] if _is_torn(found) else found


def _rows(path: str | os.PathLike[str]) -> list[list[str]]:
    """The whole lines below the header."""
    binary = Path(path).read_bytes()
    try:
        text = binary.decode("utf-8-sig")  # a spreadsheet puts a mark before what it saves
        whole = text[: text.rfind("\n") + 1]
        header, *rows = list(csv.reader(io.StringIO(whole))) or [[]]
    except UnicodeDecodeError as error:
        number = binary[: error.start].count(b"\n") + 1
        raise ValueError(f"{path}, line {number}: expected text in UTF-8; it is no file of regard.watch.Log") from None
    except csv.Error as error:
        raise ValueError(f"{path} is no file of regard.watch.Log: {error}") from None
    if tuple(header) != COLUMNS:
        found = ",".join(header) or text[:60]
        raise ValueError(
            f"{path} is no file of regard.watch.Log: its first line is {found!r}, expected {','.join(COLUMNS)!r}; "
            "give another path"
        )
    return rows


def _is_torn(steps: list[Figures]) -> bool:
    """Whether the last step has the first rows of the step before, and not all."""
    if len(steps) < 2:
        return False
    before, last = ([row[1:3] for row in figures.rows()] for figures in steps[-2:])
    return len(last) < len(before) and before[: len(last)] == last
