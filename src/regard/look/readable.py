"""Raw symbols of a vocabulary as the text they stand for, where it is plain that they are symbols."""

from __future__ import annotations

from collections.abc import Sequence

from regard.look.pieces import METASPACE, from_bytes

# How GPT-2's byte-level vocabularies spell a space, a line break and a tab.
_BYTE_MARKS = ("\u0120", "\u010a", "\u0109")


def readable(tokens: Sequence[str]) -> list[str]:
    r"""Tokens with their markers resolved, where the list as a whole shows that it has any.

    A byte-level vocabulary spells each byte as a visible character, a space as U+0120; SentencePiece writes a space as
    U+2581. Both are known by these markers at the start of a token, in a list that has no space of its own before a
    word. What shows neither is left alone, and so are single tokens that the spelling does not explain.

    Example:
        >>> from regard.look.readable import readable
        >>> readable(["The", "\u0120caf", "\u00c3\u00a9"]), readable(["\u2581The", "\u2581cat", "s"])
        (['The', ' caf', 'é'], [' The', ' cat', 's'])
        >>> readable(["\u0120al", " was", " here"])  # a name, in a list of texts
        ['Ġal', ' was', ' here']

    Args:
        tokens: symbols or texts.

    Returns:
        Texts, one a token.
    """
    if any(token.startswith(" ") for token in tokens):
        return list(tokens)  # texts already: their spaces are spaces
    if any(token.startswith(METASPACE) for token in tokens):
        return [token.replace(METASPACE, " ") for token in tokens]
    if any(token.startswith(_BYTE_MARKS) for token in tokens):
        return [from_bytes(token) for token in tokens]
    return list(tokens)
