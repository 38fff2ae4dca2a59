"""How the live server speaks HTTP: whom it refuses, how long it waits, and what it says of itself, which is nothing.

A stranger is somebody who has not shown the token. Strangers take no turn of those who have, and none of them keeps a
connection for longer than a request may take.
"""

from __future__ import annotations

import hmac
import os
import socket
import socketserver
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from regard.look.serve_answers import Abandoned, Answers, Refused

__all__ = ["HOST", "MOST_BYTES", "PATIENCE", "Http"]

HOST = "127.0.0.1"

#: The port that browsers leave out of the names of hosts.
HTTP_PORT = 80

#: A request line and its headers together, in bytes; the page's own take a tenth of it.
MOST_BYTES = 16_384

#: Connections at a time that have not shown the token: of more, the one that came first is hung up on.
MOST_STRANGERS = 128

#: Answers at a time to those who have.
MOST_AT_ONCE = 32

#: Seconds for a request to arrive, for a turn, and for the answer to leave; who is slower is hung up on.
PATIENCE = 10.0

#: What is still sent to us is read so many seconds more, and so many bytes: closed at once, the answer would be lost.
LINGER, MOST_LEFT = 2.0, 1 << 26

#: The statuses of what was not read to its end.
_UNREAD = (405, 413, 414, 431)


class Http(ThreadingHTTPServer):
    """Accepts connections, each of which has a thread, and keeps strangers few."""

    daemon_threads = True
    block_on_close = False
    allow_reuse_address = os.name != "nt"
    request_queue_size = MOST_STRANGERS

    def __init__(self, address: tuple[str, int], token: str, answers: Answers, patience: float) -> None:
        self.token = token
        self.answers = answers
        self.patience = patience
        self.turns = threading.BoundedSemaphore(MOST_AT_ONCE)
        self._strangers: dict[socket.socket, None] = {}  # in the order that they came
        self._lock = threading.Lock()
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Takes the port."""
        # HTTPServer's own asks a name server what 127.0.0.1 is called.
        socketserver.TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Begins a connection's thread."""
        # Nobody waits here: who accepts connections must see the next one, and the end.
        with self._lock:
            self._strangers[request] = None
            first = next(iter(self._strangers)) if len(self._strangers) > MOST_STRANGERS else None
        if first is not None:
            self.known(first)
            _hang_up(first)
        try:
            super().process_request(request, client_address)
        except BaseException:
            self.known(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Runs in it."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self.known(request)

    def known(self, request: socket.socket) -> None:
        """The connection has shown the token, or is gone."""
        with self._lock:
            self._strangers.pop(request, None)

    def server_close(self) -> None:
        """Gives the port back, and hangs up on strangers."""
        super().server_close()
        with self._lock:
            left = [*self._strangers]
        for request in left:
            _hang_up(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Nothing is printed: a reader that hangs up is no error of ours."""


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # it may be closed already
        connection.shutdown(socket.SHUT_RDWR)  # its own thread then closes it


class _Bounded:
    """The first bytes of a connection and no more of them, until a time and no later."""

    def __init__(self, connection: socket.socket, until: float) -> None:
        self._connection = connection
        self._until = until
        self._read = b""
        self._left = MOST_BYTES

    def readline(self, limit: int = -1) -> bytes:
        most = self._left + 1 if limit < 0 else min(limit, self._left + 1)
        while (end := self._read.find(b"\n", 0, most) + 1) == 0 and len(self._read) < most:
            # What is left of all the time, not some more for each byte.
            self._connection.settimeout(max(1e-3, self._until - time.monotonic()))
            if not (more := self._connection.recv(most - len(self._read))):
                break
            self._read += more
            if time.monotonic() > self._until:
                raise TimeoutError
        line, self._read = self._read[: end or most], self._read[end or most :]
        self._left -= len(line)
        if self._left < 0:
            raise Refused(413, f"the request is longer than {MOST_BYTES:,} bytes")
        return line

    def close(self) -> None:
        """The connection is closed by its server."""


class _Handler(BaseHTTPRequestHandler):
    server: Http
    _status = 0

    def setup(self) -> None:
        super().setup()
        self.rfile.close()
        self.rfile = _Bounded(self.connection, time.monotonic() + self.server.patience)  # type: ignore[assignment]

    def handle_one_request(self) -> None:
        # Each connection carries one request: what one may ask for and read is bounded by the connection.
        self.close_connection = True
        self.command, self.request_version, self.requestline = "", "HTTP/1.0", ""
        try:
            self.raw_requestline = self.rfile.readline(MOST_BYTES)
            if not self.raw_requestline or not self.parse_request():
                return
            self.close_connection = True
            self._send(200, *self._answer())
        except Refused as refusal:
            self._send(refusal.status, "text/plain; charset=utf-8", f"{refusal}\n".encode(), refusal.headers)
        except (Abandoned, OSError):
            return  # nobody waits, or not for this long
        except Exception:
            # Whatever it is, it is no reason to leave the page without an answer.
            self._send(500, "text/plain; charset=utf-8", b"this could not be answered\n")
        finally:
            if self._status in _UNREAD:
                self._read_on()

    def _answer(self) -> tuple[str, bytes]:
        if self.command != "GET":
            raise Refused(405, "only GET is answered here", {"Allow": "GET"})
        self._check_origin()
        try:
            address = urlsplit(self.path)
        except ValueError as error:  # such as a bracket that is not closed
            raise Refused(400, "the request cannot be read") from error
        token, slash, what = address.path.removeprefix("/").partition("/")
        # The time that a comparison takes says nothing of how much of the token was right.
        right = hmac.compare_digest(token.encode("utf-8", "replace"), self.server.token.encode())
        if not right or address.scheme or address.netloc:
            raise Refused(404, "there is nothing here")
        if not slash:
            raise Refused(307, "the page is one slash further", {"Location": f"/{self.server.token}/"})
        self.server.known(self.connection)
        if not self.server.turns.acquire(timeout=self.server.patience):
            raise Refused(503, f"{MOST_AT_ONCE} answers are being computed; ask again")
        try:
            return self.server.answers.answer(what, address.query, self._hung_up)
        finally:
            self.server.turns.release()

    def _check_origin(self) -> None:
        """The browser asks for this machine by its own name, and no other site made it ask."""
        port = self.server.server_address[1]
        hosts = self.headers.get_all("Host") or []
        names = [f"{HOST}:{port}", f"localhost:{port}"]
        names += [HOST, "localhost"] if port == HTTP_PORT else []
        # A name that somebody else's name server points to 127.0.0.1 would make their page one of ours.
        if len(hosts) != 1 or hosts[0].strip().lower() not in names:
            raise Refused(403, f"this server answers under the names {HOST} and localhost alone")
        site = self.headers.get("Sec-Fetch-Site", "none")
        # Another port of localhost is the same site: it may hold a link to the page, and may not use its numbers.
        followed = site == "same-site" and self.headers.get("Sec-Fetch-Mode") == "navigate"
        if site not in ("same-origin", "none") and not followed:
            raise Refused(403, "this server does not answer to other sites")

    def _hung_up(self) -> bool:
        """Whether nobody waits for the answer any more."""
        self.connection.settimeout(0)
        try:
            # Not select(), which takes no more than the first 1,024 files of a process.
            return not self.connection.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            self.connection.settimeout(self.server.patience)

    def _read_on(self) -> None:
        """Reads what is still being sent, for a while, and throws it away."""
        until, left = time.monotonic() + min(LINGER, self.server.patience), MOST_LEFT
        try:
            self.connection.shutdown(socket.SHUT_WR)
            while left > 0 and (wait := until - time.monotonic()) > 0:
                self.connection.settimeout(wait)
                if not (more := self.connection.recv(1 << 16)):
                    return
                left -= len(more)
        except OSError:
            return

    def _send(self, status: int, kind: str, body: bytes, headers: Mapping[str, str] | None = None) -> None:
        self._status = status
        self.connection.settimeout(self.server.patience)
        self.request_version = "HTTP/1.0"  # a line cut short is taken for an older one, which has no status
        self.send_response_only(status)  # without the version of the server and the date
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What the base class finds wrong with a request, in our form."""
        status = code if code in (400, 414, 431) else 400
        self._send(status, "text/plain; charset=utf-8", b"the request cannot be read\n")

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 (the base class's name)
        """Nothing is printed by a request."""
