"""Looking at attention: scores of heads, where to look, figures, and a page that needs no network.

Everything here asks AttentionWeights for what it shows, and so works for texts of any length. `figures` needs
matplotlib, the table in the terminal needs rich: pip install 'regard[look]'.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from regard.look.assemble import page
from regard.look.heads import HeadScores, HeadTable, head_table

if TYPE_CHECKING:
    from regard.look import figures

__all__ = ["HeadScores", "HeadTable", "figures", "head_table", "page"]


def __getattr__(name: str) -> Any:
    # matplotlib is imported when the first figure is drawn, not before.
    if name == "figures":
        return import_module("regard.look.figures")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
