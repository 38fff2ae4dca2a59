"""Interventions: one value is moved, and whoever read it moves too; and the questions that show a convention."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from regard.check.adapt.function import FunctionSubject
from regard.check.adapt.masks import reach_of
from regard.check.adapt.module import ModuleSubject
from regard.check.definition import causal_mask
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported

__all__ = [
    "LARGE",
    "Adapted",
    "both",
    "changed",
    "empty_request",
    "empty_ways",
    "leaves",
    "masked",
    "pattern",
    "reads",
    "unread_request",
    "visible",
]

LARGE = 1e4
"""How far an intervention moves a number: no reader can miss it, and float16 still holds it."""

Adapted = FunctionSubject | ModuleSubject


def changed(got: Tensor, before: Tensor) -> Tensor:
    """Where two outputs differ in any bit of a row, (B, H, L); NaN equals NaN."""
    same = (got == before) | (got.isnan() & before.isnan())
    return ~same.all(-1)


def reads(subject: Subject, request: Request, *, answer: Callable[[Request], Tensor] | None = None) -> Tensor:
    """Which query reads which key, (B, H, L, S), found by moving the value at one key after the other.

    A module mixes its heads: its answer has one head, which reads what any of its heads reads. Where query, key and
    value are one input, whether a query reads its own position cannot be seen, and counts as read.
    """
    ask = answer or (lambda r: subject.answers(r).output)
    before = ask(request)
    found = []
    for j in range(request.key_len):
        moved = changed(ask(request.moved(j, plus=LARGE, only="v")), before)  # (B, H, L)
        if request.tied == "qkv":
            moved[..., j] = True
        found.append(moved)
    return torch.stack(found, dim=-1)  # (B, H, L, S)


def visible(subject: Subject, allowed: Tensor, request: Request) -> Tensor:
    """``allowed`` as :func:`reads` would show it, (B, H or 1, L, S)."""
    heads = subject.heads if isinstance(subject, ModuleSubject) else request.query.shape[1]
    if subject.contract.causal == "always":
        allowed = allowed & causal_mask(request.query_len, request.key_len, None, device=allowed.device)
    shown = allowed.expand(request.query.shape[0], heads, request.query_len, request.key_len)
    if isinstance(subject, ModuleSubject):
        shown = shown.any(1, keepdim=True)
    if request.tied == "qkv":
        shown = shown | torch.eye(request.query_len, dtype=torch.bool, device=shown.device)
    return shown


def pattern(subject: Subject, reach: str, request: Request, seed: int = 0) -> Tensor:
    """A random mask of a reach, (1 or B, 1 or H, L, S), half of it allowed, in no row all or nothing."""
    heads = subject.heads if isinstance(subject, ModuleSubject) else request.query.shape[1]
    batch = request.query.shape[0] if reach != "uniform" else 1
    generator = torch.Generator().manual_seed(100 + seed)
    shape = (batch, heads if reach == "per head" else 1, request.query_len, request.key_len)
    order = torch.rand(shape, generator=generator).argsort(-1)
    # A module shows what any of its heads reads: with half of the keys each, they would read them all together.
    together = isinstance(subject, ModuleSubject) and reach == "per head"
    keep = order < (1 if together else max(1, request.key_len // 2))
    if subject.contract.causal == "always" and request.query_len == request.key_len:
        keep = keep | torch.eye(request.query_len, dtype=torch.bool)  # its own key, so that no row is empty
    return keep.to(request.query.device)


def masked(subject: Subject, request: Request, allowed: Tensor) -> Request:
    """The request with this mask where the subject takes masks, or with padding where every query's row is the same."""
    assert isinstance(subject, FunctionSubject | ModuleSubject)
    if reach_of(allowed) in subject.forms:
        return request.but(mask=allowed)
    if subject.padding_form is not None and bool((allowed == allowed[:, :1, :1]).all()):
        return request.but(padding=allowed[:, 0, 0].expand(request.query.shape[0], request.key_len))
    raise Unsupported(f"it takes no mask {reach_of(allowed)}")


def both(subject: Subject, at: Sizes, seed: int = 4) -> tuple[Request, Tensor]:
    """A causal request with a mask beside it that leaves key 0 to every query, and that mask."""
    if at.key_len < 3:
        raise Unsupported("two keys are too few to tell a mask from causal")
    request = subject.make(at, seed=seed).but(causal=subject.contract.causal != "always")
    allowed = torch.ones(1, 1, request.query_len, request.key_len, dtype=torch.bool, device=request.query.device)
    allowed[..., 1] = False
    allowed[..., -1] = False
    try:
        return masked(subject, request, allowed), allowed
    except Unsupported:
        return masked(subject, request, allowed.expand(request.query.shape[0], -1, -1, -1)), allowed


def empty_request(subject: Subject, at: Sizes, seed: int = 5) -> tuple[Request, Tensor]:
    """A request in which some queries may read no key, and which, (B, 1, L)."""
    assert isinstance(subject, FunctionSubject | ModuleSubject)
    request = subject.make(at, seed=seed)
    empty = torch.zeros(request.query.shape[0], 1, request.query_len, dtype=torch.bool, device=request.query.device)
    if "uniform" in subject.forms:
        allowed = torch.ones(1, 1, request.query_len, request.key_len, dtype=torch.bool, device=request.query.device)
        row = min(1, request.query_len - 1)
        allowed[..., row, :] = False
        empty[..., row] = True
        return request.but(mask=allowed), empty
    if subject.padding_form is not None and request.query.shape[0] > 1:
        valid = torch.ones(request.query.shape[0], request.key_len, dtype=torch.bool, device=request.query.device)
        valid[0] = False
        empty[0] = True
        return request.but(padding=valid), empty
    raise Unsupported("it takes no mask that can leave a query without keys")


def empty_ways(subject: Subject, at: Sizes, request: Request, empty: Tensor) -> dict[str, tuple[Request, Tensor]]:
    """The same question asked in every way that a subject offers, and causal with more queries than keys."""
    assert isinstance(subject, FunctionSubject | ModuleSubject)
    found = {"": (request, empty)}
    if "weights" in subject.parameters:
        found[" when weights are asked for"] = (request.but(weights=True), empty)
    if subject.kind == "module":
        found[" in training mode"] = (request.but(training=True), empty)
    if subject.contract.causal == "bottom-right" and subject.supports("causal lengths"):
        sizes = replace(at, query_len=at.key_len + 2)
        idle = torch.arange(sizes.query_len, device=request.query.device) < sizes.query_len - sizes.key_len
        causal = subject.make(sizes, seed=5).but(causal="causal" in subject.parameters)
        found[" when causal has more queries than keys"] = (causal, idle[None, None])
    return found


def unread_request(subject: Subject, at: Sizes, seed: int = 6) -> Request:
    """A request whose last key no query may read."""
    request = subject.make(at, seed=seed)
    allowed = torch.ones(1, 1, request.query_len, request.key_len, dtype=torch.bool, device=request.query.device)
    allowed[..., -1] = False
    try:
        return masked(subject, request, allowed)
    except Unsupported:
        return masked(subject, request, allowed.expand(request.query.shape[0], -1, -1, -1))


def leaves(request: Request, dtype: torch.dtype | None = None) -> tuple[Request, dict[str, Tensor]]:
    """The request on tensors that require gradients, and these tensors by name."""
    fresh = request.map(lambda t: t.detach().to(dtype or t.dtype).clone().requires_grad_())
    found = {"query": fresh.query}
    if fresh.tied != "qkv":
        found["key"] = fresh.key
    if fresh.tied == "none":
        found["value"] = fresh.value
    return fresh, found
