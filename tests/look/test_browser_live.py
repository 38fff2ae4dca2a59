"""The live page: exact numbers from the server as its reader zooms, and what the server refuses a browser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from tests.look.browsing import Browser, Tab
from tests.look.conftest import make_weights
from tests.look.reading import Map, agrees, choose, pin, table
from torch import Tensor

import regard
from regard import masks
from regard.look import Server

pytestmark = pytest.mark.browser

LENGTH = 900


@pytest.fixture(scope="module")
def dense() -> Tensor:
    return make_weights(1, 2, LENGTH, LENGTH, mask=masks.causal(), width=4).to_dense()[0].double()  # (H, L, S)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    weights = make_weights(1, 2, LENGTH, LENGTH, mask=masks.causal(), width=4)
    # So small that nothing of what is asked below is kept exactly in the page itself.
    with regard.look(weights, [f"t{at} " for at in range(LENGTH)], max_bytes=90_000).serve() as running:
        yield running


@pytest.fixture(scope="module")
def tab(server: Server, shared_browser: Browser) -> Tab:
    return shared_browser.open(server.url, offline=False)


def zoom_to(tab: Tab, query: int) -> None:
    """Looks closely at a query and its own key, until the exact cells have come."""
    pin(tab, query)
    tab.evaluate("() => { document.getElementById('zoom-reset').click(); document.getElementById('map').focus(); }")
    tab.press("ArrowDown", *["+"] * 6)
    tab.until("() => document.querySelector('#live').textContent.includes('Exact: queries ')")
    tab.until("() => !document.querySelector('#live').textContent.includes('Fetching')")


def test_the_page_and_what_it_fetches_come_from_this_machine_alone(tab: Tab, server: Server) -> None:
    choose(tab, 0, 0, 2)
    zoom_to(tab, 333)
    assert tab.complaints() == []
    assert all(url.startswith(server.url) for url in tab.requests())
    kinds = {urlsplit(url).path.rpartition("/")[2] for url in tab.requests()}
    assert kinds == {"", "tile", "row"}


def test_zooming_shows_single_pairs_exactly(tab: Tab, dense: Tensor) -> None:
    choose(tab, 0, 1, 2)
    zoom_to(tab, 450)
    assert "kept to" not in tab.say("readout")
    heads, *rows = table(tab, "table-map")
    keys = [int(head.split()[1]) for head in heads[1:]]
    for name, *texts in rows:
        query = int(name.split()[1])
        for key, text in zip(keys, texts, strict=True):
            if key > query:
                assert text == "may not attend"
            else:
                assert "\u2248" not in text
                assert agrees(text, float(dense[1, query, key])), (query, key)
    tab.evaluate("() => document.getElementById('zoom-reset').click()")
    tab.settle()


def test_a_query_is_fetched_exactly(tab: Tab, dense: Tensor) -> None:
    choose(tab, 0, 0, 2)
    pin(tab, 517)
    tab.until("() => document.querySelector('#row .how').textContent.startsWith('exact')")
    row = dense[0, 517]
    order = row.argsort(descending=True)[: tab.count("#top li")].tolist()
    assert tab.texts("#top .place") == [f"key {key}" for key in order]
    assert all(agrees(text, float(row[key])) for text, key in zip(tab.texts("#top b"), order, strict=True))


def test_what_is_being_typed_stays_while_exact_numbers_arrive(tab: Tab) -> None:
    choose(tab, 0, 0, 2)
    pin(tab, 300)
    tab.page.fill("#query", "44")
    tab.evaluate("() => ['zoom-reset', 'zoom-in'].forEach((name) => document.getElementById(name).click())")
    tab.until("() => document.querySelector('#live').textContent.includes('Exact: queries ')")
    tab.until("() => !document.querySelector('#live').textContent.includes('Fetching')")
    assert tab.page.input_value("#query") == "44"
    tab.page.press("#query", "Enter")
    tab.until("() => document.getElementById('top-name').textContent.startsWith('What query 44 ')")
    tab.evaluate("() => document.getElementById('zoom-reset').click()")
    tab.settle()


def test_a_tile_of_the_whole_map_equals_what_is_drawn(tab: Tab, dense: Tensor) -> None:
    choose(tab, 0, 1, 2)
    tab.evaluate("() => document.getElementById('zoom-reset').click()")
    tab.settle()
    tab.until("() => !document.querySelector('#live').textContent.includes('Fetching')")
    said = Map(tab, (0, LENGTH, 0, LENGTH)).hover(600, 300)
    weight, _, rest = said.partition("query ")
    queries, keys = _span(rest), _span(rest.partition("key ")[2])
    by_definition = dense[1, slice(*queries), slice(*keys)].sum(-1).mean()
    assert agrees(weight, float(by_definition))


def _span(text: str) -> tuple[int, int]:
    first, _, last = text.split(maxsplit=1)[0].replace(",", "").partition("\u2013")
    return int(first), int(last or first) + 1


def test_a_server_that_is_gone_is_said_and_the_page_goes_on(browser: Browser) -> None:
    weights = make_weights(1, 1, LENGTH, LENGTH, mask=masks.causal(), width=4)
    with regard.look(weights, max_bytes=90_000).serve() as running:
        tab = browser.open(running.url, offline=False)
    pin(tab, 321)
    tab.until("() => document.querySelector('#live').textContent.includes('goes on with what it holds')")
    assert tab.say("top-name") == "What query 321 reads"
    assert tab.count("#top li") > 0


def test_another_site_reads_nothing_from_it(server: Server, browser: Browser, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<!doctype html>", encoding="utf-8")
    tab = browser.open(page, offline=False, wait=False)
    tried = tab.evaluate(
        "(url) => fetch(url + 'row?group=0&layer=0&head=0&query=1&k=1').then(() => 'read', () => 'refused')", server.url
    )
    assert tried == "refused"


@pytest.mark.parametrize(
    ("path", "host", "status"),
    [
        ("", None, 200),
        ("", "localhost:{port}", 200),
        ("", "example.org", 403),
        ("", "127.0.0.1.example.org:{port}", 403),
        ("tile?group=0&layer=0&head=0&q0=0&q1=900&k0=0&k1=900&rows=513&cols=1", None, 413),
        ("tile?group=0&layer=0&head=7&q0=0&q1=9&k0=0&k1=9&rows=1&cols=1", None, 400),
    ],
)
def test_what_the_server_refuses(server: Server, path: str, host: str | None, status: int) -> None:
    assert _ask(server, urlsplit(server.url).path + path, host) == status


@pytest.mark.parametrize("path", ["/", "/tile", "/wrong-token/", "//"])
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    assert _ask(server, path, None) == 404


def _ask(server: Server, path: str, host: str | None) -> int:
    connection = HTTPConnection("127.0.0.1", server.port, timeout=10)
    headers = {"Host": (host or "127.0.0.1:{port}").format(port=server.port)}
    connection.request("GET", path, headers=headers)
    status = connection.getresponse().status
    connection.close()
    return status


def test_the_page_itself_says_that_it_is_live(tab: Tab, server: Server) -> None:
    data = json.loads(tab.evaluate("document.getElementById('data').textContent"))
    assert data["live"] == urlsplit(server.url).path
