"""Masks: who may read whom, decided by moving what must not be read and comparing bits."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from regard.check.adapt.masks import MaskForm
from regard.check.contract import WORDS
from regard.check.definition import causal_mask
from regard.check.probe import both, masked, pattern, reads, visible
from regard.check.properties.numbers import compare
from regard.check.registry import property_
from regard.check.request import Request, Sizes
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation, expect_near, expect_same

__all__ = [
    "check_additive_equals_boolean",
    "check_combined_masks",
    "check_half_precision_with_a_mask",
    "check_mask_polarity",
    "check_masked_keys_change_nothing",
    "check_masked_matches_definition",
    "check_masks_per_head",
    "check_masks_per_sequence",
    "check_padding_changes_nothing",
    "expect_reads",
]

GROUP = "Masks"


def expect_reads(subject: Subject, request: Request, allowed: Tensor, what: str) -> None:
    """Exactly the allowed keys are read."""
    found, want = reads(subject, request), visible(subject, allowed, request)
    # What a query without keys does is a convention of its own: see check_empty_rows.
    idle = ~allowed.expand(want.shape[0], *allowed.shape[-3:] if allowed.dim() > 2 else (1, *allowed.shape)).any(-1)
    found = torch.where(idle.all(1, keepdim=True)[..., None], want, found)
    if torch.equal(found, want):
        return
    b, h, i, j = (int(n) for n in (found != want).nonzero()[0])
    verb = "reads" if found[b, h, i, j] else "does not read"
    row, due = found[b, h, i].int().tolist(), want[b, h, i].int().tolist()
    raise Violation(
        f"{what}: query {i} {verb} key {j} (sequence {b}, head {h}): reads {row}, expected {due}",
        request=request, index=(b, h, i), got=row, wanted=due,
    )  # fmt: skip


@property_(group=GROUP, rows=(12, 13), needs=("uniform",))
def check_mask_polarity(subject: Subject, at: Sizes, seed: int) -> None:
    """A mask hides exactly the keys that its convention says it hides.

    Catches: True taken for masked where it means may attend (x-transformers #164), and a boolean mask that is added to
    the scores as 0 and 1 (transformers PR #41443).
    """
    request = subject.make(at, seed)
    allowed = pattern(subject, "uniform", request, seed)
    convention = WORDS[("mask", subject.contract.mask or "allow")]
    expect_reads(subject, request.but(mask=allowed), allowed, f"a mask ({convention})")


@property_(group=GROUP, rows=(16,), needs=("per sequence", "batch"))
def check_masks_per_sequence(subject: Subject, at: Sizes, seed: int) -> None:
    """Each sequence follows its own mask; the batch is not as large as the heads are many.

    Catches: masks repeated in the order that mixes batch and heads (attention-is-all-you-need-keras #36).
    """
    request = subject.make(at, seed)
    allowed = pattern(subject, "per sequence", request, seed)
    expect_reads(subject, request.but(mask=allowed), allowed, "a mask of each sequence")


@property_(group=GROUP, rows=(15,), needs=("per head",))
def check_masks_per_head(subject: Subject, at: Sizes, seed: int) -> None:
    """Each head follows its own mask.

    Catches: a mask of shape (N * H, L, L) that breaks in another mode (pytorch #97409), and the first head's for all.
    """
    request = subject.make(at, seed)
    allowed = pattern(subject, "per head", request, seed)
    if subject.kind == "module":
        if subject.supports("numbers"):
            compare(subject, request.but(mask=allowed), what="output with a mask of each head")
            return
        raise Unsupported("which head reads what cannot be seen in its output, and its projections are not known")
    expect_reads(subject, request.but(mask=allowed), allowed, "a mask of each head")


@property_(group=GROUP, rows=(10, 14), needs=("any mask",))
def check_masked_keys_change_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """Keys and values that a mask hides are moved far away: not a bit of the output changes.

    Catches: a mask that a backend ignores (maxtext #878), a fill that large scores outweigh, and masking after the
    softmax, where hidden keys still count in the denominator.
    """
    if at.key_len < 2:
        raise Unsupported("a single key cannot be masked and leave one to read")
    request = subject.make(at, seed)
    allowed = torch.ones(1, 1, at.query_len, at.key_len, dtype=torch.bool, device=request.query.device)
    hidden = [0, at.key_len - 1] if at.key_len > 2 else [at.key_len - 1]
    allowed[..., hidden] = False
    try:
        request = masked(subject, request, allowed)
    except Unsupported:
        request = masked(subject, request, allowed.expand(at.batch, -1, -1, -1))
    rows = [i for i in range(at.query_len) if request.tied != "qkv" or i not in hidden]
    before = subject.answers(request).output[..., rows, :]
    for times in (-1e4, 1e4):
        moved = request.moved(hidden, times=times, plus=1e3)
        expect_same(f"hidden keys {hidden} moved", subject.answers(moved).output[..., rows, :], before, request=moved)


@property_(group=GROUP, rows=(10,), needs=("padding", "batch"))
def check_padding_changes_nothing(subject: Subject, at: Sizes, seed: int) -> None:
    """Padding at the end of each sequence, of its own length, may hold anything: not a bit of the output changes.

    Catches: padding ignored in the last row of a batch, which a test that lets 1 element in 5 differ cannot see.
    """
    request = subject.make(at, seed)
    lengths = torch.arange(at.batch) % max(1, at.key_len - 1) + 1
    valid = (torch.arange(at.key_len) < lengths[:, None]).to(request.query.device)  # (B, S)
    request = padded(subject, request, valid)
    before = subject.answers(request).output
    for b in range(at.batch):
        hidden = slice(int(lengths[b]), None)
        moved = request.moved(hidden, times=-1e4, plus=1e3, batch=b)
        rows = slice(0, int(lengths[b])) if request.tied == "qkv" else slice(None)
        after = subject.answers(moved).output
        expect_same(f"padding of sequence {b} moved", after[b, :, rows], before[b, :, rows], request=moved)
    if subject.supports("numbers") and subject.contract.causal != "always":
        compare(subject, request, what="output with padding")


def padded(subject: Subject, request: Request, valid: Tensor) -> Request:
    """The request with this padding (B, S), as an argument of its own or as a mask."""
    if getattr(subject, "padding_form", None) is not None:
        return request.but(padding=valid)
    allowed = valid[:, None, None, :].expand(-1, 1, request.query_len, -1)  # (B, S) -> (B, 1, L, S)
    return masked(subject, request, allowed)


@property_(group=GROUP, rows=(12,), needs=("any mask", "numbers"))
def check_masked_matches_definition(subject: Subject, at: Sizes, seed: int) -> None:
    """With a mask, what remains is renormalised: the float64 definition's numbers.

    Catches: weights masked after the softmax and left as they are, and masked scores set to 0.
    """
    for reach in ("uniform", "per sequence", "per head"):
        if subject.supports(reach):
            for n, size in enumerate((1.0, 3.0)):
                request = subject.make(at, seed + n, size=size)
                compare(subject, request.but(mask=pattern(subject, reach, request, seed)), what=f"output, mask {reach}")
    if getattr(subject, "padding_form", None) is not None:
        request = subject.make(at, seed)
        valid = torch.ones(at.batch, at.key_len, dtype=torch.bool, device=request.query.device)
        valid[-1, at.key_len // 2 :] = False
        compare(subject, request.but(padding=valid), what="output with padding")


@property_(group=GROUP, rows=(4, 14), needs=("any mask", "numbers"))
def check_half_precision_with_a_mask(subject: Subject, at: Sizes, seed: int) -> None:
    """Masks work in float16 and bfloat16 where attention without one does.

    Catches: a fill of -1e9, which float16 cannot hold (flax #982, apex #1105): an error, or NaN.
    """
    names = [name for name in ("float16", "bfloat16") if subject.supports(name)]
    if not names:
        subject.require("float16")
    if at.key_len < 2:
        raise Unsupported("a single key cannot be masked and leave one to read")
    for name in names:
        request = subject.make(at, seed, dtype=getattr(torch, name))
        allowed = torch.ones(1, 1, at.query_len, at.key_len, dtype=torch.bool, device=request.query.device)
        allowed[..., -1] = False
        try:
            request = masked(subject, request, allowed)
        except Unsupported:
            request = masked(subject, request, allowed.expand(at.batch, -1, -1, -1))
        compare(subject, request, what=f"output with a mask in {name}")


@property_(group=GROUP, rows=(4, 12), needs=("uniform",))
def check_additive_equals_boolean(subject: Subject, at: Sizes, seed: int) -> None:
    """0 and -inf added to the scores do what the boolean mask does, and so does the lowest number in place of -inf.

    Catches: finfo.min taken twice, which overflows to -inf on one device and not on another (pytorch #110213).
    """
    forms: dict[str, MaskForm] = subject.forms  # type: ignore[attr-defined]
    form, convention = forms["uniform"], subject.contract.float_mask
    if form.polarity != "additive" and convention != "added":
        raise Unsupported(f"a float mask is {convention or 'not taken'}")
    request = subject.make(at, seed)
    allowed = pattern(subject, "uniform", request, seed)
    asked = request.but(mask=allowed)
    if form.polarity == "additive":
        want = subject.truth(asked) if subject.supports("numbers") else subject.numbers(asked)
    else:
        want = subject.numbers(asked)
    for name, low in (("-inf", -math.inf), ("finfo.min", torch.finfo(request.query.dtype).min)):
        forms["uniform"] = replace(form, polarity="additive", low=low)
        try:
            got = subject.numbers(asked)
        finally:
            forms["uniform"] = form
        within = 32 * torch.finfo(got.dtype).eps * max(1.0, float(want.detach().nan_to_num().abs().max()))
        expect_near(f"output with {name} added, against the boolean mask", got, want, within, request=asked)


@property_(group=GROUP, rows=(11,), needs=("combined",))
def check_combined_masks(subject: Subject, at: Sizes, seed: int) -> None:
    """A mask and causal at once: a key is read if both allow it.

    Catches: causal switched off whenever a padding mask is there (transformers PR #41966).
    """
    request, allowed = both(subject, at, seed)
    if subject.contract.combined == "mask-only":
        expect_reads(subject, request, allowed, "causal beside a mask that replaces it")
        return
    lower = causal_mask(request.query_len, request.key_len, subject.contract.causal, device=allowed.device)
    expect_reads(subject, request, allowed & lower, "causal and a mask")
