"""The ranked sources of an answer: rows, in words, in colours, and as a file."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

from torch import Tensor

__all__ = ["DocumentShare", "SourceToken", "Sources"]

HEAD = ("rank", "position", "token", "share", "most by", "document")
DOCUMENT_HEAD = ("document", "share", "tokens")
COLUMNS = ("rank", "position", "token", "share", "layer", "head", "carried", "module", "document")

# Documents that are printed, of more.
MOST_DOCUMENTS = 20


@dataclass(frozen=True)
class SourceToken:
    """One source of an answer.

    Attributes:
        rank: from 1, the largest share first.
        position: which key, from 0.
        token: its text, or "" where no tokens were given.
        share: the part of the answer's attention that ends at it, 0 to 1.
        layer: of the head that carried the most of it, from 0; None where no head carried anything.
        head: that head.
        carried: how much it carried, a part of share.
        module: the name of the module of that layer, or "".
        document: the document that it belongs to, or None.
    """

    rank: int
    position: int
    token: str
    share: float
    layer: int | None
    head: int | None
    carried: float
    module: str
    document: int | None


@dataclass(frozen=True)
class DocumentShare:
    """One document's part of an answer's attention.

    Attributes:
        document: its id.
        share: the sum of its tokens' shares.
        tokens: how many tokens it has.
    """

    document: int
    share: float
    tokens: int


class Sources:
    """What an answer's tokens attended to, the largest share first: a sequence of :class:`SourceToken`.

    Attributes:
        rows: the rows.
        documents: the parts of the documents, the largest first; empty where no documents were given.
        shares: (S,) the share of every key, also of those that no row shows.
        queries: the answer's queries, from 0.
        how: how the shares were computed, in words.
    """

    def __init__(
        self,
        rows: tuple[SourceToken, ...],
        documents: tuple[DocumentShare, ...],
        *,
        shares: Tensor,
        queries: tuple[int, ...],
        how: str,
    ) -> None:
        self.rows = rows
        self.documents = documents
        self.shares = shares
        self.queries = queries
        self.how = how

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[SourceToken]:
        return iter(self.rows)

    @overload
    def __getitem__(self, index: int) -> SourceToken: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[SourceToken, ...]: ...

    def __getitem__(self, index: int | slice) -> SourceToken | tuple[SourceToken, ...]:
        return self.rows[index]

    def to_csv(self, path: str | os.PathLike[str]) -> Path:
        r"""Writes the rows to a file of comma-separated values in UTF-8, whole or not at all.

        Half of a pair of surrogates, which UTF-8 has not, is spelled out: ``\ud83d``.

        Args:
            path: where to write.

        Returns:
            The path written.

        Raises:
            ValueError: path cannot be written.
        """
        from regard.look.files import write_atomically

        text = io.StringIO(newline="")
        lines = csv.writer(text, lineterminator="\n")
        lines.writerow(COLUMNS)
        for row in self.rows:
            values = (getattr(row, name) for name in COLUMNS)
            lines.writerow("" if value is None else value for value in values)
        return write_atomically(path, text.getvalue().encode("utf-8", errors="backslashreplace"))

    def __repr__(self) -> str:
        parts = [f"{self._title()}\n{_aligned(self._head(), self._cells())}"]
        if self.documents:
            parts.append(_aligned(DOCUMENT_HEAD, self._document_cells()) + self._documents_left_out())
        return "\n\n".join(parts)

    def __rich__(self) -> Any:
        from regard.look.extras import extra

        box, text = extra("rich.box"), extra("rich.text").Text

        def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> Any:
            made = extra("rich.table").Table(box=box.SIMPLE_HEAD, pad_edge=False)
            for name in head:
                made.add_column(name, justify="left" if name in ("token", "most by") else "right", no_wrap=True)
            for row in rows:
                made.add_row(*map(text, row))
            return made

        parts = [text(self._title(), style="bold"), table(self._head(), self._cells())]
        if self.documents:
            parts += [table(DOCUMENT_HEAD, self._document_cells()), text(self._documents_left_out().strip())]
        return extra("rich.console").Group(*parts)

    def _title(self) -> str:
        queries, listed = self.queries, sum(row.share for row in self.rows)
        whole = queries == tuple(range(queries[0], queries[-1] + 1))
        named = f"{queries[0]} to {queries[-1]}" if whole and len(queries) > 2 else ", ".join(map(str, queries[:8]))
        named += f" and {len(queries) - 8} more" if len(queries) > 8 and not whole else ""
        return (
            f"What {'query' if len(queries) == 1 else 'queries'} {named} attended to ({self.how}): "
            f"{len(self.rows):,} of {len(self.shares):,} tokens, {listed:.3f} of {float(self.shares.sum()):.3f}"
        )

    def _head(self) -> tuple[str, ...]:
        return HEAD if self.documents else HEAD[:-1]

    def _cells(self) -> list[tuple[str, ...]]:
        from regard.look.wording import visible

        cells: list[tuple[str, ...]] = []
        for row in self.rows:
            by = "-" if row.layer is None else f"layer {row.layer}, head {row.head} ({row.carried:.4f})"
            cell = (str(row.rank), str(row.position), visible(row.token, 24), f"{row.share:.4f}", by)
            cells.append((*cell, str(row.document)) if self.documents else cell)
        return cells

    def _document_cells(self) -> list[tuple[str, ...]]:
        shown = self.documents[:MOST_DOCUMENTS]
        return [(str(part.document), f"{part.share:.4f}", f"{part.tokens:,}") for part in shown]

    def _documents_left_out(self) -> str:
        more = len(self.documents) - MOST_DOCUMENTS
        return f"\n... and {more:,} more documents" if more > 0 else ""


def _aligned(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A table in characters: numbers to the right, words to the left."""
    lines = [head, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(head))]
    left = [name in ("token", "most by") for name in head]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if to_left else cell.rjust(width)
            for cell, width, to_left in zip(line, widths, left, strict=True)
        ).rstrip()
        for line in lines
    )
