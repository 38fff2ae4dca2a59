"""`regard check` on files that do anything at all: exit codes, one line for what the user can mend, a file or none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from regard import cli

posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and terminals")

SUBJECTS = """
import collections, ctypes, itertools, os, sys, time
import torch


def good(q, k, v, mask=None):
    scores = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, -torch.inf)
    return scores.softmax(-1) @ v


def bad(q, k, v, mask=None):
    return v


def hangs(q, k, v):
    while True:
        pass


def hangs_in_c(q, k, v):
    collections.deque(itertools.repeat(0), maxlen=0)


def allocates(q, k, v):
    kept = []
    while True:
        kept.append(torch.zeros(10**7))


def segfaults(q, k, v):
    ctypes.string_at(0)


def leaves(q, k, v):
    os._exit(0)


def prints(q, k, v):
    while True:
        os.write(1, b"x" * 10000)


def strange_words(q, k, v):
    raise ValueError("\\udcff\\x1b[31m")


def writes_to_every_pipe(q, k, v):
    for number in range(3, 50):
        try:
            os.write(number, b"junk\\n")
        except OSError:
            pass


forked = []


def forks(q, k, v):
    if not forked:
        forked.append(os.fork())
        if not forked[0]:
            time.sleep(1000)
    return good(q, k, v)


number = 3
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(textwrap.dedent(SUBJECTS))
    return tmp_path


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as stop:
        cli.main(["check", *arguments])
    return int(stop.value.code or 0)


ONLY = ("--only", "matches_definition")


def test_a_right_one_exits_with_0_and_a_wrong_one_with_1(folder, capsys):
    assert run("mine.py:good", *ONLY) == 0
    out, err = capsys.readouterr()
    assert out.startswith(
        "regard check: good (function), suite attention, B 2, H 3, L 5, D 8, float32 on cpu, seed 0\n"
    )
    assert out.endswith(": OK\n")
    assert err == ""
    assert run("mine.py:bad", *ONLY, "--json", "new/report.json") == 1
    assert capsys.readouterr().out.endswith(": FAILED\n")
    report = json.loads(Path("new/report.json").read_text())
    assert report["ok"] is False
    assert report["results"][0]["name"] == "matches_definition"
    assert [path.name for path in Path("new").iterdir()] == ["report.json"]


def test_every_option_reaches_the_check(folder, capsys):
    options = ["--sizes", "batch=1,query_len=6", "--dtype", "torch.float64", "--device", "cpu", "--seed", "7"]
    options += ["--suite", "attention", "--only", "Masks", "--declare", "mask=allow", "--declare", "causal=top-left"]
    assert run("mine.py:good", *options, "--seconds", "60", "--memory", "2000") == 0
    out = capsys.readouterr().out
    assert "suite attention, B 1, H 3, L 6, D 8, float64 on cpu, seed 7" in out
    assert "True = may attend (declared)" in out
    assert "mask_polarity" in out
    assert "large_logits" not in out


def test_a_declared_convention_that_does_not_hold_fails(folder):
    assert run("mine.py:good", "--declare", "mask=deny", "--only", "mask_polarity") == 1


MISTAKES = [
    ([], "check what? Name it: regard check file.py:name"),
    (["mine.py"], "'mine.py' names no object; expected mine.py:NAME. It has good, bad, hangs, hangs_in_c"),
    (["mine.py:goood"], "there is no goood in mine.py; did you mean good? It has good, bad"),
    (["mine.py:number"], "subject must be a function, a module or a class, got int"),
    (["nofile.py:good"], "there is no nofile.py"),
    (["no_such_module:good"], "there is no module no_such_module"),
    (["raises.py:f"], "raises.py does not import: line 1: ValueError: at import"),
    (["exits.py:f"], "exits.py does not import: line 1: it calls sys.exit()"),
    (["syntax.py:f"], "syntax.py does not import: line 1: SyntaxError"),
    (
        ["mine.py:good", "--only", "masks_per_hed"],
        "only: the suite attention has no property 'masks_per_hed'; did you mean",
    ),
    (["mine.py:good", "--suite", "atention"], "--suite: there is no 'atention'; did you mean attention?"),
    (["mine.py:good", "--declare", "mask"], "--declare: expected NAME=VALUE, got 'mask'"),
    (["mine.py:good", "--declare", "msk=deny"], "--declare: there is no 'msk'; did you mean mask?"),
    (
        ["mine.py:good", "--declare", "mask=maybe"],
        "--declare: Contract(mask=): expected one of 'allow', 'deny', 'additive', got 'maybe'",
    ),
    (
        ["mine.py:good", "--declare", "heads=x"],
        "--declare: Contract(heads=): expected a whole number of at least 1, got 'x'",
    ),
    (["mine.py:good", "--sizes", "batch"], "--sizes: expected NAME=VALUE, got 'batch'"),
    (["mine.py:good", "--sizes", "bach=2"], "--sizes: there is no 'bach'; did you mean batch?"),
    (["mine.py:good", "--sizes", "batch=2.5"], "--sizes: batch must be a whole number, got '2.5'"),
    (["mine.py:good", "--sizes", "batch=0"], "--sizes: Sizes(batch=): expected at least 1, got 0"),
    (
        ["mine.py:good", "--sizes", "heads=4,kv_heads=3"],
        "sizes: heads must be a multiple of kv_heads, got 4 and 3",
    ),
    (["mine.py:good", "--dtype", "float31"], "--dtype: there is no 'float31'; did you mean float32"),
    (["mine.py:good", "--device", "gpu"], "--device: there is no device 'gpu'; expected cpu, cuda, cuda:1 ..."),
    (["mine.py:good", "--device", "meta"], "device: 'meta' cannot be used here: "),
    (["mine.py:good", "--seconds", "0"], "seconds is 0.0; expected more than 0"),
    (["mine.py:good", "--memory", "0"], "memory_mb is 0; expected at least 1, or None for no limit"),
    (["mine.py:good", "--seed", "-1"], "seed must be from 0 to 2147483648, got -1"),
    (
        ["mine.py:good", "--csv", "a.csv"],
        "--csv: a gradebook is what --suite exercises writes; use --json for a report",
    ),
    (["mine.py:good", "--json", "."], "--json is ., but . is a folder; expected the name of a file"),
    (["--list", "--suite", "nope"], "suite: there is no 'nope'; known: attention, positions, rotary"),
]


@pytest.mark.parametrize(("arguments", "said"), MISTAKES, ids=[" ".join(given) or "nothing" for given, _ in MISTAKES])
def test_a_mistake_is_one_line_on_stderr_and_exits_with_2(folder, capsys, arguments, said):
    Path("raises.py").write_text('raise ValueError("at import")\n')
    Path("exits.py").write_text("import sys; sys.exit(4)\n")
    Path("syntax.py").write_text("def f(:\n")
    writes = ["--json", "report.json"] if "--json" not in arguments and "mine.py" in str(arguments) else []
    assert run(*arguments, *writes) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: {said}")
    assert err.count("\n") == 1
    assert not Path("report.json").exists()


def test_list_names_every_property_and_what_must_hold(capsys):
    assert run("--list") == 0
    out = capsys.readouterr().out
    assert out.startswith("attention: Answers\n  output_shape_and_dtype: The output has the shape")
    assert "\nrotary: " in out
    assert run("--list", "--suite", "rotary") == 0
    assert "attention:" not in capsys.readouterr().out


ENDS = [
    ("hangs", ("--seconds", "2"), "hangs: a plain call (B 2, H 3, L 5, D 8): no answer within 0.6"),
    ("hangs_in_c", ("--seconds", "2"), "it was stopped after 2 seconds, the time it may take, before the first"),
    ("allocates", ("--memory", "500"), "(B 2, H 3, L 5, D 8): ran out of the memory it is allowed"),
    ("segfaults", (), "a segmentation fault (SIGSEGV) ended the process, before the first property"),
    ("leaves", (), "the process ended with exit code 0 before there was a result, before the first property"),
    ("prints", ("--seconds", "2"), "no answer within 0.6"),
    ("strange_words", (), "ValueError: "),
    ("writes_to_every_pipe", (), "it wrote into the pipe that its result comes through, before the first property"),
]


@posix
@pytest.mark.parametrize(("name", "options", "said"), ENDS, ids=[name for name, _, _ in ENDS])
def test_a_subject_that_ends_or_never_ends_is_one_failure(folder, capsys, name, options, said):
    assert run(f"mine.py:{name}", *options, "--json", "report.json") == 1
    out = capsys.readouterr().out
    assert "FAIL can_be_called: " in out
    assert said in out
    assert "0 passed, 1 failed, 0 skipped in" in out
    report = json.loads(Path("report.json").read_text())
    assert (report["ok"], [result["status"] for result in report["results"]]) == (False, ["failed"])
    assert said in report["results"][0]["message"]


def test_a_file_that_hangs_while_it_is_imported(folder, capsys):
    Path("hangs.py").write_text("while True:\n    pass\n")
    assert run("hangs.py:f", "--seconds", "1") == 1
    assert "it was stopped after 1 seconds" in capsys.readouterr().out


@posix
def test_what_a_subject_has_forked_does_not_stay(folder):
    assert run("mine.py:forks", *ONLY) == 0
    assert run("mine.py:good", *ONLY) == 0
    done = subprocess.run(["ps", "-eo", "pid,stat,args"], capture_output=True, text=True, check=True)
    here = [line for line in done.stdout.splitlines() if "regard.check.child" in line and str(folder) in line]
    assert [line for line in here if line.split()[1][0] != "Z"] == []


def check_in(folder: Path, *arguments: str, **options) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "regard", "check", *arguments]
    return subprocess.run(command, cwd=folder, check=False, **options)


def test_no_progress_without_a_terminal_and_stdout_of_a_narrow_encoding(folder):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii:strict"}
    done = check_in(folder, "mine.py:strange_words", capture_output=True, env=environment)
    assert (done.returncode, done.stderr) == (1, b"")
    assert b"ValueError" in done.stdout
    assert b"\x1b" not in done.stdout


@posix
def test_a_progress_line_on_a_terminal(folder):
    import pty

    ours, theirs = pty.openpty()
    done = check_in(folder, "mine.py:good", *ONLY, stdout=subprocess.PIPE, stderr=theirs)
    os.close(theirs)
    shown = os.read(ours, 100_000)
    os.close(ours)
    assert done.returncode == 0
    assert b"matches_definition" in shown
