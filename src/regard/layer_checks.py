"""Every error message of the layers, in one place: the argument, what came, what was expected, the likely fix."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from regard.cache_buffers import Cache
from regard.context import Context
from regard.masks.algebra import Mask
from regard.projection import Projection

__all__: list[str] = []


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _integer(value: Any) -> int | None:
    """An integer of any kind, numpy's too, as an int; None for what is none."""
    if isinstance(value, bool | Tensor):  # both have an index
        return None
    try:
        return operator.index(value)
    except TypeError:
        return None


def check_size(value: int, name: str) -> int:
    """A width, a length or a number of heads: an integer of at least 1."""
    size = _integer(value)
    if size is None:
        raise TypeError(f"{name} must be an integer, got {type(value).__name__}")
    if size < 1:
        raise ValueError(f"{name} must be at least 1, got {size}")
    return size


def check_heads(num_heads: int, num_kv_heads: int, **totals: int) -> None:
    """Widths over all heads divide among the heads, and the heads among those of key and value."""
    for name, total in totals.items():
        if total % num_heads:
            below = total // num_heads * num_heads
            near = f"{below} or {below + num_heads}" if below else f"{num_heads}"
            raise ValueError(
                f"{name} must be a multiple of num_heads={num_heads}, got {total}; "
                f"{name} is the total over all heads, the nearest that fits is {near}"
            )
    if num_heads % num_kv_heads:
        raise ValueError(
            f"num_heads must be a multiple of num_kv_heads, got num_heads={num_heads} and num_kv_heads={num_kv_heads}; "
            "each key/value head serves the same number of query heads"
        )


def check_input(given: Any, width: int, name: str, width_name: str, weight: Tensor | None) -> None:
    """A tensor (..., L, width) that ``weight`` can multiply; None where a wrapped layer shows none."""
    if not isinstance(given, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(given).__name__}")
    if given.dim() < 2:
        raise ValueError(
            f"{name} must have at least 2 axes (..., length, {width_name}), got shape {tuple(given.shape)}"
        )
    if given.shape[-1] != width:
        hint = "; the width comes last, after batch and length" if width in given.shape[:-1] else ""
        raise ValueError(
            f"{name} must have the width {width_name}={width} in its last axis, got {tuple(given.shape)}{hint}"
        )
    if weight is None:
        return
    if given.device != weight.device:
        raise ValueError(
            f"{name} must be on the layer's device {weight.device}, got {given.device}; move it with .to(...)"
        )
    if given.dtype != weight.dtype and not autocasts(given.device):
        raise TypeError(
            f"{name} must have the layer's dtype {_name(weight.dtype)}, got {_name(given.dtype)}; "
            f"convert it with .to({weight.dtype}), or the layer with layer.to({given.dtype})"
        )


def autocasts(device: torch.device) -> bool:
    """Whether autocast is on for a device; there is none for "meta", and asking is an error."""
    return device.type != "meta" and torch.is_autocast_enabled(device.type)


def axes(x: Any) -> int:
    """How many axes x has."""
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}")
    return x.dim()


def check_d_context(d_context: Any) -> tuple[int, int] | None:
    """The widths of what keys and values are made of, as a pair."""
    if d_context is None:
        return None
    pair = d_context if isinstance(d_context, tuple | list) else (d_context, d_context)
    if len(pair) != 2:
        raise ValueError(f"d_context must be a width or (key width, value width), got {len(pair)} widths")
    return check_size(pair[0], "d_context"), check_size(pair[1], "d_context")


def check_context(
    context: Any, widths: tuple[int, int], width_name: str, weight: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The pair (key_input, value_input) of what a user passed as context; their widths and lengths fit."""
    if context is None:
        reads = f"the layer was made for one, d_context={widths}, and cannot read x itself"
        raise ValueError(
            f"context must be given, got None: {reads if width_name == 'd_context' else 'there is nothing to project'}"
        )
    if isinstance(context, Mask) or (isinstance(context, Tensor) and context.dtype == torch.bool):
        got = repr(context) if isinstance(context, Mask) else "a boolean tensor"
        raise TypeError(
            f"context must be a torch.Tensor or a pair (key_input, value_input), got {got}; "
            "a mask is passed by its name: mask=..."
        )
    pair = isinstance(context, tuple | list)
    if pair and len(context) != 2:
        raise ValueError(f"context must be a tensor or a pair (key_input, value_input), got {len(context)} of them")
    if not pair and widths[0] != widths[1]:
        raise ValueError(
            f"context must be a pair (key_input, value_input) of widths d_context={widths}, got one tensor"
        )
    inputs = (context[0], context[1]) if pair else (context, context)
    names = ("context[0]", "context[1]") if pair else ("context", "context")
    for t, width, name in zip(inputs, widths, names, strict=True):
        check_input(t, width, name, width_name, weight)
    if inputs[0].shape[:-2] != inputs[1].shape[:-2]:
        got = f"{tuple(inputs[0].shape)} and {tuple(inputs[1].shape)}"
        raise ValueError(f"context[0] and context[1] must have the same batch axes, got shapes {got}")
    if inputs[0].shape[-2] != inputs[1].shape[-2]:
        lengths = f"{inputs[0].shape[-2]} and {inputs[1].shape[-2]}"
        raise ValueError(f"context[0] and context[1] must have the same length S (axis -2), got {lengths}")
    return inputs


def check_context_batch(context: Any, x: Tensor) -> None:
    """Each tensor of a context has the batch axes of x."""
    pair = isinstance(context, tuple | list)
    for i, t in enumerate(context if pair else (context,)):
        if t.shape[:-2] != x.shape[:-2]:
            name = f"context[{i}]" if pair else "context"
            raise ValueError(
                f"{name} must have the batch axes of x, {tuple(x.shape[:-2])}, got shape {tuple(t.shape)}; "
                f"one for all is {name}.expand(...)"
            )


def check_projected(context: Context, layer: Any, x: Tensor) -> None:
    """A projected context is this layer's own, and has the batch axes of x."""
    if context._owner is not layer:
        raise ValueError(
            f"context is a {context!r} of another layer than this one; each layer projects its own: "
            "layer.project_context(context)"
        )
    if context.key.shape[:-3] != x.shape[:-2]:
        raise ValueError(
            f"context must have the batch axes of x, {tuple(x.shape[:-2])}, got {context!r}; "
            "what it is made of may be expanded first"
        )
    if context.key.device != x.device:
        raise ValueError(f"context must be on x's device {x.device}, got {context.key.device}; project it there")
    if context.key.dtype != x.dtype and not autocasts(x.device):
        raise TypeError(
            f"context must have x's dtype {_name(x.dtype)}, got a Context of {_name(context.key.dtype)}; project it "
            "after the layer has been converted"
        )


def context_axes(context: Any) -> int:
    """How many axes a context has, or the first of a pair; 0 for what is none."""
    first = context[0] if isinstance(context, tuple | list) and context else context
    return first.dim() if isinstance(first, Tensor) else 0


def with_batch(context: Any) -> Any:
    """A context without a batch axis as a batch of one; what is no context is left to :func:`check_context`."""
    if isinstance(context, tuple | list):
        if len(context) == 2 and context[0] is context[1]:  # one tensor twice stays one, which is projected once
            return (with_batch(context[0]),) * 2
        return tuple(with_batch(t) for t in context)
    return context[None] if isinstance(context, Tensor) else context


def check_cached(what: str, d_context: tuple[int, int] | None) -> None:
    """A layer that was made for a context has no text of its own that grows."""
    if d_context is not None:
        raise ValueError(
            f"{what}: the layer has d_context={d_context} and reads a context, which does not grow, in place of x; "
            "keep what is made of it with layer.project_context(context)"
        )


def check_rotated(positions: Any, before: Tensor, after: Any, name: str) -> None:
    """A rotation of anybody's own changes neither shape nor dtype: a cache would take what broadcasts."""
    if not isinstance(after, Tensor) or after.shape != before.shape or after.dtype != before.dtype:
        got = f"{tuple(after.shape)} in {_name(after.dtype)}" if isinstance(after, Tensor) else type(after).__name__
        raise ValueError(
            f"positions={positions!r}: rotate() must keep shape and dtype of {name}, {tuple(before.shape)} in "
            f"{_name(before.dtype)}, got {got}"
        )


def check_after_cache(layer: Any, x: Tensor) -> None:
    """What is computed after the append can be: an error would leave the cache with tokens that were not read."""
    sinks: Tensor | None = getattr(layer, "sinks", None)
    if sinks is not None and sinks.shape != (layer.num_heads,):
        raise ValueError(
            f"layer.sinks must have one logit a query head, ({layer.num_heads},), got {tuple(sinks.shape)}"
        )
    for name in ("gate_proj", "kv_up", "out_proj"):
        part = layer._modules.get(name)
        if type(part) is not Projection:  # none, or one that somebody has wrapped
            continue
        weight = part.weight
        if weight.device != x.device:
            raise ValueError(f"layer.{name} must be on x's device {x.device}, got {weight.device}")
        if weight.dtype != x.dtype and not autocasts(x.device):
            raise TypeError(
                f"layer.{name} must have x's dtype {_name(x.dtype)}, got {_name(weight.dtype)}; convert the layer "
                "as a whole: layer.to(dtype)"
            )


def check_no_lengths(lengths: Any) -> None:
    """Without a cache there is nothing that lengths could count."""
    if lengths is not None:
        raise ValueError("lengths count the real tokens that go to a cache, and cache is None; pass cache=...")


def check_cache(cache: Any, x: Any, context: Any, lengths: Any, *, d_context: tuple[int, int] | None = None) -> None:
    """A cache is one of regard's, and stands for the text: there is no context beside it."""
    if cache is not None and has_torch_function((x,)):  # a mode in which there can be none
        handle_torch_function(check_cache, (x,), cache, x, context, lengths)
        return
    if cache is None:
        check_no_lengths(lengths)
        return
    if not isinstance(cache, Cache):
        raise TypeError(
            f"cache must be a regard.KVCache or regard.RollingCache, got {type(cache).__name__}; "
            "make one with layer.kv_cache(batch_size, max_len)"
        )
    check_cached("cache", d_context)
    if context is not None:
        raise ValueError("cache holds the keys of x, and context brings its own that do not grow; pass one of the two")
    if axes(x) not in (2, 3):
        raise ValueError(f"x must be (B, L, d_in) or (L, d_in) with a cache, got shape {tuple(x.shape)}")


def check_mask_axes(mask: Mask | Tensor | None, num_heads: int, x: Tensor, key_len: int) -> None:
    """A mask tensor without an axis of heads, or of sequences, gets an error that says which axis is missing."""
    if x.dim() != 3:
        return
    if isinstance(mask, Mask):
        for tensor in mask.tensors():
            _check_one_meaning(tensor, num_heads, x.shape[0])
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        return
    _check_one_meaning(mask, num_heads, x.shape[0])
    batch, query_len, shape = x.shape[0], x.shape[1], tuple(mask.shape)
    full = (batch, num_heads, query_len, key_len)
    wanted = f"mask (True = may attend) must broadcast to (B, H, L, S) = {full}, got {shape}"
    if mask.dim() == 3 and shape[0] not in (1, num_heads) and shape[0] == batch:
        raise ValueError(f"{wanted}; one mask a sequence needs an axis for the heads: mask[:, None]")
    if shape == (batch, key_len) and batch not in (1, query_len):
        raise ValueError(f"{wanted}; keys that hold something are masks.padding(mask)")


def _check_one_meaning(mask: Tensor, num_heads: int, batch: int) -> None:
    """A mask (n, L, S) with n = B = H fits as one a head, and may have been meant as one a sequence."""
    if mask.dim() == 3 and mask.dtype == torch.bool and mask.shape[0] == batch == num_heads > 1:
        raise ValueError(
            f"mask of shape {tuple(mask.shape)} may mean one a sequence or one a head, B = H = {batch}; "
            "pass mask[:, None] for one a sequence, mask[None] for one a head"
        )
