"""A page that was made: shown in a notebook, written to a file, opened in a browser or served live."""

from __future__ import annotations

import os
import tempfile
import webbrowser
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from regard.look.assemble import document
from regard.look.collect import MAX_BYTES
from regard.look.data import PageData
from regard.look.files import check_target, write_atomically
from regard.look.notebook import NOTEBOOK_BYTES, iframe

if TYPE_CHECKING:
    from regard.look.serve import Server

__all__ = ["Page"]


class Page:
    """A page on attention, an encoding or a mask, for any browser and without a network.

    >>> import torch, regard
    >>> q, k, v = torch.randn(3, 1, 2, 4, 8)  # B 1, H 2, L 4, D 8
    >>> _, weights = regard.attention(q, k, v, regard.masks.causal())
    >>> page = regard.look(weights, ["to", "be", "or", "not"])
    >>> print(page)  # doctest: +ELLIPSIS
    Page(1 layer, 2 heads, 4 x 4; ... of it data)

    In a notebook it shows itself. ``page.save("report.html")`` writes it, ``page.open()`` shows it in a browser,
    ``page.serve()`` computes exact numbers as its reader zooms.

    Attributes:
        data: what the page shows, as plain values, in at most ``max_bytes`` of JSON.
        layers: the weights of each group of the page, one a layer; empty for encodings and masks.
        batch: which sequence of a batch is shown.
    """

    def __init__(
        self,
        build: Callable[[int], PageData],
        *,
        max_bytes: int | None = None,
        layers: Sequence[Sequence[Any]] = (),
        batch: int = 0,
    ) -> None:
        try:
            self.data = build(MAX_BYTES if max_bytes is None else max_bytes)
        except ValueError as error:
            given = f"max_bytes is {MAX_BYTES:,}"
            if max_bytes is not None or not str(error).startswith(given):
                raise
            raise ValueError(f"max_bytes is the default of{str(error).removeprefix('max_bytes is')}") from error
        self.layers = layers
        self.batch = batch
        self._notebook: Callable[[], PageData] = lambda: self.data
        if max_bytes is None:
            self._notebook = cache(lambda: _for_notebook(build, self.data))

    @property
    def html(self) -> str:
        """The whole page, in ASCII."""
        return document(self.data)

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the page to a file, whole or not at all.

        Args:
            path: where to write; missing folders are made.

        Returns:
            The path written.

        Raises:
            ValueError: path is a folder, or nothing may be written there.
        """
        check_target(path)
        return write_atomically(path, self.html.encode("ascii"))

    def open(self) -> Path:
        """Show the page in a browser, from a temporary file that only the user may read.

        Returns:
            The path of the file, which stays.

        Raises:
            RuntimeError: no browser can be started here; the message says where the page is.
        """
        content = self.html.encode("ascii")
        handle, name = tempfile.mkstemp(prefix="regard-", suffix=".html")  # for its owner alone
        with os.fdopen(handle, "wb") as file:
            file.write(content)
        show(Path(name).resolve().as_uri())
        return Path(name)

    def serve(self, *, port: int = 0, open: bool = False) -> Server:  # noqa: A002 (what it does)
        """Serve the page on 127.0.0.1, where it fetches exact tiles and rows of the weights as its reader zooms.

        Args:
            port: where to listen; 0 for any port that is free.
            open: show it in a browser.

        Returns:
            The :class:`regard.look.Server`, which runs until it is closed; ``with page.serve() as server:`` closes it.

        Raises:
            TypeError: port is no integer.
            ValueError: port is out of range, in use or not allowed, or the page shows no weights.
            RuntimeError: no browser can be started here.
        """
        from regard.look.serve import Server

        if not self.layers:
            raise ValueError(
                f"page.serve(): {self!r} has no weights to compute more of; page.open() shows all that there is"
            )
        server = Server(self, port=port)
        if open:
            try:
                show(server.url)
            except BaseException:
                server.close()
                raise
        return server

    def live_document(self, base: str) -> str:
        """The page as its server sends it: it fetches from ``base``, the path that the requests begin with."""
        return document(replace(self.data, live=base))

    def _repr_html_(self) -> str:
        data = self._notebook()
        return iframe(document(data), data.title)

    def __repr__(self) -> str:
        size, data = len(self.html), len(self.data.to_json())
        return f"Page({summary(self.data)}; {_size(size)}, {_size(data)} of it data)"


def _for_notebook(build: Callable[[int], PageData], data: PageData) -> PageData:
    """The data in what a notebook should take, where nobody said how much it is."""
    if len(data.to_json()) <= NOTEBOOK_BYTES:
        return data
    try:
        return build(NOTEBOOK_BYTES)
    except ValueError:
        return data  # so many heads do not fit: the notebook takes what a file does


def show(address: str) -> None:
    """Opens an address in the user's browser.

    Raises:
        RuntimeError: there is none to be started.
    """
    try:
        opened = webbrowser.open(address)
    except webbrowser.Error:
        opened = False
    if not opened:
        raise RuntimeError(f"no browser could be started here; open {address} in one")


def summary(data: PageData) -> str:
    """What a page shows, in a few words."""
    if data.kind == "encoding":
        encoding = data.encoding
        assert encoding is not None
        return f"encoding, {encoding['length']:,} positions x {encoding['dims']:,} dimensions"
    if data.kind == "mask":
        mask = data.mask
        assert mask is not None
        return f"mask, {mask['query_len']:,} x {mask['key_len']:,}"
    layers = sum(len(group.layers) for group in data.groups)
    heads = sum(len(group.heads) for group in data.groups)
    sizes = dict.fromkeys(f"{group.query_len:,} x {group.key_len:,}" for group in data.groups)
    return f"{_count(layers, 'layer')}, {_count(heads, 'head')}, {' and '.join(sizes)}"


def _count(number: int, name: str) -> str:
    return f"{number:,} {name}{'' if number == 1 else 's'}"


def _size(count: int) -> str:
    return f"{count / 1e6:.1f} MB" if count >= 1_000_000 else f"{count / 1e3:.0f} kB"
