"""The live server: what it answers, whom it refuses, and that it says nothing of itself."""

from __future__ import annotations

import http.client
import os
import re
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlencode

import numpy as np
import pytest
import torch

import regard
from regard import masks
from regard.look import serve_answers, serve_http
from regard.look.serve import Server, check_port
from regard.look.serve_http import MOST_BYTES

TILE = {"group": 0, "layer": 0, "head": 1, "q0": 2, "q1": 10, "k0": 0, "k1": 12, "rows": 4, "cols": 3}
ROW = {"group": 0, "layer": 1, "head": 0, "query": 5, "k": 4}


def made(*layers: Any) -> Any:
    """What a server asks of a page."""
    return SimpleNamespace(layers=[list(layers)], batch=0, live_document=lambda base: f"<p>{base}</p>")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, 1, 2, 12, 8, generator=generator)
    one = regard.attention_weights(q, k, masks.causal())
    with Server(made(one, one)) as running:
        yield running


class Answer:
    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = {name.lower(): value for name, value in response.getheaders()}
        self.body = response.read()

    @property
    def sentence(self) -> str:
        assert self.headers["content-type"] == "text/plain; charset=utf-8"
        return self.body.decode()


def get(server: Server, path: str, *, method: str = "GET", headers: dict[str, str] | None = None) -> Answer:
    """One request, of a path below the token or, with a slash before it, of any."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    base = "/" + server.url.split("/", 3)[3]
    try:
        connection.request(method, path if path.startswith("/") else base + path, headers=headers or {})
        return Answer(connection.getresponse())
    finally:
        connection.close()


def ask(server: Server, what: str, given: dict[str, Any], **changes: Any) -> Answer:
    return get(server, f"{what}?{urlencode(given | changes)}")


def sent(server: Server, request: bytes) -> bytes:
    """What comes back for these bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        parts = []
        while part := connection.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_the_page_a_tile_and_a_row(server: Server) -> None:
    page = get(server, "")
    assert page.status == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    base = "/" + server.url.split("/", 3)[3]
    assert page.body.decode() == f"<p>{base}</p>"
    tile = ask(server, "tile", TILE)
    assert tile.status == 200
    assert tile.headers["content-type"] == "application/octet-stream"
    assert len(tile.body) == 4 * 4 + 2 * 2 * 4 * 3
    row = ask(server, "row", ROW)
    assert row.status == 200
    assert np.frombuffer(row.body, "<u4", 1, 12).tolist() == [4]
    assert len(row.body) == 12 + 4 + 4 * 8 + 2 * 12


def test_the_address_is_this_machines_with_a_token_nobody_guesses(server: Server) -> None:
    assert re.fullmatch(rf"http://127\.0\.0\.1:{server.port}/[A-Za-z0-9_-]{{43}}/", server.url)
    assert repr(server) == f"Server({server.url})"
    with Server(made()) as other:
        assert other.url.split("/")[3] != server.url.split("/")[3]


@pytest.mark.parametrize("path", ["", "tile?" + urlencode(TILE), "row?" + urlencode(ROW), "nothing"])
def test_headers_keep_it_to_itself(server: Server, path: str) -> None:
    answer = get(server, path)
    assert answer.headers == {
        "content-type": answer.headers["content-type"],
        "content-length": str(len(answer.body)),
        "cache-control": "no-store",
        "x-content-type-options": "nosniff",
        "cross-origin-resource-policy": "same-origin",
        "referrer-policy": "no-referrer",
        "connection": "close",
    }


@pytest.mark.parametrize(
    "path", ["/", "/tile", "/{wrong}", "/{wrong}/", "/{wrong}/tile?" + urlencode(TILE), "//{right}/", "/{cut}/"]
)
def test_without_the_token_there_is_nothing(server: Server, path: str) -> None:
    token = server.url.split("/")[3]
    wrong = ("a" if token[0] != "a" else "b") + token[1:]
    answer = get(server, path.format(wrong=wrong, right=f"x/{token}", cut=token[:-1]))
    assert (answer.status, answer.sentence) == (404, "there is nothing here\n")
    assert get(server, "nothing").body == answer.body  # the same as behind the token


def test_other_names_of_this_machine_are_refused(server: Server) -> None:
    for host in ("evil.example", f"evil.example:{server.port}", "127.0.0.1", f"127.0.0.1:{server.port + 1}", ""):
        answer = get(server, "", headers={"Host": host})
        assert answer.status == 403, host
        assert answer.sentence == "this server answers under the names 127.0.0.1 and localhost alone\n"
    assert get(server, "", headers={"Host": f"localhost:{server.port}"}).status == 200
    base = "/" + server.url.split("/", 3)[3]
    good = f"Host: 127.0.0.1:{server.port}\r\n"
    for hosts, status in ((good, b"200"), ("", b"403"), (good + "Host: evil.example\r\n", b"403")):
        assert sent(server, f"GET {base} HTTP/1.1\r\n{hosts}\r\n".encode()).split()[1] == status


def test_other_sites_are_refused(server: Server) -> None:
    def status(path: str, **headers: str) -> int:
        return get(server, path, headers={name.replace("_", "-"): value for name, value in headers.items()}).status

    row = f"row?{urlencode(ROW)}"
    assert status("", Sec_Fetch_Site="none") == 200
    assert status(row, Sec_Fetch_Site="same-origin") == 200
    assert status("", Sec_Fetch_Site="cross-site", Sec_Fetch_Mode="navigate") == 403
    assert status(row, Sec_Fetch_Site="cross-site") == 403
    assert status(row, Sec_Fetch_Site="same-site", Sec_Fetch_Mode="cors") == 403  # another port of localhost
    assert status("", Sec_Fetch_Site="same-site", Sec_Fetch_Mode="navigate") == 200  # a link to the page


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "CONNECT", "x"])
def test_only_get_is_answered(server: Server, method: str) -> None:
    answer = get(server, "", method=method)
    assert answer.status == 405
    assert answer.headers["allow"] == "GET"
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("what", "changes", "status", "sentence"),
    [
        ("tile", {"rows": ""}, 400, "rows is ''; expected a whole number"),
        ("tile", {"rows": "-1"}, 400, "rows is '-1'; expected a whole number"),
        ("tile", {"rows": "1" * 30}, 400, "rows is '11111111111111111111'; expected a whole number"),
        ("tile", {"rows": "\u0664"}, 400, r"rows is '\u0664'; expected a whole number"),
        ("tile", {"rows": 0}, 400, "rows is 0; expected 1 to 8"),
        ("tile", {"rows": 9}, 400, "rows is 9; expected 1 to 8"),
        ("tile", {"cols": 513}, 413, "cols is 513; at most 512 are answered"),
        ("tile", {"q1": 13}, 400, "q0 is 2 and q1 is 13; expected q0 < q1 <= 12"),
        ("tile", {"k0": 12}, 400, "k0 is 12 and k1 is 12; expected k0 < k1 <= 12"),
        ("tile", {"group": 1}, 400, "group is 1; expected 0 to 0"),
        ("tile", {"layer": 2}, 400, "layer is 2; expected 0 to 1"),
        ("tile", {"head": 2}, 400, "head is 2; expected 0 to 1"),
        ("row", {"query": 12}, 400, "query is 12; expected 0 to 11"),
        ("row", {"k": 1025}, 413, "k is 1025; at most 1024 keys are named"),
        ("row", {"more": 1}, 400, "expected group, layer, head, query, k, each once"),
    ],
)
def test_what_is_asked_for_wrongly_is_said(
    server: Server, what: str, changes: dict[str, Any], status: int, sentence: str
) -> None:
    answer = ask(server, what, TILE if what == "tile" else ROW, **changes)
    assert (answer.status, answer.sentence) == (status, sentence + "\n")


def test_parameters_once_each(server: Server) -> None:
    for query in ("", "?", "?group=0", f"?{urlencode(ROW)}&k=4", "?%", "?a=1;b=2", f"?{'&' * 2000}"):
        assert get(server, f"row{query}").status == 400


def test_too_much_is_refused_before_it_is_computed() -> None:
    q = torch.ones(1, 1).expand(10_000, 1)
    with Server(made(regard.attention_weights(q, q))) as running:
        answer = ask(running, "tile", TILE, head=0, q0=0, q1=10_000, k0=0, k1=10_000)
        assert answer.status == 413
        assert answer.sentence == "the rectangle holds 100,000,000 pairs; at most 67,108,864 are computed\n"


def test_long_requests_are_cut_off(server: Server) -> None:
    base = "/" + server.url.split("/", 3)[3]
    host = f"Host: 127.0.0.1:{server.port}\r\n".encode()
    for request in (
        b"GET /" + b"a" * 2 * MOST_BYTES + b" HTTP/1.1\r\n" + host + b"\r\n",
        f"GET {base} HTTP/1.1\r\n".encode() + host + b"A: " + b"b" * MOST_BYTES + b"\r\n\r\n",
        f"GET {base} HTTP/1.1\r\n".encode() + host + b"A: b\r\n" * MOST_BYTES + b"\r\n",
    ):
        answer = sent(server, request[: MOST_BYTES + 1])  # more would be lost with the connection
        assert answer.split()[1] in (b"413", b"431"), answer


def test_the_name_of_the_page_without_its_slash_leads_to_it(server: Server) -> None:
    base = "/" + server.url.split("/", 3)[3]
    answer = get(server, base[:-1])
    assert (answer.status, answer.headers["location"]) == (307, base)


@pytest.mark.parametrize("names", ["127.0.0.1", "localhost"])
def test_on_the_port_that_browsers_leave_out_the_bare_names_are_right(
    server: Server, monkeypatch: pytest.MonkeyPatch, names: str
) -> None:
    assert get(server, "", headers={"Host": names}).status == 403
    monkeypatch.setattr(serve_http, "HTTP_PORT", server.port)
    assert get(server, "", headers={"Host": names}).status == 200
    assert get(server, "", headers={"Host": "evil.example"}).status == 403


def test_addresses_that_cannot_be_read_get_a_sentence(server: Server) -> None:
    token = server.url.split("/")[3]
    request = f"GET http://[/{token}/ HTTP/1.1\r\nHost: localhost:{server.port}\r\n\r\n"
    answer = sent(server, request.encode())
    assert answer.startswith(b"HTTP/1.0 400")
    assert answer.endswith(b"the request cannot be read\n")


def test_whatever_goes_wrong_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    with Server(made()) as running:
        monkeypatch.setattr(running._answers, "answer", lambda *_: {}["secret"])
        answer = get(running, "")
        assert (answer.status, answer.sentence) == (500, "this could not be answered\n")


def test_the_refusal_of_a_long_body_can_be_read(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    try:
        connection.request("POST", "/", body=b"x" * (1 << 24))
        answer = Answer(connection.getresponse())
    finally:
        connection.close()
    assert (answer.status, answer.sentence) == (405, "only GET is answered here\n")


def strangers(server: Server, count: int) -> list[socket.socket]:
    """Connections that begin a request and do not end it."""
    found = []
    for _ in range(count):
        found.append(socket.create_connection(("127.0.0.1", server.port), timeout=20))
        found[-1].sendall(b"GET / HTTP/1.1\r\n")
    return found


def test_strangers_keep_nobody_from_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_http, "MOST_AT_ONCE", 2)
    monkeypatch.setattr(serve_http, "MOST_STRANGERS", 8)
    with Server(made(), patience=1000.0) as running:
        slow = strangers(running, 40)
        assert get(running, "").status == 200
        assert slow[0].recv(1) == b""  # of too many the first is hung up on
    ends = [each.recv(1) for each in slow]  # and at the end all of them
    assert ends == [b""] * 40
    assert not running._thread.is_alive()
    for each in slow:
        each.close()


def test_a_request_has_so_long_for_all_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(serve_http.time, "monotonic", lambda: now[0])
    ours, theirs = socket.socketpair()
    with ours, theirs:
        reader = serve_http._Bounded(ours, 10.0)
        theirs.sendall(b"GET / HTTP/1.1\r\n")
        assert reader.readline() == b"GET / HTTP/1.1\r\n"
        for now[0] in (9.0, 9.9):
            theirs.sendall(b"H: 1\r\n")  # each in time
            assert reader.readline() == b"H: 1\r\n"
            assert 0 < (ours.gettimeout() or 0) <= 10.0 - now[0] + 1e-9
        now[0] = 10.1
        theirs.sendall(b"H")
        with pytest.raises(TimeoutError):
            reader.readline()


def test_who_is_slow_is_hung_up_on() -> None:
    with Server(made(), patience=0.05) as running, socket.create_connection(("127.0.0.1", running.port), 20) as slow:
        slow.sendall(b"GET / HTTP/1.1\r\n")
        assert slow.recv(1) == b""


def test_those_with_the_token_wait_for_a_turn_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve_http, "MOST_AT_ONCE", 1)
    with Server(made(), patience=0.05) as running:
        running._http.turns.acquire()
        answer = get(running, "")
        assert (answer.status, answer.sentence) == (503, "1 answers are being computed; ask again\n")
        running._http.turns.release()
        assert get(running, "").status == 200


def test_hanging_up_is_seen_whatever_the_number_of_the_connection() -> None:
    resource = pytest.importorskip("resource")
    most, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < 1200:
        pytest.skip("this process may not open 1,200 files")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(most, 1200), hard))
    null = [open(os.devnull, "rb") for _ in range(1100)]  # noqa: PTH123, SIM115
    q = torch.ones(4, 1)
    try:
        with Server(made(regard.attention_weights(q, q))) as running:
            assert ask(running, "row", ROW, layer=0, query=1).status == 200
    finally:
        for each in null:
            each.close()
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@pytest.mark.parametrize(
    "request_", [b"\r\n", b"nonsense\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n", b"\x16\x03\x01\x00\r\n\r\n"]
)
def test_nonsense_gets_a_sentence(server: Server, request_: bytes) -> None:
    answer = sent(server, request_)
    assert b"Server:" not in answer
    assert b"Traceback" not in answer
    assert answer == b"" or answer.startswith(b"HTTP/1.0 400") or b"405" in answer.split(b"\r\n")[0]


def test_nothing_is_printed(server: Server, capfd: pytest.CaptureFixture[str]) -> None:
    get(server, "")
    get(server, "/")
    sent(server, b"nonsense\r\n\r\n")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(b"GET /")  # and hangs up
    ask(server, "row", ROW)
    assert capfd.readouterr() == ("", "")


def test_weights_that_changed_since_say_so() -> None:
    q = torch.randn(4, 8, generator=torch.Generator().manual_seed(0))
    weights = regard.attention_weights(q, q.clone())
    with Server(made(weights)) as running:
        assert ask(running, "row", ROW, layer=0, query=1).status == 200
        q.zero_()
        answer = ask(running, "row", ROW, layer=0, query=1)
        assert answer.status == 409
        assert answer.sentence.startswith("query was written to after regard.attention() returned these weights")


def test_weights_that_cannot_be_computed_say_why() -> None:
    class Broken:
        shape = (1, 1, 4, 4)
        mask = None

        def __getitem__(self, index: Any) -> Any:
            raise MemoryError("no room\nat all")

    with Server(made(Broken())) as running:
        answer = ask(running, "row", ROW, layer=0, query=1)
        assert (answer.status, answer.sentence) == (500, "the weights cannot be computed: no room at all\n")


def test_one_computation_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    running: list[Server] = []
    held: list[bool] = []

    def row(*_: Any) -> bytes:
        held.append(running[0]._answers._lock.locked())
        return b""

    monkeypatch.setattr(serve_answers.tiles, "row", row)
    q = torch.ones(4, 1)
    with Server(made(regard.attention_weights(q, q))) as server:
        running.append(server)
        asking = [
            threading.Thread(target=ask, args=(server, "row", ROW), kwargs={"layer": 0, "query": 1}) for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join(20)
        assert not server._answers._lock.locked()
    assert held == [True] * 3


def test_it_listens_on_this_machine_alone_and_asks_no_name_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getfqdn", lambda *_: pytest.fail("a name server was asked"))
    with Server(made()) as running:
        assert running._http.socket.getsockname() == ("127.0.0.1", running.port)


def test_what_nobody_waits_for_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    started, left, ended = threading.Event(), threading.Event(), threading.Event()

    def tile(*_: Any, between: Any, **__: Any) -> bytes:
        started.set()
        assert left.wait(20)
        try:
            for _ in range(1 << 30):
                between()
        finally:
            ended.set()
        return b""

    monkeypatch.setattr(serve_answers.tiles, "tile", tile)
    q = torch.ones(12, 1)
    with Server(made(regard.attention_weights(q, q))) as running:
        base = "/" + running.url.split("/", 3)[3]
        with socket.create_connection(("127.0.0.1", running.port)) as connection:
            query = urlencode(TILE | {"head": 0})
            connection.sendall(f"GET {base}tile?{query} HTTP/1.1\r\nHost: localhost:{running.port}\r\n\r\n".encode())
            assert started.wait(20)
        left.set()
        assert ended.wait(20)


def test_a_closed_server_is_gone() -> None:
    with Server(made()) as running:
        port = running.port
        assert get(running, "").status == 200
        waiting = threading.Thread(target=running.wait)
        waiting.start()
        assert waiting.is_alive()
    waiting.join(20)
    assert not waiting.is_alive()
    assert repr(running) == "Server(closed)"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)
    running.close()  # once more


def test_ctrl_c_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: threading.Thread, timeout: float | None = None) -> None:
        monkeypatch.undo()
        raise KeyboardInterrupt

    running = Server(made())
    monkeypatch.setattr(threading.Thread, "join", interrupted)
    running.wait()
    assert repr(running) == "Server(closed)"


def test_a_port_that_cannot_be_had_is_named() -> None:
    with Server(made()) as running:
        for attempt in (lambda: Server(made(), port=running.port), lambda: check_port(running.port)):
            with pytest.raises(
                ValueError,
                match=rf"port is {running.port}, which cannot be listened on at 127.0.0.1 \(Address already in use\); "
                "expected one that is free and allowed, such as 8000, or 0 for any",
            ):
                attempt()
    for port in (-1, 65536):
        with pytest.raises(ValueError, match=f"port is {port}; expected 0 to 65535, 0 for any that is free"):
            Server(made(), port=port)
    assert check_port(np.int64(0)) is None
    for value in ("80", True, 8.0):
        with pytest.raises(TypeError, match=r"port is .*; expected an integer from 0 to 65535"):
            Server(made(), port=value)  # type: ignore[arg-type]
