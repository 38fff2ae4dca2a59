"""ALiBi as positions of a layer: what is further back weighs less."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from regard import biases
from regard.bias_columns import Bias, reads_ahead
from regard.masks.algebra import Mask, Sizes
from regard.positions.base import Positions

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = ["ALiBi"]


class ALiBi(Positions):
    """Attention with linear biases: each head takes from a score its own slope times the distance.

    ``bias_hij = -slope_h * |p_i - j|`` with ``p_i = S - L + i``, the position of query i among the keys

    >>> import torch
    >>> from regard.positions import ALiBi
    >>> bias = ALiBi(2).bias(1, 3, num_heads=2, device=torch.device("cpu"), dtype=torch.float32)
    >>> bias.to_dense(1, 3)  # the slopes of two heads are 1/16 and 1/256
    tensor([[[-0.1250, -0.0625, -0.0000]],
    <BLANKLINE>
            [[-0.0078, -0.0039, -0.0000]]])

    The bias is :func:`regard.biases.alibi`: a few more columns of query and key, and no L x S tensor; the mask of the
    layer has to be causal, or to forbid all later keys in another way.

    What it does past its training length: the same line goes on, so that what is far weighs less and less. Scores
    there are ones that the model has not seen, and the paper finds that it copes: a text twice as long reads as well.

    Args:
        slopes: how many query heads there are, for the paper's slopes; or a tensor of them, (H,), positive. A
            :class:`torch.nn.Parameter` is one of this module; another tensor moves and is saved with it. Both are
            again as they were given after reset_parameters().

    Raises:
        TypeError: neither an integer nor a tensor of floats.
        ValueError: not one axis; no heads.

    References:
        Press, Smith and Lewis, Train Short, Test Long: Attention with Linear Biases Enables Input Length Extrapolation,
        2022.
    """

    def __init__(self, slopes: int | Tensor) -> None:
        super().__init__()
        given = biases.alibi(slopes)
        self.num_heads = len(given.slopes)
        self.slopes: Tensor | None
        if isinstance(slopes, nn.Parameter):
            self.slopes = slopes
        else:
            self.register_buffer("slopes", slopes if isinstance(slopes, Tensor) else None)
        readable = type(slopes) in (Tensor, nn.Parameter) and not slopes.is_meta  # type: ignore[union-attr]
        self._given: list[float] | None = slopes.tolist() if readable else None  # type: ignore[union-attr]

    def reset_parameters(self) -> None:
        """The slopes as they were given; ValueError where they were given on the "meta" device, as no numbers."""
        if self.slopes is None:
            return
        if self._given is None:
            raise ValueError(
                "reset_parameters(): slopes were given to ALiBi on the 'meta' device, and so as no numbers; load a "
                "state dict, or make them with device='cpu'"
            )
        with torch.no_grad():
            self.slopes.copy_(torch.tensor(self._given, dtype=torch.float64, device="cpu"))

    def bias(
        self, query_len: int, key_len: int, *, num_heads: int, device: torch.device, dtype: torch.dtype
    ) -> Bias | Tensor | None:
        """The bias of low rank, for any lengths; see :meth:`Positions.bias`."""
        self._check_heads(num_heads)
        return _Lines(biases.alibi(self.num_heads if self.slopes is None else self.slopes).slopes)

    def check_layer(self, *, num_heads: int, num_kv_heads: int, head_dim: int) -> None:
        """Raise if there is not one slope a query head."""
        self._check_heads(num_heads)

    def _check_heads(self, num_heads: int) -> None:
        if num_heads != self.num_heads:
            raise ValueError(
                f"positions={self!r}: one slope a query head, expected num_heads={num_heads}, got {self.num_heads}"
            )

    def plot(self, ax: Axes | None = None) -> Figure:
        """The bias against the distance, a line a head; needs matplotlib."""
        from regard.positions import pictures

        return pictures.by_distance(biases.alibi(self.num_heads if self.slopes is None else self.slopes), ax)

    def extra_repr(self) -> str:
        """What the repr shows."""
        return f"{self.num_heads}" if self.slopes is None else f"{self.num_heads} slopes"


class _Lines(biases.Alibi):
    """The bias of a layer, whose user gave it positions."""

    def check_mask(self, mask: Mask | None, sizes: Sizes) -> None:
        if reads_ahead(mask, sizes):
            raise ValueError(
                "positions=ALiBi: the mask must let no query read past its own position, where -slope * |p - j| is "
                f"not of low rank, got mask={mask!r}; make or call the layer with mask=regard.masks.causal()"
            )
