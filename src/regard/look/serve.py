"""The live server: a page on this machine alone whose numbers are computed as its reader zooms.

It listens on 127.0.0.1. Whoever does not know the token in the address gets a 404, a request under another host's name
or from another site a 403; no header opens it to other origins, so that no page elsewhere can read from it.
"""

from __future__ import annotations

import hmac
import os
import secrets
import select
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from regard.look.serve_answers import Abandoned, Answers, Refused

if TYPE_CHECKING:
    from regard.look.opened import Page

__all__ = ["HOST", "Server", "check_port"]

HOST = "127.0.0.1"

#: A request line and its headers together, in bytes; the page's own take a tenth of it.
MOST_BYTES = 16_384

#: Requests at a time; more wait for their turn.
MOST_AT_ONCE = 32

#: Who does not finish a request in so many seconds is hung up on.
PATIENCE = 10.0


class Server:
    """A page that is served on 127.0.0.1 with exact numbers, from when this is made until :meth:`close`.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)  # B 1, H 2, L 8, D 4
    >>> _, weights = regard.attention(q, k, v)
    >>> with regard.look(weights).serve() as server:
    ...     server.url.partition("127.0.0.1:")[0]
    'http://'

    Attributes:
        url: where the page is; it holds a random token, without which nothing is answered.
        port: where it listens.
    """

    def __init__(self, page: Page, *, port: int = 0) -> None:
        check_range(port)
        token = secrets.token_urlsafe(32)
        self._answers = Answers(page, f"/{token}/")
        try:
            self._http = _Http((HOST, port), token, self._answers)
        except OSError as error:
            raise ValueError(_in_use(port, error)) from error
        self.port: int = self._http.server_address[1]
        self.url = f"http://{HOST}:{self.port}/{token}/"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.1,), daemon=True, name="regard.look")
        self._thread.start()

    def wait(self) -> None:
        """Returns when the server is closed, from another thread or by Ctrl-C."""
        try:
            while self._thread.is_alive():
                self._thread.join(0.5)  # a wait without an end cannot be interrupted on Windows
        except KeyboardInterrupt:
            self.close()

    def close(self) -> None:
        """Ends the server; what it is asked from now on is not answered. Closing twice is closing once."""
        self._answers.stop()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def __enter__(self) -> Server:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        state = self.url if self._thread.is_alive() else "closed"
        return f"Server({state})"


def check_range(port: int) -> None:
    """The port is one.

    Raises:
        TypeError: it is no integer.
        ValueError: it is not within 0 to 65535.
    """
    if isinstance(port, bool) or not isinstance(port, int):
        raise TypeError(f"port is {port!r}; expected an integer from 0 to 65535, 0 for any that is free")
    if not 0 <= port <= 65535:
        raise ValueError(f"port is {port}; expected 0 to 65535, 0 for any that is free")


def check_port(port: int) -> None:
    """Somebody may listen on the port, as far as can be known before doing so.

    Args:
        port: 0 to 65535, 0 for any that is free.

    Raises:
        TypeError: it is no integer.
        ValueError: it is out of range, in use or not allowed; the message says which.
    """
    check_range(port)
    with socket.socket() as probe:
        if os.name != "nt":  # there it would let two listen on one port
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise ValueError(_in_use(port, error)) from error


def _in_use(port: int, error: OSError) -> str:
    return (
        f"port is {port}, which cannot be listened on at {HOST} ({error.strerror}); expected one that is free and "
        "allowed, such as 8000, or 0 for any"
    )


class _Http(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"
    request_queue_size = MOST_AT_ONCE

    def __init__(self, address: tuple[str, int], token: str, answers: Answers) -> None:
        self.token = token
        self.answers = answers
        self._turns = threading.BoundedSemaphore(MOST_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        # HTTPServer's own asks a name server what 127.0.0.1 is called.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        self._turns.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._turns.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._turns.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is printed: a reader that hangs up is no error of ours."""


class _Bounded:
    """The first bytes of a connection, and no more of them."""

    def __init__(self, file: Any) -> None:
        self._file = file
        self._left = MOST_BYTES

    def readline(self, limit: int = -1) -> bytes:
        line: bytes = self._file.readline(min(limit, self._left + 1) if limit >= 0 else self._left + 1)
        self._left -= len(line)
        if self._left < 0:
            raise Refused(413, f"the request is longer than {MOST_BYTES:,} bytes")
        return line

    def close(self) -> None:
        self._file.close()


class _Handler(BaseHTTPRequestHandler):
    server: _Http
    timeout = PATIENCE

    def setup(self) -> None:
        super().setup()
        self.rfile = _Bounded(self.rfile)  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        # Each connection carries one request: what one may ask for and read is bounded by the connection.
        self.close_connection = True
        self.command, self.request_version, self.requestline = "", "HTTP/1.0", ""
        try:
            self.raw_requestline = self.rfile.readline(MOST_BYTES)
            if not self.raw_requestline or not self.parse_request():
                return
            self.close_connection = True
            kind, body = self._answer()
        except Refused as refusal:
            self._send(refusal.status, "text/plain; charset=utf-8", f"{refusal}\n".encode())
        except Abandoned:
            return
        else:
            self._send(200, kind, body)

    def _answer(self) -> tuple[str, bytes]:
        if self.command != "GET":
            raise Refused(405, "only GET is answered here")
        self._check_origin()
        address = urlsplit(self.path)
        token, _, what = address.path.removeprefix("/").partition("/")
        # The time that a comparison takes says nothing of how much of the token was right.
        right = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if not right or address.scheme or address.netloc:
            raise Refused(404, "there is nothing here")
        return self.server.answers.answer(what, address.query, self._hung_up)

    def _check_origin(self) -> None:
        """The browser asks for this machine by its own name, and no other site made it ask."""
        port = self.server.server_address[1]
        hosts = self.headers.get_all("Host") or []
        # A name that somebody else's name server points to 127.0.0.1 would make their page one of ours.
        if len(hosts) != 1 or hosts[0].strip().lower() not in (f"{HOST}:{port}", f"localhost:{port}"):
            raise Refused(403, f"this server answers under the names {HOST} and localhost alone")
        site = self.headers.get("Sec-Fetch-Site", "none")
        # Another port of localhost is the same site: it may hold a link to the page, and may not use its numbers.
        followed = site == "same-site" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("same-origin", "none") and not followed:
            raise Refused(403, "this server does not answer to other sites")

    def _hung_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        ready, _, _ = select.select([self.connection], [], [], 0)
        try:
            return bool(ready) and self.connection.recv(1, socket.MSG_PEEK) == b""
        except OSError:
            return True

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.request_version = "HTTP/1.0"  # a line cut short is taken for an older one, which has no status
        self.send_response_only(status)  # without the version of the server and the date
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        if status == 405:
            self.send_header("Allow", "GET")
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong with a request, in our form."""
        status = code if code in (400, 414, 431) else 400
        self._send(status, "text/plain; charset=utf-8", b"the request cannot be read\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Nothing is printed by a request."""
