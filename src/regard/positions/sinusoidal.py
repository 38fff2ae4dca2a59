"""Where a token stands, as a vector that is added to its embedding."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard import layer_checks, validation
from regard.positions import checks
from regard.positions.placing import added

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["PositionalEncoding", "sinusoids"]


def sinusoids(max_len: int, d_model: int, *, base: float = 10000.0, device: torch.device | None = None) -> Tensor:
    """The sinusoidal encoding of positions 0 .. max_len - 1, (max_len, d_model) float32.

    ``PE[pos, 2i] = sin(pos / base^(2i / d_model))`` and ``PE[pos, 2i + 1] = cos(pos / base^(2i / d_model))``.

    >>> sinusoids(2, 4)
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    """
    # An angle of 1e5 in float32 is off by 4e-3 before its sine is taken: it is computed in float64, and only the sine,
    # which is at most 1 in size, is rounded.
    position = torch.arange(max_len, dtype=torch.float64, device=device)
    even = torch.arange(0, d_model, 2, dtype=torch.float64, device=device)
    angle = position[:, None] / base ** (even / d_model)  # (max_len, ceil(d_model / 2))
    out = torch.empty(max_len, d_model, device=device, dtype=torch.float32)
    out[:, 0::2] = angle.sin()
    out[:, 1::2] = angle[:, : d_model // 2].cos()  # an odd width ends with a sine
    return out


class PositionalEncoding(nn.Module):
    """Sinusoidal positional encoding, added to embeddings.

    ``y = dropout(x + PE[offset : offset + L])`` with ``PE[pos, 2i] = sin(pos / base^(2i / d_model))`` and
    ``PE[pos, 2i + 1] = cos(pos / base^(2i / d_model))``.

    >>> import torch, regard
    >>> positions = regard.PositionalEncoding(d_model=4, max_len=100)
    >>> positions(torch.zeros(2, 2, 4))[1]
    tensor([[0.0000, 1.0000, 0.0000, 1.0000],
            [0.8415, 0.5403, 0.0100, 0.9999]])
    >>> positions(torch.zeros(1, 4), offset=1)  # decoding: the token at position 1
    tensor([[0.8415, 0.5403, 0.0100, 0.9999]])

    The table is computed in float64, kept in float32, also when the module is converted (``.half()``), and rounded to
    the dtype of x when it is added. It follows the module to another device and is no part of the state dict.

    Args:
        d_model: the width of the embeddings; an odd one ends with a sine.
        max_len: how many positions there are.
        dropout: the probability of zeroing an element of the sum, in training only.
        base: the longest wavelength, in units of 2 pi positions.

    Raises:
        ValueError: a size below 1, a dropout outside [0, 1], a base that is not positive.

    References:
        Vaswani et al., Attention Is All You Need, 2017 (section 3.5).
    """

    encoding: Tensor

    def __init__(self, d_model: int, max_len: int, *, dropout: float = 0.0, base: float = 10000.0) -> None:
        super().__init__()
        self.d_model = layer_checks.check_size(d_model, "d_model")
        self.max_len = layer_checks.check_size(max_len, "max_len")
        self.base = checks.check_base(base)
        validation.check_dropout(dropout)
        self.dropout = float(dropout)
        self.register_buffer("encoding", sinusoids(self.max_len, self.d_model, base=self.base), persistent=False)

    def get_encoding(self) -> Tensor:
        """A copy of the table, (max_len, d_model) float32."""
        return self.encoding.clone()

    @added
    def forward(self, x: Tensor, *, offset: int | Tensor = 0) -> Tensor:
        """Add the encoding of positions offset .. offset + L - 1.

        Args:
            x: embeddings (..., L, d_model), of any floating-point dtype.
            offset: the position of the first token: one for all, or an integer tensor (B,) with one for each sequence.

        Returns:
            (..., L, d_model) in x's dtype.

        Raises:
            TypeError: x is not a floating-point tensor, or offset not an integer.
            ValueError: another width than d_model, or positions outside [0, max_len). In a graph where offset is a
                tensor these are found when it runs, as a RuntimeError.
        """
        checks.check_embeddings(x, self.d_model, self.encoding.device)
        rows = checks.rows_at(self.encoding, offset, x, "PositionalEncoding(d_model, max_len={})")
        return F.dropout(x + rows.to(x.dtype), self.dropout, training=self.training)

    def plot(self, ax: Axes | None = None) -> Figure:
        """The heatmap of the table, positions down and dimensions across; needs matplotlib."""
        from regard.look import figures

        return figures.positional_encoding(self.encoding, ax=ax)

    def extra_repr(self) -> str:
        """What the repr shows."""
        return f"d_model={self.d_model}, max_len={self.max_len}, dropout={self.dropout}, base={self.base:g}"

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PositionalEncoding:
        # nn.Module converts every floating-point buffer: .half() would round the table, and a module made on the meta
        # device would come back with whatever was in memory.
        table = self.encoding
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        if table.is_meta and not self.encoding.is_meta:
            self.encoding = sinusoids(self.max_len, self.d_model, base=self.base, device=self.encoding.device)
        elif self.encoding.dtype != table.dtype:
            self.encoding = table.to(self.encoding.device)
        return self
