"""The live server: a page on this machine alone whose numbers are computed as its reader zooms.

It listens on 127.0.0.1. Whoever does not know the token in the address gets a 404, a request under another host's name
or from another site a 403; no header opens it to other origins, so that no page elsewhere can read from it.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
from types import TracebackType
from typing import TYPE_CHECKING

from regard.look.checks import whole
from regard.look.serve_answers import Answers
from regard.look.serve_http import HOST, PATIENCE, Http

if TYPE_CHECKING:
    from regard.look.opened import Page

__all__ = ["HOST", "Server", "check_port"]


class Server:
    """A page that is served on 127.0.0.1 with exact numbers, from when this is made until :meth:`close`.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 8, 4)  # B 1, H 2, L 8, D 4
    >>> _, weights = regard.attention(q, k, v)
    >>> with regard.look(weights).serve() as server:
    ...     server.url.partition("127.0.0.1:")[0]
    'http://'

    Args:
        page: the page.
        port: where to listen; 0 for any port that is free.
        patience: seconds that a request may take to arrive, and its answer to leave.

    Attributes:
        url: where the page is; it holds a random token, without which nothing is answered.
        port: where it listens.
    """

    def __init__(self, page: Page, *, port: int = 0, patience: float = PATIENCE) -> None:
        port = check_range(port)
        token = secrets.token_urlsafe(32)
        self._answers = Answers(page, f"/{token}/")
        try:
            self._http = Http((HOST, port), token, self._answers, patience)
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


def check_range(port: int) -> int:
    """The port, which is one.

    Raises:
        TypeError: it is no integer.
        ValueError: it is not within 0 to 65535.
    """
    number = whole("port", port, "an integer from 0 to 65535, 0 for any that is free")
    if not 0 <= number <= 65535:
        raise ValueError(f"port is {number}; expected 0 to 65535, 0 for any that is free")
    return number


def check_port(port: int) -> None:
    """Somebody may listen on the port, as far as can be known before doing so.

    Args:
        port: 0 to 65535, 0 for any that is free.

    Raises:
        TypeError: it is no integer.
        ValueError: it is out of range, in use or not allowed; the message says which.
    """
    port = check_range(port)
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
