"""How a property fails: with what was asked, where it differs, what came and what was wanted."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from regard.check.request import Request

__all__ = ["Unsupported", "Violation", "expect", "expect_near", "expect_same"]


class Violation(AssertionError):
    """A property does not hold.

    Args:
        message: one sentence on what is wrong.
        request: the question whose answer shows it, if there is one.
        index: where, an index into the output (B, H, L, Dv).
        got: the subject's number there.
        wanted: what it had to be.
    """

    def __init__(
        self,
        message: str,
        *,
        request: Request | None = None,
        index: tuple[int, ...] | None = None,
        got: Any = None,
        wanted: Any = None,
    ) -> None:
        super().__init__(message)
        self.request = request
        self.index = index
        self.got = got
        self.wanted = wanted


class Unsupported(Exception):
    """The subject does not offer what this property is about; the property is skipped, visibly."""


def expect(holds: Any, message: str, **details: Any) -> None:
    """Raise a :class:`Violation` unless it holds."""
    if not bool(holds):
        raise Violation(message, **details)


def expect_same(what: str, got: Tensor, want: Tensor, *, request: Request | None = None) -> None:
    """The same bits, NaN equal to NaN: what an intervention must not move."""
    expect_shape(what, got, want, request)
    differs = ~((got == want) | (got.isnan() & want.isnan()))
    if bool(differs.any()):
        index = _first(differs)
        off = (got.detach().double() - want.detach().double()).abs().nan_to_num(nan=torch.inf).max()
        raise Violation(
            f"{what}: {int(differs.sum())} of {differs.numel()} numbers change, by up to {float(off):.3g}; none may",
            request=request,
            index=index,
            got=got[index].item(),
            wanted=want[index].item(),
        )


def expect_near(
    what: str, got: Tensor, want: Tensor, within: Tensor | float, *, request: Request | None = None
) -> None:
    """Finite, and within the budget in every element; the budget broadcasts."""
    expect_shape(what, got, want, request)
    got, want = got.detach().double(), want.detach().double()
    bad = ~torch.isfinite(got) & torch.isfinite(want)
    if bool(bad.any()):
        index = _first(bad)
        raise Violation(
            f"{what}: {int(bad.sum())} of {bad.numel()} numbers are NaN or inf",
            request=request, index=index, got=got[index].item(), wanted=want[index].item(),
        )  # fmt: skip
    off = torch.where(got == want, 0, (got - want).abs())
    limit = torch.as_tensor(within, dtype=torch.float64, device=got.device).expand_as(off)
    wrong = ~(off <= limit)
    if bool(wrong.any()):
        worst = torch.where(wrong, off.nan_to_num(nan=torch.inf), -1)
        index = _first(worst == worst.max())
        raise Violation(
            f"{what}: off by {off[index].item():.3g}, allowed {limit[index].item():.3g} "
            f"({int(wrong.sum())} of {wrong.numel()} numbers are off)",
            request=request, index=index, got=got[index].item(), wanted=want[index].item(),
        )  # fmt: skip


def expect_shape(what: str, got: Tensor, want: Tensor, request: Request | None = None) -> None:
    """The same shape."""
    expect(got.shape == want.shape, f"{what}: shape {tuple(got.shape)}, expected {tuple(want.shape)}", request=request)


def _first(where: Tensor) -> tuple[int, ...]:
    return tuple(int(i) for i in where.nonzero()[0])
