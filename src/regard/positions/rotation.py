"""Turning pairs of columns by angles, in one go over query or key, forwards and backwards."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor
from torch.autograd import forward_ad

__all__ = ["Pairing", "Turns", "is_plain", "pack", "pack_few", "turn", "turn_by_definition"]

#: Which two columns of R make pair i: (i, i + R / 2), or (2 i, 2 i + 1).
Pairing = Literal["halves", "interleaved"]

#: Angles ready to use: for halves [cos | cos] (..., L, R), sin (..., L, R / 2) and, where there are few rows,
#: [-sin | sin] (..., L, R); interleaved cos + i sin, complex, (..., L, R / 2).
Turns = tuple[Tensor, ...]

#: Scratch memory of half precision on a CPU, in numbers.
CHUNK = 1 << 20


def is_plain(x: Tensor) -> bool:
    """Whether x is a tensor with numbers in it, and nothing records, traces or replaces what is done with it."""
    return (
        not torch.compiler.is_compiling()
        and type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type in ("cpu", "cuda")
        and torch._C._len_torch_dispatch_stack() == 0
        and not torch._C._are_functorch_transforms_active()
        and not torch.jit.is_tracing()  # type: ignore[attr-defined,no-untyped-call]
    )


def pack(cos: Tensor, sin: Tensor, pairing: Pairing) -> Turns:
    """Cos and sin (..., L, R / 2), float32 or float64, as :func:`turn` wants them."""
    if pairing == "interleaved":
        return (torch.complex(cos, sin),)
    return torch.cat([cos, cos], dim=-1), sin  # (..., L, R), (..., L, R / 2)


def pack_few(turns: Turns) -> Turns:
    """What few rows have besides."""
    return turns if len(turns) == 1 else (*turns, torch.cat([-turns[1], turns[1]], dim=-1))


def turn_by_definition(x: Tensor, cos: Tensor, sin: Tensor, pairing: Pairing) -> Tensor:
    """``a cos - b sin`` and ``b cos + a sin`` for each pair (a, b) of the first R columns of x (..., L, D)."""
    half = cos.shape[-1]
    if pairing == "halves":
        a, b = x[..., :half], x[..., half : 2 * half]  # (..., L, R / 2)
        turned = [a * cos - b * sin, b * cos + a * sin]
    else:
        a, b = x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]  # (..., L, R / 2)
        # Not flatten(), which has no rule for batched gradients.
        pairs = torch.stack([a * cos - b * sin, b * cos + a * sin], dim=-1)  # (..., L, R / 2, 2)
        turned = [pairs.reshape(*x.shape[:-1], 2 * half)]  # (..., L, R)
    # Products of half precision and a table in float32 are float32: rounded once, at the end.
    return torch.cat([*(t.to(x.dtype) for t in turned), x[..., 2 * half :]], dim=-1)  # (..., L, D)


def turn(x: Tensor, turns: Turns) -> Tensor:
    """The same for a plain tensor, with as few passes over memory as can be; its backward pass turns back."""
    if x.requires_grad and torch.is_grad_enabled() and forward_ad._current_level < 0:
        return _Turn.apply(x, *turns)  # type: ignore[no-any-return,no-untyped-call]
    return _turned(x, turns)


class _Turn(torch.autograd.Function):
    """A rotation: its derivative is itself, its transpose the rotation back."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, *turns: Tensor) -> Tensor:
        ctx.save_for_backward(*turns)
        return _turned(x, turns)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        turns = ctx.saved_tensors
        back = (turns[0].conj(),) if len(turns) == 1 else (turns[0], *(-t for t in turns[1:]))
        return turn(grad, back), *(None for _ in turns)


def _turned(x: Tensor, turns: Turns) -> Tensor:
    wide = turns[0].real.dtype if turns[0].is_complex() else turns[0].dtype
    width = 2 * turns[0].shape[-1] if len(turns) == 1 else turns[0].shape[-1]
    if x.dtype != wide:
        return _turned_in_parts(x, turns, wide)
    if width < x.shape[-1]:
        out = torch.empty_like(x)
        out[..., :width] = _turned(x[..., :width], turns)
        out[..., width:] = x[..., width:]
        return out
    if len(turns) == 1 and torch._C._functorch.is_legacy_batchedtensor(x):  # gradients of many cotangents at once
        return turn_by_definition(x, turns[0].real, turns[0].imag, "interleaved")
    if len(turns) == 1:
        pairs = x.unflatten(-1, (-1, 2))  # (..., L, R / 2, 2)
        if not _is_complex_view(pairs):
            pairs = pairs.clone(memory_format=torch.contiguous_format)
        return torch.view_as_real(torch.view_as_complex(pairs) * turns[0]).flatten(-2)  # (..., L, R)
    cos, sin, half = turns[0], turns[1], width // 2
    if len(turns) == 3:  # one token: the number of calls counts, and not the passes
        return torch.addcmul(x * cos, x.roll(half, -1), turns[2])
    # One pass over whole rows, and two that add to them: half the passes of the definition.
    out = x * cos
    out[..., :half].addcmul_(x[..., half:], sin, value=-1)
    out[..., half:].addcmul_(x[..., :half], sin)
    return out


def _turned_in_parts(x: Tensor, turns: Turns, wide: torch.dtype) -> Tensor:
    """Half precision, rounded once at the end: parts of the text at a time, so that no copy in float32 is whole."""
    length = x.shape[-2]
    step = max(1, CHUNK * length // max(1, x.numel())) if x.device.type == "cpu" else max(1, length)
    if step >= length:
        return _turned(x.to(wide), turns).to(x.dtype)
    parts = []
    for start in range(0, length, step):
        rows = tuple(t[..., start : start + step, :] for t in turns)
        parts.append(_turned(x[..., start : start + step, :].to(wide), rows).to(x.dtype))
    return torch.cat(parts, dim=-2)  # (..., L, D)


def _is_complex_view(pairs: Tensor) -> bool:
    """Whether torch can read pairs (..., 2) as complex numbers where they are."""
    strides = pairs.stride()
    return strides[-1] == 1 and all(s % 2 == 0 for s in strides[:-1]) and pairs.storage_offset() % 2 == 0
