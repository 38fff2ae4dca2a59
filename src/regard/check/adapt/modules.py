"""What is found out about a module by calling it: its layout, its heads, and what is around its projections."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, cast

from torch import Tensor

from regard.check.adapt.construct import CannotAdapt, tried
from regard.check.adapt.module import ModuleSubject
from regard.check.adapt.projections import Projections
from regard.check.guard import SubjectError
from regard.check.request import Request, Sizes
from regard.check.violation import Unsupported, Violation

__all__ = ["find_module_layout"]


def find_module_layout(subject: ModuleSubject, sizes: Sizes | None) -> None:
    """Which axis is which, how many heads there are, and where its numbers can be compared; by trying.

    Raises:
        CannotAdapt: where no way was found to call it.
    """
    inner = getattr(subject.module, "_orig_mod", subject.module)
    batch_first = getattr(inner, "batch_first", None)
    given = subject.declared.layout
    if batch_first is None:
        batch_first = next((part.batch_first for part in inner.modules() if hasattr(part, "batch_first")), None)
    layouts = (given,) if given else ("LBE",) if batch_first is False else ("BLE", "LE")
    at = replace(sizes or Sizes(), heads=subject.heads, kv_heads=subject.heads)
    errors = {}
    for layout in layouts:
        subject.layout = layout or "BLE"
        called = replace(at, batch=1) if layout == "LE" else at
        try:
            subject.ask(subject.make(called, seed=1))
        except (SubjectError, Violation) as error:
            errors[subject.layout] = str(error)
            continue
        subject.sizes = called
        if layout == "BLE" and batch_first is None and not given and _length_comes_first(subject):
            subject.layout = "LBE"
        subject.contract = replace(subject.contract, layout=cast(Any, subject.layout))
        subject.inside = subject.has_more_around(subject.make(called, seed=1))
        _find_heads(subject)
        _look_at_strangers(subject)
        if subject.inside:
            subject.notes.append("its numbers are compared between its projections: there is more around them")
        return
    raise CannotAdapt(f"{subject.name}: no way was found to call it. Tried {tried(errors)}")


def _length_comes_first(subject: ModuleSubject) -> bool:
    """Whether the first axis is the length: moving one of its entries moves others, and the second axis is alone."""
    request = subject.make(subject.sizes, seed=1)
    before = subject.ask(request).output[:, 0]  # (B, L, E), as it is called now
    along_first = subject.ask(request.moved(slice(None), plus=100.0, batch=0)).output[:, 0] != before
    along_second = subject.ask(request.moved(0, plus=100.0)).output[:, 0] != before
    return bool(along_first[1:].any()) and not bool(along_second[:, 1:].any())


def _look_at_strangers(subject: ModuleSubject) -> None:
    """Parameters and buffers with a part that is not known: where the numbers agree all the same, they have none."""
    p = subject.projections
    if isinstance(p, str) or not p.strange:
        return
    request = subject.make(subject.sizes, seed=1)
    sizes = subject.sizes
    for inside in (subject.inside, True):
        subject.inside = inside and "out" in p.layers
        try:
            output = subject.numbers(request).detach().double()
            if _agrees(subject, p, subject.heads, request, output):
                shown = ", ".join(p.strange[:4])
                subject.notes.append(f"parts whose share is not known change nothing between the projections: {shown}")
                return
        except (Unsupported, Violation):
            continue
    subject.inside, subject.sizes = False, sizes
    subject.projections = f"it has parts whose share in the result is not known: {', '.join(p.strange[:4])}"


def _find_heads(subject: ModuleSubject) -> None:
    """How the projections divide into heads, by comparing the answer with the definition.

    A fused projection is read as q|k|v, or head by head where that agrees with what the module answers; where nothing
    says how many heads there are, every number of them is tried.
    """
    p = subject.projections
    if isinstance(p, str) or (subject.heads_known and not p.fused):
        return
    request = subject.make(subject.sizes, seed=1)
    output = subject.numbers(request).detach().double()
    rows = p.q[0].shape[0]
    numbers = [subject.heads] if subject.heads_known else [n for n in range(1, rows + 1) if rows % n == 0]
    for heads in numbers:
        for candidate in (p, p.arranged("head by head", heads)) if p.fused and rows % heads == 0 else (p,):
            if _agrees(subject, candidate, heads, request, output):
                return
    subject.projections, subject.heads = p, numbers[0]
    if not subject.heads_known:
        subject.notes.append("its number of heads was not found, and is taken to be 1: declare Contract(heads=)")


def _agrees(subject: ModuleSubject, candidate: Projections, heads: int, request: Request, output: Tensor) -> bool:
    subject.projections, subject.heads = candidate, heads
    subject.sizes = replace(subject.sizes, heads=heads, kv_heads=heads)
    for causal in (False, True):
        try:
            truth = subject.truth(request.but(causal=causal))
        except Unsupported:
            return False
        if bool(((output - truth).abs() <= 0.01 * truth.abs().max()).all()):
            return True
    return False
