from __future__ import annotations

import io
import math

import pytest
from rich.console import Console

from regard import AttentionWeights
from regard.look import HeadScores, HeadTable, head_table, terminal


def written(shown: object, **options: object) -> str:
    file = io.StringIO()
    Console(file=file, **options).print(shown)  # type: ignore[arg-type]
    return file.getvalue()


@pytest.fixture
def scores(layers: list[AttentionWeights]) -> HeadTable:
    return head_table(layers, token_ids=[1, 2, 3] * 4)


def test_a_file_gets_plain_text_of_eighty_columns(scores: HeadTable) -> None:
    text = written(terminal.table(scores))
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 80
    rows = [line.split() for line in text.splitlines() if line.strip()[:1].isdigit()]
    assert [row[:2] for row in rows] == [[str(layer), str(head)] for layer in range(2) for head in range(3)]
    first = scores.heads[0]
    assert rows[0][2:] == [
        f"{first.entropy:.2f}",
        f"{first.previous_token:.2f}",
        f"{first.first_token:.2f}",
        f"{first.induction:.2f}",
        f"{first.distance:.1f}",
    ]


def test_an_ascii_file_gets_ascii(scores: HeadTable) -> None:
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    Console(file=file).print(terminal.table(scores))
    file.flush()
    assert b"entropy" in file.buffer.getvalue()  # type: ignore[attr-defined]


def test_a_terminal_gets_colours(scores: HeadTable) -> None:
    text = written(terminal.table(scores), force_terminal=True, color_system="truecolor", width=100)
    assert "\x1b[" in text
    assert "48;2;" in text


def test_the_lowest_entropy_is_the_darkest() -> None:
    def scored(head: int, entropy: float) -> HeadScores:
        return HeadScores(0, head, entropy, math.nan, math.nan, math.nan, math.nan, math.nan, math.nan, 0)

    shown = terminal.table(HeadTable((scored(0, 0.5), scored(1, 4.0)), None, (), ()))
    sharp, even = list(shown.columns[2].cells)
    assert sharp.style.bgcolor is not None
    assert even.style == ""
    assert [str(cell) for cell in shown.columns[3].cells] == ["-", "-"]


def test_heads_beyond_the_limit_are_counted(scores: HeadTable) -> None:
    text = written(terminal.table(scores, limit=4))
    assert "2 more heads not shown" in text
    assert sum(line.strip()[:1].isdigit() and "more" not in line for line in text.splitlines()) == 4


def test_a_table_of_heads_prints_itself_and_shows_itself_in_a_notebook(scores: HeadTable) -> None:
    assert written(scores) == written(terminal.table(scores))
    bundle = scores._repr_mimebundle_()
    assert "entropy" in bundle["text/html"]
    assert "entropy" in bundle["text/plain"]
