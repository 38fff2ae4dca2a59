from __future__ import annotations

import os
import stat
import tempfile
import threading
from pathlib import Path

import pytest

from regard.look.extras import extra
from regard.look.files import check_target, obstacle, write_atomically
from regard.look.wording import one_line, visible


def test_a_file_is_written_whole_with_its_folders(tmp_path: Path) -> None:
    path = write_atomically(tmp_path / "a" / "b" / "page.html", b"new")
    assert path.read_bytes() == b"new"
    assert [file.name for file in path.parent.iterdir()] == ["page.html"]


def test_a_new_file_has_the_mode_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "other").write_bytes(b"")
    path = write_atomically(tmp_path / "page.html", b"new")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "other").stat().st_mode)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
def test_what_interrupts_the_writing_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[BaseException]
) -> None:
    path = write_atomically(tmp_path / "page.html", b"old")

    def interrupted(self: Path, target: Path) -> None:
        raise error

    monkeypatch.setattr(Path, "replace", interrupted)
    with pytest.raises(error):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["page.html"]  # noqa: PTH208 (hidden files too)


def test_a_path_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    expected = "expected the name of a file in a folder that may be written to"
    with pytest.raises(ValueError, match=rf"path is {tmp_path}, but {tmp_path} is a folder; {expected}"):
        write_atomically(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=rf"path is .*page.html, but {tmp_path}/file is a file; {expected}"):
        write_atomically(tmp_path / "file" / "page.html", b"")
    with pytest.raises(ValueError, match=rf"--json is {tmp_path}, but {tmp_path} is a folder; {expected}"):
        check_target(tmp_path, "--json")


def test_a_folder_that_may_not_be_written_to_is_an_obstacle(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*, dir: Path) -> None:  # noqa: A002 (the name that tempfile gave it)
        assert dir == tmp_path
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    found = f"{tmp_path} may not be written to (Permission denied)"
    assert obstacle(tmp_path / "page.html") == obstacle(tmp_path / "new" / "deep" / "page.html") == found


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_only_seems_writable_is_an_obstacle() -> None:
    assert (obstacle("/proc/new/page.html") or "").startswith("/proc may not be written to (")


def test_looking_for_obstacles_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(b"old")
    assert obstacle(tmp_path / "new" / "page.html") is None
    assert obstacle(tmp_path / "old") is None
    assert os.listdir(tmp_path) == ["old"]  # noqa: PTH208 (hidden files too)
    assert (tmp_path / "old").read_bytes() == b"old"


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "page.html").symlink_to(tmp_path / "real")
    for content in (b"first", b"second"):
        assert write_atomically(tmp_path / "page.html", content) == tmp_path / "page.html"
        assert (tmp_path / "real").read_bytes() == content
        assert (tmp_path / "page.html").is_symlink()


def test_a_pipe_stays_a_pipe(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_atomically(pipe, b"new")
    reader.join(timeout=20)
    assert read == [b"new"]
    assert pipe.is_fifo()


def test_a_name_may_be_as_long_as_a_name_can_be(tmp_path: Path) -> None:
    assert write_atomically(tmp_path / ("n" * 255), b"new").read_bytes() == b"new"


def test_a_missing_extra_is_named_with_what_to_install() -> None:
    with pytest.raises(
        ImportError, match=r"needs nosuch, which is not installed: pip install 'regard\[look\]'"
    ) as caught:
        extra("nosuch.module")
    assert caught.value.name == "nosuch"


@pytest.mark.parametrize(
    ("token", "shown"),
    [
        (" a b\t", "·a·b→"),
        ("\r\n", "␍⏎"),
        ("\x00\x1b\x7f\x85", "␀␛␡<U+0085>"),
        ("\u202ea\u2066", "<U+202E>a…"),
        ("\ud800\ue000", "<U+D800><U+E000>"),
        ("\u2028", "<U+2028>"),
        ("漢é🙂", "漢é🙂"),
    ],
)
def test_a_token_is_shown_without_anything_that_acts(token: str, shown: str) -> None:
    assert visible(token) == shown


def test_a_long_token_is_cut_and_says_so() -> None:
    assert visible("x" * 16) == "x" * 16
    assert visible("x" * 17) == "x" * 16 + "…"
    assert len(visible("\u202e" * 1_000_000)) <= 17


def test_a_path_keeps_its_spaces() -> None:
    assert one_line("my file\n\x1b[31m.txt") == "my file⏎␛[31m.txt"
