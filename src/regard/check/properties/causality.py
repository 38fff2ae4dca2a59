"""Causality: nobody reads the future, everybody reads the whole past, with every option and every length."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from regard.check.definition import causal_mask, window_mask
from regard.check.probe import masked
from regard.check.properties.masks import expect_reads, padded
from regard.check.properties.numbers import compare
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, expect_same

__all__ = [
    "check_causal_alignment",
    "check_causal_with_every_option",
    "check_future_does_not_leak",
    "check_window_counts",
]

GROUP = "Causality"


def causal(subject: Subject, request: Request) -> Request:
    """The request, causal: by the subject's own option, or by a mask where it has none."""
    if subject.contract.causal == "always":
        return request
    if subject.supports("causal option") and subject.supports("causal"):
        return request.but(causal=True)
    lower = causal_mask(request.query_len, request.key_len, subject.contract.causal, device=request.query.device)
    return masked(subject, request, lower[None, None])


def last_readable(subject: Subject, request: Request, row: int) -> int:
    """The last key that a query may read; -1 where there is none."""
    offset = 0 if subject.contract.causal == "top-left" else request.key_len - request.query_len
    return min(row + offset, request.key_len - 1)


def moved_future(request: Request, first: int) -> Request:
    """Keys and values from ``first`` on moved far away."""
    return request.moved(slice(first, None), times=-1e4, plus=1e3)


@property_(group=GROUP, rows=(8, 9))
def check_future_does_not_leak(subject: Subject, at: Sizes, seed: int) -> None:
    """Keys and values after a position are moved far away: not a bit of the outputs up to it changes.

    Catches: a model that attends to the future under one backend (transformers PR #48770), and causal that acts only
    when a mask is given too (xformers #103).
    """
    try:
        request = causal(subject, subject.make(at, seed))
    except Unsupported as error:
        raise Unsupported(f"neither causal nor a causal mask: {error}") from error
    before = subject.answers(request).output
    for row in range(at.query_len):
        first = last_readable(subject, request, row) + 1
        if first < request.key_len:
            moved = moved_future(request, max(first, 0))
            after = subject.answers(moved).output
            what = f"outputs of queries 0 to {row}, keys from {first} moved"
            expect_same(what, after[..., : row + 1, :], before[..., : row + 1, :], request=moved)


@property_(group=GROUP, rows=(1,), needs=("causal",))
def check_causal_alignment(subject: Subject, at: Sizes, seed: int) -> None:
    """Causal lets a query read its whole past and nothing else, also when there are more keys than queries or fewer.

    Catches: alignment to the first query where the last was meant (pytorch #103082, flash-attn #282), and a diagonal
    that is off by one.
    """
    shapes = [at]
    if subject.supports("causal lengths"):
        shapes += [replace(at, query_len=max(2, at.query_len - 2), key_len=at.key_len + 1)]
        shapes += [replace(at, query_len=at.query_len + 2, key_len=max(2, at.key_len - 1))]
        if subject.contract.causal == "bottom-right":
            shapes += [replace(at, query_len=1, key_len=19)]  # a step of decoding
    for sizes in shapes:
        request = subject.make(sizes, seed)
        request = request.but(causal=subject.contract.causal != "always")
        allowed = causal_mask(request.query_len, request.key_len, subject.contract.causal, device=request.query.device)
        what = f"causal with L = {request.query_len}, S = {request.key_len}"
        expect_reads(subject, request, allowed, what)
        if subject.supports("numbers") and bool(allowed.any(-1).all()):
            compare(subject, request, what=what)


@property_(group=GROUP, rows=(6, 7, 11), needs=("causal",))
def check_causal_with_every_option(subject: Subject, at: Sizes, seed: int) -> None:
    """The future stays unread whatever else is asked: weights, dropout, training, padding, a scale, a bias.

    Catches: the causal mask dropped when dropout is on or scores are returned (keras #23038), ignored when weights are
    asked for (pytorch #99282), or lost beside padding.
    """
    asked = 0
    for name, request in _options(subject, causal(subject, subject.make(at, seed))):
        asked += 1
        before = subject.answers(request, seed=seed).output
        for row in range(at.query_len - 1):
            first = last_readable(subject, request, row) + 1
            moved = moved_future(request, max(first, 0))
            after = subject.answers(moved, seed=seed).output
            rows = slice(0, row + 1)
            expect_same(f"causal {name}: queries 0 to {row}", after[..., rows, :], before[..., rows, :], request=moved)
    if not asked:
        raise Unsupported("it has no option beside causal")


def _options(subject: Subject, request: Request) -> Iterator[tuple[str, Request]]:
    if subject.supports("weights option"):
        yield "with weights asked for", request.but(weights=True)
    if subject.supports("dropout"):
        training = subject.kind == "module"
        yield "with dropout", request.but(dropout=0.4, training=training)
        yield "with dropout and weights", request.but(dropout=0.4, training=training, weights=True)
    if subject.kind == "module":
        yield "in training mode", request.but(training=True)
    if subject.supports("scale"):
        yield "with a scale", request.but(scale=0.7)
    if subject.supports("bias"):
        shape = (1, 1, request.query_len, request.key_len)
        yield "with a bias", request.but(bias=torch.ones(shape).to(request.query))
    if subject.supports("softcap"):
        yield "with a softcap", request.but(softcap=5.0)
    # Where a mask replaces causal, the two are not asked for together.
    if request.causal and subject.contract.combined == "and" and subject.supports("padding"):
        valid = torch.ones(request.query.shape[0], request.key_len, dtype=torch.bool, device=request.query.device)
        valid[-1, -1] = False
        yield "beside padding", padded(subject, request, valid)
    if request.causal and subject.contract.combined == "and" and subject.supports("uniform"):
        everything = torch.ones(1, 1, request.query_len, request.key_len, dtype=torch.bool, device=request.query.device)
        yield "beside a mask", request.but(mask=everything)


@property_(group=GROUP, rows=(29,), needs=("window",))
def check_window_counts(subject: Subject, at: Sizes, seed: int) -> None:
    """A window of n lets a query read exactly as many keys as the convention says, counted by moving them.

    Catches: windows that are off by one (transformers #39408, vllm #3385), which no loss shows.
    """
    shapes = [at]
    if subject.supports("lengths") and subject.contract.causal != "top-left":
        shapes.append(replace(at, query_len=max(2, at.query_len - 2), key_len=at.key_len + 1))
    for sizes in shapes:
        for n in (1, 2, max(1, at.key_len - 1)):
            request = subject.make(sizes, seed).but(window=n, causal=subject.supports("causal option"))
            allowed: Tensor = window_mask(n, request.query_len, request.key_len, subject.contract.window)
            what = f"a window of {n} with L = {request.query_len}, S = {request.key_len}"
            expect_reads(subject, request, allowed.to(request.query.device), what)
