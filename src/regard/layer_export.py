"""A layer as torch's own, where torch's own has what it has."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import is_parametrized

from regard.fused_projection import FusedProjection, has_hooks
from regard.positions import NoPositions
from regard.projection import Projection

__all__ = ["to_torch", "untold"]

Part = tuple[Tensor, Tensor | None]


def to_torch(layer: Any) -> nn.MultiheadAttention:
    """A :class:`torch.nn.MultiheadAttention` with copies of the layer's parameters; ValueError if it is none."""
    found = untold(layer)
    if found:
        raise ValueError(f"to_torch(): torch.nn.MultiheadAttention has no {'; no '.join(found)}")
    widths = layer.d_context or (layer.d_in, layer.d_in)
    out_weight: Tensor = layer.out_proj.weight
    theirs = nn.MultiheadAttention(
        layer.d_in,
        layer.num_heads,
        dropout=layer.dropout,
        bias=layer.out_proj.bias is not None,
        kdim=widths[0],
        vdim=widths[1],
        batch_first=True,
        device="meta",
        dtype=out_weight.dtype,
    )
    parts = _parts(layer)
    if theirs.in_proj_weight is not None:
        theirs.in_proj_weight = _copy([weight for weight, _ in parts])
    else:
        for name, (weight, _) in zip("qkv", parts, strict=True):
            setattr(theirs, f"{name}_proj_weight", _copy([weight]))
    if theirs.in_proj_bias is not None:
        theirs.in_proj_bias = _copy([bias for _, bias in parts if bias is not None])
        theirs.out_proj.bias = _copy([layer.out_proj.bias])
    theirs.out_proj.weight = _copy([out_weight])
    return theirs.train(layer.training)


def untold(layer: Any) -> list[str]:
    """What the layer has that torch's has not, in words."""
    own = ("in_proj",) if layer._is_fused else ("q_proj", "k_proj", "v_proj")
    wrapped = [what for name in (*own, "out_proj") if (what := _changed(name, getattr(layer, name)))]
    if wrapped:  # nothing is known of what they compute
        return wrapped
    found: list[str] = []
    if layer.num_kv_heads != layer.num_heads:
        found.append(f"grouped heads (num_kv_heads={layer.num_kv_heads} of num_heads={layer.num_heads})")
    sizes = {name: getattr(layer, name) for name in ("d_k", "d_v", "d_out")}
    found += [f"{name}={size} beside d_in={layer.d_in}" for name, size in sizes.items() if size != layer.d_in]
    if layer.scale is not None and layer.scale != 1 / math.sqrt(layer.d_k // layer.num_heads):
        found.append(f"scale={layer.scale}")
    if layer.sinks is not None:
        found.append("sinks")
    for name in ("mask", "positions", "norm", "softcap", "gate"):
        what = getattr(layer, name)
        if what is not None and type(what) is not NoPositions:
            found.append(f"{name}={type(what).__name__ if isinstance(what, nn.Module) else repr(what)}")
    parts = _parts(layer)
    biases = [bias is not None for _, bias in parts] + [layer.out_proj.bias is not None]
    if len(set(biases)) > 1:
        names = [name for name, has in zip(("q", "k", "v", "out"), biases, strict=True) if has]
        found.append(f"bias of {', '.join(names)} alone (it has all four or none)")
    fused = layer.d_context is None or layer.d_context == (layer.d_in, layer.d_in)
    if (fused and len({w.requires_grad for w, _ in parts}) > 1) or len(
        {b.requires_grad for _, b in parts if b is not None}
    ) > 1:
        found.append("requires_grad of q, k and v each (it has one parameter for all three)")
    return found


def _changed(name: str, module: nn.Module) -> str | None:
    """What somebody has done to a projection, in words; None where it is as the layer made it."""
    if is_parametrized(module):
        return f"parametrised {name}"
    if type(module) is not (FusedProjection if name == "in_proj" else Projection):
        return f"{type(module).__name__} in the place of a projection"
    if has_hooks(module):
        return f"hooks of {name}"
    return f"forward of its own of {name}" if "forward" in vars(module) else None


@torch.enable_grad()  # under no_grad a part of a parameter would not tell whether the parameter is trained
def _parts(layer: Any) -> list[Part]:
    """Weight and bias of q, k and v."""
    if not layer._is_fused:
        return [(m.weight, m.bias) for m in layer._projections()]
    rows, fused = layer.in_proj.rows, layer.in_proj
    weights = fused.weight.split_with_sizes(rows)
    if fused.bias is None:
        return [(weight, None) for weight in weights]
    sizes = [n if has else 0 for n, has in zip(rows, fused.biased, strict=True)]
    biases = zip(fused.bias.split_with_sizes(sizes), fused.biased, strict=True)
    return [(weight, bias if has else None) for weight, (bias, has) in zip(weights, biases, strict=True)]


def _copy(parts: list[Tensor]) -> nn.Parameter:
    return nn.Parameter(torch.cat([part.detach() for part in parts]), parts[0].requires_grad)
