"""What a layer cut by heads is made of: rows of a projection a rank, columns of the last one, and norms for all."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Partial, Placement, Replicate, Shard, distribute_tensor
from torch.func import functional_call

from regard.distributed.once import once
from regard.layer_calls import local
from regard.projection import Projection, linear

__all__ = ["ColumnProjection", "EachRank", "RowProjection", "cut", "draw", "share", "shared", "total"]


def shared(t: Tensor, mesh: DeviceMesh) -> Tensor:
    """A tensor that all ranks have, each for its own heads: its gradient is the sum over the ranks."""
    if not torch.is_grad_enabled() or not t.requires_grad:
        return t
    whole = DTensor.from_local(_First.apply(t), mesh, [Replicate()], run_check=False)  # type: ignore[no-untyped-call]
    return whole.to_local(grad_placements=[Partial()])


class _First(torch.autograd.Function):
    """What has first derivatives alone: PyTorch's DTensor loses what a gradient depends on, and says nothing."""

    @staticmethod
    def forward(ctx: Any, t: Tensor) -> Tensor:
        ctx.save_for_backward(t)
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        return once([grad], ctx.saved_tensors)[0]


def total(t: Tensor, mesh: DeviceMesh) -> Tensor:
    """The sum over the ranks of what each has, on all of them."""
    if torch.is_grad_enabled() and t.requires_grad:
        t = _First.apply(t)  # type: ignore[no-untyped-call]
    return DTensor.from_local(t, mesh, [Partial()], run_check=False).redistribute(placements=[Replicate()]).to_local()


def cut(parameter: Tensor, mesh: DeviceMesh, placement: Placement, source: int | None) -> nn.Parameter:
    """A parameter over the ranks, with the numbers that rank ``source`` has; None: each takes its own."""
    whole = distribute_tensor(parameter.detach(), mesh, [placement], src_data_rank=source)
    return nn.Parameter(whole, requires_grad=parameter.requires_grad)


def draw(parameter: Tensor, init: Callable[[Tensor], Any]) -> None:
    """New numbers for a parameter over ranks, drawn for the whole of it and then cut, as rank 0 draws them.

    Drawn by each rank for its part, they would be alike on ranks of equal seeds: on CPUs, PyTorch does no better.
    """
    whole = torch.empty(parameter.shape, dtype=parameter.dtype, device=parameter.device)
    init(whole)
    _assign(parameter, whole)


@torch.no_grad()
def _assign(parameter: Tensor, whole: Tensor) -> None:
    assert isinstance(parameter, DTensor)
    parameter.copy_(distribute_tensor(whole.detach(), parameter.device_mesh, parameter.placements))


def share(parameter: Tensor | None, name: str) -> Tensor | None:
    """What this rank has of a parameter, which is still over the ranks."""
    if parameter is None or hasattr(parameter, "to_local"):
        return local(parameter)
    raise TypeError(
        f"{name} of a layer that is cut over ranks must be a DTensor, got a plain {type(parameter).__name__} "
        f"{tuple(parameter.shape)}, of which each rank would take the whole for its part: load a state with "
        "torch.distributed.checkpoint.state_dict.set_model_state_dict(), and without assign=True"
    )


class _Cut(Projection):
    """What both kinds of projections over ranks have."""

    def __init__(self, own: Projection, mesh: DeviceMesh) -> None:
        super().__init__(own.in_features, own.out_features, False, "meta", own.weight.dtype)
        self.mesh = mesh
        self.train(own.training)

    def reset_parameters(self) -> None:
        """As :class:`torch.nn.Linear`, for the whole of it."""
        if not isinstance(self.weight, DTensor):  # while it is made
            return
        draw(self.weight, lambda t: nn.init.kaiming_uniform_(t, a=math.sqrt(5)))
        if self.bias is not None:
            bound = 1 / math.sqrt(self.in_features)
            draw(self.bias, lambda t: nn.init.uniform_(t, -bound, bound))


class ColumnProjection(_Cut):
    """A projection of which each rank has some rows, and computes those columns of the output: of its heads.

    Attributes:
        weight: (N, K), a DTensor of which this rank holds (N / ranks, K).
        bias: (N,) cut likewise, or None.
        mesh: the ranks.
    """

    def __init__(self, own: Projection, mesh: DeviceMesh, source: int | None) -> None:
        super().__init__(own, mesh)
        self.weight = cut(own.weight, mesh, Shard(0), source)
        self.bias = None if own.bias is None else cut(own.bias, mesh, Shard(0), source)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name)
        """This rank's columns of the projection of an input (..., K), (..., N / ranks)."""
        weight = share(self.weight, "weight")
        assert weight is not None
        return linear(input, weight, share(self.bias, "bias"))

    def extra_repr(self) -> str:
        """As a linear layer's; how many ranks share its rows."""
        return f"{super().extra_repr()}, rows over {self.mesh.size()} ranks"


class RowProjection(_Cut):
    """A projection of which each rank has some columns, for its part of the input; the output is the sum over ranks.

    Attributes:
        weight: (N, K), a DTensor of which this rank holds (N, K / ranks).
        bias: (N,), on every rank, or None.
        mesh: the ranks.
    """

    def __init__(self, own: Projection, mesh: DeviceMesh, source: int | None) -> None:
        super().__init__(own, mesh)
        self.weight = cut(own.weight, mesh, Shard(1), source)
        self.bias = None if own.bias is None else cut(own.bias, mesh, Replicate(), source)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002  (nn.Linear's name)
        """The projection (..., N) of an input of which this rank has (..., K / ranks)."""
        weight, bias = share(self.weight, "weight"), share(self.bias, "bias")
        assert weight is not None
        out = total(linear(input, weight), self.mesh)
        # Once, after the sum; under autocast the sum is of half precision and the bias is not.
        return out if bias is None else out + bias.to(out.dtype)

    def extra_repr(self) -> str:
        """As a linear layer's; how many ranks share its columns."""
        return f"{super().extra_repr()}, columns over {self.mesh.size()} ranks"


class EachRank(nn.Module):
    """A module that every rank applies to its own heads: gradients of parameters that all have are summed.

    Its parameters have the names that they had.
    """

    _own: nn.Module

    def __init__(self, own: nn.Module, mesh: DeviceMesh, placements: dict[str, Placement], source: int | None) -> None:
        super().__init__()
        self.mesh, self.placements = mesh, placements
        for name, parameter in own.named_parameters(recurse=False):
            self.register_parameter(name, cut(parameter, mesh, placements[name], source))
        # What is computed, and no submodule: its parameters are here.
        object.__setattr__(self, "_own", copy.deepcopy(own).to("meta"))
        self.train(own.training)

    def reset_parameters(self) -> None:
        """As the module's own."""
        own: Any = copy.deepcopy(self._own).to_empty(device=next(self.parameters()).device)
        own.reset_parameters()
        for name, parameter in self.named_parameters(recurse=False):
            _assign(parameter, getattr(own, name))

    def forward(self, x: Tensor) -> Tensor:
        """What the module makes of x."""
        given: dict[str, Any] = {}
        for name, parameter in self.named_parameters(recurse=False):
            mine = share(parameter, name)
            assert mine is not None
            given[name] = shared(mine, self.mesh) if self.placements[name].is_replicate() else mine
        out: Tensor = functional_call(self._own, given, (x,))
        return out

    def extra_repr(self) -> str:
        """What is applied."""
        return repr(self._own)
