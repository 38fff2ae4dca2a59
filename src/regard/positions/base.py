"""What an attention layer asks of positions; each answer does nothing unless a class gives another."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard.bias_columns import Bias

__all__ = ["NoPositions", "Positions"]


class Positions(nn.Module):
    """Where tokens stand, for ``positions=`` of an attention layer.

    ``softmax(scale * rotate(Q, K) + bias) V``

    >>> import torch
    >>> from regard.positions import Positions
    >>> class Late(Positions):  # a key is worth its own position more
    ...     def bias(self, query_len, key_len, *, num_heads, device, dtype):
    ...         return torch.arange(key_len, device=device, dtype=dtype)
    >>> Late().bias(1, 3, num_heads=1, device=torch.device("cpu"), dtype=torch.float32)
    tensor([0., 1., 2.])

    A class of its own overrides what it needs: the methods here change nothing. A layer asks these methods and does not
    call the module: hooks of its do not run, and parameters of its are sharded with those of the layer
    (``fully_shard(layer)``), not by themselves.
    """

    def rotate(
        self,
        q: Tensor,
        k: Tensor,
        *,
        offset: int | Tensor = 0,
        key_offset: int | Tensor | None = None,
        length: int | Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Query and key after projection, with their positions in them.

        Args:
            q: queries (..., H, L, D).
            k: keys (..., Hkv, S, D).
            offset: the position of the first query: one for all, or an integer tensor (B,), one for each sequence.
            key_offset: the position of the first key; offset if None.
            length: how long the text is at the end of this call; None = where the last
                query or key ends.

        Returns:
            q and k, of the same shapes.
        """
        return q, k

    def bias(
        self, query_len: int, key_len: int, *, num_heads: int, device: torch.device, dtype: torch.dtype
    ) -> Bias | Tensor | None:
        """What is added to the scores, for ``bias=`` of :func:`regard.attention`; None for nothing.

        Args:
            query_len: L; the queries are the last L of the S positions.
            key_len: S.
            num_heads: H.
            device: where query is.
            dtype: the dtype of query.
        """
        return None

    def check_layer(self, *, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raise if these positions do not fit a layer with such heads.

        Args:
            num_heads: H.
            num_kv_heads: Hkv.
            head_dim: D, the width of one head of query and key.
        """


class NoPositions(Positions):
    """No positions: what every method of :class:`Positions` gives by default.

    >>> import torch
    >>> from regard.positions import NoPositions
    >>> q = k = torch.eye(2)
    >>> NoPositions().rotate(q, k, offset=7)[0] is q
    True

    Layers of a model without positions (NoPE) say so by it.

    References:
        Kazemnejad et al., The Impact of Positional Encoding on Length Generalization in Transformers, 2023.
    """
