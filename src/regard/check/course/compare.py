"""Right means: the shape, then finite, then every single element."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from regard.check.course.registry import lose

__all__ = ["expect_alive", "expect_finite", "expect_golden", "expect_near", "expect_same", "expect_shape", "tuple_of"]

#: Golden numbers are printed to 4 decimals: half a unit of the last one, and what float32 may round beside it.
GOLDEN_WITHIN = 0.5e-4 + 2e-6


def tuple_of(value: object) -> str:
    """What came, in words: a tensor with its shape, a tuple with what is in it, or a type."""
    if isinstance(value, Tensor):
        return f"a tensor {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}: {', '.join(map(tuple_of, value[:4]))}"
    return f"a {type(value).__name__}"


def expect_shape(what: str, value: object, shape: Sequence[int], hint: str = "") -> Tensor:
    """Value is a tensor of this shape."""
    if not isinstance(value, Tensor) or tuple(value.shape) != tuple(shape):
        lose(asked=f"{what} as a tensor {tuple(shape)}", came=tuple_of(value), hint=hint)
    return value


def expect_finite(what: str, value: Tensor, hint: str = "") -> None:
    """No element of value is NaN or infinite."""
    wrong = ~torch.isfinite(value)
    if wrong.any():
        first = wrong.nonzero()[0].tolist()
        came = f"{int(wrong.sum())} of {value.numel()} that are not, the first at {first}: {value[tuple(first)].item()}"
        lose(asked=f"finite numbers in {what}", came=came, hint=hint)


def expect_alive(what: str, value: Tensor, shape: Sequence[int]) -> None:
    """Value has this shape, is finite and is not the same number everywhere: a stub earns nothing for its manners."""
    expect_shape(what, value, shape)
    expect_finite(what, value)
    if float(value.detach().double().std()) < 1e-4:
        lose(asked=f"{what} that depends on the input", came=f"{value.flatten()[0].item():.4g} everywhere")


def expect_near(what: str, value: object, wanted: Tensor, within: Tensor, hint: str = "") -> None:
    """Value is within the budget of the float64 definition in every element."""
    got = expect_shape(what, value, wanted.shape)
    expect_finite(what, got, hint)
    off = (got.detach().double() - wanted).abs()
    wrong = off > within
    if wrong.any():
        worst = [int(axis) for axis in torch.unravel_index((off / within).argmax(), off.shape)]
        came = (
            f"{float(got[tuple(worst)]):.6g} where it is {float(wanted[tuple(worst)]):.6g}, at {worst}; "
            f"{int(wrong.sum())} of {wrong.numel()} elements are off"
        )
        lose(asked=f"{what} as defined", came=came, hint=hint)


def expect_golden(what: str, value: Tensor, golden: Sequence[float], hint: str) -> None:
    """Value is, printed to 4 decimals, what the course prints."""
    expect_finite(what, value)
    off = (value.detach().double() - torch.tensor(golden, dtype=torch.float64)).abs()
    if (off > GOLDEN_WITHIN).any():
        first = int((off > GOLDEN_WITHIN).nonzero()[0])
        came = f"{float(value[first]):.4f} as number {first}"
        lose(asked=f"{what} to be {golden[first]:.4f} there, as the course prints it", came=came, hint=hint)


def expect_same(what: str, after: Tensor, before: Tensor, *, asked: str, hint: str) -> None:
    """Bit for bit the same, after something that must not matter was changed by a lot."""
    expect_finite(what, before)
    if not torch.equal(after, before):
        off = (after.double() - before.double()).abs().max()
        lose(asked=asked, came=f"{what} that changed, by up to {float(off):.3g}", hint=hint)
