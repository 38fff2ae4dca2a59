"""Context: the keys and values of one cross-attention context, computed once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
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
    parameters were then: after they have changed, make another. A copy.deepcopy() of it belongs to the copy of the
    layer that is made with it; where it has gradients there can be none.

    Attributes:
        key: (..., Hkv, S, D), normed and with its positions.
        value: (..., Hkv, S, Dv).
    """

    def __init__(self, key: Tensor, value: Tensor, owner: Any) -> None:
        self.key, self.value = key, value
        self._owner = owner

    def select(self, indices: Sequence[int] | Tensor) -> Context:
        """The sequences at ``indices`` (n,) of the first batch axis, some several times: beam search.

        Raises:
            TypeError: indices that are no integers (n,).
            ValueError: one that is no sequence of the batch.
        """
        at = indices if isinstance(indices, Tensor) else torch.tensor(list(indices), device=self.key.device)
        if at.dim() != 1 or at.dtype.is_floating_point or at.dtype.is_complex or at.dtype == torch.bool:
            raise TypeError(
                f"context.select(indices): indices must be integers (n,), got {str(at.dtype)[6:]} of shape "
                f"{tuple(at.shape)}"
            )
        at = at.long()
        known = not torch.compiler.is_compiling() and not at.is_meta and type(at) is Tensor
        for i in at.tolist() if known else ():
            if not 0 <= i < self.key.shape[0]:
                raise ValueError(
                    f"context.select(indices): each must be a sequence in 0..{self.key.shape[0] - 1}, got {i}"
                )
        return Context(self.key.index_select(0, at), self.value.index_select(0, at), self._owner)

    def __repr__(self) -> str:
        *batch, heads, length, width = self.key.shape
        other = "" if self.value.shape[-1] == width else f", Dv={self.value.shape[-1]}"
        return f"Context(S={length}, batch {tuple(batch)}, Hkv={heads}, D={width}{other})"
