"""What must hold of an attention function, one plain function a property: it returns, or raises AssertionError.

Each takes an `attention` with the signature of regard.attention, so that the function that the suite calls on the real
one is called on wrong ones in kills/. Tolerance 0 wherever an intervention decides; a budget with a reason elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.strategies import HALVES, Case, strided
from torch import Tensor

from regard.masks import Mask

Attention = Callable[..., Any]

# A perturbation that no reader can miss and no dtype overflows on.
LARGE = 1e4


def check(holds: bool | Tensor, message: str) -> None:
    if not bool(holds):
        raise AssertionError(message)


def budget(dtype: torch.dtype, size: float) -> float:
    """How far a result of this size may be from the float64 truth.

    float64 and float32: sums of some hundred rounded terms, measured at most 3 eps; a wrong term is off by 1e-3 at
    least. Half precision: the weights are rounded once (eps / 2 of the largest value), each of two merged parts and the
    result once more.
    """
    return torch.finfo(dtype).eps * size * (3 if dtype in HALVES else 100)


def assert_near(name: str, got: Tensor, want: Tensor, within: float) -> None:
    check(got.shape == want.shape, f"{name}: shape {tuple(got.shape)}, expected {tuple(want.shape)}")
    got, want = got.detach().double(), want.detach().double()
    off = torch.where(got == want, 0, (got - want).abs())  # -inf is near -inf; NaN is near nothing
    worst = off.nan_to_num(nan=torch.inf).max().item() if off.numel() else 0.0
    check(worst <= within, f"{name}: off by {worst:.3g}, allowed {within:.3g}")


def largest(t: Tensor) -> float:
    """The largest finite magnitude, at least 1."""
    finite = t.detach()[torch.isfinite(t.detach())].abs()
    return max(1.0, float(finite.max())) if finite.numel() else 1.0


def problem(
    *batch_and_heads: int, query_len: int, key_len: int, width: int = 8, kv_heads: int | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """randn query, key, value in float64, of the default generator seeded anew: the same numbers at each call."""
    generator = torch.Generator().manual_seed(7)
    keys = batch_and_heads if kv_heads is None else (*batch_and_heads[:-1], kv_heads)
    sizes = (*batch_and_heads, query_len, width), (*keys, key_len, width), (*keys, key_len, width)
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    return q, k, v


def seeded(attention: Attention, *args: Any, **options: Any) -> Any:
    """A call whose dropout, if it has one, drops the same weights each time."""
    torch.manual_seed(11)
    return attention(*args, **options)


def matches_the_definition(attention: Attention, case: Case) -> None:
    """Output and lse are those of reference.attention in float64; dtype, shape; the inputs are not written to."""
    before = {name: t.clone() for name, t in case.tensors.items()}
    output, weights = case.run(attention)
    want, dtype = case.truth(), case.query.dtype
    check(output.dtype == dtype, f"output is {output.dtype}, query {dtype}")
    assert_near("output", output, want.output, budget(dtype, largest(case.value)))
    # lse is float32 at least; the fused op's exponential for half precision is good to 2^-14.
    relative = 2.0**-13 if dtype in HALVES else 100 * torch.finfo(dtype).eps
    assert_near("lse", weights.lse, want.lse, relative * largest(want.lse))
    for name, t in case.tensors.items():
        check(torch.equal(t, before[name]), f"{name} was written to")


def gradients_match_the_definition(attention: Attention, case: Case, *, through_lse: bool = False) -> None:
    """Gradients of every input are those of autograd through the definition."""
    case, exact = case.with_grad(), case.exact().with_grad()
    output, weights = case.run(attention)
    truth = exact.truth()
    generator = torch.Generator().manual_seed(3)
    toward = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(output.dtype)
    losses = [(output * toward).sum(), (truth.output * toward).sum()]
    if through_lse:  # where it is finite: -inf has no gradient to compare
        finite = torch.isfinite(truth.lse.detach())
        other = torch.randn(truth.lse.shape, generator=generator, dtype=torch.float64)
        for n, lse in enumerate((weights.lse, truth.lse)):
            losses[n] = losses[n] + torch.where(finite, lse * other.to(lse.dtype), 0).sum()
    tensors = case.tensors
    found = torch.autograd.grad(losses[0], list(tensors.values()), allow_unused=True)
    wanted = torch.autograd.grad(losses[1], list(exact.tensors.values()), allow_unused=True)
    for (name, t), got, want in zip(tensors.items(), found, wanted, strict=True):
        if got is None or want is None:
            check(got is None or not got.any(), f"gradient of {name}: {got}, expected none")
            continue
        # A gradient is a sum of up to L terms, each a product of values of size 10: measured at most 1e-12.
        assert_near(f"gradient of {name}", got, want, 1e5 * torch.finfo(t.dtype).eps * largest(want))


def rows_sum_to_one(attention: Attention) -> None:
    """With every value 1, every head of every row gives 1."""
    q, k, v = problem(2, 3, query_len=6, key_len=5)
    output = attention(q, k, torch.ones_like(v))[0]
    assert_near("output for values of 1", output, torch.ones_like(output), 1e-12)


def half_precision_is_within_budget(
    attention: Attention, case: Case, *, outputs: float = 2.0, gradients: float = 4.0
) -> None:
    """RMS error, per sequence and head, over that of the correctly rounded float64 answer: output and gradients."""
    case, exact = case.with_grad(), case.exact().with_grad()
    output, truth = case.run(attention)[0], exact.truth().output
    check(torch.isfinite(output).all(), "output is not finite")
    generator = torch.Generator().manual_seed(3)
    toward = torch.randn(output.shape, generator=generator).to(output.dtype)
    found = torch.autograd.grad(output, (case.query, case.key, case.value), toward)
    wanted = torch.autograd.grad(truth, (exact.query, exact.key, exact.value), toward.double())
    names, limits = ("output", "dq", "dk", "dv"), (outputs, gradients, gradients, gradients)
    for name, got, want, limit in zip(names, (output, *found), (truth, *wanted), limits, strict=True):
        error, floor = rms(got.double() - want), rms(want.to(got.dtype).double() - want)
        worst = (error / floor).max().item()
        check(worst <= limit, f"{name}: {worst:.2f} times the error of rounding the right answer, allowed {limit}")


def rms(t: Tensor) -> Tensor:
    return t.detach().pow(2).mean((-1, -2)).sqrt()


def strides_do_not_matter(attention: Attention, layout: str, mask: Mask | None) -> None:
    """Views with other strides give what contiguous copies of them give, and gradients of the same values."""
    generator = torch.Generator().manual_seed(5)
    views = [strided((2, 3, n, 6), layout, generator, torch.float64) for n in (7, 9, 9)]
    results = []
    for tensors in (views, [t.contiguous() for t in views]):
        q, k, v = (t.detach().requires_grad_() for t in tensors)
        output = attention(q, k, v, mask)[0]
        results.append((output, *torch.autograd.grad(output.square().sum(), (q, k, v))))
    for name, got, want in zip(("output", "dq", "dk", "dv"), *results, strict=True):
        assert_near(name, got, want, 1e-12)
