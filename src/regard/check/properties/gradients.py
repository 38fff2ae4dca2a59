"""Gradients against float64 autograd through the definition, and inputs with other strides, forward and backward."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.check.budget import budget, naive
from regard.check.guard import SubjectError
from regard.check.probe import leaves, pattern
from regard.check.properties.algebra import rounding
from regard.check.properties.causality import causal
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation, expect_near

__all__ = ["check_gradients_match", "check_gradients_with_a_mask", "check_strides_do_not_matter"]

GROUP = "Gradients"


def gradients(output: Tensor, tensors: dict[str, Tensor], seed: int) -> list[Tensor]:
    """Gradients of a random weighted sum of the output, the same one for the same seed and shape."""
    if not output.requires_grad:
        raise Violation("the output has no gradient: it is detached from its inputs")
    toward = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    found = torch.autograd.grad(output, list(tensors.values()), toward, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(tensors.values(), found, strict=True)]


def compare_gradients(subject: Subject, request: Request, seed: int, what: str = "") -> None:
    """Every gradient is within its budget of the float64 one."""
    asked, tensors = leaves(request)
    output = subject.answers(asked).output
    got = gradients(output, tensors, seed)
    exact, exact_tensors = leaves(request, torch.float64)
    truth = gradients(subject.truth(exact), exact_tensors, seed)
    low, low_tensors = leaves(request)
    yardstick = gradients(subject.yardstick(naive, low), low_tensors, seed)
    for name, one, want, measured in zip(tensors, got, truth, yardstick, strict=True):
        within = budget(want, measured, request.query.dtype, slack=3.0)
        expect_near(f"gradient of {name}{what}", one, want, within, request=request)


@property_(group=GROUP, needs=("gradients", "gradient numbers"))
def check_gradients_match(subject: Subject, at: Sizes, seed: int) -> None:
    """The gradients of query, key and value are those of float64 autograd through the definition.

    Catches: weights that are detached, a scale that the backward pass forgets, and reductions over the wrong heads.
    """
    for n, size in enumerate((1.0, 3.0)):
        compare_gradients(subject, subject.make(at, seed + n, size=size), seed)
    if subject.supports("bias"):
        _compare_bias(subject, subject.make(at, seed), seed)
    if subject.supports("grouped"):
        request = subject.make(replace(at, heads=4, kv_heads=2), seed)
        compare_gradients(subject, request, seed, " with grouped heads")


def _compare_bias(subject: Subject, request: Request, seed: int) -> None:
    """The gradient of a bias, which is a parameter where positions are learnt."""
    shape = (1, 1, request.query_len, request.key_len)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed + 9))
    found = []
    for exact in (False, True):
        dtype = torch.float64 if exact else request.query.dtype
        bias = noise.to(request.query.device, dtype).requires_grad_()
        asked = request.map(lambda t, dtype=dtype: t.detach().to(dtype)).but(bias=bias)
        output = subject.truth(asked) if exact else subject.answers(asked).output
        if not output.requires_grad:
            raise Violation("the output has no gradient with respect to the bias", request=asked)
        found.append(gradients(output, {"bias": bias}, seed)[0])
    want = found[1]
    within = budget(want, want, request.query.dtype, slack=3.0)
    expect_near("gradient of the bias", found[0], want, within, request=request)


@property_(group=GROUP, rows=(10,), needs=("gradients", "gradient numbers"))
def check_gradients_with_a_mask(subject: Subject, at: Sizes, seed: int) -> None:
    """The same with a mask and with causal: what may not be read gets no gradient.

    Catches: a backward pass that ignores the mask of the forward pass.
    """
    asked = 0
    plain = subject.make(at, seed)
    try:
        compare_gradients(subject, causal(subject, plain), seed, " (causal)")
        asked += 1
    except Unsupported:
        pass
    if subject.supports("uniform"):
        compare_gradients(subject, plain.but(mask=pattern(subject, "uniform", plain, seed)), seed, " with a mask")
        asked += 1
    if not asked:
        raise Unsupported("it takes no mask and has no causal option")


@property_(group=GROUP, rows=(24,), needs=("strides",))
def check_strides_do_not_matter(subject: Subject, at: Sizes, seed: int) -> None:
    """Transposed, sliced and expanded inputs give what contiguous ones give, and gradients of the same values.

    Catches: kernels that read the storage in order (pytorch #112577, #181133), gradients of stride 0 inputs that are
    garbage (flash-attn #355), and a compiler that matches a permuted key (pytorch #195320).
    """
    grads = subject.supports("gradients")
    for how in ("columns", "every other", "expanded"):
        request = subject.make(at, seed)
        results = []
        for strides in ("repeated" if how == "expanded" else None, how):
            asked, tensors = leaves(request.but(strides=strides)) if grads else (request.but(strides=strides), {})
            try:
                output = subject.ask(asked).output
            except SubjectError as error:
                if strides == how:  # a view that does not fit the strides is an honest error, not a wrong number
                    raise Unsupported(f"inputs with other strides ({how}): raises {error}") from error
                raise
            results.append([output, *(gradients(output, tensors, seed) if grads else [])])
        names = ["output", "gradient of query", "gradient of key", "gradient of value"]
        for name, want, got in zip(names, *results, strict=False):
            within = rounding(request, want)
            what = f"{name} for inputs with other strides ({how})"
            expect_near(what, got.detach(), want.detach(), within, request=request.but(strides=how))
