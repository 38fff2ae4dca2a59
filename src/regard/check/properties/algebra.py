"""What follows from the formula alone and needs no oracle: means, extremes, order, shifts, linearity."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, expect_near

__all__ = [
    "check_equal_keys_give_the_mean",
    "check_linear_in_values",
    "check_one_huge_logit",
    "check_order_of_keys_changes_nothing",
    "check_order_of_queries_is_kept",
    "check_rows_sum_to_one",
    "check_shift_of_keys_changes_nothing",
]

GROUP = "Algebra"


def rounding(request: Request, size: Tensor, *, terms: int = 64) -> float:
    """How far two right answers of this size may be apart: some dozens of rounded terms in different orders."""
    return terms * torch.finfo(request.query.dtype).eps * max(1.0, float(size.detach().abs().max()))


@property_(group=GROUP, rows=(21,), needs=("function", "not causal"))
def check_rows_sum_to_one(subject: Subject, at: Sizes, seed: int) -> None:
    """With every value 1, every output is 1.

    Catches: a softmax over the queries (labml #146) or the heads, and weights that are masked after the softmax.
    """
    request = subject.make(at, seed)
    request = request.but(value=torch.ones_like(request.value), code=(*request.code, "v = torch.ones_like(v)"))
    output = subject.answers(request).output
    expect_near("output for values of 1", output, torch.ones_like(output), rounding(request, output), request=request)


@property_(group=GROUP, needs=("function", "order", "not causal"))
def check_equal_keys_give_the_mean(subject: Subject, at: Sizes, seed: int) -> None:
    """If all keys are equal, every query gets the mean of the values.

    Catches: parts of the keys that are left out, counted twice or weighted by their block; xformers' tests do this.
    """
    for sizes in (at, replace(at, key_len=37)) if subject.supports("lengths") else (at,):
        request = subject.make(sizes, seed)
        key = request.key[..., :1, :].expand(request.key.shape).contiguous()
        request = request.but(key=key, code=(*request.code, "k = k[..., :1, :].expand(k.shape).contiguous()"))
        output = subject.answers(request).output
        heads = request.query.shape[1] // request.value.shape[1]
        mean = request.value.double().mean(-2, keepdim=True).repeat_interleave(heads, 1)  # (B, H, 1, Dv)
        if subject.contract.grouped == "tiled":
            mean = request.value.double().mean(-2, keepdim=True).repeat(1, heads, 1, 1)
        want = mean.expand(output.shape)
        expect_near("output for equal keys", output, want, rounding(request, request.value), request=request)


@property_(group=GROUP, needs=("function", "order", "not causal"))
def check_one_huge_logit(subject: Subject, at: Sizes, seed: int) -> None:
    """A query with one score far above the others gets that key's value.

    Catches: scores that are clamped or normalised, and exponentials that overflow.
    """
    request = subject.make(at, seed)
    chosen = torch.arange(at.query_len) % at.key_len  # query i looks for this key
    direction = torch.zeros(at.key_len, at.width).to(request.query)
    # Key j points its own way in the plane; a query that is a large multiple of a key prefers it to every other.
    angle = torch.arange(at.key_len, dtype=torch.float64) * 2 * torch.pi / at.key_len
    if at.width < 2:
        raise Unsupported("a head of width 1 cannot tell keys apart")
    direction[:, 0], direction[:, 1] = angle.cos().to(direction), angle.sin().to(direction)
    key = direction.expand(request.key.shape).contiguous()
    # The next key is an angle of 2 pi / S away: far enough below for a weight of exp(-60).
    factor = 60 * at.width**0.5 / (1 - math.cos(2 * math.pi / max(at.key_len, 2)))
    query = (factor * direction[chosen]).expand(request.query.shape).contiguous()
    request = request.but(query=query, key=key)
    output = subject.answers(request).output
    group = request.query.shape[1] // request.value.shape[1]
    want = request.value.repeat_interleave(group, 1)[..., chosen.to(request.value.device), :]
    expect_near("output for one huge score", output, want, rounding(request, request.value), request=request)


@property_(group=GROUP, needs=("function", "not causal"))
def check_linear_in_values(subject: Subject, at: Sizes, seed: int) -> None:
    """The output is linear in the values: 2 V + W gives twice the output of V plus that of W.

    Catches: a normalisation of values or outputs inside the attention, and anything that is clipped.
    """
    one = subject.make(at, seed)
    other = subject.make(at, seed + 1)
    outputs = [subject.answers(one.but(value=v)).output.double() for v in (one.value, other.value)]
    both = one.but(value=2 * one.value + other.value, code=(*one.code, "v = 2 * v + torch.randn_like(v)"))
    output = subject.answers(both).output
    expect_near("output for 2 V + W", output, 2 * outputs[0] + outputs[1], rounding(both, both.value), request=both)


@property_(group=GROUP, needs=("function", "order", "not causal"))
def check_shift_of_keys_changes_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """One vector added to every key moves all scores of a query alike, and changes nothing.

    Catches: sigmoids and clamps in place of the softmax, and a denominator with a term of its own.
    """
    request = subject.make(at, seed)
    before = subject.answers(request).output
    shift = 4 * subject.make(at, seed + 1).key[..., :1, :]  # (B, Hkv, 1, D)
    moved = request.but(key=request.key + shift, code=(*request.code, "k = k + 4 * torch.randn_like(k[..., :1, :])"))
    # The scores are larger by about 4 |q| |shift| / sqrt(D), and each is rounded at its own size.
    size = 1 + float((request.query.double().norm(dim=-1).max() * shift.double().norm(dim=-1).max()) / at.width**0.5)
    within = rounding(request, request.value, terms=8) * size
    expect_near("output for shifted keys", subject.answers(moved).output, before, within, request=moved)


@property_(group=GROUP, needs=("order", "not causal"))
def check_order_of_keys_changes_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """Keys permuted together with their values leave the output as it is; in a module that reads x, they permute it.

    Catches: an online softmax that does not rescale what it has summed, and blocks that are treated unlike.
    """
    for sizes in (at, replace(at, batch=1, query_len=40, key_len=40)):
        try:
            request = subject.make(subject.fits(sizes), seed, size=2.0)
        except Unsupported:
            if sizes is at:
                raise
            continue
        order = torch.randperm(request.key_len, generator=torch.Generator().manual_seed(seed)).to(request.key.device)
        before = subject.answers(request).output
        code = (*request.code, f"order = torch.tensor({order.tolist()})")
        if request.tied == "qkv":
            x = request.query[..., order, :]
            moved = request.but(query=x, key=x, value=x, code=(*code, "q = q[..., order, :]"))
            want = before[..., order, :]
        else:
            key = request.key[..., order, :]
            value = key if request.tied == "kv" else request.value[..., order, :]
            moved = request.but(key=key, value=value, code=(*code, "k, v = k[..., order, :], v[..., order, :]"))
            want = before
        within = rounding(request, torch.cat([before.flatten(), request.value.flatten()]))
        expect_near("output for permuted keys", subject.answers(moved).output, want, within, request=moved)


@property_(group=GROUP, rows=(22,), needs=("order", "not causal"))
def check_order_of_queries_is_kept(subject: Subject, at: Sizes, seed: int) -> None:
    """Queries permuted permute the output alike: a query's answer depends on no other query.

    Catches: a softmax over the queries, and heads viewed without a transpose (transformer-from-scratch PR #6).
    """
    request = subject.make(at, seed)
    if request.tied == "qkv":
        raise Unsupported("queries are keys too: see order_of_keys_changes_nothing")
    order = torch.randperm(request.query_len, generator=torch.Generator().manual_seed(seed + 5)).to(
        request.query.device
    )
    before = subject.answers(request).output
    code = (*request.code, f"order = torch.tensor({order.tolist()})", "q = q[..., order, :]")
    moved = request.but(query=request.query[..., order, :].contiguous(), code=code)
    output = subject.answers(moved).output
    want = before[..., order, :]
    expect_near("output for permuted queries", output, want, rounding(request, before), request=moved)
