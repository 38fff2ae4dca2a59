from __future__ import annotations

import base64
import io
import json
import os
import platform
import sys
import tempfile
import webbrowser
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.look.pages import data_in

import regard
from regard.look import command, models, sources

Run = Callable[..., command.Looked]


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    huggingface_hub = pytest.importorskip("huggingface_hub")

    def unreachable(*_: object, **__: object) -> None:
        raise ConnectionError

    monkeypatch.setattr(huggingface_hub.HfApi, "model_info", unreachable)


@pytest.fixture
def run(model_folder: Path, tmp_path: Path) -> Run:
    def runs(**options: Any) -> command.Looked:
        return command.run(**{"model": str(model_folder), "out": tmp_path / "out", "no_figures": True} | options)

    return runs


def data_of(page: Path) -> dict[str, Any]:
    return data_in(page.read_text())


def group_of(page: Path) -> dict[str, Any]:
    (group,) = data_of(page)["groups"]
    return group


def text_of(page: Path) -> str:
    data = data_of(page)
    tokens = json.loads(zlib.decompress(base64.b64decode(data["texts"][data["groups"][0]["key_tokens"]])))
    return "".join(tokens)


def test_a_string_gives_a_table_a_page_and_figures(
    run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    looked = run(string="def f(x):\n    return f(x)\n", no_figures=False, layer=1, head=0)
    printed = capsys.readouterr()
    assert printed.err == ""
    assert "\x1b" not in printed.out
    for words in ("Text: the string given", "entropy", "Where to look", "Layer ", "Written"):
        assert words in printed.out
    assert looked.page == tmp_path / "out" / "page.html"
    names = ["head.png", "layer.png", "profiles.png", "positions.png"]
    assert [path.name for path in looked.figures] == names
    assert sorted(os.listdir(tmp_path / "out")) == sorted([*names, "page.html"])  # noqa: PTH208 (hidden files too)
    for path in (looked.page, *looked.figures):
        assert f"- {path}" in printed.out
        assert path.stat().st_size > 1000
    group = group_of(looked.page)
    assert group["selected"] == [1, 0]
    assert group["layers"] == ["layer 0", "layer 1"]
    assert text_of(looked.page) == "def f(x):\n    return f(x)\n"
    assert len(looked.table.heads) == 4


def test_a_file_and_standard_input_are_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.py").write_bytes(b"\xef\xbb\xbfdef f(x): f")
    assert text_of(run(text=str(tmp_path / "text.py")).page) == "def f(x): f"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"def f")))
    page = run(text="-").page
    assert (text_of(page), data_of(page)["source"]) == ("def f", "standard input")


def test_without_a_text_the_standard_library_is_read_and_named(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    page = run().page
    data = data_of(page)
    assert data["source"] == f"heapq.py of Python {platform.python_version()}'s standard library"
    assert text_of(page).startswith('"""Heap queue algorithm')
    assert f"Text: {data['source']}, first 48 of" in capsys.readouterr().out


def test_a_long_text_is_cut_and_says_so(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    data = data_of(run(string="q" * 5321).page)
    assert data["notes"] == ["first 48 of 5,321 tokens (the model takes 48)"]
    assert "first 48 of 5,321 tokens" in capsys.readouterr().out
    assert data["groups"][0]["query_len"] == 48
    assert data_of(run(string="q" * 20, max_tokens=7).page)["notes"] == ["first 7 of 20 tokens"]
    assert data_of(run(string="q" * 20, max_tokens=900).page)["notes"] == []


def test_a_very_long_text_is_not_counted_to_its_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "COUNTED_CHARACTERS", 100)
    assert data_of(run(string="q" * 5321).page)["notes"] == ["first 48 tokens of 5,321 characters (the model takes 48)"]


def test_one_token_is_enough(run: Run) -> None:
    assert group_of(run(string="q", no_figures=False).page)["rows"] == 1


def test_hostile_text_and_names_stay_text(run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a\x1b[2J<b>.txt"
    path.write_text("</script><script>alert(1)</script>\u202e\x1b[31m")
    page = run(text=str(path)).page.read_text()
    assert page.count("<script") == 2
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert "\u202e" not in out


def test_a_terminal_that_knows_only_ascii_gets_ascii(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", out)
    run(string="def f(x): é")
    out.flush()
    assert b"Where to look" in out.buffer.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"text": "no/such/file.py"},
            r"text: there is no file no/such/file.py; expected the path of a text file, - for",
        ),
        ({"text": "{tmp}"}, r"text is a folder, .*; expected a text file: name one of the files in it"),
        (
            {"text": "{tmp}/binary"},
            r"text: .*binary is not text \(a NUL at byte 2\); expected UTF-8, so convert UTF-16",
        ),
        (
            {"text": "{tmp}/latin"},
            r"text: .*latin is not UTF-8 \(byte 0xe9 at 1\); expected UTF-8, so convert it first",
        ),
        ({"text": "{tmp}/empty"}, r"text .*empty is empty; expected a file with text in it"),
        ({"text": "{tmp}/blank"}, r"text .*blank holds nothing but blanks; expected a file with text in it"),
        ({"string": ""}, r"--string is empty; expected a text of at least one character"),
        ({"string": " \t\n\u2003"}, r"--string holds nothing but blanks; expected a text of at least one character"),
        ({"text": "a", "string": "b"}, r"both a file \('a'\) and --string were given; expected one of them"),
        (
            {"model": "gpt-9"},
            r"--model is 'gpt-9': no folder has that name, it is not in the cache of Hugging Face models \(.*\), and "
            r"the hub cannot be asked \(ConnectionError\); expected 'demo', the model that comes with regard, or",
        ),
        ({"model": "./gpt-9"}, r"--model is './gpt-9', but no folder of that name exists; expected 'demo', the model"),
        ({"model": "{tmp}/blank"}, r"--model is '.*blank', a file; expected the folder that it is in, with its config"),
        ({"model": ""}, r"--model is ''; expected 'demo', the model that comes with regard, or a folder"),
        ({"model": "{tmp}"}, r"--model is '.*', a folder without a model in it: .*model.safetensors"),
        ({"layer": 2}, r"--layer is 2, but the model has 2; expected 0 to 1"),
        ({"head": -1}, r"--head is -1, but the model has 2; expected 0 to 1"),
        ({"max_tokens": 0}, r"--max-tokens is 0; expected at least 1"),
        ({"out": "{tmp}/empty"}, r"--out is .*empty, but .*empty is a file; expected a folder, old or new"),
        ({"out": "{tmp}/empty/deep"}, r"--out is .*deep, but .*empty is a file; expected a folder, old or new"),
        ({"string": "a\ud800"}, r"--string is not valid UTF-8 \(the lone surrogate U\+D800 at character 1\); expected"),
        (
            {"string": os.fsdecode(b"ab\xff")},
            r"--string is not valid UTF-8 \(byte 0xff at character 2\); expected UTF-8, so convert it first",
        ),
    ],
)
def test_bad_input_is_named_before_anything_is_written(
    run: Run, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    for name, content in {"binary": b"ab\0", "latin": b"t\xe9t", "empty": b"", "blank": b" \n"}.items():
        (tmp_path / name).write_bytes(content)
    filled = {key: value.format(tmp=tmp_path) if isinstance(value, str) else value for key, value in options.items()}
    if not {"text", "string"} & set(filled):
        filled["string"] = "def f"
    with pytest.raises(ValueError, match=message):
        run(**filled)
    assert not (tmp_path / "out").exists()


def test_a_file_that_may_not_be_read_is_named(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(self: Path, mode: str) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "open", refused)
    with pytest.raises(
        ValueError, match=r"text: secret.txt cannot be read \(Permission denied\); expected a text file that"
    ):
        run(text="secret.txt")


def test_standard_input_that_is_closed_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(
        ValueError, match=r"text is -, but standard input is closed; expected a text on it, .* or --string TEXT"
    ):
        run(text="-")


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a text is read nor a model loaded."""
    for name in ("read_source", "load"):
        monkeypatch.setattr(command, name, lambda *_: pytest.fail("the work began"))


@pytest.mark.usefixtures("no_work")
def test_a_folder_that_may_not_be_written_is_named_before_the_work(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(**options: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(
        ValueError,
        match=r"--out is .*out, but .* may not be written to \(Permission denied\); expected a folder, old or new, in",
    ):
        run(string="def f")


@pytest.mark.usefixtures("no_work")
@pytest.mark.skipif(not Path("/proc/self").exists(), reason="no /proc")
def test_a_folder_that_only_seems_writable_is_named_before_the_work(run: Run) -> None:
    with pytest.raises(
        ValueError, match=r"--out is /proc/new, but /proc may not be written to \(.*\); expected a folder"
    ):
        run(string="def f", out="/proc/new")


@pytest.mark.usefixtures("no_work")
@pytest.mark.parametrize("name", ["page.html", *command.FIGURES])
def test_one_file_that_cannot_be_written_stops_all(run: Run, tmp_path: Path, name: str) -> None:
    (tmp_path / "out" / name).mkdir(parents=True)
    with pytest.raises(
        ValueError,
        match=rf"--out is .*out, but .*out/{name} is a folder; expected a folder, old or new, in which {name} may be",
    ):
        run(string="def f", no_figures=False)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [name]


def test_a_file_that_is_not_asked_for_may_be_anything(run: Run, tmp_path: Path) -> None:
    (tmp_path / "out" / "profiles.png").mkdir(parents=True)
    assert run(string="def f", no_figures=True).page.is_file()


def test_an_interrupted_run_writes_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "_figures", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(string="def f", no_figures=False)
    assert not (tmp_path / "out").exists()


def test_a_file_longer_than_the_limit_is_cut_between_characters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "READ_BYTES", 4)
    (tmp_path / "text").write_bytes("abcé".encode())
    assert sources.read_source(str(tmp_path / "text"), None).text == "abc"


def test_a_python_without_its_sources_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sources, "DEFAULT_MODULE", "nosuch")
    with pytest.raises(
        ValueError, match=r"no text was named, and this Python has no source of nosuch; expected a file, -"
    ):
        sources.read_source(None, None)


def test_the_page_is_opened_when_asked(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    looked = run(string="def f", open=True)
    assert opened == [looked.page.resolve().as_uri()]


def test_without_a_browser_the_address_is_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(webbrowser, "open", lambda _: False)
    looked = run(string="def f", open=True)
    address = looked.page.resolve().as_uri()
    assert f"Note: no browser could be started here; open {address} in one\n" in capsys.readouterr().out


def test_one_token_is_one(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    run(string="def f", max_tokens=2)
    run(string="e")
    assert "1 token\n" in capsys.readouterr().out
    assert [command._tokens(count) for count in (1, 2, 1000)] == ["1 token", "2 tokens", "1,000 tokens"]


def test_weights_that_are_nan_are_noted(run: Run, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    attend = models.DemoModel.attend

    def spoilt(*args: Any) -> models.Attended:
        attended = attend(*args)
        shape = attended.weights[1].shape
        q = torch.full((*shape[:-1], 4), torch.nan)
        attended.weights[1] = regard.attention_weights(q, torch.ones_like(q))
        return attended

    monkeypatch.setattr(models.DemoModel, "attend", spoilt)
    note = "weights are NaN in layer 1 ("
    looked = run(string="def f")
    assert f"Note: {note}" in capsys.readouterr().out
    assert note in looked.page.read_text()
