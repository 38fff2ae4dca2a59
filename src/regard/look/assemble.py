"""Puts the page together: one HTML file that holds its style, scripts and data, and asks nothing of the network.

The content policy names the style and the script by their hashes and allows nothing else, so that even a token that
got out of its place could not run.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Callable, Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from regard.look.collect import page_data
from regard.look.data import PageData
from regard.look.files import check_target, write_atomically
from regard.look.heads import head_table

if TYPE_CHECKING:
    from regard import AttentionWeights

#: The page's scripts in the order they are joined in; each uses only what comes before it.
SCRIPTS = ("tokens.js", "colours.js", "decode.js", "overview.js", "map.js", "margins.js", "text.js", "page.js")


def page(
    weights: Sequence[AttentionWeights],
    tokens: Sequence[str] | None,
    path: str | os.PathLike[str],
    *,
    token_ids: Tensor | Sequence[int] | None = None,
    title: str = "attention",
    source: str = "",
    notes: Sequence[str] = (),
    max_bytes: int = 5_000_000,
    batch: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Writes a page that shows all heads of all layers, as one file for any browser, without a network.

    Example:
        >>> import tempfile, torch
        >>> from regard import attention, look, masks
        >>> q, k, v = torch.randn(3, 1, 2, 4, 8)  # B 1, H 2, L 4, D 8
        >>> _, weights = attention(q, k, v, masks.causal())
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     look.page([weights], ["to", "be", "or", "not"], folder + "/page.html").name
        'page.html'

    Args:
        weights: one AttentionWeights a layer, all of one L and S.
        tokens: S texts, or None to number the positions.
        path: where to write, whole or not at all.
        token_ids: (S,) integers that say which tokens are the same; without them their text does.
        title: what the page is called.
        source: where the text came from.
        notes: what the reader must know, such as a text cut short.
        max_bytes: the most that the data may take; the maps get coarser until they fit.
        batch: which sequence of a batch.
        progress: called with (layers done, layers in all).

    Returns:
        The path written.

    Raises:
        ValueError: if weights is empty or its layers differ in L or S, tokens are not one a key, max_bytes is too few,
            or path cannot be written.
    """
    check_target(path)
    table = head_table(weights, token_ids=token_ids, tokens=tokens, batch=batch)
    data = page_data(
        weights, table, title=title, source=source, notes=notes, max_bytes=max_bytes, batch=batch, progress=progress
    )
    return write_atomically(path, document(data).encode("ascii"))


def document(data: PageData) -> str:
    """The whole page for some data, in ASCII."""
    style, script = _read("page.css"), _script()
    policy = f"default-src 'none'; script-src '{_hash(script)}'; style-src '{_hash(style)}'; base-uri 'none'"
    parts = {
        "policy": f"{policy}; form-action 'none'",
        "style": style,
        "data": data.to_json(),
        "script": script,
    }
    # One pass over the template, not one a part: a part may hold what looks like the place of another.
    pieces = _read("page.html").split("%%")
    return "".join(parts[piece] if place % 2 else piece for place, piece in enumerate(pieces))


@lru_cache(maxsize=1)
def _script() -> str:
    """All scripts as one function, so that none of their names is global."""
    body = "\n".join(_read(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{body}}})();\n'


def _read(name: str) -> str:
    text = (files("regard.look") / "page" / name).read_text(encoding="utf-8")
    if not text.isascii():
        raise AssertionError(f"page/{name} holds characters beyond ASCII; write them as escapes")
    return text


def _hash(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode("ascii")).digest()).decode("ascii")
