"""Self-attention with one head."""

from __future__ import annotations

from typing import Literal, overload

from torch import Tensor, nn

from regard import layer_checks, validation
from regard.functional import attention
from regard.masks.algebra import Mask
from regard.projection import Projection
from regard.weights import AttentionWeights

__all__ = ["SelfAttention"]


class SelfAttention(nn.Module):
    """Self-attention with one head: a sequence that reads itself.

    ``softmax(mask(Q K^T / sqrt(d_k))) V`` with ``Q = Wq(x), K = Wk(x), V = Wv(x)``.

    >>> import torch, regard
    >>> layer = regard.SelfAttention(d_in=32, d_k=512, d_v=64)
    >>> layer(torch.rand(20, 5, 32)).shape
    torch.Size([20, 5, 64])
    >>> output, weights = layer(torch.rand(20, 5, 32), mask=regard.masks.causal(), need_weights=True)
    >>> weights.shape
    torch.Size([20, 5, 5])

    Args:
        d_in: the width of x.
        d_k: the width of queries and keys; d_in if None.
        d_v: the width of values and of the output; d_k if None.
        bias: whether Wq, Wk and Wv add a bias.
        dropout: the probability of dropping a weight, in training only.

    Attributes:
        Wq, Wk, Wv: the projections, created in this order and initialised as :class:`torch.nn.Linear` is.

    Raises:
        ValueError: a width below 1, a dropout outside [0, 1].

    References:
        Vaswani et al., Attention Is All You Need, 2017 (section 3.2.1).
    """

    def __init__(
        self, d_in: int, d_k: int | None = None, d_v: int | None = None, *, bias: bool = True, dropout: float = 0.0
    ) -> None:
        super().__init__()
        self.d_in = layer_checks.check_size(d_in, "d_in")
        self.d_k = self.d_in if d_k is None else layer_checks.check_size(d_k, "d_k")
        self.d_v = self.d_k if d_v is None else layer_checks.check_size(d_v, "d_v")
        validation.check_dropout(dropout)
        self.dropout = float(dropout)
        self.Wq = Projection(self.d_in, self.d_k, bias=bias)
        self.Wk = Projection(self.d_in, self.d_k, bias=bias)
        self.Wv = Projection(self.d_in, self.d_v, bias=bias)

    @overload
    def forward(
        self, x: Tensor, *, mask: Mask | Tensor | None = None, need_weights: Literal[False] = False
    ) -> Tensor: ...

    @overload
    def forward(
        self, x: Tensor, *, mask: Mask | Tensor | None = None, need_weights: Literal[True]
    ) -> tuple[Tensor, AttentionWeights]: ...

    def forward(
        self, x: Tensor, *, mask: Mask | Tensor | None = None, need_weights: bool = False
    ) -> Tensor | tuple[Tensor, AttentionWeights]:
        """Let every position of x read the positions that the mask allows.

        Args:
            x: (L, d_in) or (B, L, d_in). With more axes, the last one before L is that of heads to a mask.
            mask: a :class:`regard.masks.Mask`, or a boolean tensor that broadcasts to (B, L, L); True = may attend. A
                position that may read none has the output 0.
            need_weights: also return the weights; the output does not change.

        Returns:
            The output (..., L, d_v) in x's dtype; with need_weights, the output and the
            :class:`regard.AttentionWeights` (..., L, L).

        Raises:
            TypeError: x of another dtype than the layer, a mask that is not boolean.
            ValueError: x of another width than d_in, a mask that does not broadcast.
        """
        layer_checks.check_input(x, self.d_in, "x", "d_in", self.Wq.weight)
        q, k, v = self.Wq(x), self.Wk(x), self.Wv(x)  # (..., L, d_k), (..., L, d_k), (..., L, d_v)
        out, weights = attention(q, k, v, mask, dropout=self.dropout if self.training else 0.0)
        return (out, weights) if need_weights else out

    def extra_repr(self) -> str:
        """What the repr shows before the projections."""
        return f"dropout={self.dropout}" if self.dropout else ""
