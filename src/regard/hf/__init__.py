"""Hugging Face models on regard's attention: whole models by ``register()``, single layers by ``load(layer)``.

After ``regard.hf.register()`` a model with ``attn_implementation="regard"`` computes by :func:`regard.attention`, with
key and value heads unrepeated and a mask as work that is not done, and ``outputs.attentions`` holds a
:class:`regard.AttentionWeights` a layer: what eager attention would return, in O(L) memory. :func:`load` makes of one
attention layer a :class:`regard.MultiHeadAttention` with copies of its parameters, and :func:`rotary` reads the rotary
positions of a configuration. :class:`Cache` is a cache for ``generate`` that is written in place.
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
