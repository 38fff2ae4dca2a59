"""Looking at attention: a page that needs no network, scores of heads, where to look, and figures.

The package can be called: ``regard.look(weights, tokens)`` is :func:`regard.look.api.look` and gives a :class:`Page`.
Everything here asks the weights for what it shows, and so works for texts of any length. The page needs numpy,
`figures` matplotlib, the table in the terminal rich: pip install 'regard[look]'.
"""

from __future__ import annotations

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from regard.look.api import encoding, mask, page
from regard.look.heads import HeadScores, HeadTable, head_table
from regard.look.measure import Measured, measure
from regard.look.opened import Page
from regard.look.package import Package

if TYPE_CHECKING:
    from regard.look import figures
    from regard.look.serve import Server

__all__ = [
    "HeadScores",
    "HeadTable",
    "Measured",
    "Page",
    "Server",
    "encoding",
    "figures",
    "head_table",
    "mask",
    "measure",
    "page",
]


def __getattr__(name: str) -> Any:
    # matplotlib is imported when the first figure is drawn, and a server when there is one, not before.
    if name == "figures":
        return import_module("regard.look.figures")
    if name == "Server":
        return import_module("regard.look.serve").Server
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


sys.modules[__name__].__class__ = Package
