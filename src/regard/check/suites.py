"""Which suite a subject is for, by what it is called."""

from __future__ import annotations

import inspect
import re
from typing import Any

__all__ = ["SUITES", "suite_of"]

SUITES = ("attention", "rotary", "positions")


def suite_of(subject: Any) -> str:
    """The suites "rotary" and "positions" are told by a name; anything else is an attention.

    >>> class RotaryEmbedding: ...
    >>> suite_of(RotaryEmbedding), suite_of(lambda q, k, v: v)
    ('rotary', 'attention')
    """
    name = getattr(subject, "__name__", None) or type(subject).__name__
    plain = re.sub(r"[^a-z]", "", str(name).lower())
    if "attention" in plain or "attn" in plain:
        return "attention"
    if "rotary" in plain or "rope" in plain or "rotate" in plain:
        return "rotary"
    if "position" in plain or "sinusoid" in plain:
        return "positions"
    target = subject if inspect.isclass(subject) else type(subject)
    return "positions" if hasattr(target, "get_encoding") else "attention"
