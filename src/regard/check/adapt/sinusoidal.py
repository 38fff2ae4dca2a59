"""Find out how to ask for a sinusoidal table: which argument is which, which axis is which, which convention it has."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch

from regard.check.adapt.construct import CannotAdapt
from regard.check.adapt.names import ROLES, role_of
from regard.check.adapt.places import LENGTHS, WIDTHS, is_function, number_of, place_role
from regard.check.adapt.table import BUFFERS, GETTERS, LAYOUTS, TableSubject, as_tensor
from regard.check.contract import Contract
from regard.check.golden import TABLES, sinusoid
from regard.check.guard import SubjectError
from regard.check.request import Sizes
from regard.check.violation import Unsupported, Violation

__all__ = ["adapt_sinusoidal"]

SEQUENCE = (*ROLES["x"], "token_embedding", "tensor", "emb", "z")
SOME = 24  # positions that tell one convention from another


def adapt_sinusoidal(thing: Any, name: str, declared: Contract, **options: Any) -> TableSubject:
    """See :func:`regard.check.adapt.positions.adapt_positions`."""
    subject = TableSubject(thing, name, declared, **options)
    errors: dict[str, str] = {}
    subject.sizes = Sizes(3, 1, query_len=SOME, width=12)
    if subject.is_class:
        made = _made(subject)
    elif is_function(thing):
        made = None
        _find_order(subject, errors)
    else:
        made = thing
        _find_sizes(subject)
    if made is not None:
        _find_way(subject, made)
    if subject.way != "call":
        _find_sum(subject, errors)
    if not subject.way:
        tried = "; ".join(f"{what}: {error}" for what, error in errors.items())
        raise CannotAdapt(
            f"{name}: no table was found. Give it get_encoding(), a forward(x) that returns x + table, or make it a "
            f"function of (length, width). Tried {tried or 'its attributes'}"
        )
    _find_convention(subject)
    return subject


def _made(subject: TableSubject) -> Any:
    try:
        return subject.live(subject.table_of(SOME))
    except Exception as error:
        said = subject.spell_made(subject.table_of(SOME))
        raise CannotAdapt(f"{said} raises {type(error).__name__}: {error}; pass an instance") from error


def _find_sizes(subject: TableSubject) -> None:
    """Width and number of positions of an instance, by its attributes' names."""
    width, length = number_of(subject.thing, WIDTHS), number_of(subject.thing, LENGTHS)
    subject.fixed_width, subject.max_len = int(width or 0), int(length or 0)
    _fit(subject)


def _fit(subject: TableSubject) -> None:
    length = min(SOME, subject.max_len) if subject.max_len else SOME
    width = subject.fixed_width or subject.sizes.width
    subject.sizes = replace(subject.sizes, query_len=length, width=width, value_width=width)


def _find_way(subject: TableSubject, made: Any) -> None:
    """A method that returns the table, or a buffer that holds it; what is added to 0 comes before a buffer."""
    subject.way = next((name for name in GETTERS if callable(getattr(made, name, None))), "")
    names = (subject.way,) if subject.way else BUFFERS
    for name in names:
        try:
            found = getattr(made, name, None)
            table = as_tensor(found() if name in GETTERS and found is not None else found)
        except Exception:
            continue
        if table.dim() < 2 or not table.is_floating_point():
            continue
        rows = table.numel() // table.shape[-1]
        if not subject.is_class:
            subject.fixed_width, subject.max_len = table.shape[-1], rows
            _fit(subject)
        elif not subject.has_limit:
            subject.max_len = rows
        subject.way = name
        return


def _find_order(subject: TableSubject, errors: dict[str, str]) -> None:
    """Which of a function's arguments is the length and which the width: by name, otherwise by what comes back."""
    try:
        parameters = [p for p in inspect.signature(subject.thing).parameters.values() if p.kind not in (2, 4)]
    except (TypeError, ValueError):
        parameters = []
    needed = [p for p in parameters if p.default is p.empty]
    roles = {place_role(p.name): p.name for p in reversed(parameters)}
    if len(needed) == 1 and role_of(needed[0].name, {"x": SEQUENCE}) and "length" not in roles:
        return  # a function of x
    if {"length", "width"} <= set(roles):
        long, wide = roles["length"], roles["width"]
        orders: list[Callable[[int, int], Any]] = [
            lambda n, d: {long: n, wide: d},
            lambda n, d: {long: torch.arange(n), wide: d},
        ]
    else:
        orders = [lambda n, d: (n, d), lambda n, d: (d, n)]
    for order in orders:
        subject.order, subject.way = order, "call"
        try:
            subject.ask(subject.table_of(SOME, 12))
            return
        except (SubjectError, Violation) as error:
            errors.setdefault(subject.spell(subject.table_of(SOME, 12)), str(error))
    subject.way, subject.order = "", None


def _find_sum(subject: TableSubject, errors: dict[str, str]) -> None:
    """Whether forward adds the table to x, and along which axis: the one along which the sum of 0 varies."""
    declared = subject.declared.layout
    layouts: list[str] = [str(declared)] if declared in LAYOUTS else list(LAYOUTS)
    kept = subject.way
    widths = [subject.fixed_width] if subject.fixed_width or subject.is_class else [12, 24, 16, 32, 64, 128, 256, 512]
    for width in widths:
        width = width or subject.sizes.width
        at = replace(subject.sizes, width=width, value_width=width)
        fits: list[tuple[bool, str]] = []
        for layout in layouts:
            subject.layout = layout
            one = replace(at, batch=1) if layout == "LE" else at
            request = subject.make(one, 1, dtype=torch.float32)
            zero = request.but(query=torch.zeros_like(request.query))
            try:
                table, some = subject.ask(zero).output, subject.ask(request).output
            except (SubjectError, Violation) as error:
                errors.setdefault(f"forward with x {layout}", str(error))
                continue
            if torch.equal(table, some):
                continue  # it reads the length of x alone
            along = bool((table[:1] == table).all()) and not bool((table[:, :, :1] == table).all())
            fits.append((along, layout))
        if fits:
            subject.layout = max(fits, key=lambda fit: (fit[0], -layouts.index(fit[1])))[1]
            subject.adds = True
            subject.sizes = replace(at, batch=1 if subject.layout == "LE" else at.batch)
            if not subject.is_class and not is_function(subject.thing):
                subject.fixed_width = at.width
            break
    if subject.adds and kept not in GETTERS:
        subject.way = "sum"
    if subject.adds and subject.layout == "LBE" and declared is None:
        subject.remark("x is (L, B, d): positions along its first axis")


def _find_convention(subject: TableSubject) -> None:
    """The table's convention, and the factor of x."""
    try:
        got = subject.ask(subject.table_of(subject.sizes.query_len)).output[0, 0].double()
    except (SubjectError, Violation):
        return
    off = {}
    for name in TABLES:
        want = sinusoid(torch.arange(len(got), device=got.device), got.shape[1], convention=name)
        off[name] = float((got - want).abs().max())
    best = min(off, key=lambda name: off[name])
    # The rows of a table in half precision are still nearest to their own convention; a wrong table is near to none.
    if off[best] < 0.05:
        subject.convention = best
        if best != "interleaved":
            subject.remark(f"{TABLES[best]}; the paper has {TABLES['interleaved']}")
    if subject.adds:
        _find_factor(subject)


def _find_factor(subject: TableSubject) -> None:
    request = subject.make(subject.sizes, 2)
    try:
        zero = subject.ask(request.but(query=torch.zeros_like(request.query))).output.double()
        moved = subject.ask(request).output.double() - zero
    except (SubjectError, Violation, Unsupported):
        return
    root = math.sqrt(request.query.shape[-1])
    if bool(((moved - request.query.double() * root).abs() <= 0.02 * root).all()):
        subject.factor = "sqrt(d)"
        subject.remark("x is multiplied by sqrt(d) before the table is added")
