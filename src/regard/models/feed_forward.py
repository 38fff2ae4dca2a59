"""The feed-forward part of a layer, which looks at each position alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from regard.projection import Projection

__all__ = ["ACTIVATIONS", "Activation", "GatedFeedForward", "feed_forward"]

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]
#: What each activation is called, the function, and the same as a module.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], nn.Module]]] = {
    "silu": (F.silu, nn.SiLU),
    "gelu": (F.gelu, nn.GELU),
    "gelu_tanh": (partial(F.gelu, approximate="tanh"), partial(nn.GELU, approximate="tanh")),
    "relu": (F.relu, nn.ReLU),
}


class GatedFeedForward(nn.Module):
    """A feed-forward part whose hidden layer is gated: ``down(activation(gate(x)) * up(x))``; with "silu", SwiGLU.

    >>> GatedFeedForward(8, 16)(torch.zeros(2, 5, 8)).shape
    torch.Size([2, 5, 8])

    Args:
        d_model: width of x and of the output.
        d_mlp: width of the hidden layer.
        activation: of the gate: "silu", "gelu", "gelu_tanh" or "relu".
        bias: whether the projections add one.
        device: where the parameters are made.
        dtype: theirs.

    Attributes:
        gate_up: both projections of x at once; its rows are [gate | up].
        gate, up: after :func:`regard.distributed.unfuse`, the same rows in two layers.
        down: the projection back.

    References:
        Shazeer, GLU Variants Improve Transformer, 2020.
    """

    gate: nn.Module
    up: nn.Module

    def __init__(
        self,
        d_model: int,
        d_mlp: int,
        *,
        activation: Activation = "silu",
        bias: bool = False,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.gate_up = Projection(d_model, 2 * d_mlp, bias, device, dtype)
        self.down = Projection(d_mlp, d_model, bias, device, dtype)
        self._function = ACTIVATIONS[activation][0]

    def forward(self, x: Tensor) -> Tensor:
        """The output for x (..., d_model), of the same shape."""
        if "gate_up" in self._modules:
            gate, up = self.gate_up(x).chunk(2, dim=-1)  # (..., d_model) -> (..., 2 * d_mlp) -> two of (..., d_mlp)
        else:
            gate, up = self.gate(x), self.up(x)  # (..., d_model) -> (..., d_mlp) each
        out: Tensor = self.down(self._function(gate) * up)  # (..., d_mlp) -> (..., d_model)
        return out

    def extra_repr(self) -> str:
        """What the repr shows."""
        return f"activation={self.activation!r}"


def feed_forward(
    d_model: int,
    d_mlp: int,
    *,
    activation: Activation,
    gated: bool,
    bias: bool,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> nn.Module:
    """A :class:`GatedFeedForward`, or without a gate ``down(activation(up(x)))`` as a sequence of three."""
    if gated:
        return GatedFeedForward(d_model, d_mlp, activation=activation, bias=bias, device=device, dtype=dtype)
    return nn.Sequential(
        Projection(d_model, d_mlp, bias, device, dtype),  # (..., d_model) -> (..., d_mlp)
        ACTIVATIONS[activation][1](),
        Projection(d_mlp, d_model, bias, device, dtype),  # (..., d_mlp) -> (..., d_model)
    )
