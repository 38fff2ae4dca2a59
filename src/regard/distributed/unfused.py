"""One projection to queries, keys and values as three, whose rows can each be cut by heads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from regard.fused_projection import FusedProjection
from regard.multi_head import MultiHeadAttention
from regard.projection import Projection

__all__ = ["check_bare", "is_gated", "unfuse"]

Module = TypeVar("Module", bound=nn.Module)
NAMES = ("q_proj", "k_proj", "v_proj")


def unfuse(module: Module) -> Module:
    """Give every :class:`regard.MultiHeadAttention` in ``module`` a q_proj, a k_proj and a v_proj for its in_proj, and
    every gated feed-forward part of :mod:`regard.models` a gate and an up for its gate_up.

    ``[q | k | v] = x W_in^T + b_in`` becomes ``q = x W_q^T + b_q`` and so on, with the same rows.

    >>> import torch, regard
    >>> layer = regard.MultiHeadAttention(16, 4, num_kv_heads=2)
    >>> x = torch.rand(2, 5, 16)
    >>> before = layer(x)
    >>> layer = regard.distributed.unfuse(layer)
    >>> sorted(layer.state_dict())[:4], layer.k_proj.weight.shape
    (['k_proj.bias', 'k_proj.weight', 'out_proj.bias', 'out_proj.weight'], torch.Size([8, 16]))
    >>> torch.testing.assert_close(layer(x), before)

    These are the names of what :func:`regard.distributed.tensor_plan` makes, so that a checkpoint of one loads into
    the other. The layer computes what it did, in three products where it had one. An optimizer is made afterwards: the
    parameters are new ones. ``reset_parameters()`` draws each of the three by its own size from then on.

    Args:
        module: a layer, or a model with some; it is changed in place. Layers that have three already are left alone.

    Returns:
        ``module``.

    Raises:
        TypeError: something else stands in the place of a projection, or it has hooks; nothing is changed then.
    """
    fused = [m for m in module.modules() if (isinstance(m, MultiHeadAttention) and m._is_fused) or is_gated(m)]
    for each in fused:
        check_bare(each, ("gate_up",) if is_gated(each) else ("in_proj",), "unfuse(module)")
    for each in fused:
        if is_gated(each):
            _split_gated(each)
        else:
            _split(each)
    return module


def is_gated(module: nn.Module) -> bool:
    """Whether it is a gated feed-forward part of regard.models with one projection for two."""
    return {"gate_up", "down"} <= set(module._modules)


def check_bare(module: nn.Module, names: Sequence[str], caller: str) -> None:
    """The projections are those that the module was made with, without hooks: what is made of them is all there is."""
    for name in names:
        own, kind = getattr(module, name), FusedProjection if name == "in_proj" else Projection
        hooks = (own._forward_hooks, own._forward_pre_hooks, own._backward_hooks, own._backward_pre_hooks)
        if type(own) is not kind or "forward" in own.__dict__ or any(hooks):
            raise TypeError(
                f"{caller}: {name} must be the {kind.__name__} that the layer was made with, without hooks, got "
                f"{type(own).__name__}; do this first, and then wrap what it makes"
            )


@torch.no_grad()
def _split(layer: Any) -> None:
    fused: FusedProjection = layer.in_proj
    sizes = [n if has else 0 for n, has in zip(fused.rows, fused.biased, strict=True)]
    biases = [None] * 3 if fused.bias is None else fused.bias.split_with_sizes(sizes)
    del layer.in_proj
    for name, weight, bias in zip(NAMES, fused.weight.split_with_sizes(fused.rows), biases, strict=True):
        setattr(layer, name, _projection(fused, weight, bias if bias is not None and bias.numel() else None))
    _in_front(layer, NAMES)


@torch.no_grad()
def _split_gated(part: Any) -> None:
    both: Projection = part.gate_up
    weights, biases = both.weight.chunk(2), (None, None) if both.bias is None else both.bias.chunk(2)
    del part.gate_up
    for name, weight, bias in zip(("gate", "up"), weights, biases, strict=True):
        setattr(part, name, _projection(both, weight, bias))
    _in_front(part, ("gate", "up"))


def _projection(whole: Projection, weight: Tensor, bias: Tensor | None) -> Projection:
    """A projection with copies of some rows of another one."""
    new = Projection(whole.in_features, weight.shape[0], False, "meta", weight.dtype)
    new.weight = nn.Parameter(weight.clone(), whole.weight.requires_grad)
    if bias is not None:
        new.bias = nn.Parameter(bias.clone(), whole.bias.requires_grad)
    return new.train(whole.training)


def _in_front(module: nn.Module, names: tuple[str, ...]) -> None:
    """Where the one stood: parameters() then yields them in the order in which they are used."""
    for name in [n for n in module._modules if n not in names]:
        module._modules[name] = module._modules.pop(name)
