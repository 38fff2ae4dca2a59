"""Hugging Face models on regard's attention: ``regard.hf.register()``, then ``attn_implementation="regard"``.

The models then compute by :func:`regard.attention`, with key and value heads unrepeated and a mask as work that is not
done, and ``outputs.attentions`` holds a :class:`regard.AttentionWeights` a layer: what eager attention would return, in
O(L) memory.
"""

from __future__ import annotations

from regard.hf.registration import NAME, register

__all__ = ["NAME", "register"]
