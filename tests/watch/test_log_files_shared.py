"""The CSV file of a log: what it does when others write to it, and when it is damaged."""

from __future__ import annotations

import errno

import pytest
import torch
from tests.watch.logged_models import HEADS, Model

from regard.watch.log import Log
from regard.watch.log_history import COLUMNS, History

HEADER = ",".join(COLUMNS) + "\n"


def step(log: Log, model: Model) -> None:
    with log:
        model(torch.randn(2, 5, 16))


def rows(number: int, layers: str = "ab", heads: int = 2) -> str:
    return "".join(f"{number},{layer},{head},1,2,0.5,8\n" for layer in layers for head in range(heads))


def test_a_second_log_on_one_file_is_refused_and_takes_nothing(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    one, two = Log(model, every=1, to=path), Log(model, every=1, to=path)
    step(one, model)
    before = path.read_text()
    with pytest.raises(RuntimeError, match="another log or callback writes to the same file; give each a path"):
        step(two, model)
    assert path.read_text() == before
    step(one, model)
    assert History.read(path).steps == [0, 1]


def test_rows_of_somebody_else_between_two_steps(tmp_path):
    path, model = tmp_path / "a.csv", Model(layers=1)
    one = Log(model, every=1, to=path)
    step(one, model)
    step(Log(model, every=1, to=path, start=1), model)
    before = path.read_text()
    with pytest.raises(RuntimeError, match="another log or callback writes to the same file"):
        step(one, model)
    assert path.read_text() == before


@pytest.mark.parametrize("torn", [rows(2, "a"), rows(2, "a", 1), rows(2, "ab")[: -len("2,b,1,1,2,0.5,8\n")]])
def test_a_torn_step_is_dropped(tmp_path, torn):
    path, model = tmp_path / "a.csv", Model(layers=1)
    path.write_text(HEADER + rows(0) + rows(1) + torn)
    assert History.read(path).steps == [0, 1]
    log = Log(model, every=1, to=path, start=3)
    assert log.history.steps == [0, 1]
    step(log, model)
    assert path.read_text().startswith(HEADER + rows(0) + rows(1) + "3,")
    assert len(path.read_text().splitlines()) == 1 + 8 + HEADS


def test_other_layers_in_the_last_step_are_no_tear(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER + rows(0) + rows(1, "b"))
    assert History.read(path).steps == [0, 1]


@pytest.mark.parametrize(
    ("binary", "words"),
    [
        ((HEADER + rows(3) + rows(1)).encode(), r"a\.csv, line 6: step 1 after step 3; expected steps in their order"),
        ((HEADER + rows(0).replace("0.5", "x", 1)).encode(), r"a\.csv, line 2: expected numbers .* got \['0', 'a'"),
        ((HEADER + rows(0).replace("0,a", "?,a", 1)).encode(), r"a\.csv, line 2: expected numbers"),
        (HEADER.encode() + b"0,\xff\xfe,0,1,2,3,4\n", r"a\.csv, line 2: expected text in UTF-8"),
    ],
)
def test_a_damaged_file_is_an_error_that_names_the_line(tmp_path, binary, words):
    path = tmp_path / "a.csv"
    path.write_bytes(binary)
    with pytest.raises(ValueError, match=words):
        History.read(path)


def test_the_mark_that_a_spreadsheet_writes(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text(HEADER + rows(0), encoding="utf-8-sig")
    assert History.read(path).steps == [0]


def test_a_step_that_cannot_be_written_is_not_remembered(tmp_path, monkeypatch):
    path, model = tmp_path / "a.csv", Model(layers=1)
    log = Log(model, every=1, to=path)
    step(log, model)
    before = path.read_text()

    def full(self, *given, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(type(path), "open", full)
        with pytest.raises(OSError, match=r"the log of step 1 could not be written: No space.*a\.csv"):
            step(log, model)
    assert log.history.steps == [0]
    assert path.read_text() == before
    step(log, model)
    assert History.read(path).steps == log.history.steps == [0, 2]


@pytest.mark.parametrize("name", ["entropy_below", "logit_above"])
@pytest.mark.parametrize("value", ["a", True])
def test_bounds_are_numbers(name, value):
    with pytest.raises(TypeError, match=f"{name}: expected a number or None, got {type(value).__name__}"):
        Log(Model(), **{name: value})
