"""Queries that may read no key, and keys that no query may read."""

from __future__ import annotations

import math

import torch

from regard.check.contract import WORDS
from regard.check.probe import empty_request, empty_ways, leaves, unread_request
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation, expect, expect_same

__all__ = ["check_empty_row_gradients", "check_empty_rows", "check_unread_keys_leave_no_trace"]

GROUP = "Empty rows"


@property_(group=GROUP, rows=(2, 5), needs=("any mask",))
def check_empty_rows(subject: Subject, at: Sizes, seed: int) -> None:
    """A query that may read no key gives what the convention says, and every other query is as if it were not there.

    Catches: NaN on fully masked rows (pytorch #41508, open since 2020), and a row that quietly reads everything.
    """
    request, empty = empty_request(subject, at, seed)
    convention = subject.contract.empty_row
    for way, (asked, idle) in empty_ways(subject, at, request, empty).items():
        output = subject.answers(asked).output.detach()
        rows = idle.expand(output.shape[:-1])
        others = output[~rows]
        if bool(others.isnan().any()):
            raise Violation(f"a query without keys makes others NaN{way}", request=asked, got="nan")
        if convention in ("nan", "varies"):
            continue
        nan = bool(output[rows].isnan().any())
        if not nan and not subject.supports("numbers"):
            raise Unsupported("what it gives is finite; which convention it is cannot be told without its projections")
        if convention is None or nan:
            said = "it is NaN" if nan else "it is neither 0 nor the mean of the values"
            expect(
                False, f"a query that may read no key: {said}{way}", request=asked, got="nan" if nan else None, wanted=0
            )
        if subject.supports("numbers"):
            want = subject.truth(asked)[rows]
            got = subject.numbers(asked).detach()[rows]
            off = (got.double() - want).abs()
            expect(
                bool((off <= 0.02 * want.abs().max().clamp_min(1e-3)).all()),
                f"a query that may read no key{way}: off by {float(off.max()):.3g} from its convention "
                f"({WORDS[('empty_row', convention)]})",
                request=asked, got=float(got.flatten()[0]), wanted=float(want.flatten()[0]),
            )  # fmt: skip


@property_(group=GROUP, rows=(3,), needs=("any mask", "gradients"))
def check_empty_row_gradients(subject: Subject, at: Sizes, seed: int) -> None:
    """If the output of a query without keys is finite, so is every gradient.

    Catches: an output that is cleaned of NaN while the gradient of the whole batch is NaN (pytorch #41508).
    """
    request, _ = empty_request(subject, at, seed)
    request = request.map(lambda t: t.detach().clone().requires_grad_())
    output = subject.answers(request).output
    if not bool(torch.isfinite(output).all()):
        raise Unsupported("the output of a query without keys is not finite either")
    tensors = {"query": request.query, "key": request.key, "value": request.value}
    distinct = {
        name: t for n, (name, t) in enumerate(tensors.items()) if all(t is not u for u in list(tensors.values())[:n])
    }
    found = torch.autograd.grad(output.sum(), list(distinct.values()), allow_unused=True)
    for name, gradient in zip(distinct, found, strict=True):
        if gradient is not None and not bool(torch.isfinite(gradient).all()):
            bad = int((~torch.isfinite(gradient)).sum())
            raise Violation(
                f"the output is finite, and {bad} of {gradient.numel()} numbers of the gradient of {name} are not",
                request=request, got="nan", wanted="finite",
            )  # fmt: skip


def _gradients(subject: Subject, request: Request, rows: slice) -> dict[str, torch.Tensor]:
    asked, tensors = leaves(request)
    output = subject.answers(asked).output[..., rows, :]
    found = torch.autograd.grad(output.sum(), list(tensors.values()), allow_unused=True)
    return {
        name: torch.zeros_like(t) if gradient is None else gradient
        for (name, t), gradient in zip(tensors.items(), found, strict=True)
    }


@property_(group=GROUP, rows=(34,), needs=("any mask",))
def check_unread_keys_leave_no_trace(subject: Subject, at: Sizes, seed: int) -> None:
    """NaN and inf in a key and value that no query may read change not a bit.

    Catches: 0 * NaN, which is NaN: padding and the unwritten end of a cache leak into everything (pytorch #101967).
    """
    if subject.contract.unread == "leaks":
        raise Unsupported("its convention is that padding must be finite")
    request = unread_request(subject, at, seed)
    last = request.key_len - 1
    rows = slice(0, last) if request.tied == "qkv" else slice(None)
    before = subject.answers(request).output[..., rows, :]
    for poison in (math.nan, math.inf):
        moved = request.moved(last, times=0.0, plus=poison)
        after = subject.answers(moved).output[..., rows, :]
        expect_same(f"{poison} in a key that nobody may read", after, before, request=moved)
        # In a module that reads x, the poisoned position is a query too, and 0 * NaN in its row is its own affair.
        if subject.supports("gradients") and request.tied != "qkv":
            clean, tainted = (_gradients(subject, asked, rows) for asked in (request, moved))
            for name, want in clean.items():
                what = f"{poison} in a key that nobody may read: gradient of {name}"
                expect_same(what, tainted[name], want, request=moved)
