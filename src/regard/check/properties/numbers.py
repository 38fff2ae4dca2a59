"""The numbers: against the float64 definition, for each sequence and head, at several sizes, widths and scales."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from regard.check.budget import SLACK, budget, naive
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, expect_near

__all__ = [
    "check_bias_is_added",
    "check_custom_scale",
    "check_double_precision",
    "check_half_precision",
    "check_large_logits",
    "check_lengths_differ",
    "check_long_inputs",
    "check_matches_definition",
    "check_odd_widths",
    "check_scale_follows_the_width",
    "check_softcap_caps",
    "check_value_width_differs",
    "compare",
    "fitting",
]

GROUP = "Numbers"


def compare(subject: Subject, request: Request, *, what: str = "output", slack: float = SLACK) -> None:
    """The answer is within the budget of the float64 definition on the same numbers."""
    output = subject.numbers(request)
    truth = subject.truth(request)
    yardstick = subject.yardstick(naive, request)
    if request.padding is not None and request.tied == "qkv":
        # What the query of a padded position gives is nobody's concern, and many set it to 0.
        real = request.padding[:, None, :, None]  # (B, L) -> (B, 1, L, 1)
        output, truth, yardstick = (torch.where(real, t, 0) for t in (output, truth, yardstick))
    expect_near(what, output, truth, budget(truth, yardstick, request.query.dtype, slack=slack), request=request)


def several(subject: Subject, at: Sizes, seed: int) -> Iterator[Request]:
    """Inputs of several scales, so that near-uniform and near-one-hot weights both occur."""
    for n, size in enumerate((1.0, 3.0)):
        yield subject.make(at, seed + n, size=size)


def fitting(subject: Subject, candidates: list[Sizes]) -> list[Sizes]:
    """Those sizes that the subject can be called with, at least one."""
    found = [at for at in candidates if subject.supports_sizes(at)]
    if not found:
        subject.fits(candidates[0])
    return found


@property_(group=GROUP, rows=(17, 18, 21, 22), needs=("numbers",), essential=True)
def check_matches_definition(subject: Subject, at: Sizes, seed: int) -> None:
    """softmax(scale * Q K^T) V, as float64 computes it from the same numbers.

    Catches: a scale of d_model (vit-pytorch #65), an inverse scale (esceptico/perceiver-io #9), a softmax over the
    wrong axis (detr #247), heads viewed without a transpose (FuxiCTR #30): all of them train normally.
    """
    for request in several(subject, at, seed):
        compare(subject, request)


@property_(group=GROUP, rows=(17, 18), needs=("numbers", "function", "widths"))
def check_scale_follows_the_width(subject: Subject, at: Sizes, seed: int) -> None:
    """The scale is 1 / sqrt(D) at widths on both sides of 64.

    Catches: a scale of 1/8 written out for heads of 64, and a scale of all heads' width.
    """
    for n, width in enumerate(fitting(subject, [replace(at, width=width) for width in (16, 64, 128)])):
        compare(subject, subject.make(width, seed + n), what=f"output for D = {width.width}")


@property_(group=GROUP, rows=(19,), needs=("scale", "numbers"))
def check_custom_scale(subject: Subject, at: Sizes, seed: int) -> None:
    """A scale that is asked for is the scale that is used.

    Catches: the compiler that drops a custom scale (pytorch #174049), and a scale multiplied to the usual one.
    """
    # A scale of 0 tells `scale or default`; with causal torch's own gives NaN for it, 0 * -inf.
    for scale in (0.05, 1.5) if subject.contract.causal == "always" else (0.05, 1.5, 0.0):
        compare(subject, subject.make(at, seed).but(scale=scale), what=f"output with scale={scale}")


@property_(group=GROUP, needs=("numbers",))
def check_large_logits(subject: Subject, at: Sizes, seed: int) -> None:
    """Scores in the hundreds give finite and right answers.

    Catches: a softmax that exponentiates before it subtracts the maximum, and scores that are clamped.
    """
    for size in (10.0, 30.0):
        # Scores of hundreds multiply every rounding of a projection or a product: between two right answers the largest
        # error then differs by more than 2 now and then.
        compare(subject, subject.make(at, seed, size=size), what=f"output for inputs of size {size:g}", slack=5.0)


@property_(group=GROUP)
def check_half_precision(subject: Subject, at: Sizes, seed: int) -> None:
    """In float16 and bfloat16 the error is at most twice that of the formula in that precision, and two roundings.

    Catches: sums or exponentials kept in half precision over many keys; the report grades what passes, in multiples
    of the error of rounding the right answer.
    """
    subject.require("numbers")
    names = [name for name in ("float16", "bfloat16") if subject.supports(name)]
    if not names:
        subject.require("float16")
    for name in names:
        for size in (1.0, 3.0):
            request = subject.make(at, seed, size=size, dtype=getattr(torch, name))
            compare(subject, request, what=f"output in {name}")
        oblong = subject.supports("lengths") and subject.contract.causal != "always"
        long = replace(at, batch=1, query_len=16 if oblong else 512, key_len=512)
        if subject.supports_sizes(long):
            request = subject.make(long, seed, dtype=getattr(torch, name))
            compare(subject, request, what=f"output in {name} for S = {long.key_len}")


@property_(group=GROUP, needs=("float64", "numbers"))
def check_double_precision(subject: Subject, at: Sizes, seed: int) -> None:
    """float64 inputs are computed in float64.

    Catches: a step in float32 on the way, which makes gradcheck fail for no visible reason.
    """
    if subject.contract.float64 == "float32":
        raise Unsupported("its convention is that float64 passes through float32")
    compare(subject, subject.make(at, seed, dtype=torch.float64), what="output in float64")


@property_(group=GROUP, rows=(25,), needs=("widths", "numbers"))
def check_odd_widths(subject: Subject, at: Sizes, seed: int) -> None:
    """Odd and prime widths, 1 among them, give right answers, the same at each call.

    Catches: vector loads that read beyond an odd head (flashinfer #4299, exllamav3 PR #316).
    """
    for sizes in fitting(subject, [replace(at, width=width, value_width=width) for width in (1, 3, 7, 13)]):
        compare(subject, subject.make(sizes, seed + sizes.width), what=f"output for D = {sizes.width}")


@property_(group=GROUP, needs=("value_width", "numbers"))
def check_value_width_differs(subject: Subject, at: Sizes, seed: int) -> None:
    """Values may be wider or narrower than keys.

    Catches: a scale taken from the values, and an output allocated like the query.
    """
    widths = (max(1, at.width // 2), at.width + 3)
    for sizes in fitting(subject, [replace(at, value_width=width) for width in widths]):
        compare(subject, subject.make(sizes, seed), what=f"output for Dv = {sizes.value_width}")


@property_(group=GROUP, needs=("lengths", "numbers", "not causal"))
def check_lengths_differ(subject: Subject, at: Sizes, seed: int) -> None:
    """Queries may be fewer or more than keys, and there may be one of either.

    Catches: sizes mixed up where self-attention could not show it.
    """
    lengths = ((at.query_len, at.key_len + 3), (at.query_len + 2, 2), (1, at.key_len + 1), (at.query_len + 1, 1))
    for sizes in fitting(subject, [replace(at, query_len=q, key_len=k) for q, k in lengths]):
        compare(subject, subject.make(sizes, seed), what=f"output for L = {sizes.query_len}, S = {sizes.key_len}")


@property_(group=GROUP, needs=("numbers",))
def check_long_inputs(subject: Subject, at: Sizes, seed: int) -> None:
    """Lengths beyond one block, that no power of two divides, are read to their end.

    Catches: the last, partial block of keys left out, and parts merged by their mean and not by their log-sum-exp.
    """
    lengths = ((131, 257), (33, 1029), (1029, 33)) if subject.supports("lengths") else ((131, 131), (517, 517))
    if subject.contract.causal == "always":
        lengths = ((131, 131), (517, 517))
    for sizes in fitting(subject, [replace(at, batch=1, query_len=q, key_len=k) for q, k in lengths]):
        what = f"output for L = {sizes.query_len}, S = {sizes.key_len}"
        compare(subject, subject.make(sizes, seed, size=2.0), what=what)


@property_(group=GROUP, needs=("bias", "numbers"))
def check_bias_is_added(subject: Subject, at: Sizes, seed: int) -> None:
    """A bias is added to the scaled scores, before the softmax.

    Catches: a bias that is scaled with the scores, subtracted, or forgotten by one path.
    """
    request = subject.make(at, seed)
    generator = torch.Generator().manual_seed(seed + 1)
    shape = (1, 1, at.query_len, at.key_len)
    bias = torch.randn(shape, generator=generator).to(request.query)
    code = (f"bias = torch.randn({shape}, generator=torch.Generator().manual_seed({seed + 1})).to(q)",)
    compare(subject, request.but(bias=2 * bias, code=request.code + code + ("bias = 2 * bias",)))


@property_(group=GROUP, needs=("softcap", "numbers"))
def check_softcap_caps(subject: Subject, at: Sizes, seed: int) -> None:
    """Scores are capped: softcap * tanh(score / softcap), before bias and mask.

    Catches: a cap that a fused path leaves out, and one applied after the mask, which lets forbidden keys in.
    """
    for cap in (1.5, 5.0):
        request = subject.make(at, seed, size=2.0).but(softcap=cap)
        compare(subject, request, what=f"output with softcap={cap}")
        if subject.supports("bias"):
            bias = torch.linspace(-3, 3, at.query_len * at.key_len).view(1, 1, at.query_len, at.key_len)
            code = f"bias = torch.linspace(-3, 3, {bias.numel()}).view({tuple(bias.shape)}).to(q)"
            both = request.but(bias=bias.to(request.query), code=(*request.code, code))
            compare(subject, both, what=f"output with softcap={cap} and a bias")
