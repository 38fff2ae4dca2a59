"""The definitions of sinusoidal and rotary positions, in float64, and the conventions that people write them in."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["PAIRINGS", "TABLES", "angle_budget", "angles", "pair_sizes", "rotate", "sinusoid", "unpair"]

TABLES: dict[str, str] = {
    "interleaved": "sine in even columns, cosine in odd ones",
    "halves": "all sines, then all cosines",
    "stretched halves": "all sines, then all cosines, exponents i / (d/2 - 1) (tensor2tensor, fairseq, Whisper)",
}
"""Sinusoidal tables that are well known; the first is the paper's."""

PAIRINGS: dict[str, str] = {"interleaved": "pairs (2i, 2i + 1)", "halves": "pairs (i, i + D/2)"}
"""Which two columns a rotary encoding turns together."""


def angles(positions: Tensor, width: int, *, base: float = 10000.0, stretched: bool = False) -> Tensor:
    """``positions * base ** (-2i / width)`` in float64, (L,) -> (L, ceil(width / 2)).

    Args:
        positions: (L,) of any dtype.
        width: d or D, odd ones too.
        base: the longest wavelength, in units of 2 pi positions.
        stretched: the last wavelength is ``base`` itself: ``base ** (-i / (width // 2 - 1))``.
    """
    if stretched:
        i = torch.arange(width // 2, dtype=torch.float64, device=positions.device)
        exponent = i / max(width // 2 - 1, 1)
    else:
        exponent = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    return positions.double()[:, None] * base**-exponent


def sinusoid(positions: Tensor, width: int, *, base: float = 10000.0, convention: str = "interleaved") -> Tensor:
    """The sinusoidal encoding of positions, (L,) -> (L, width) float64.

    >>> sinusoid(torch.arange(2), 3)
    tensor([[0.0000, 1.0000, 0.0000],
            [0.8415, 0.5403, 0.0022]], dtype=torch.float64)

    Args:
        positions: (L,).
        width: d; an odd one ends with a sine, or with a column of zeros in "stretched halves", as its authors do.
        base: of the wavelengths.
        convention: one of :data:`TABLES`.
    """
    angle = angles(positions, width, base=base, stretched=convention == "stretched halves")
    sine, cosine = angle.sin(), angle.cos()
    if convention != "interleaved":
        table = torch.cat([sine, cosine], dim=-1)[:, :width]
        return torch.nn.functional.pad(table, (0, width - table.shape[-1]))
    table = torch.empty(len(positions), width, dtype=torch.float64, device=positions.device)
    table[:, 0::2] = sine
    table[:, 1::2] = cosine[:, : width // 2]
    return table


def unpair(x: Tensor, pairing: str) -> tuple[Tensor, Tensor]:
    """The two members of each pair, (..., D) -> (..., D // 2) twice; an odd last column belongs to no pair."""
    half = x.shape[-1] // 2
    if pairing == "halves":
        return x[..., :half], x[..., half : 2 * half]
    return x[..., 0 : 2 * half : 2], x[..., 1 : 2 * half : 2]


def pair_sizes(x: Tensor, pairing: str) -> Tensor:
    """In the place of each number the size of the pair it belongs to, float64.

    >>> pair_sizes(torch.tensor([3.0, 4.0, 2.0]), "interleaved")
    tensor([5., 5., 2.], dtype=torch.float64)
    """
    x = x.detach().double()
    size = torch.hypot(*unpair(x, pairing))
    both = torch.cat([size, size], dim=-1) if pairing == "halves" else size.repeat_interleave(2, dim=-1)
    return torch.cat([both, x[..., both.shape[-1] :].abs()], dim=-1)


def rotate(x: Tensor, positions: Tensor, *, base: float = 10000.0, pairing: str = "interleaved") -> Tensor:
    """Each pair (a, b) of x turned by its angle: (a cos - b sin, a sin + b cos), in float64.

    >>> x = torch.tensor([[1.0, 0.0]])
    >>> rotate(x, torch.tensor([1]))
    tensor([[0.5403, 0.8415]], dtype=torch.float64)

    Args:
        x: (..., L, D); an odd last column stays.
        positions: (L,).
        base: of the wavelengths, ``base ** (-2i / D)``.
        pairing: one of :data:`PAIRINGS`.
    """
    x = x.double()
    half = x.shape[-1] // 2
    angle = angles(positions, 2 * half, base=base)  # (L, D // 2)
    cos, sin = angle.cos(), angle.sin()
    a, b = unpair(x, pairing)
    turned = a * cos - b * sin, a * sin + b * cos
    if pairing == "halves":
        out = torch.cat(turned, dim=-1)
    else:
        out = torch.stack(turned, dim=-1).flatten(-2)
    return torch.cat([out, x[..., 2 * half :]], dim=-1)


def angle_budget(positions: Tensor, *, unit: float = 2.0**-24) -> Tensor:
    """How far a sine may be off at each position if its angle was computed with this rounding error, (L,) -> (L, 1).

    An angle at position p is p times a frequency of at most 1. The frequency and the product are each rounded once, and
    exp(-2i/d log base) adds the rounding of its argument, x e^-x <= 0.37 of it, twice: that is less than 4 p units. The
    sine itself, the sum and what a library's sine is off by take 4 more. Correct float32 tables were seen to use at
    most 0.3 of this.
    """
    return (4 + 4 * positions.double()[:, None]) * unit
