"""Find the conventions that nobody declared, by trying."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor

from regard.check.adapt.function import FunctionSubject
from regard.check.adapt.masks import REACHES, SHAPES, MaskForm
from regard.check.adapt.module import ModuleSubject
from regard.check.contract import REGARD, Contract
from regard.check.definition import causal_mask, window_mask
from regard.check.guard import SubjectError
from regard.check.probe import (
    LARGE,
    Adapted,
    both,
    changed,
    empty_request,
    empty_ways,
    pattern,
    reads,
    unread_request,
    visible,
)
from regard.check.request import Request
from regard.check.subject import Subject
from regard.check.violation import Unsupported, Violation

__all__ = ["find_conventions"]


def find_conventions(subject: Subject) -> None:
    """Complete ``subject.contract``: what is declared stays, what is not is found."""
    assert isinstance(subject, FunctionSubject | ModuleSubject)
    found = replace(subject.contract, heads=subject.heads if isinstance(subject, ModuleSubject) else None)
    found = replace(found, causal=found.causal or cast(Any, _causality(subject)))
    subject.contract = subject.declared.over(found)
    _find_masks(subject)
    for name, search in _SEARCHES.items():
        if getattr(subject.declared, name) is None:
            try:
                value = search(subject)
            except (SubjectError, Violation, Unsupported):
                value = None
            subject.contract = replace(subject.contract, **{name: value})


def _causality(subject: Adapted) -> str | None:
    """Whether it is causal without being asked, or how it aligns; regard's own where nothing tells them apart."""
    at = subject.usual
    plain = subject.make(at, seed=2)
    try:
        if torch.equal(*_shown(subject, plain, causal_mask(at.query_len, at.query_len, None))):
            return "always"
        if "causal" not in subject.parameters:
            return None
        subject.ask(subject.make(at, seed=2).but(causal=True))
    except (SubjectError, Violation):
        return None
    try:
        short = subject.make(replace(at, query_len=at.query_len - 2, key_len=at.key_len), seed=2).but(causal=True)
        for alignment in ("bottom-right", "top-left"):
            lower = causal_mask(short.query_len, short.key_len, alignment)
            if torch.equal(*_shown(subject, short, lower)):
                return alignment
    except (SubjectError, Violation, Unsupported):
        pass
    return REGARD.causal if "causal" in subject.parameters else None


def _shown(subject: Adapted, request: Request, allowed: Tensor) -> tuple[Tensor, Tensor]:
    found = reads(subject, request, answer=lambda r: subject.ask(r).output)
    return found, visible(subject, allowed.to(request.query.device), request)


def _find_masks(subject: Adapted) -> None:
    """How a mask of each reach is handed over; fills ``forms`` and ``padding_form``, and the polarity."""
    request = subject.make(subject.usual, seed=3)
    polarity: str | None = subject.declared.mask
    for reach in REACHES:
        allowed = pattern(subject, reach, request)
        ran: list[MaskForm] = []
        for form in _forms(subject, reach, polarity):
            subject.forms[reach] = form
            shown = _attempt(subject, request.but(mask=allowed), allowed, form)
            if shown is not None:
                ran.append(form)
            if shown:
                break
        else:
            subject.forms.pop(reach, None)
            if ran:
                subject.forms[reach] = ran[0]  # it takes the mask and does not do what it says: properties will tell
            continue
        polarity = polarity or form.polarity
    subject.contract = replace(subject.contract, mask=cast(Any, polarity) or (REGARD.mask if subject.forms else None))
    _find_padding(subject, request)


# (1 - mask) * -10000 takes 0 and 1, and takes 0 and -inf too, for what a -10000 everywhere costs in precision.
MEANINGS = (("allow", False), ("deny", False), ("allow", True), ("deny", True), ("additive", False))


def _forms(subject: Adapted, reach: str, polarity: str | None) -> Iterator[MaskForm]:
    for argument in subject.parameters.masks:
        if argument == (subject.parameters.name("block_mask") if "block_mask" in subject.parameters else None):
            yield MaskForm(argument, "allow", "BHLS", block=True)
            continue
        # (B, H, L, D) goes with a mask of four axes: Hugging Face's functions take no other where a query is alone.
        four = subject.layout in ("BHLD", "BLHD") and reach == "uniform"
        for shape in ("11LS", "LS", "1LS") if four else SHAPES[reach]:
            if getattr(subject, "layout", "") == "LD" and reach != "uniform":
                shape = "LS"
            for meaning, number in MEANINGS:
                if polarity in (None, meaning):
                    yield MaskForm(argument, meaning, shape, number=number)


def _attempt(subject: Adapted, request: Request, allowed: Tensor, form: MaskForm) -> bool | None:
    """Whether exactly the allowed keys are read; None where the mask is not taken in this form."""
    try:
        found = reads(subject, request, answer=lambda r: subject.ask(r).output)
    except (SubjectError, Violation, LookupError):
        return None
    return torch.equal(found, visible(subject, allowed, request))


def _find_padding(subject: Adapted, request: Request) -> None:
    names = [subject.parameters.name("padding")] if "padding" in subject.parameters else []
    taken = {form.argument for form in subject.forms.values()}
    names += [name for name in subject.parameters.masks if name not in taken]
    valid = torch.ones(request.query.shape[0], request.key_len, dtype=torch.bool, device=request.query.device)
    for b in range(valid.shape[0]):
        valid[b, request.key_len - 1 - b % max(1, request.key_len - 2) :] = False
    declared = subject.declared.padding
    ran: MaskForm | None = None
    for name in names:
        for polarity, number in MEANINGS:
            if declared not in (None, polarity):
                continue
            subject.padding_form = MaskForm(name, polarity, "BS", number=number)
            shown = _attempt(subject, request.but(padding=valid), valid[:, None, None, :], subject.padding_form)
            if shown:
                subject.contract = replace(subject.contract, padding=cast(Any, polarity))
                return
            if shown is not None and ran is None:
                ran = subject.padding_form
    subject.padding_form = ran
    if ran is not None:
        subject.contract = replace(subject.contract, padding=cast(Any, ran.polarity))


def _combined(subject: Adapted) -> str | None:
    """A mask and causal at once: both, or the mask alone."""
    subject.require("combined")
    if subject.contract.causal == "always":
        return "and"
    request, allowed = both(subject, subject.usual)
    lower = causal_mask(request.query_len, request.key_len, subject.contract.causal, device=allowed.device)
    found = reads(subject, request, answer=lambda r: subject.ask(r).output)
    if torch.equal(found, visible(subject, allowed & lower, request)):
        return "and"
    return "mask-only" if torch.equal(found, visible(subject, allowed, request)) else None


def _empty_row(subject: Adapted) -> str | None:
    """What a query without keys gives, looked at in several ways of calling."""
    request, empty = empty_request(subject, subject.usual)
    kinds = set()
    for way, idle in empty_ways(subject, subject.usual, request, empty).values():
        output = subject.ask(way).output.detach()
        kinds.add(_empty_kind(subject, way, output, idle.expand(output.shape[:-1])))
    if len(kinds) > 1:
        return "varies" if None not in kinds else None
    return kinds.pop()


def _empty_kind(subject: Adapted, request: Request, output: Tensor, rows: Tensor) -> str | None:
    if bool(output[rows].isnan().any()):
        return "nan"
    for kind in ("zero", "uniform"):
        try:
            want = _imagined(subject, replace(subject.contract, empty_row=kind), request)
        except Unsupported:
            return None  # a module whose projections are not known: finite is all that can be said
        got = subject.numbers(request).detach().double()
        if bool(((got - want)[rows].abs() <= 0.02 * want.abs().max()).all()):
            return kind
    return None


def _imagined(subject: Adapted, contract: Contract, request: Request) -> Tensor:
    before, subject.contract = subject.contract, contract
    try:
        return subject.truth(request)
    finally:
        subject.contract = before


def _unread(subject: Adapted) -> str | None:
    """Whether NaN in a key and value that nobody may read stays out of the output."""
    request = unread_request(subject, subject.usual)
    before = subject.ask(request).output
    after = subject.ask(request.moved(request.key_len - 1, times=float("nan"))).output
    rows = slice(None, -1) if request.tied == "qkv" else slice(None)
    return "leaks" if bool((after.isnan() & ~before.isnan())[..., rows, :].any()) else "ignored"


def _grouping(subject: Adapted) -> str | None:
    if not isinstance(subject, FunctionSubject):
        return None
    subject.require("grouped")
    request = subject.make(replace(subject.usual, heads=4, kv_heads=2), seed=7)
    before = subject.ask(request).output
    value = request.value.clone()
    value[:, 0] += LARGE
    moved = changed(subject.ask(request.but(value=value)).output, before).any(-1)[0].tolist()  # of each query head
    return {(True, True, False, False): "interleaved", (True, False, True, False): "tiled"}.get(tuple(moved))


def _window(subject: Adapted) -> str | None:
    subject.require("window")
    n = 2
    request = subject.make(subject.usual, seed=8).but(window=n, causal="causal" in subject.parameters)
    found = reads(subject, request, answer=lambda r: subject.ask(r).output)
    for convention in ("own-included", "own-excluded"):
        allowed = window_mask(n, request.query_len, request.key_len, convention).to(found.device)
        if torch.equal(found, visible(subject, allowed, request)):
            return convention
    return None


def _weights(subject: Adapted) -> bool:
    request = subject.make(subject.usual, seed=9).but(weights=True)
    return subject.ask(request).weights is not None


POSITIONAL = ("rotary", "rope", "pos_emb", "position", "alibi", "relative", "freqs", "pos_enc", "rel_")
POSITIONAL_NAMES = {"cos", "sin", "rel", "pos", "pe"}


def _positional(subject: Adapted) -> bool:
    """Only a module that says so by a name inside it: elsewhere, order that matters is a bug."""
    if not isinstance(subject, ModuleSubject):
        return False
    inner = getattr(subject.module, "_orig_mod", subject.module)
    names = [name.lower() for name, _ in (*inner.named_modules(), *inner.named_parameters(), *inner.named_buffers())]
    return any(word in name or name.rpartition(".")[2] in POSITIONAL_NAMES for name in names for word in POSITIONAL)


def _float_mask(subject: Adapted) -> str | None:
    """What 0 and -inf do in a mask that is boolean by convention."""
    form = subject.forms.get("uniform")
    if form is None or form.block or form.polarity == "additive":
        return None
    request = subject.make(subject.usual, seed=13)
    allowed = pattern(subject, "uniform", request)
    subject.forms["uniform"] = replace(form, polarity="additive")
    try:
        found = reads(subject, request.but(mask=allowed), answer=lambda r: subject.ask(r).output)
    except (SubjectError, Violation):
        return "refused"
    finally:
        subject.forms["uniform"] = form
    return "added" if torch.equal(found, visible(subject, allowed, request)) else "misread"


def _float64(subject: Adapted) -> str | None:
    """float64, unless the answer is only as good as float32."""
    subject.require("float64")
    subject.require("numbers")
    request = subject.make(subject.usual, seed=12, dtype=torch.float64)
    truth = subject.truth(request.but(causal=False))
    off = float((subject.numbers(request).detach() - truth.detach()).abs().max() / truth.detach().abs().max())
    if subject.contract.causal == "always" or off < 1e-12:
        return "float64"
    return "float32" if off < 1e-5 else None


def _dropout(subject: Adapted) -> str:
    if isinstance(subject, FunctionSubject):
        return "argument" if "dropout" in subject.parameters else "none"
    from regard.check.adapt.module import _dropout_of

    return "training" if _dropout_of(subject.module) else "none"


_SEARCHES: dict[str, Callable[[Any], Any]] = {
    "combined": _combined,
    "empty_row": _empty_row,
    "unread": _unread,
    "grouped": _grouping,
    "window": _window,
    "weights": _weights,
    "positional": _positional,
    "float_mask": _float_mask,
    "float64": _float64,
    "dropout": _dropout,
}
