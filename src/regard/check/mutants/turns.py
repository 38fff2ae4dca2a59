"""Rotary encodings that are wrong, in the form in which people have written them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from regard.check.golden import rotate

# The right ones of these turn halves, pairs (i, i + D/2), as most code for rotary encodings does.


def frequencies(dim: int, base: float = 10000.0) -> Tensor:
    """base^(-2i/D), (D // 2,)."""
    return 1.0 / base ** (torch.arange(0, dim, 2).float() / dim)


def rotate_half(x: Tensor) -> Tensor:
    """(a, b) -> (-b, a)."""
    a, b = x.chunk(2, dim=-1)
    return torch.cat([-b, a], dim=-1)


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """X (..., L, D) turned by angles (L, D // 2)."""
    angle = torch.cat([angle, angle], dim=-1)
    return x * angle.cos().to(x.dtype) + rotate_half(x) * angle.sin().to(x.dtype)


def angles_of(x: Tensor, start: int = 0, base: float = 10000.0) -> Tensor:
    """The angles of positions start .. start + L - 1."""
    position = torch.arange(start, start + x.shape[-2]).float()
    return position[:, None] * frequencies(x.shape[-1], base).to(position)


def mixed_pairs(x: Tensor) -> Tensor:
    """how-to-train-your-gpt #6: angles of halves, neighbours turned."""
    angle = angles_of(x)
    angle = torch.cat([angle, angle], dim=-1)
    turned = torch.stack([-x[..., 1::2], x[..., ::2]], dim=-1).flatten(-2)
    return x * angle.cos().to(x.dtype) + turned * angle.sin().to(x.dtype)


def mixed_pairs_back(x: Tensor) -> Tensor:
    """The other way round: angles of neighbours, halves turned."""
    angle = angles_of(x).repeat_interleave(2, dim=-1)
    return x * angle.cos().to(x.dtype) + rotate_half(x) * angle.sin().to(x.dtype)


def lost_sign(x: Tensor) -> Tensor:
    """rotate_half without its minus."""
    angle = torch.cat([angles_of(x)] * 2, dim=-1)
    a, b = x.chunk(2, dim=-1)
    return x * angle.cos().to(x.dtype) + torch.cat([b, a], dim=-1) * angle.sin().to(x.dtype)


def other_way(x: Tensor) -> Tensor:
    """Clockwise."""
    return turn(x, -angles_of(x))


def from_one(x: Tensor) -> Tensor:
    """Positions start at 1."""
    return turn(x, angles_of(x, start=1))


def exponent_without_two(x: Tensor, base: float = 10000.0) -> Tensor:
    """base^(-i/D)."""
    i = torch.arange(x.shape[-1] // 2)
    return turn(x, torch.arange(x.shape[-2]).float()[:, None] * base ** (-i / x.shape[-1]))


def half_table(x: Tensor) -> Tensor:
    """gpt-neox #1003: positions, angles and sines in bfloat16."""
    position = torch.arange(x.shape[-2]).bfloat16()
    angle = position[:, None] * frequencies(x.shape[-1]).bfloat16()
    angle = torch.cat([angle, angle], dim=-1)
    return x * angle.cos().to(x.dtype) + rotate_half(x) * angle.sin().to(x.dtype)


def half_positions(x: Tensor) -> Tensor:
    """Positions in float16, the rest in float32: right up to 2048, infinite from 65520 on."""
    return rotate(x, torch.arange(x.shape[-2]).half(), pairing="halves").to(x.dtype)


def counts_on(x: Tensor) -> Tensor:
    """Positions go on counting from one sequence to the next."""
    batch, length = x.shape[0], x.shape[-2]
    angle = torch.arange(batch * length).float()[:, None] * frequencies(x.shape[-1])
    return turn(x, angle.view(batch, 1, length, -1))


def along_heads(x: Tensor) -> Tensor:
    """Written for (B, L, H, D), called with (B, H, L, D)."""
    return turn(x.transpose(1, 2), angles_of(x.transpose(1, 2))).transpose(1, 2)


def key_as_it_came(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The queries alone are turned."""
    return turn(q, angles_of(q)), k


def key_back(q: Tensor, k: Tensor) -> tuple[Tensor, Tensor]:
    """The keys are turned the other way."""
    return turn(q, angles_of(q)), turn(k, -angles_of(k))


def ignored_offset(x: Tensor, offset: int = 0) -> Tensor:
    """An offset that is accepted."""
    return turn(x, angles_of(x))


def wide(x: Tensor) -> Tensor:
    """float32 comes back, whatever went in."""
    angle = torch.cat([angles_of(x)] * 2, dim=-1)
    return x * angle.cos() + rotate_half(x) * angle.sin()


def in_dtype_of_x(x: Tensor) -> Tensor:
    """Positions and angles in the dtype of x."""
    position = torch.arange(x.shape[-2]).to(x)
    angle = position[:, None] * frequencies(x.shape[-1]).to(x)
    return turn(x, angle)


def last_column_lost(x: Tensor) -> Tensor:
    """Pairs alone are filled."""
    out = torch.zeros_like(x)
    even = x[..., : x.shape[-1] // 2 * 2]
    out[..., : even.shape[-1]] = turn(even, angles_of(even))
    return out


def detached(x: Tensor) -> Tensor:
    """One half is detached."""
    angle = torch.cat([angles_of(x)] * 2, dim=-1)
    return x * angle.cos().to(x.dtype) + rotate_half(x.detach()) * angle.sin().to(x.dtype)


class _ForwardTwice(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return turn(x, angles_of(x))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return turn(grads[0], angles_of(grads[0]))


def backward_forward(x: Tensor) -> Tensor:
    """A backward that turns the same way as the forward."""
    return _ForwardTwice.apply(x)  # type: ignore[no-any-return, no-untyped-call]


def in_place(x: Tensor) -> Tensor:
    """The result is written into x, right."""
    with torch.no_grad():
        x.copy_(turn(x, angles_of(x)))
    return x


class Rotary(nn.Module):
    """Right; what follows changes what it remembers."""

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.dim, self.base = dim, base
        self.kept: dict[Any, Tensor] = {}

    def key(self, x: Tensor, offset: int) -> Any:
        """What the angles depend on."""
        return x.shape[-2], offset, x.dtype

    def forward(self, x: Tensor, offset: int = 0) -> Tensor:
        """(B, H, L, D) -> (B, H, L, D)."""
        key = self.key(x, offset)
        if key not in self.kept:
            self.kept[key] = self.made(x, offset)
        return self.finish(x, self.kept[key])

    def made(self, x: Tensor, offset: int) -> Tensor:
        """What is remembered: angles (L, D // 2)."""
        return angles_of(x, offset, self.base)

    def finish(self, x: Tensor, kept: Tensor) -> Tensor:
        """X turned."""
        return turn(x, kept)


class KeyWithoutOffset(Rotary):
    """rotary-embedding-torch #11."""

    def key(self, x: Tensor, offset: int) -> Any:
        """Without the offset."""
        return x.shape[-2], x.dtype


class KeyWithoutDtype(Rotary):
    """Cosines in the dtype of the first x."""

    def key(self, x: Tensor, offset: int) -> Any:
        """Without the dtype."""
        return x.shape[-2], offset

    def made(self, x: Tensor, offset: int) -> Tensor:
        """Cosines and sines, (2, L, D)."""
        angle = torch.cat([angles_of(x, offset, self.base)] * 2, dim=-1)
        return torch.stack([angle.cos(), angle.sin()]).to(x.dtype)

    def finish(self, x: Tensor, kept: Tensor) -> Tensor:
        """X turned, in its own dtype."""
        return (x * kept[0] + rotate_half(x) * kept[1]).to(x.dtype)


def key_without_base() -> type[Rotary]:
    """A class that remembers for all of its instances, by everything but the base."""
    shared: dict[Any, Tensor] = {}

    class KeyWithoutBase(Rotary):
        def __init__(self, dim: int, base: float = 10000.0) -> None:
            super().__init__(dim, base)
            self.kept = shared

        def key(self, x: Tensor, offset: int) -> Any:
            """Without the base."""
            return x.shape[-2], offset, x.dtype, self.dim

    return KeyWithoutBase


class HalfFrequencies(nn.Module):
    """A buffer of frequencies, which .to(bfloat16) rounds."""

    def __init__(self, dim: int, base: float = 10000.0) -> None:
        super().__init__()
        self.register_buffer("inv_freq", frequencies(dim, base))
        self.inv_freq: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, H, L, D) -> (B, H, L, D)."""
        return turn(x, torch.arange(x.shape[-2]).float()[:, None] * self.inv_freq.float())


def key_of_half() -> Callable[[Tensor], Tensor]:
    """Mlx PR #561: angles for D are kept under D // 2."""
    kept: dict[tuple[int, int], Tensor] = {}

    def half_key(x: Tensor) -> Tensor:
        length, dim = x.shape[-2:]
        if (length, dim) in kept:
            return turn(x, kept[length, dim])
        dim = dim // 2
        kept[length, dim] = angles_of(x)
        return turn(x, kept[length, dim])

    return half_key
