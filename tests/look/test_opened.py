"""Where a page goes: a file, a browser, a server; and pages of encodings and masks."""

from __future__ import annotations

import base64
import re
import stat
import sys
import urllib.request
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tests.look.pages import shown

import regard
from regard import AttentionWeights, masks
from regard.look import opened

Make = Callable[..., AttentionWeights]


def test_it_says_what_it_shows(some_weights: Make) -> None:
    assert re.fullmatch(
        r"Page\(1 layer, 1 head, 4 x 4; \d+ kB, \d+ kB of it data\)", repr(regard.look(some_weights(4, 4)))
    )
    page = regard.look({"a": [some_weights(1, 2, 6, 6)] * 2, "b": [some_weights(1, 3, 1200, 6)]})
    assert re.fullmatch(r"Page\(3 layers, 7 heads, 6 x 6 and 1,200 x 6; \d+ kB, \d+ kB of it data\)", repr(page))
    assert opened._size(2_149_000) == "2.1 MB"


def test_it_is_saved_whole_or_not_at_all(layers: list[AttentionWeights], tmp_path: Path) -> None:
    page = regard.look(layers)
    path = page.save(tmp_path / "new" / "page.html")
    assert path == tmp_path / "new" / "page.html"
    assert path.read_bytes() == page.html.encode("ascii")
    with pytest.raises(ValueError, match=r"path is .*, but .* is a folder; expected the name of a file in a folder"):
        page.save(tmp_path)
    assert [each.name for each in path.parent.iterdir()] == ["page.html"]


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("folder", r"path is .*, but .* is a folder"),
        ("", r"path is , but an empty text is no name; expected the name of a file"),
        ("a\0b", r"path is a.b, but no name holds a NUL character; expected"),
        ("a" * 300 + ".html", r"path is a+\.html, but no file can have that name \(File name too long\); expected"),
    ],
)
def test_a_path_that_cannot_be_written_is_named_before_the_work(
    layers: list[AttentionWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, said: str
) -> None:
    target = tmp_path if path == "folder" else path
    page = regard.look(layers)
    monkeypatch.setattr("regard.look.api.measure", lambda *_, **__: pytest.fail("the work began"))
    for write in (page.save, lambda target: regard.look.page(layers, None, target)):
        with pytest.raises(ValueError, match=said):
            write(target)
    with pytest.raises(TypeError, match="path is 3; expected the name of a file, a text or a path"):
        page.save(3)  # type: ignore[arg-type]


def test_it_is_opened_from_a_file_of_the_users_own(
    layers: list[AttentionWeights], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(opened.tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(opened.webbrowser, "open", lambda address: asked.append(address) or True)
    page = regard.look(layers)
    path = page.open()
    assert asked == [path.resolve().as_uri()]
    assert path.read_text() == page.html
    assert path.suffix == ".html"
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    monkeypatch.setattr(opened.webbrowser, "open", lambda _: False)
    with pytest.raises(RuntimeError, match=r"no browser could be started here; open file://.*\.html in one"):
        page.open()


def test_it_is_served(layers: list[AttentionWeights], monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(opened.webbrowser, "open", lambda address: asked.append(address) or True)
    page = regard.look(layers)
    with page.serve(open=True) as server:
        assert asked == [server.url]
        with urllib.request.urlopen(server.url, timeout=20) as answer:
            assert answer.read().decode() == page.live_document("/" + server.url.split("/", 3)[3])
        row = f"{server.url}row?group=0&layer=1&head=2&query=7&k=3"
        with urllib.request.urlopen(row, timeout=20) as answer:
            content = answer.read()
    expected = layers[1][0, 2, 7]
    best = expected.topk(3)
    assert np.frombuffer(content, "<u4", 4, 12).tolist() == [3, *best.indices.tolist()]
    np.testing.assert_allclose(np.frombuffer(content, "<f4", 3, 28), best.values, rtol=1e-5)
    assert isinstance(server, regard.look.Server)


def test_a_server_that_nobody_sees_is_closed(layers: list[AttentionWeights], monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Any] = []
    closes = regard.look.Server.close
    monkeypatch.setattr(regard.look.Server, "close", lambda server: (made.append(server), closes(server)))
    monkeypatch.setattr(opened.webbrowser, "open", lambda _: False)
    with pytest.raises(RuntimeError, match=r"no browser could be started here; open http://127\.0\.0\.1:"):
        regard.look(layers).serve(open=True)
    assert [repr(server) for server in made] == ["Server(closed)"]


def test_it_is_made_once_and_for_notebooks_once_more() -> None:
    asked: list[int] = []
    data = regard.look(torch.ones(2, 2) / 2).data

    def build(most: int) -> Any:
        asked.append(most)
        return data

    page = regard.look.Page(build)
    assert asked == [opened.MAX_BYTES]
    assert (repr(page), page.html, page._repr_html_()) == (repr(page), page.html, page._repr_html_())
    assert asked == [opened.MAX_BYTES]  # it fits as it is


def test_a_browser_that_fails_is_none(layers: list[AttentionWeights], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(address: str) -> bool:
        raise opened.webbrowser.Error("no runnable browser")

    monkeypatch.setattr(opened.webbrowser, "open", fails)
    with pytest.raises(RuntimeError, match="no browser could be started here; open http://x in one"):
        opened.show("http://x")


def test_its_bytes_are_bounded(some_weights: Make) -> None:
    page = regard.look([some_weights(1, 4, 300, 300)] * 2, max_bytes=60_000)
    assert len(page.data.to_json()) <= 60_000
    assert page.data.reduced
    assert len(page.html) < 60_000 + 200_000


def test_an_encoding() -> None:
    module = regard.PositionalEncoding(d_model=8, max_len=20)
    page = regard.look.encoding(module, title="sinusoids")
    data = shown(page)
    assert (data["kind"], data["title"], data["groups"]) == ("encoding", "sinusoids", [])
    found = data["encoding"]
    codes = np.frombuffer(zlib.decompress(base64.b64decode(found["codes"])), "<u2").reshape(20, 8)
    values = found["lowest"] + codes / 65535 * (found["highest"] - found["lowest"])
    np.testing.assert_allclose(values, module.get_encoding(), atol=2e-5)
    assert shown(regard.look.encoding(module.get_encoding(), title="sinusoids")) == data
    with pytest.raises(ValueError, match="encoding has shape"):
        regard.look.encoding(torch.zeros(3))


def test_a_mask() -> None:
    mask = masks.causal() & masks.window(3)
    data = shown(regard.look.mask(mask, 10))
    assert data["kind"] == "mask"
    (only,) = data["mask"]["maps"]
    codes = np.frombuffer(zlib.decompress(base64.b64decode(only["codes"])), np.uint8).reshape(10, 10)
    assert ((codes == 255) == mask.to_dense(10).numpy()).all()
    assert set(np.unique(codes)) == {0, 255}
    assert shown(regard.look.mask(mask.to_dense(10))) == data
    with pytest.raises(ValueError, match="query_len is None; a mask has no length of its own"):
        regard.look.mask(mask)
    with pytest.raises(TypeError, match=r"mask is of type str; expected a mask of regard\.masks or booleans"):
        regard.look.mask("causal", 10)  # type: ignore[arg-type]


def test_there_is_nothing_to_serve() -> None:
    page = regard.look.mask(masks.causal(), 1000)
    assert repr(page).startswith("Page(mask, 1,000 x 1,000; ")
    with pytest.raises(ValueError, match=r"page.serve\(\): Page\(mask, .*\) has no weights to compute more of"):
        page.serve()
