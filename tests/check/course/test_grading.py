"""Submissions in processes of their own: whatever one does, it has its points so far and the next is graded."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from tests.check.course import faults

from regard.check.course import Grade, grade, grade_folder
from regard.check.course.grader import CHECKS
from regard.check.course.grading import submissions

linux = pytest.mark.skipif(sys.platform != "linux", reason="the memory limit holds on Linux alone")

ALL = sum(check.points for check in CHECKS)
BEFORE_ATTENTION_SCORE = sum(
    check.points
    for check in CHECKS
    if check.task in ("PositionalEncoding", "add_positional_encoding", "att_score", "create_mask")
)


def graded(folder: Path, text: str, **limits) -> Grade:
    path = folder / "solution.py"
    path.write_text(text, encoding="utf-8")
    return grade(path, **{"seconds": 60, "memory_mb": 1000, **limits})


def broken(line: str) -> str:
    """The right solution, with this line first in attention_score, which every task from there on needs."""
    return faults.RIGHT.replace("    return weights_of(Q, K, mask)", f"    {line}\n    return weights_of(Q, K, mask)")


def test_a_folder_of_them(tmp_path: Path):
    for name, text in {
        "a_right.py": faults.RIGHT,
        "b_empty.py": "",
        "c_syntax.py": "def f(:",
        "d_exits.py": "import sys\nsys.exit(0)",
        "e_not_a_notebook.ipynb": "{",
    }.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    seen = []
    grades = grade_folder(tmp_path, memory_mb=1000, progress=lambda path, task: seen.append((path.name, task)))
    found = {found.name: (found.status, found.earned) for found in grades}
    assert found == {
        "a_right.py": ("done", ALL),
        "b_empty.py": ("done", 0),
        "c_syntax.py": ("failed", 0),
        "d_exits.py": ("failed", 0),
        "e_not_a_notebook.ipynb": ("failed", 0),
    }
    remarks = {found.name: found.remark for found in grades}
    assert remarks["a_right.py"] == ""
    assert "c_syntax.py does not import: line 1: SyntaxError" in remarks["c_syntax.py"]
    assert "d_exits.py does not import: line 2: it calls sys.exit()" in remarks["d_exits.py"]
    assert "is not a notebook: it is not valid JSON" in remarks["e_not_a_notebook.ipynb"]
    assert all(len(found.results) == len(CHECKS) for found in grades)
    assert "something called att_score; got nothing of that name" in grades[1].results[16].message
    assert seen[:2] == [("a_right.py", ""), ("a_right.py", "PositionalEncoding")]
    assert seen[-1] == ("e_not_a_notebook.ipynb", "")


def test_one_that_hangs_has_its_points_so_far(tmp_path: Path):
    found = graded(tmp_path, broken("while True: pass"), seconds=2)
    assert (found.status, found.earned) == ("timeout", BEFORE_ATTENTION_SCORE)
    assert found.remark == (
        "ended in attention_score/returns_the_output: it was stopped after 2 seconds, the time it may take; "
        "the points before that count"
    )
    assert found.tasks["att_score"] == (11, 11)
    assert found.tasks["SelfAttention"] == (0, 18)
    messages = {f"{result.task}/{result.check}": result.message for result in found.results}
    assert messages["attention_score/returns_the_output"] == "it was stopped after 2 seconds, the time it may take"
    assert messages["SelfAttention/numbers"] == found.remark


def test_one_that_prints_without_end(tmp_path: Path):
    found = graded(tmp_path, broken("while True: print('y' * 1000)"), seconds=2)
    assert (found.status, found.earned) == ("timeout", BEFORE_ATTENTION_SCORE)


@linux
def test_one_that_takes_all_memory(tmp_path: Path):
    found = graded(tmp_path, broken("kept = [torch.ones(2**24) for _ in range(10**6)]"), memory_mb=500)
    assert (found.status, found.earned) == ("memory", BEFORE_ATTENTION_SCORE)
    assert "it wanted more memory than there is for it (it may take 500 MB)" in found.remark


@linux
def test_one_that_takes_all_memory_while_it_is_imported(tmp_path: Path):
    found = graded(tmp_path, "kept = []\nwhile True: kept.append(bytearray(10**7))", memory_mb=300)
    assert (found.status, found.earned) == ("memory", 0)
    assert found.remark.startswith("ended while it was imported: it wanted more memory")


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_one_that_brings_the_interpreter_down(tmp_path: Path):
    found = graded(tmp_path, "import ctypes\n" + broken("ctypes.string_at(0)"))
    assert (found.status, found.earned) == ("crashed", BEFORE_ATTENTION_SCORE)
    assert "a segmentation fault (SIGSEGV) ended the process" in found.remark


def test_modules_beside_it_can_be_imported_when_it_is_called(tmp_path: Path):
    (tmp_path / "beside.py").write_text("import torch\ndef mask(n): return torch.ones(n, n, dtype=torch.bool).tril()")
    found = graded(
        tmp_path, "def create_mask(n):\n    from beside import mask\n    return mask(n)", only=["create_mask"]
    )
    assert (found.earned, found.points) == (4, 4)


def test_which_files_are_submissions(tmp_path: Path):
    for name, text in {
        "ada.py": "",
        "bob.ipynb": "",
        "notes.txt": "",
        ".hidden.py": "",
        "carol/solution.py": "def att_score(): pass",
        "carol/helper.py": "",
        "dan/work.py": "",
        ".ipynb_checkpoints/bob.ipynb": "",
        "__pycache__/ada.py": "",
        "erin/deep/solution.py": "",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    found = [path.relative_to(tmp_path).as_posix() for path in submissions(tmp_path)]
    assert found == ["ada.py", "bob.ipynb", "carol/solution.py", "dan/work.py"]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(ValueError, match=r"there is no \.py or \.ipynb file in .*, nor in a folder in it"):
        submissions(tmp_path / "nothing")


def test_no_such_file(tmp_path: Path):
    with pytest.raises(ValueError, match="there is no"):
        grade(tmp_path / "nobody.py")
