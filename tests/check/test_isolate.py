"""A child that does anything at all leaves the parent whole, with an outcome that says what happened."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import textwrap
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from regard.check import isolate
from regard.check.child import is_out_of_memory
from regard.check.isolate import Outcome, run_isolated

linux = pytest.mark.skipif(sys.platform != "linux", reason="the memory limit holds on Linux alone")
posix = pytest.mark.skipif(sys.platform == "win32", reason="signals and groups of processes")


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


def run(name: str, *, seconds: float = 30, memory_mb: int | None = None, progress=None, **payload: object) -> Outcome:
    return run_isolated(f"isolated_subjects:{name}", payload, seconds=seconds, memory_mb=memory_mb, progress=progress)


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def assert_gone(pid: int) -> None:
    for _ in range(200):
        if not is_alive(pid):
            return
        time.sleep(0.01)  # a process that was killed is taken down by the system in its own time
    raise AssertionError(f"process {pid} still runs")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_done():
    seen: list[dict] = []
    outcome = run("echo", progress=seen.append, question=[1, 2.5, "é", None])
    assert outcome.status == "done"
    assert outcome.value["payload"] == {"question": [1, 2.5, "é", None]}
    assert outcome.value["stdin"] == ""
    assert outcome.value["pid"] != os.getpid()
    assert seen == [{"step": 1}, {"step": 2}]
    assert (outcome.stdout, outcome.stderr) == ("on stdout, é\n", "on stderr\n")
    assert (outcome.reason, outcome.exit_code) == ("", 0)
    assert 0 < outcome.seconds < 30


def test_where_it_runs():
    outcome = run("where")
    assert (outcome.value["cwd"], outcome.value["path"]) == (str(Path.cwd()), sys.path)


CRASHES = [
    ("raises", {}, "KeyError: 'no such key'"),
    ("leaves", {"code": 3}, "it called sys.exit(3)"),
    ("leaves", {}, "it called sys.exit()"),
    ("leaves_at_once", {}, "the process ended with exit code 7 before there was a result"),
    ("not_json", {}, "isolated_subjects:not_json returned what JSON cannot hold: Object of type Tensor is not"),
    ("no_such_function", {}, "AttributeError: module 'isolated_subjects' has no attribute 'no_such_function'"),
    ("segfault", {}, "a segmentation fault (SIGSEGV) ended the process"),
    ("aborts", {}, "the signal SIGABRT ended the process"),
]


@posix
def test_crashed():
    with ThreadPoolExecutor(4) as pool:  # from several threads at once, too
        outcomes = list(pool.map(lambda case: run(case[0], **case[1]), CRASHES))
    for (name, _, reason), outcome in zip(CRASHES, outcomes, strict=True):
        assert (name, outcome.status, outcome.value) == (name, "crashed", None)
        assert outcome.reason.startswith(reason)
    said = dict(zip((name for name, _, _ in CRASHES), outcomes, strict=True))
    assert (said["leaves_at_once"].stdout, said["leaves_at_once"].exit_code) == ("last words\n", 7)
    assert said["segfault"].stdout == "before the fall\n"
    assert said["raises"].stderr.startswith("Traceback")
    assert "isolated_subjects.py" in said["raises"].stderr


def test_none_is_a_result():
    assert run("nothing") == Outcome("done", None, "", "", pytest.approx(1, abs=30), 0, "")


@posix
def test_time_is_up():
    seen: list[dict] = []
    outcome = run("hangs", seconds=0.5, progress=seen.append)
    assert outcome.status == "timeout"
    assert outcome.reason == "it was stopped after 0.5 seconds, the time it may take"
    assert seen == [{"earned": 3}]
    assert outcome.stdout == "about to hang\n"
    assert outcome.exit_code is None
    assert 0.5 <= outcome.seconds < 5


@linux
def test_all_that_it_started_dies_with_it():
    seen: list[dict] = []
    assert run("hangs_stubbornly", seconds=1, progress=seen.append).status == "timeout"
    assert len(seen[0]["pids"]) == 2
    for pid in seen[0]["pids"]:
        assert_gone(pid)


@linux
@pytest.mark.parametrize(("name", "status"), [("leaves_a_helper", "done"), ("falls_with_a_helper", "crashed")])
def test_helpers_that_hold_the_pipes(name: str, status: str):
    seen: list[dict] = []
    outcome = run(name, progress=seen.append)
    assert outcome.status == status
    assert outcome.seconds < 10
    assert_gone(seen[0]["pids"][0])


def test_a_thread_that_goes_on_does_not_keep_it():
    assert run("leaves_a_thread").status == "done"


def test_printing_without_end():
    outcome = run("prints_without_end", seconds=1)
    assert outcome.status == "timeout"
    assert len(outcome.stdout) < isolate.KEPT_BYTES + 100
    assert "bytes dropped ...]" in outcome.stdout


def test_of_long_output_the_beginning_and_the_end_are_kept():
    outcome = run("prints_a_lot")
    assert outcome.status == "done"
    assert outcome.stdout.startswith("the beginning\nxxx")
    assert outcome.stdout.endswith("xxx\nthe end\n")
    printed = 50 * 10_001 + len("the beginning\nthe end\n")
    assert f"[... {printed - isolate.KEPT_BYTES:,} bytes dropped ...]" in outcome.stdout
    assert f"[... {50 * 10_001 - isolate.KEPT_BYTES:,} bytes dropped ...]" in outcome.stderr


def test_its_last_words_are_waited_for_on_a_busy_machine(monkeypatch: pytest.MonkeyPatch):
    take, looked = isolate._Lines.take, threading.Event()
    poll = subprocess.Popen.poll

    def polled(self: subprocess.Popen[bytes]) -> int | None:
        code = poll(self)
        if code is not None:  # the parent has seen it gone, and only now are its words read
            looked.set()
        return code

    def late(self: isolate._Lines, chunk: bytes) -> None:
        if b"ready" not in chunk:
            looked.wait(30)
        take(self, chunk)

    monkeypatch.setattr(subprocess.Popen, "poll", polled)
    monkeypatch.setattr(isolate._Lines, "take", late)
    monkeypatch.setattr(isolate, "POLL_SECONDS", 1e-6)
    assert run("imitates_the_protocol").value == "true"


def test_what_it_prints_is_not_taken_for_its_result():
    seen: list[dict] = []
    outcome = run("imitates_the_protocol", progress=seen.append)
    assert (outcome.value, seen) == ("true", [])
    assert '"forged"' in outcome.stdout


@posix
def test_writing_into_every_open_file():
    outcome = run("scribbles")
    assert outcome.status == "crashed"
    assert outcome.reason == "it wrote into the pipe that its result comes through"


@posix
def test_closing_every_open_file():
    assert run("closes_everything", seconds=0.5).status == "timeout"


@linux
@pytest.mark.parametrize(("name", "payload"), [("takes_lists", {}), ("takes_a_tensor", {"mb": 2000})])
def test_memory(name: str, payload: dict):
    outcome = run(name, memory_mb=300, **payload)
    assert outcome.status == "memory"
    assert outcome.reason.startswith("it wanted more memory than there is for it (it may take 300 MB): ")


@linux
def test_less_than_the_limit_is_fine():
    assert run("takes_a_tensor", memory_mb=300, mb=150).value == 150 * 2**18
    assert run("uses_threads", memory_mb=100).status == "done"


@posix
def test_killed_by_somebody_else():
    outcome = run("kills_itself")
    assert outcome.status == "memory"
    assert "killed (SIGKILL), most likely by the system for want of memory" in outcome.reason


@linux
def test_an_interrupt_here_ends_it_there():
    seen: list[int] = []

    def interrupt(message: dict) -> None:
        seen.extend(message["pids"])
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run("hangs_stubbornly", progress=interrupt)
    for pid in seen:
        assert_gone(pid)


@linux
def test_nothing_is_left_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    descriptors, threads = open_descriptors(), threading.active_count()
    for name in ("echo", "segfault"):
        run(name)
    run("hangs", seconds=0.2)
    assert list(tmp_path.iterdir()) == []
    assert (open_descriptors(), threading.active_count()) == (descriptors, threads)


def test_from_a_script_without_a_main_guard(tmp_path: Path):
    script = tmp_path / "script.py"
    script.write_text(
        textwrap.dedent("""
        import json, sys
        from regard.check.isolate import run_isolated
        sys.path.insert(0, sys.argv[1])
        print(json.dumps(run_isolated("isolated_subjects:echo", {}, seconds=60, memory_mb=500).value["payload"]))
        """)
    )
    command = [sys.executable, "-W", "error", str(script), str(Path(__file__).parent)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {}
    assert done.stderr == ""


def test_what_it_cannot_be_asked():
    with pytest.raises(ValueError, match=r"expected 'package\.module:function'"):
        run_isolated("json.dumps", {}, seconds=1, memory_mb=None)
    with pytest.raises(ValueError, match="seconds is 0; expected more than 0"):
        run_isolated("json:dumps", {}, seconds=0, memory_mb=None)
    with pytest.raises(ValueError, match="memory_mb is 0; expected at least 1"):
        run_isolated("json:dumps", {}, seconds=1, memory_mb=0)
    with pytest.raises(TypeError, match="not JSON serializable"):
        run_isolated("json:dumps", {"what": object()}, seconds=1, memory_mb=None)


def test_the_words_of_allocators():
    assert is_out_of_memory(RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"))
    assert is_out_of_memory(OSError(12, "Cannot allocate memory"))
    assert not is_out_of_memory(ValueError("out of memory"))
    assert not is_out_of_memory(RuntimeError("shapes do not fit"))
