"""Tokens as labels of a figure: in characters that some font of the system has, and never read as mathematics."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

from regard.look.wording import visible

#: Up to this many tokens along an axis, each is labelled with its text.
LABELLED_TOKENS = 40

#: Smaller than this (points) a label cannot be read in print, and is left out.
SMALLEST = 5.0

#: The widest character of the monospaced font, as a share of its size.
ADVANCE = 0.602

MISSING = "□"

# Where the characters are looked for that the first two fonts lack; only what is installed counts.
_FAMILIES = (
    "Noto Sans CJK SC",
    "Noto Sans CJK JP",
    "Noto Sans SC",
    "Source Han Sans SC",
    "WenQuanYi Micro Hei",
    "PingFang SC",
    "Hiragino Sans",
    "Microsoft YaHei",
    "Malgun Gothic",
    "Noto Sans",
    "Noto Sans Arabic",
    "Noto Sans Hebrew",
    "Noto Sans Devanagari",
    "Noto Sans Thai",
    "Noto Emoji",
    "Segoe UI Symbol",
    "Noto Sans Symbols2",
    "Symbola",
    "Arial Unicode MS",
    "Unifont",
)


def label_tokens(ax: Axes, query_tokens: Sequence[str] | None, key_tokens: Sequence[str] | None, size: float) -> None:
    """Puts the tokens on the axes of a map where there is room for each, and drops them where there is not.

    Args:
        ax: the axes, which count queries down and keys across.
        query_tokens: the texts of the queries that the axes show, or None.
        key_tokens: the texts of the keys that they show, or None.
        size: the size of the labels in points, where there is room.
    """
    box = ax.get_window_extent()
    per_inch = 1.25 * ax.figure.dpi  # the labels themselves and the colour bar have yet to take their room
    for axis, tokens, pixels in ((ax.yaxis, query_tokens, box.height), (ax.xaxis, key_tokens, box.width)):
        if tokens is None or len(tokens) > LABELLED_TOKENS:
            continue
        fitting = min(size, 72 * pixels / per_inch / max(1, len(tokens)) / 1.1)
        if fitting < SMALLEST:
            continue
        first = round(min(axis.get_view_interval()) + 0.5)
        axis.set_ticks(range(first, first + len(tokens)), labels=[token_label(token) for token in tokens])
        axis.set_tick_params(labelsize=fitting, pad=2.0)
        for text in axis.get_ticklabels():
            plain(text)
        if axis is ax.xaxis:
            axis.set_tick_params(rotation=90)


def token_label(token: str, width: int = 12) -> str:
    """A token in characters that some installed font has; matplotlib would warn about each of the others."""
    return drawable(visible(token, width))


def drawable(text: str) -> str:
    """A text with a box for each character that no font here can draw."""
    return "".join(character if _family(character) is not None else MISSING for character in text)


def plain(text: Text) -> Any:
    """Has a text drawn as it is, dollar signs included, in fonts that have its characters."""
    text.set_parse_math(False)
    text.set_fontfamily(families(text.get_text()))
    return text


def families(text: str) -> list[str]:
    """The monospaced font, and after it those that have what it lacks."""
    found = dict.fromkeys(family for family in map(_family, text) if family is not None)
    return ["monospace", *(family for family in found if family != "monospace")]


def cells(text: str) -> int:
    """How many columns of a monospaced font a text takes: wide characters take two, combining ones none."""
    return sum(_columns(character) for character in text)


def _columns(character: str) -> int:
    if unicodedata.combining(character):
        return 0
    return 2 if unicodedata.east_asian_width(character) in "WF" else 1


@lru_cache(maxsize=8192)
def _family(character: str) -> str | None:
    """The first family that can draw a character."""
    code = ord(character)
    return next((family for family, font in _fonts() if font.get_char_index(code)), None)


@lru_cache(maxsize=1)
def _fonts() -> tuple[tuple[str, Any], ...]:
    installed = {entry.name for entry in fontManager.ttflist}
    names: Iterable[str] = ("monospace", "DejaVu Sans", *(family for family in _FAMILIES if family in installed))
    return tuple((name, get_font(findfont(FontProperties(family=name)))) for name in names)
