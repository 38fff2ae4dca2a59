"""The same subject through torch.compile."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.check.adapt.function import FunctionSubject
from regard.check.adapt.module import ModuleSubject
from regard.check.definition import causal_mask
from regard.check.guard import no_warnings
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, expect_near

__all__ = ["check_compiled_equals_eager"]


@property_(group="Compiler", rows=(19, 20), thorough=True)
def check_compiled_equals_eager(subject: Subject, at: Sizes, seed: int) -> None:
    """Compiled, it gives what it gives eagerly: plain, with a scale, a mask, and a permuted key.

    Catches: the compiler that drops a custom scale (pytorch #174049) or matches a permuted key (pytorch #195320).
    """
    if getattr(subject, "arrays", False):
        raise Unsupported("it works on arrays")
    requests: list[Request] = [subject.make(at, seed), subject.make(at, seed).but(strides="columns")]
    if subject.supports("scale"):
        requests.append(subject.make(at, seed).but(scale=0.3))
    if subject.supports("uniform"):
        lower = causal_mask(at.query_len, at.key_len, None, device=subject.device)[None, None]
        requests.append(subject.make(at, seed).but(mask=lower))
    if subject.supports("causal option"):
        requests.append(subject.make(at, seed).but(causal=True))
    want = [subject.answers(request).output for request in requests]
    with no_warnings():  # torch imports parts of its own that are deprecated
        torch._dynamo.reset()
        got = _compiled(subject, requests)
    for request, one, other in zip(requests, got, want, strict=True):
        within = 64 * torch.finfo(other.dtype).eps * max(1.0, float(other.detach().abs().max()))
        expect_near("output compiled, against eager", one, other, within, request=request)


def _compiled(subject: Subject, requests: list[Request]) -> list[Tensor]:
    seconds, subject.seconds = subject.seconds, max(subject.seconds, 180.0)
    try:
        if isinstance(subject, FunctionSubject):
            eager, subject.function = subject.function, torch.compile(subject.function)
            try:
                return [subject.answers(request).output for request in requests]
            finally:
                subject.function = eager
        else:
            assert isinstance(subject, ModuleSubject)
            module, subject.module = subject.module, torch.compile(subject.module)  # type: ignore[assignment]
            try:
                return [subject.answers(request).output for request in requests]
            finally:
                subject.module = module
    finally:
        subject.seconds = seconds
