"""The pages of positional encodings and of masks, and pages inside a notebook."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch
from tests.look.browsing import Browser, Tab, wait_until
from tests.look.reading import agrees
from torch import Tensor

import regard
from regard import masks

pytestmark = pytest.mark.browser

POSITIONS, DIMS = 24, 8
LENGTH = 12
MASK = masks.causal() & masks.window(5)


@pytest.fixture(scope="module")
def values() -> Tensor:
    return torch.sin(torch.arange(POSITIONS)[:, None] / 10000 ** (torch.arange(DIMS) / DIMS))


@pytest.fixture(scope="module")
def encoding(shared_browser: Browser, values: Tensor, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    path = regard.look.encoding(values, title="Sines").save(tmp_path_factory.mktemp("encoding") / "page.html")
    return shared_browser.open(path)


@pytest.fixture(scope="module")
def mask(shared_browser: Browser, tmp_path_factory: pytest.TempPathFactory) -> Tab:
    path = regard.look.mask(MASK, LENGTH, LENGTH).save(tmp_path_factory.mktemp("mask") / "page.html")
    return shared_browser.open(path)


def walk(tab: Tab, down: int, across: int) -> str:
    """From the first cell to another with the arrow keys; what the page says there."""
    tab.evaluate("() => document.querySelector('.plain-map').focus()")
    tab.press(*["ArrowUp"] * 30, *["ArrowLeft"] * 30)
    tab.press(*["ArrowDown"] * down, *["ArrowRight"] * across)
    return " ".join(tab.evaluate("document.querySelector('.plain-readout').innerText").split())


def numbers(tab: Tab) -> list[list[str]]:
    """The table around the cursor."""
    tab.evaluate("() => { document.querySelector('details.tables').open = true; }")
    tab.settle()
    rows = "Array.from(document.querySelectorAll('details.tables tr'), (row) => row.children)"
    return tab.evaluate(f"{rows}.map((cells) => Array.from(cells, (cell) => cell.textContent))")


def save(tab: Tab, kind: str) -> tuple[str, bytes]:
    with tab.page.expect_download() as waiting:
        tab.page.click(f".exports button:text-is('{kind}')")
    return waiting.value.suggested_filename, Path(waiting.value.path()).read_bytes()


def test_the_encoding_says_its_numbers(encoding: Tab, values: Tensor) -> None:
    assert len(encoding.requests()) == 1
    said = walk(encoding, 5, 3)
    assert said.startswith("position 5, dimension 3: ")
    assert float(said.split(": ")[1].split()[0]) == pytest.approx(float(values[5, 3]), abs=1e-4)
    heads, *rows = numbers(encoding)
    for name, *texts in rows:
        for dimension, text in zip(heads[1:], texts, strict=True):
            assert float(text) == pytest.approx(float(values[int(name), int(dimension)]), abs=1e-4)


def test_the_encoding_compares_positions(encoding: Tab, values: Tensor) -> None:
    encoding.page.fill("#position", "7")
    encoding.press("Enter")
    said = walk(encoding, 3, 0)
    similar = float((values[7] * values[3]).mean())
    assert "similarity to position 7" in said
    assert float(said.partition("similarity to position 7: ")[2].split()[0]) == pytest.approx(similar, abs=2e-4)


def test_the_encoding_is_saved(encoding: Tab, values: Tensor) -> None:
    name, content = save(encoding, "CSV")
    assert name == "Sines.csv"
    heads, *rows = csv.reader(io.StringIO(content.decode("utf-8"), newline=""))
    assert heads[:2] == ["position", "dimension 0"]
    saved = torch.tensor([[float(cell) for cell in row[1 : DIMS + 1]] for row in rows])
    assert torch.allclose(saved, values, atol=1e-4)
    assert ElementTree.fromstring(save(encoding, "SVG")[1].decode("utf-8")).tag.endswith("svg")
    assert save(encoding, "PNG")[1].startswith(b"\x89PNG")
    assert encoding.complaints() == []


def test_the_mask_says_who_may_read_what(mask: Tab) -> None:
    allowed = MASK.to_dense(LENGTH, LENGTH)
    assert agrees(mask.texts("#plain .muted")[0].partition("keys; ")[2], 100 * float(allowed.double().mean()))
    for query, key in ((5, 3), (3, 7), (11, 11), (9, 2)):
        said = walk(mask, query, key)
        verdict = "allowed" if allowed[query, key] else "may not attend"
        assert said.startswith(f"query {query} \u2192 key {key}: {verdict}")
        assert f"query {query} may read {int(allowed[query].sum())} of {LENGTH} keys" in said
        assert f"key {key} may be read by {int(allowed[:, key].sum())} of {LENGTH} queries" in said
    heads, *rows = numbers(mask)
    for query, (_, *texts) in enumerate(rows):
        assert texts == ["yes" if allowed[query, key] else "no" for key in range(len(heads) - 1)]
    assert mask.complaints() == []


def test_several_masks_are_chosen_from_a_list(browser: Browser, tmp_path: Path) -> None:
    given = masks.padding(torch.tensor([3, 8]))
    tab = browser.open(regard.look.mask(given, 8, 8, batch=2).save(tmp_path / "page.html"))
    assert tab.count("#plain select option") == 2
    assert "query 0 may read 3 of 8 keys" in walk(tab, 0, 0)
    tab.page.select_option("#plain select", index=1)
    tab.until("() => document.querySelector('.plain-readout').textContent.includes('may read 8 of 8 keys')")
    assert tab.complaints() == []


def test_dark_and_narrow(browser: Browser, tmp_path: Path) -> None:
    tab = browser.open(regard.look.mask(MASK, LENGTH, LENGTH).save(tmp_path / "page.html"), dark=True, width=400)
    assert tab.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(20, 22, 26)"
    assert tab.evaluate("document.documentElement.scrollWidth") <= 400
    assert tab.complaints() == []


NOTEBOOK = """
import torch, regard
q, k, v = torch.randn(3, 1, 2, 6, 4, generator=torch.Generator().manual_seed({seed}))
regard.look(regard.attention(q, k, v)[1], list("abcdef"), title="page {seed}")
"""


@pytest.mark.slow
def test_two_pages_in_one_exported_notebook(browser: Browser, tmp_path: Path) -> None:
    for module in ("nbconvert", "ipykernel"):
        if find_spec(module) is None:
            pytest.skip(f"no {module}: pip install 'regard[dev]'")
    cells: list[dict[str, Any]] = [
        {"cell_type": "code", "id": f"cell{seed}", "metadata": {}, "outputs": [], "execution_count": None}
        | {"source": NOTEBOOK.format(seed=seed).strip()}
        for seed in range(2)
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    book = {"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "book.ipynb").write_text(json.dumps(book), encoding="utf-8")
    # In a process of its own: Playwright's event loop runs in this one.
    command = [sys.executable, "-m", "nbconvert", "--to", "html", "--execute", "--log-level", "ERROR", "book.ipynb"]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, timeout=100)
    tab = browser.open(tmp_path / "book.html", wait=False)
    frames = [frame for frame in tab.page.frames if frame != tab.page.main_frame]
    assert len(frames) == 2
    titles = []
    for frame in frames:
        wait_until(frame, "() => document.documentElement.dataset.ready === 'yes'")
        titles.append(frame.evaluate("document.title"))
        assert frame.evaluate("document.querySelectorAll('#tokens [data-at]').length") == 6
    assert titles == ["page 0", "page 1"]
    # What is chosen in one is not chosen in the other.
    frames[0].fill("#query", "2")
    frames[0].press("#query", "Enter")
    wait_until(frames[0], "() => document.getElementById('top-name').textContent.startsWith('What query 2')")
    with tab.page.expect_download() as waiting:
        frames[1].click("#export-csv")
    assert waiting.value.suggested_filename.endswith(".csv")
    ours = [text for text in tab.complaints() if "cdnjs" not in text and "ERR_INTERNET_DISCONNECTED" not in text]
    # The notebook's own page asks for its scripts; the two frames ask for nothing.
    assert [text for text in ours if "require" not in text.lower() and "mathjax" not in text.lower()] == []
