"""What must hold of an attention function, one plain function a property: it returns, or raises AssertionError.

Each takes an `attention` with the signature of regard.attention, so that the same function that the suite calls on the real
one is called on wrong ones in kills/. Tolerance 0 wherever an intervention decides; a budget with a reason elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from tests.strategies import HALVES, Case, strided
from torch import Tensor

from regard import masks
from regard.masks import Mask

Attention = Callable[..., Any]

# A perturbation that no reader can miss and no dtype overflows on.
LARGE = 1e4


def check(holds: bool | Tensor, message: str) -> None:
    if not bool(holds):
        raise AssertionError(message)


def budget(dtype: torch.dtype, size: float) -> float:
    """How far a result of this size may be from the float64 truth.

    float64 and float32: sums of some hundred rounded terms, measured at most 3 eps; a wrong term is off by 1e-3 at least.
    Half precision: the weights are rounded once (eps / 2 of the largest value), each of two merged parts and the result
    once more.
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


def reads(attention: Attention, mask: Mask | Tensor | None, query_len: int, key_len: int, **options: Any) -> Tensor:
    """Which query reads which key, (L, S), found by moving one value at a time."""
    q, k, v = problem(1, 2, query_len=query_len, key_len=key_len)
    base = seeded(attention, q, k, v, mask, **options)[0]
    found = torch.zeros(query_len, key_len, dtype=torch.bool)
    for j in range(key_len):
        moved = v.clone()
        moved[..., j, :] += LARGE
        found[:, j] = (seeded(attention, q, k, moved, mask, **options)[0] != base).flatten(0, 1).any(0).any(-1)
    return found


def reads_exactly(attention: Attention, mask: Mask | Tensor | None, allowed: Tensor, **options: Any) -> None:
    found = reads(attention, mask, *allowed.shape, **options)
    check(torch.equal(found, allowed), f"reads\n{found.int()}\nexpected\n{allowed.int()}")


def last_query_sees_every_key(attention: Attention, query_len: int, key_len: int) -> None:
    allowed = torch.ones(query_len, key_len, dtype=torch.bool).tril(key_len - query_len)
    reads_exactly(attention, masks.causal(), allowed)


def the_future_changes_nothing(attention: Attention, query_len: int, key_len: int, **options: Any) -> None:
    """Keys and values after position p moved far away: outputs up to it are the same bits."""
    q, k, v = problem(2, 2, query_len=query_len, key_len=key_len)
    base, base_weights = seeded(attention, q, k, v, masks.causal(), **options)
    for row in range(0, query_len, max(1, query_len // 4)):
        end = max(0, row + key_len - query_len + 1)  # the first key that `row` may not read
        moved_k, moved_v = k.clone(), v.clone()
        moved_k[..., end:, :] *= -LARGE
        moved_v[..., end:, :] += LARGE
        out, weights = seeded(attention, q, moved_k, moved_v, masks.causal(), **options)
        check(
            torch.equal(out[..., : row + 1, :], base[..., : row + 1, :]), f"keys from {end} moved the output of {row}"
        )
        check(torch.equal(weights.lse[..., : row + 1], base_weights.lse[..., : row + 1]), f"... and its lse ({row})")


def padding_changes_nothing(
    attention: Attention, lengths: Tensor, query_len: int, key_len: int, **options: Any
) -> None:
    """Padded keys and values moved far away: the whole output is the same bits."""
    q, k, v = problem(len(lengths), 2, query_len=query_len, key_len=key_len)
    mask = masks.padding(lengths)
    base = seeded(attention, q, k, v, mask, **options)[0]
    padded = (torch.arange(key_len) >= lengths[:, None])[:, None, :, None]  # (B, 1, S, 1)
    out = seeded(attention, q, torch.where(padded, k * LARGE, k), torch.where(padded, v + LARGE, v), mask, **options)[0]
    check(torch.equal(out, base), f"padding moved the output by {(out - base).abs().max().item():.3g}")


def unread_keys_leave_no_trace(
    attention: Attention, mask: Mask, query_len: int, key_len: int, poison: float, **options: Any
) -> None:
    """Keys that nobody may read and queries that read nothing hold ``poison``: output, lse and gradients are the same bits
    as with zeros there.
    """
    allowed = mask.to_dense(query_len, key_len, batch=2, num_heads=2)
    allowed = allowed.expand(2, 2, query_len, key_len)
    unread, idle = ~allowed.any(2)[..., None], ~allowed.any(3)[..., None]  # (B, H, S, 1), (B, H, L, 1)
    check(unread.any() or idle.any(), "this mask leaves nothing unread: the property could not fail")
    results = []
    for filling in (0.0, poison):
        q, k, v = problem(2, 2, query_len=query_len, key_len=key_len)
        k, v, q = k.masked_fill(unread, filling), v.masked_fill(unread, filling), q.masked_fill(idle, filling)
        q, k, v = (t.requires_grad_() for t in (q, k, v))
        output, weights = seeded(attention, q, k, v, mask, **options)
        lse = weights.lse
        gradients = torch.autograd.grad(output.sum() + lse[torch.isfinite(lse)].sum(), (q, k, v))
        results.append((output, lse, *gradients))
    for name, clean, got in zip(("output", "lse", "query", "key", "value"), *results, strict=True):
        check(
            torch.equal(clean, got),
            f"{poison} where nobody reads changes {name if name in ('output', 'lse') else 'd' + name}",
        )


def empty_rows_follow_the_contract(
    attention: Attention, mask: Mask | Tensor, query_len: int, key_len: int, **options: Any
) -> None:
    """A row without keys: output 0, weights 0, lse -inf (or the sink), no gradient through it, every gradient finite."""
    dense = mask if isinstance(mask, Tensor) else mask.to_dense(query_len, key_len)
    empty = ~dense.any(-1).expand(2, 2, query_len)
    check(empty.any(), "this mask has no empty row: the property could not fail")
    q, k, v = (t.requires_grad_() for t in problem(2, 2, query_len=query_len, key_len=key_len))
    output, weights = seeded(attention, q, k, v, mask, **options)
    check(torch.isfinite(output).all(), "output is not finite")
    check((output[empty] == 0).all(), "the output of an empty row is not 0")
    check((weights[...][empty] == 0).all(), "the weights of an empty row are not 0")
    sinks = options.get("sinks")
    lse = torch.full((2, 2, query_len), -torch.inf) if sinks is None else sinks[:, None].expand(2, 2, query_len)
    check(
        torch.equal(weights.lse[empty], lse[empty].to(weights.lse)), f"the lse of an empty row is {weights.lse[empty]}"
    )
    for name, gradient in zip("qkv", torch.autograd.grad((output * LARGE).sum(), (q, k, v)), strict=True):
        check(torch.isfinite(gradient).all(), f"d{name} is not finite")
        if name == "q":
            check((gradient[empty] == 0).all(), "a gradient passes through an empty row")


def rows_sum_to_one(attention: Attention) -> None:
    """With every value 1, every head of every row gives 1."""
    q, k, v = problem(2, 3, query_len=6, key_len=5)
    output = attention(q, k, torch.ones_like(v))[0]
    assert_near("output for values of 1", output, torch.ones_like(output), 1e-12)


def grouped_heads_are_interleaved(attention: Attention, heads: int, kv_heads: int, mask: Mask | None = None) -> None:
    """Query head h reads key/value head h // (H // Hkv) and no other."""
    q, k, v = problem(1, heads, query_len=6, key_len=6, kv_heads=kv_heads)
    base = attention(q, k, v, mask)[0]
    for g in range(kv_heads):
        moved = v.clone()
        moved[:, g] += LARGE
        readers = (attention(q, k, moved, mask)[0] != base).any(-1).any(-1)[0].nonzero()[:, 0].tolist()
        group = heads // kv_heads
        check(readers == list(range(g * group, (g + 1) * group)), f"key head {g} is read by query heads {readers}")


def sequences_are_independent(
    attention: Attention, mask: Callable[[slice], Mask | Tensor | None], **options: Any
) -> None:
    """Each sequence alone gives what it gives in the batch, under masks that differ; ``mask(part)`` is that of a part."""
    q, k, v = problem(3, 2, query_len=7, key_len=9)
    together = attention(q, k, v, mask(slice(0, 3)), **options)[0]
    for b in range(3):
        one = slice(b, b + 1)
        alone = attention(q[one], k[one], v[one], mask(one), **options)[0]
        assert_near(f"sequence {b} alone", together[one], alone, 1e-13)


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
