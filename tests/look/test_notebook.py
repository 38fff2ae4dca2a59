"""What a notebook shows: of a page, of weights, of a figure; and a whole notebook, run and exported."""

from __future__ import annotations

import html
import json
import pickle
import re
import subprocess
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import regard
from regard import AttentionWeights
from regard.look import notebook, opened

Make = Callable[..., AttentionWeights]
HOSTILE = ["</script><b>", '"><img src=x onerror=alert(1)>', "&quot;&lt;", "'", "\u2028", "漢🙂"]


class Frames(HTMLParser):
    """The frames in some HTML, and what stands beside them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.frames: list[dict[str, str | None]] = []
        self.others: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "iframe":
            self.frames.append(dict(attrs))
        else:
            self.others.append(tag)


def only_frame(text: str) -> dict[str, str | None]:
    found = Frames(text)
    assert found.others == []
    (frame,) = found.frames
    return frame


def test_a_page_stands_in_a_frame_that_may_run_and_save_and_nothing_else(some_weights: Make) -> None:
    page = regard.look(some_weights(1, 2, 6, 6), HOSTILE, title='a "title" & </iframe>')
    frame = only_frame(page._repr_html_())
    assert frame == {
        "srcdoc": page.html,
        "sandbox": "allow-scripts allow-downloads",
        "title": 'a "title" & </iframe>',
        "style": "width:100%;height:720px;border:0",
    }


def test_a_notebook_takes_fewer_bytes_than_a_file(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = [some_weights(1, 4, 200, 200, sharp=1.0)] * 2

    def size(page: Any) -> int:
        return len(re.findall(r'<script id="?data"?[^>]*>(.*?)</script>', only_frame(page._repr_html_())["srcdoc"])[0])

    full = len(regard.look(weights).data.to_json())
    monkeypatch.setattr(opened, "NOTEBOOK_BYTES", full // 2)
    assert size(regard.look(weights)) <= full // 2
    assert len(regard.look(weights).data.to_json()) == full
    assert size(regard.look(weights, max_bytes=2 * full)) == full  # as it was asked for
    monkeypatch.setattr(opened, "NOTEBOOK_BYTES", 2000)
    assert size(regard.look(weights)) == full  # what does not fit at all takes what a file does
    shown = regard.look(weights)
    assert shown._repr_html_() is not None
    monkeypatch.setattr(opened, "NOTEBOOK_BYTES", 100_000)
    small = regard.look(some_weights(1, 1, 4, 4))
    assert small._notebook() is small.data  # it fits as it is: not made twice


def test_weights_show_their_page(some_weights: Make) -> None:
    weights = some_weights(1, 2, 6, 6)
    assert weights._repr_html_() == regard.look(weights)._repr_html_()
    batch = some_weights(3, 2, 6, 6)
    assert "sequence 0 of 3, counted from 0" in only_frame(batch._repr_html_())["srcdoc"]


def words(shown: str) -> str:
    found = re.fullmatch(r"<pre>(.*)</pre>", shown, re.DOTALL)
    assert found
    return html.unescape(found[1])


def test_large_weights_do_not_compute_by_being_displayed(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.ones(1, 1).expand(1 << 15, 1)
    weights = regard.attention_weights(q, torch.ones(1, 1).expand((1 << 15) + 1, 1))
    monkeypatch.setattr(AttentionWeights, "ask", lambda *_: pytest.fail("it was computed"))
    assert words(weights._repr_html_()) == (
        f"{weights!r}\n1,073,774,592 entries are not computed only to be displayed: regard.look(weights) does"
    )
    monkeypatch.setattr(notebook, "MOST_ENTRIES", 35)
    assert words(regard.attention_weights(torch.ones(6, 1), torch.ones(6, 1))._repr_html_()).startswith("Attention")


def test_what_cannot_be_shown_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    q = torch.ones(4, 2)
    weights = regard.attention_weights(q, q.clone())
    q.zero_()
    assert "\nno page: query was written to after regard.attention()" in words(weights._repr_html_())
    empty = regard.attention_weights(torch.ones(0, 2), torch.ones(3, 2))
    assert words(empty._repr_html_()) == f"{empty!r}\nthere is nothing in it to look at"
    deep = regard.attention_weights(torch.ones(2, 2, 2, 3, 2), torch.ones(2, 2, 2, 3, 2))
    assert "\nno page: weights has " in words(deep._repr_html_())


def without(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The module cannot be imported."""
    for loaded in [each for each in sys.modules if each == name or each.startswith(f"{name}.")]:
        monkeypatch.delitem(sys.modules, loaded)
    monkeypatch.setitem(sys.modules, name, None)


def test_a_page_needs_no_matplotlib(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    without("matplotlib", monkeypatch)
    assert only_frame(some_weights(1, 2, 6, 6)._repr_html_())


def test_without_numpy_it_says_what_to_install(some_weights: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    weights = some_weights(1, 2, 6, 6)
    without("numpy", monkeypatch)
    needed = "regard.look needs numpy, which is not installed: pip install 'regard[look]'"
    assert f"\nno page: {needed}" in words(weights._repr_html_())
    with pytest.raises(ImportError, match=re.escape(needed)):
        regard.look(weights).save("page.html")


def test_a_plot_is_a_figure_that_notebooks_show_as_the_page(some_weights: Make) -> None:
    figures = pytest.importorskip("regard.look.figures")
    from matplotlib.figure import Figure

    weights = some_weights(1, 2, 6, 6)
    for each in (weights, some_weights(6, 6)):
        figure = each.plot()
        assert isinstance(figure, Figure)
        assert figure._repr_html_() == each._repr_html_()  # type: ignore[attr-defined]
        assert figure._repr_png_().startswith(b"\x89PNG")  # type: ignore[attr-defined]
    assert figures.layer(weights)._repr_html_() is None  # a figure that was asked for is one
    assert pickle.loads(pickle.dumps(figure))._repr_html_() == figure._repr_html_()  # type: ignore[attr-defined]


def test_a_plot_on_somebodys_axes_stays_a_figure(some_weights: Make) -> None:
    canvas = pytest.importorskip("regard.look.canvas")
    figure = canvas.new_figure(3, 3)
    assert some_weights(6, 6).plot(ax=figure.subplots()) is figure
    assert figure._repr_html_() is None


CELLS = (
    "import torch, regard\nq, k, v = torch.randn(3, 1, 2, 6, 4)\n_, weights = regard.attention(q, k, v)",
    "regard.look(weights, list('abcdef'), title='the first')",
    "weights",
    "regard.look.mask(regard.masks.causal(), 6, title='the third')",
)


@pytest.mark.thorough  # test_browser_plain.py runs and exports a notebook, and reads it in a browser
def test_several_pages_in_a_notebook_that_is_run_and_exported(tmp_path: Path) -> None:
    for name in ("nbconvert", "ipykernel"):
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'regard[dev]'")
    cells = [
        {"cell_type": "code", "id": str(n), "execution_count": None, "metadata": {}, "outputs": [], "source": source}
        for n, source in enumerate(CELLS)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    path = tmp_path / "notebook.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}))
    subprocess.run(
        [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "--output", "export.html", str(path)],
        check=True,
        capture_output=True,
        timeout=120,
    )
    frames = Frames((tmp_path / "export.html").read_text(encoding="utf-8")).frames
    assert [frame["title"] for frame in frames] == ["the first", "attention", "the third"]
    for frame in frames:
        assert frame["sandbox"] == "allow-scripts allow-downloads"
        assert frame["srcdoc"].startswith("<!doctype html>")  # type: ignore[union-attr]
        assert "src" not in frame
