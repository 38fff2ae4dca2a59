"""Positions that are learned: a vector for each, added to the embedding of the token there."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard import layer_checks
from regard.positions import checks
from regard.positions.placing import added

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["LearnedPositions"]


class LearnedPositions(nn.Module):
    """A learned vector for each position, added to embeddings.

    ``y = x + W[offset : offset + L]``

    >>> import torch
    >>> from regard.positions import LearnedPositions
    >>> positions = LearnedPositions(max_len=100, d_model=4)
    >>> _ = torch.nn.init.ones_(positions.weight)
    >>> positions(torch.zeros(1, 4), offset=99)
    tensor([[1., 1., 1., 1.]], grad_fn=<AddBackward0>)

    What it does past its training length: it refuses. There is no vector past max_len, and one that no text of
    training reached is what it was at the start.

    Args:
        max_len: how many positions there are.
        d_model: the width of the embeddings.
        device: where the parameter is made.
        dtype: the dtype of the parameter.

    Attributes:
        weight: W, (max_len, d_model); normal, of standard deviation 0.02, at the start.

    Raises:
        TypeError: a size that is no integer.
        ValueError: a size below 1.

    References:
        Gehring et al., Convolutional Sequence to Sequence Learning, 2017; as in GPT-2 and BERT.
    """

    def __init__(
        self, max_len: int, d_model: int, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> None:
        super().__init__()
        self.max_len = layer_checks.check_size(max_len, "max_len")
        self.d_model = layer_checks.check_size(d_model, "d_model")
        self.weight = nn.Parameter(torch.empty(self.max_len, self.d_model, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the vectors anew."""
        nn.init.normal_(self.weight, std=0.02)

    @added
    def forward(self, x: Tensor, *, offset: int | Tensor = 0) -> Tensor:
        """Add the vectors of positions offset .. offset + L - 1.

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
        checks.check_embeddings(x, self.d_model, self.weight.device)
        rows = checks.rows_at(self.weight, offset, x, "LearnedPositions(max_len={}, d_model)")
        return x + rows.to(x.dtype)

    def plot(self, ax: Axes | None = None) -> Figure:
        """The heatmap of the vectors, positions down and dimensions across; needs matplotlib."""
        from regard.look import figures

        return figures.positional_encoding(self.weight.detach(), ax=ax)

    def extra_repr(self) -> str:
        """What the repr shows."""
        return f"max_len={self.max_len}, d_model={self.d_model}"
