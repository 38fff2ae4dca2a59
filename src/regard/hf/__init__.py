"""Hugging Face models on regard's attention: ``regard.hf.register()``, then ``attn_implementation="regard"``.

The models then compute by :func:`regard.attention`, with key and value heads unrepeated and a mask as work that is not
done, and ``outputs.attentions`` holds a :class:`regard.AttentionWeights` a layer: what eager attention would return, in
O(L) memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from regard.hf.load_layer import load
from regard.hf.load_rotary import rotary
from regard.hf.registration import NAME, register

if TYPE_CHECKING:
    from regard.hf.cache import Cache

__all__ = ["NAME", "Cache", "load", "register", "rotary"]


def __getattr__(name: str) -> Any:
    # A class of transformers' is its base: transformers is imported when it is first asked for.
    if name == "Cache":
        from regard.hf.cache import Cache

        return Cache
    raise AttributeError(f"module 'regard.hf' has no attribute {name!r}")
