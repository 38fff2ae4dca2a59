"""`regard look` with its options for the page's bytes, its queries, and serving it."""

from __future__ import annotations

import base64
import io
import json
import socket
import sys
import urllib.error
import urllib.request
import webbrowser
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.look.pages import data_in

from regard.look import command
from regard.look.serve import Server

Run = Callable[..., command.Looked]


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


@pytest.fixture
def no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither a text is read nor a model loaded."""
    for name in ("read_source", "load"):
        monkeypatch.setattr(command, name, lambda *_: pytest.fail("the work began"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"queries": "4711,x"},
            r"--queries is '4711,x'; expected positions of tokens, counted from 0: --queries 4711,12",
        ),
        ({"queries": ""}, r"--queries is ''; expected positions of tokens"),
        ({"queries": "-1"}, r"--queries is '-1'; expected positions of tokens"),
        ({"queries": "0,2", "string": "e"}, r"--queries names 2, but 1 token of the text are read; expected 0 to 0"),
        ({"max_mb": 0.0}, r"--max-mb is 0; expected millions of bytes, more than 0: --max-mb 5"),
        ({"max_mb": float("nan")}, r"--max-mb is nan; expected millions of bytes"),
        ({"max_mb": 0.001}, r"--max-mb is 0.001: max_bytes is 1,000, which .* exceed"),
        ({"port": 8000}, r"--port is 8000, but nothing is served; expected --serve with it"),
        ({"port": 65536, "serve": True}, r"--port is 65536; expected 0 to 65535, 0 for any that is free"),
    ],
)
def test_bad_options_are_named_before_anything_is_written(
    run: Run, tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run(**{"string": "def f"} | options)
    assert not (tmp_path / "out").exists()


def test_queries_and_bytes_that_were_asked_for(run: Run) -> None:
    text = "def f(x): return x " * 20
    group = group_of(run(string=text, queries="3, 11", max_mb=0.012).page)
    packed = zlib.decompress(base64.b64decode(group["queries"]))
    kept = [int.from_bytes(packed[at : at + 4], "little") for at in range(0, len(packed), 4)]
    assert {3, 11} <= set(kept)
    assert len(kept) < group["query_len"] == 48
    full = run(string=text).page
    assert data_of(full)["reduced"] == []
    assert len(json.dumps(data_of(run(string=text, max_mb=0.012).page), separators=(",", ":"))) <= 12_000


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """The address of each page that was served, and what is there while it waits for Ctrl-C."""
    found: list[tuple[str, bytes]] = []

    def wait(self: Server) -> None:
        with urllib.request.urlopen(self.url, timeout=20) as answer:
            found.append((self.url, answer.read()))

    monkeypatch.setattr(Server, "wait", wait)
    return found


def test_the_page_is_served_when_asked(
    run: Run, served: list[tuple[str, bytes]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda address: opened.append(address) or True)
    looked = run(string="def f", serve=True)
    ((address, content),) = served
    assert f"\nServing {address}\nIt ends with Ctrl-C.\n" in capsys.readouterr().out
    assert b"connect-src 'self'" in content
    assert b"connect-src" not in looked.page.read_bytes()
    assert opened == []
    with pytest.raises(urllib.error.URLError):  # it has ended
        urllib.request.urlopen(address, timeout=5)
    run(string="def f", serve=True, open=True)
    assert opened == [served[1][0]]


def test_who_reads_a_pipe_has_the_address_while_it_is_served(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(pipe, encoding="utf-8"))
    shown: list[bytes] = []
    monkeypatch.setattr(Server, "wait", lambda self: shown.append(pipe.getvalue()))
    run(string="def f", serve=True)
    assert b"Serving http://127.0.0.1:" in shown[0]


@pytest.mark.usefixtures("no_work")
def test_a_port_in_use_is_named_before_the_work(run: Run) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            ValueError, match=rf"--port is {port}, which cannot be listened on at 127.0.0.1 \(Address already in use\);"
        ):
            run(string="def f", serve=True, port=port)
