"""Tokens as text that can be read and cannot do harm: in a terminal, an axis label or a sentence."""

from __future__ import annotations

import unicodedata

_SHOWN = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "→"}


def visible(token: str, width: int = 16) -> str:
    r"""A token with its blanks shown, its control characters spelled out and its end cut off.

    Control characters and marks that change the direction of writing would otherwise reach the terminal or rearrange
    the line around them.

    Example:
        >>> from regard.look.wording import visible
        >>> visible("\n    return"), visible("\x1b[31m"), visible("\u202eabc")
        ('⏎····return', '␛[31m', '<U+202E>abc')

    Args:
        token: any text.
        width: the most characters to show.

    Returns:
        One line, "…" at its end where it was cut.
    """
    text = ""
    for character in token:
        following = _character(character)
        if len(text) + len(following) > width:
            return text + "…"
        text += following
    return text


def quoted(token: str, width: int = 16) -> str:
    """A visible token in quotation marks."""
    return f"“{visible(token, width)}”"


def _character(character: str) -> str:
    if character in _SHOWN:
        return _SHOWN[character]
    code = ord(character)
    if code < 0x20:
        return chr(0x2400 + code)
    if code == 0x7F:
        return "␡"
    if unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return f"<U+{code:04X}>"
    return character


def one_line(text: str) -> str:
    r"""A text, such as a path, with its control characters spelled out and its spaces as they are.

    Example:
        >>> from regard.look.wording import one_line
        >>> one_line("my file\x1b[2J.txt")
        'my file␛[2J.txt'

    Args:
        text: any text.

    Returns:
        The text in one line.
    """
    return "".join(character if character == " " else _character(character) for character in text)
