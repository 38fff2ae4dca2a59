"""Puts a page together: one HTML file that holds its style, script and data, and asks nothing of the network.

The content policy names the style and the script by their hashes and allows nothing else, so that even a token that
got out of its place could not run. Only the page of a live server may fetch, and only from that server.
"""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files
from typing import Protocol

__all__ = ["Data", "document"]

_PLACES = ("policy", "style", "data", "script")


class Data(Protocol):
    """What a page is made of: a :class:`regard.look.data.PageData`."""

    @property
    def kind(self) -> str:
        """One of "attention", "encoding" and "mask"."""

    @property
    def live(self) -> str | None:
        """The path that a live page fetches from, or None."""

    def to_json(self) -> str:
        """JSON in ASCII, without a "<"."""


def document(data: Data) -> str:
    """The whole page for some data, in ASCII.

    Args:
        data: what the page shows; where it is live, the page may fetch from its own server.

    Returns:
        HTML.
    """
    # Each page carries the code that it needs: only a live one fetches, and encodings and masks need a small part.
    code = "page" if data.kind == "attention" else "plain"
    style = _read(f"{code}.css")
    script = _read("served.js" if code == "page" and data.live is not None else f"{code}.js")
    fetches = "; connect-src 'self'" if data.live is not None else ""
    policy = (
        f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'{fetches}; base-uri 'none'; "
        "form-action 'none'"
    )
    parts = {"policy": policy, "style": style, "data": data.to_json(), "script": script}
    # One pass over the template, not one a part: a part may hold what looks like the place of another.
    pieces = _read("page.html").split("%%")
    if sorted(pieces[1::2]) != sorted(_PLACES):
        raise AssertionError(f"page/built/page.html has places for {pieces[1::2]}; expected one each for {_PLACES}")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


@cache
def _read(name: str) -> str:
    """A file of the built page."""
    text = (files("regard.look") / "page" / "built" / name).read_text(encoding="utf-8")
    if not text.isascii():
        raise AssertionError(f"page/built/{name} holds characters beyond ASCII; write them as escapes and build again")
    if name != "page.html" and re.search("</script|</style|<!--", text, re.IGNORECASE):
        raise AssertionError(f"page/built/{name} holds what would end the element that it stands in")
    return text


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("ascii")).digest()).decode("ascii")
