"""Grades as text, JSON and CSV, and the command that writes them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tests.check.course import faults

from regard.check.course import Grade, command, to_csv, to_json, to_text
from regard.check.course.grader import Result
from regard.check.course.registry import TASKS

RESULTS = (
    Result("att_score", "pair", 1, 1),
    Result("att_score", "formula", 3, 0, "asked for this; got that", "look there"),
    Result("create_mask", "boolean", 1, 0, "asked for something called create_mask; got nothing", "where is it?"),
    Result(
        "create_mask", "lower_triangle", 2, 0, "asked for something called create_mask; got nothing", "where is it?"
    ),
)
DONE = Grade(Path("ada.py"), "ada.py", "done", RESULTS, "", 1.234)
STOPPED = Grade(
    Path("=cmd.py"),
    "=cmd.py",
    "timeout",
    (RESULTS[0], *(Result(r.task, r.check, r.points, 0, "it was stopped") for r in RESULTS[1:])),
    'it was stopped, "quoted", with commas',
    2.0,
)


def test_the_sums():
    assert (DONE.earned, DONE.points) == (1, 7)
    assert DONE.tasks == {"att_score": (1, 4), "create_mask": (0, 3)}


def test_one_as_text():
    text = to_text([DONE])
    assert text.startswith("ada.py: 1 of 7 points\n\natt_score     1 of  4\ncreate_mask   0 of  3\n")
    assert "att_score, formula: 3 points lost\n  asked for this; got that\n  Hint: look there\n" in text
    assert "create_mask, boolean, lower_triangle: 3 points lost\n  asked for something" in text
    assert "pair" not in text
    assert "That is no sandbox" in text
    assert "heatmap" in text


def test_several_as_text():
    lines = to_text([DONE, STOPPED]).splitlines()
    assert lines[0].split() == ["submission", "1", "2", "total", "remark"]
    assert lines[1].split() == ["ada.py", "1", "0", "1/7"]
    assert lines[2].split()[:4] == ["=cmd.py", "1", "0", "1/7"]
    assert "it was stopped" in lines[2]
    assert "1: att_score (4); 2: create_mask (3)" in lines


def test_as_json():
    document = json.loads(to_json([DONE, STOPPED]))
    assert (document["schema"], document["suite"]) == (1, "exercises")
    first, second = document["submissions"]
    assert {key: first[key] for key in ("name", "status", "earned", "points", "remark", "seconds")} == {
        "name": "ada.py",
        "status": "done",
        "earned": 1,
        "points": 7,
        "remark": "",
        "seconds": 1.23,
    }
    assert first["tasks"][0]["checks"][1] == {
        "name": "formula",
        "earned": 0,
        "points": 3,
        "message": "asked for this; got that",
        "hint": "look there",
    }
    assert second["status"] == "timeout"


def test_as_csv():
    rows = list(csv.reader(io.StringIO(to_csv([DONE, STOPPED]))))
    assert rows == [
        ["submission", "att_score", "create_mask", "total", "out_of", "remark"],
        ["ada.py", "1", "0", "1", "7", ""],
        ["'=cmd.py", "1", "0", "1", "7", 'it was stopped, "quoted", with commas'],  # no formula for a spreadsheet
    ]
    assert to_csv([]) == "submission,total,out_of,remark\n"


def test_the_command_on_a_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    folder, out = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    (folder / "right.py").write_text(faults.RIGHT)
    (folder / "wrong.py").write_text(faults.edited("top row off by one"))
    code = command.run(folder, json=out / "g.json", csv=out / "g.csv", only=["create_mask"], memory_mb=1000)
    assert code == 1
    said = capsys.readouterr()
    assert said.out.splitlines()[1].split() == ["right.py", "4", "4/4"]
    assert "[1/2]" in said.err
    assert "[2/2]" in said.err
    assert [row["total"] for row in csv.DictReader(io.StringIO((out / "g.csv").read_text()))] == ["4", "2"]
    assert len(json.loads((out / "g.json").read_text())["submissions"]) == 2
    assert sorted(path.name for path in out.iterdir()) == ["g.csv", "g.json"]


def test_the_command_on_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "right.py"
    path.write_text(faults.RIGHT)
    assert command.run(path, memory_mb=1000) == 0
    assert capsys.readouterr().out.startswith("right.py: 86 of 86 points\n")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"only": ["attscore"]}, r"there is no task 'attscore'; did you mean att_score\?"),
        ({"only": ["x"]}, f"there is no task 'x'; expected one of {', '.join(TASKS)}"),
        ({"seconds": 0}, "seconds is 0; expected more than 0"),
        ({"memory_mb": 0}, "memory_mb is 0; expected at least 1"),
        ({"json": "."}, r"--json is \., but \. is a folder"),
        ({"csv": "."}, r"--csv is \., but \. is a folder"),
    ],
)
def test_what_the_command_cannot_do(given: dict, said: str):
    with pytest.raises(ValueError, match=said):
        command.run(faults.SUBMISSIONS / "right.py", **given)


def test_no_such_path(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no"):
        command.run(tmp_path / "nobody.py")
    with pytest.raises(ValueError, match=r"there is no \.py or \.ipynb file in"):
        command.run(tmp_path)
