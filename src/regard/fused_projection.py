"""FusedProjection: queries, keys and values of all heads as the rows of one matrix."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from regard.projection import Projection, linear

__all__ = ["FusedProjection", "Part", "has_hooks", "takes_parts", "untouched"]

Part = Literal["q", "kv", "k", "v"]
# The projections of each part, counted among (q, k, v).
SPANS: dict[Part, tuple[int, int]] = {"q": (0, 1), "kv": (1, 3), "k": (1, 2), "v": (2, 3)}


class FusedProjection(Projection):
    """The projections to queries, keys and values in one matrix, of which a part may be asked for alone.

    ``x @ weight.mT + bias`` with the rows ``[q | k | v]``, each head after head.

    >>> import torch
    >>> from regard.fused_projection import FusedProjection
    >>> layer = FusedProjection(8, (4, 2, 2), biased=(True, False, True))
    >>> layer.weight.shape, layer.bias.shape  # without a bias, the rows of the keys take no place in it
    (torch.Size([8, 8]), torch.Size([6]))
    >>> x = torch.rand(3, 8)
    >>> torch.testing.assert_close(layer(x)[:, 4:], layer(x, part="kv"))

    Args:
        in_features: the width of the input, K.
        rows: the rows of q, of k and of v.
        biased: which of the three have a bias.
        device: where the parameters are made.
        dtype: the dtype of the parameters.

    Attributes:
        weight: (sum of rows, K).
        bias: the biases of those that have one, one after the other; None if none has.
    """

    def __init__(
        self,
        in_features: int,
        rows: Sequence[int],
        *,
        biased: Sequence[bool] = (True, True, True),
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__(in_features, sum(rows), any(biased), device, dtype)
        self.rows, self.biased = list(rows), tuple(biased)
        if any(biased) and not all(biased):
            own = sum(n for n, has in zip(rows, biased, strict=True) if has)
            self.bias = nn.Parameter(torch.zeros(own, device=device, dtype=dtype))

    def forward(self, input: Tensor, part: Part | None = None) -> Tensor:  # noqa: A002  (nn.Linear's name)
        """The projection of an input (..., K) to all rows, or to those of one part."""
        bias = self.full_bias()
        if part is None:
            return linear(input, self.weight, bias)
        first, last = SPANS[part]
        start, stop = sum(self.rows[:first]), sum(self.rows[:last])
        return linear(input, self.weight[start:stop], None if bias is None else bias[start:stop])

    def full_bias(self) -> Tensor | None:
        """A bias of every row, 0 where there is none of its own; None where no row has one."""
        bias: Tensor | None = self.bias
        if bias is None or all(self.biased):
            return bias
        sizes = [n if has else 0 for n, has in zip(self.rows, self.biased, strict=True)]
        own = zip(bias.split_with_sizes(sizes), self.rows, self.biased, strict=True)
        return torch.cat([part if has else bias.new_zeros(n) for part, n, has in own])  # (sum of rows,)

    def extra_repr(self) -> str:
        """As :class:`torch.nn.Linear`; which rows have a bias where only some have."""
        if len(set(self.biased)) == 1:
            return super().extra_repr()
        names = "+".join(name for name, has in zip("qkv", self.biased, strict=True) if has)
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={names}"


def takes_parts(module: nn.Module) -> bool:
    """Whether asking a part of ``module`` gives what its whole output holds: nobody has wrapped or replaced it."""
    return type(module) is FusedProjection and untouched(module)


def untouched(module: nn.Module) -> bool:
    """Whether a call of ``module`` is what its class says and nothing besides: no hook, no forward of its own."""
    return "forward" not in vars(module) and not has_hooks(module) and not torch_module._has_any_global_hook()


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody has put a hook on ``module`` itself."""
    own = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(own)
