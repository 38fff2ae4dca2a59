"""A Seen to read: a table of its records, as text and as HTML."""

from __future__ import annotations

import html as markup
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from regard.watch.record import Record
    from regard.watch.seen import Seen

__all__ = ["html", "text"]

HEAD = ("", "module", "function", "shape", "mask")
# Rows that are shown, of more: the first and the last.
MOST = 40


def text(seen: Seen) -> str:
    """The table in characters."""
    rows = [HEAD, *_rows(seen)]
    widths = [max(len(row[n]) for row in rows) for n in range(len(HEAD))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([_title(seen), *lines, *_notes(seen)])


def html(seen: Seen) -> str:
    """The table for a notebook."""
    cell = markup.escape
    head = "".join(f"<th>{cell(title)}</th>" for title in HEAD)
    body = "".join("<tr>" + "".join(f"<td>{cell(text)}</td>" for text in row) + "</tr>" for row in _rows(seen))
    notes = "".join(f"<p>{cell(note)}</p>" for note in _notes(seen))
    return f"<p>{cell(_title(seen))}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _title(seen: Seen) -> str:
    n = len(seen)
    steps = len({record.step for record in seen})
    return f"Seen: {n} attention call{'' if n == 1 else 's'}" + (f" in {steps} forwards" if steps > 1 else "")


def _rows(seen: Seen) -> list[tuple[str, ...]]:
    rows = [_row(place, record) for place, record in enumerate(seen)]
    if len(rows) <= MOST:
        return rows
    left_out = ("...", f"{len(rows) - MOST} more", "", "", "")
    return [*rows[: MOST // 2], left_out, *rows[-MOST // 2 :]]


def _row(place: int, record: Record) -> tuple[str, ...]:
    shape = " x ".join(map(str, record.shape))
    return str(place), record.name, record.function, shape, record.mask


def _notes(seen: Seen) -> list[str]:
    if not seen.unseen:
        return []
    return [f"unseen: a softmax by hand in {', '.join(seen.unseen)}"]
