from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from regard.look.extras import extra
from regard.look.files import write_atomically
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
    with pytest.raises(ValueError, match=r"path is a folder, '.*'; expected the name of a file to write in it"):
        write_atomically(tmp_path, b"")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match=r"path '.*page.html' lies below a file; expected a folder before the name"):
        write_atomically(tmp_path / "file" / "page.html", b"")


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
