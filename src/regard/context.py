"""Context: the keys and values of one cross-attention context, computed once."""

from __future__ import annotations

from typing import Any

from torch import Tensor

__all__ = ["Context"]


class Context:
    """The keys and values that one layer makes of a context, for many calls that read the same one.

    >>> import torch, regard
    >>> layer, text, image = regard.MultiHeadAttention(16, 4), torch.rand(2, 5, 16), torch.rand(2, 9, 16)
    >>> context = layer.project_context(image)
    >>> context
    Context(S=9, batch (2,), Hkv=4, D=4)
    >>> bool((layer(text, context) == layer(text, image)).all())
    True

    Made by :meth:`regard.MultiHeadAttention.project_context`, and read by that layer alone. It holds what the
    parameters were then: after they have changed, make another.

    Attributes:
        key: (..., Hkv, S, D), normed and with its positions.
        value: (..., Hkv, S, Dv).
    """

    def __init__(self, key: Tensor, value: Tensor, owner: Any) -> None:
        self.key, self.value = key, value
        self._owner = owner

    def select(self, indices: Tensor) -> Context:
        """The sequences at ``indices`` (n,) of the first batch axis, some several times: beam search."""
        return Context(self.key.index_select(0, indices), self.value.index_select(0, indices), self._owner)

    def __repr__(self) -> str:
        *batch, heads, length, width = self.key.shape
        other = "" if self.value.shape[-1] == width else f", Dv={self.value.shape[-1]}"
        return f"Context(S={length}, batch {tuple(batch)}, Hkv={heads}, D={width}{other})"
