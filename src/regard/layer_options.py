"""What a layer is made with beside its sizes: checked by name, once, when it is made."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, nn

from regard import validation
from regard.masks.algebra import Mask
from regard.positions import ALiBi, Positions
from regard.qk_norm import HeadwiseLayerNorm, OffsetRMSNorm, QKNorm

__all__: list[str] = []

GATES = ("elementwise", "headwise")


def check_biases(bias: Any, names: tuple[str, ...], *, gated: bool = True) -> frozenset[str]:
    """Those of the projections' names that have a bias."""
    if isinstance(bias, bool):
        return frozenset(names if bias else ())
    if isinstance(bias, str | Tensor) or not isinstance(bias, Collection):
        hint = f'; for one projection pass bias={{"{bias}"}}' if isinstance(bias, str) else ""
        raise TypeError(f"bias must be True, False or a collection of names, got {type(bias).__name__}{hint}")
    for name in bias:
        if name not in names:
            raise ValueError(f"bias: the projections are {', '.join(map(repr, names))}, got {name!r}")
    if "gate" in bias and not gated:
        raise ValueError("bias names 'gate', and the layer has none: gate=None")
    return frozenset(bias)


def check_mask(mask: Any) -> Mask | None:
    """A mask of every call."""
    if mask is None or isinstance(mask, Mask):
        return mask
    hint = "; a boolean tensor is regard.masks.dense(tensor)" if isinstance(mask, Tensor) else ""
    raise TypeError(f"mask of a layer must be a regard.masks.Mask or None, got {type(mask).__name__}{hint}")


def check_positions(positions: Any, num_heads: int, num_kv_heads: int, head_dim: int) -> Positions | None:
    """Positions that fit the layer."""
    if positions is None:
        return None
    if not isinstance(positions, Positions):
        hint = ""
        if isinstance(positions, nn.Module):
            hint = "; what is added to embeddings is added before the layer"
        raise TypeError(
            f"positions must be one of regard.positions, such as Rotary(head_dim), got {type(positions).__name__}{hint}"
        )
    positions.check_layer(num_heads=num_heads, num_kv_heads=num_kv_heads, head_dim=head_dim)
    return positions


def check_norm(norm: Any, num_heads: int, num_kv_heads: int, head_dim: int) -> QKNorm | None:
    """Norms of queries and keys that are as wide as what they get."""
    if norm is None:
        return None
    if not isinstance(norm, QKNorm):
        raise TypeError(
            f"norm must be a regard.QKNorm, got {type(norm).__name__}; "
            "regard.QKNorm(norm_of_queries, norm_of_keys), or QKNorm.rms(head_dim)"
        )
    for name, module, heads in (("q", norm.q, num_heads), ("k", norm.k, num_kv_heads)):
        own = _shape(module)
        width = head_dim if norm.over == "head" else heads * head_dim
        each = isinstance(module, HeadwiseLayerNorm) and norm.over == "head"  # other norms of (H, D) are over tokens
        if own is not None and own != ((heads, width) if each else (width,)):
            what = "head_dim D" if norm.over == "head" else "all heads together, H * D"
            what += f"; for each of {heads} heads" if each else ""
            raise ValueError(
                f"norm: {name} must be made for the width {width} ({what}), got {type(module).__name__} of shape {own}"
            )
    return norm


def check_softcap(softcap: float | None, positions: Positions | None) -> None:
    """A cap comes before a bias, and ALiBi's is in the columns whose scores are capped."""
    if softcap is not None and isinstance(positions, ALiBi):
        raise ValueError(
            f"positions={positions!r} with softcap={softcap}: the cap comes before the bias, and would be applied to "
            "its columns too; leave one of the two out"
        )


def check_gate(gate: Any) -> str | None:
    """How the heads are gated."""
    if gate is not None and gate not in GATES:
        raise ValueError(f"gate must be {', '.join(map(repr, GATES))} or None, got {gate!r}")
    return None if gate is None else str(gate)


def check_sinks(sinks: Any) -> bool:
    """Whether the heads have sinks."""
    if not isinstance(sinks, bool):
        hint = "; their logits are the layer's parameter layer.sinks" if isinstance(sinks, Tensor) else ""
        raise TypeError(f"sinks must be True or False, got {type(sinks).__name__}{hint}")
    return sinks


def check_numbers(scale: Any, softcap: Any, dropout: Any) -> tuple[float | None, float | None, float]:
    """The numbers of :func:`regard.attention`."""
    validation.check_number(scale, "scale")
    validation.check_number(softcap, "softcap", positive=True)
    validation.check_dropout(dropout)
    return None if scale is None else float(scale), None if softcap is None else float(softcap), float(dropout)


def check_offset(offset: Any, cache: Any, x: Tensor) -> int | Tensor | None:
    """The position of x's first token: an integer, or an integer tensor (B,)."""
    if offset is None:
        return None
    if cache is not None:
        raise ValueError("offset is given with a cache, which knows where its tokens stand: pass one of the two")
    if not isinstance(offset, Tensor):
        return validation.as_integer(offset, "offset", "an integer or an integer tensor (B,)")
    if offset.dtype.is_floating_point or offset.dtype.is_complex or offset.dtype == torch.bool:
        raise TypeError(f"offset must be an integer or an integer tensor (B,), got {str(offset.dtype)[6:]}")
    if offset.dim() > 1 or (offset.dim() == 1 and offset.shape[0] not in (1, x.shape[0])):
        raise ValueError(
            f"offset must be an integer, or one for each sequence of x, (B,) = ({x.shape[0]},), "
            f"got shape {tuple(offset.shape)}"
        )
    return offset


def describe(layer: Any) -> str:
    """The sizes of a layer; options only where they differ from the default. norm and positions show themselves."""
    parts = [f"d_in={layer.d_in}, num_heads={layer.num_heads}"]
    if layer.num_kv_heads != layer.num_heads:
        parts.append(f"num_kv_heads={layer.num_kv_heads}")
    parts.append(f"d_k={layer.d_k}, d_v={layer.d_v}, d_out={layer.d_out}")
    if layer.d_context is not None:
        parts.append(f"d_context={layer.d_context}")
    if layer.dropout:
        parts.append(f"dropout={layer.dropout}")
    shown = {name: getattr(layer, name) for name in ("mask", "scale", "softcap", "gate")}
    parts += [f"{name}={value!r}" for name, value in shown.items() if value is not None]
    if layer.sinks is not None:
        parts.append("sinks=True")
    return ", ".join(parts)


def check_reset(layer: nn.Module, *given: str) -> None:
    """Before anything is drawn: the projections are the layer's own, and what was ``given`` to it can reset itself."""
    for name, part in layer.named_children():
        if name in given:
            for each in part.modules():
                _check_resets(each, name)
        elif not isinstance(part, nn.Linear) or "weight" not in part._parameters:
            raise ValueError(
                f"reset_parameters(): {name} is a {type(part).__name__}, which the layer has not made and cannot draw "
                "anew; reset its parts one by one, or put the projection back"
            )


def reset(module: nn.Module) -> None:
    """New parameters for all that ``module`` is made of, which a user may have written."""
    for part in module.modules():
        method = getattr(part, "reset_parameters", None)
        if method is not None:
            method()


def _check_resets(part: nn.Module, name: str) -> None:
    if hasattr(part, "reset_parameters"):
        return
    for what, held in (("parameters", part.parameters(recurse=False)), ("buffers", part.buffers(recurse=False))):
        if next(held, None) is not None:
            raise ValueError(
                f"reset_parameters(): {name} has a {type(part).__name__} with {what} and without "
                "reset_parameters(); give the class one that makes them anew"
            )


def _shape(module: nn.Module) -> tuple[int, ...] | None:
    """What a norm was made for; None for one that does not say."""
    if isinstance(module, nn.RMSNorm | nn.LayerNorm):
        return tuple(module.normalized_shape)
    return tuple(module.weight.shape) if isinstance(module, OffsetRMSNorm | HeadwiseLayerNorm) else None
