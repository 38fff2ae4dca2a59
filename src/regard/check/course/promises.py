"""What a docstring promises: weights that are returned, and shapes with heads."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ["promised_heads", "promised_weights"]

#: "attention weights", "attn_weights", "attention map"; "weighted" is no such word.
WEIGHTS = re.compile(
    r"\b(?:(?:the|attention|attn)[ _])*(?:weights?|attention (?:map|matrix|scores?|probabilities|distribution))\b",
    re.IGNORECASE,
)
#: What the output is made with is not returned for that.
MADE_WITH = re.compile(r"\b(?:by|using|of|from)\s+(?:the\s+)?(?:(?:attention|attn)[ _])?weights\b", re.IGNORECASE)
RETURNS = re.compile(
    r"^[ \t]*:?returns?(?:[ \t]*:[ \t]*(?P<rest>.*)|[ \t]*(?:\n[ \t]*-{3,}[ \t]*)?$)", re.IGNORECASE | re.MULTILINE
)
SECTION = re.compile(
    r"^[ \t]*(?:(?:args|arguments|parameters|raises|examples?|notes?|inputs?)[ \t]*:?[ \t]*$|:param)", re.I
)
HEADS = re.compile(
    r"[(\[][^()\[\]\n]*\b(?:num_?heads|n_?heads|nheads|heads|head|H|h)\b[^()\[\]\n]*,[^()\[\]\n]*[)\]]"
    r"|\b(?:4-?D|four[- ]dimensional|4[- ]dimensional)\b"
    r"|\b(?:multiple|several|any number of|number of|and|over|across|for all) (?:attention )?heads\b"
)


def promised_weights(function: Any) -> str | None:
    """The words of a docstring that promise weights as part of what is returned, or None.

    >>> def scores(q, k, v):
    ...     '''Attention.
    ...
    ...     Returns:
    ...         the output and the attention weights
    ...     '''
    >>> promised_weights(scores)
    'the attention weights'

    Args:
        function: what has the docstring. A parameter that asks for weights makes them no promise.
    """
    if any("weight" in name for name in _parameters(function)):
        return None
    found = WEIGHTS.search(MADE_WITH.sub("", _returns(_docstring(function))))
    return found[0].strip() if found else None


def promised_heads(function: Any) -> str | None:
    """The words of a docstring that promise input with an axis of heads, or None.

    >>> def scores(q, k, v):
    ...     '''Attention of Q (batch, heads, length, d_k) over K and V.'''
    >>> promised_heads(scores)
    '(batch, heads, length, d_k)'

    Args:
        function: what has the docstring.
    """
    found = HEADS.search(_docstring(function))
    return found[0] if found else None


def _docstring(function: Any) -> str:
    return inspect.cleandoc(getattr(function, "__doc__", None) or "")


def _parameters(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _returns(text: str) -> str:
    """What a docstring says of the result: its section "Returns", or the sentences that begin with it."""
    found = RETURNS.search(text)
    if found is None:
        return " ".join(re.findall(r"\breturn(?:s|ing)?\b[^.]*", text, re.IGNORECASE))
    lines = [found["rest"] or ""]
    for line in text[found.end() :].splitlines():
        if SECTION.match(line):
            break
        lines.append(line)
    return "\n".join(lines)
