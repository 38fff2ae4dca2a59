"""Find out how to ask for a rotation: which arguments, which layout, which pairs, which base."""

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from regard.check.adapt.construct import CannotAdapt
from regard.check.adapt.names import ROLES
from regard.check.adapt.places import BASES, LENGTHS, WIDTHS, is_function, number_of
from regard.check.adapt.rotation import LAYOUTS, TABLE_FORMS, RotarySubject
from regard.check.contract import Contract
from regard.check.golden import PAIRINGS, rotate, unpair
from regard.check.guard import SubjectError
from regard.check.request import Sizes
from regard.check.violation import Violation

__all__ = ["adapt_rotary"]

METHODS = ("rotate_queries_or_keys", "apply_rotary", "apply_rotary_emb", "apply_rope", "rotate", "apply_rotary_pos_emb")
CALL: dict[str, tuple[str, ...]] = {
    "query": ROLES["query"],
    "key": ROLES["key"],
    "x": (*ROLES["x"], "t", "tensor", "u", "v", "z", "vec", "feats"),
    "positions": (
        "positions", "position_ids", "pos", "position", "pos_ids", "input_pos", "index", "indices", "token_positions",
        "positions_ids", "posit",
    ),
    "offset": (
        "offset", "start", "start_pos", "seqlen_offset", "past_len", "cache_len", "past_key_values_length",
        "pos_offset", "position_offset", "start_index", "offsets", "past_length", "start_position",
    ),
    "seq_len": ("seq_len", "length", "seqlen", "l", "kv_seq_len", "n"),
    "width": ("dim", "d_head", "head_dim", "d", "d_model"),
    "base": BASES,
    "cos": ("cos", "cosine", "cos_cached", "freqs_cos", "cosines"),
    "sin": ("sin", "sine", "sin_cached", "freqs_sin", "sines"),
    "freqs_cis": ("freqs_cis", "freqs_complex", "cis", "freqs"),
}  # fmt: skip
SOME = 16
COMMON = (8, 16, 32, 64, 128, 24, 12, 48, 96, 4)  # widths of a head that are tried where none is told


def adapt_rotary(thing: Any, name: str, declared: Contract, **options: Any) -> RotarySubject:
    """See :func:`regard.check.adapt.positions.adapt_positions`."""
    subject = RotarySubject(thing, name, declared, **options)
    subject.sizes = Sizes(2, 3, query_len=SOME, width=8)
    said = _said_base(subject)
    subject.base = said or subject.base
    made = thing
    if subject.is_class:
        request = subject.make(subject.sizes, 1)
        try:
            made = subject.live(request)
        except Exception as error:
            raise CannotAdapt(
                f"{subject.spell_made(request)} raises {type(error).__name__}: {error}; pass an instance"
            ) from error
    _find_call(subject, made)
    if not subject.is_class and not is_function(thing):
        subject.max_len = int(number_of(thing, LENGTHS) or 0)
    _find_layout(subject, _widths(subject, made))
    _find_pairing(subject, said)
    return subject


def _said_base(subject: RotarySubject) -> float | None:
    """The base that a default or an attribute states."""
    if not subject.is_class and not is_function(subject.thing):
        return number_of(subject.thing, BASES)
    try:
        parameters = inspect.signature(subject.thing).parameters.values()
    except (TypeError, ValueError):
        return None
    for parameter in parameters:
        given = parameter.default
        if parameter.name.lower() in BASES and isinstance(given, int | float) and not isinstance(given, bool):
            return float(given)
    return None


def _find_call(subject: RotarySubject, made: Any) -> None:
    """What is called, and what its arguments are for."""
    if is_function(made):
        target = made
    else:
        forward = getattr(type(made), "forward", None)
        subject.method = next((name for name in METHODS if callable(getattr(made, name, None))), "")
        if subject.method:
            target = getattr(made, subject.method)
        elif forward is not None and forward is not nn.Module.forward:
            target = made.forward
        elif callable(made):
            target = made.__call__
        else:
            raise CannotAdapt(f"{subject.name}: it has no forward(x), forward(q, k) or rotate_queries_or_keys(x)")
    try:
        parameters = list(inspect.signature(target).parameters.values())
    except (TypeError, ValueError):
        raise CannotAdapt(f"{subject.name} tells no signature; wrap it: def {subject.name}_(x): ...") from None
    parameters = [p for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    for i, parameter in enumerate(parameters):
        plain = parameter.name.lower().strip("_").removeprefix("x_") if i > 1 else parameter.name.lower().strip("_")
        role = next((role for role, names in CALL.items() if plain in names), "x" if i == 0 else None)
        if role is None and parameter.default is parameter.empty:
            raise CannotAdapt(
                f"{subject.name}({parameter.name}=): what it is for is not known; give it a default, or wrap it in a "
                "function of x, or of q and k"
            )
        if role is None or role in subject.names:
            continue
        subject.names[role] = parameter.name
        if parameter.default is parameter.empty:
            subject.required.add(role)
    if "query" in subject.names and "key" not in subject.names:
        subject.names["x"] = subject.names.pop("query")
    if "key" in subject.names and "query" not in subject.names and "x" in subject.names:
        subject.names["query"] = subject.names.pop("x")
    if not {"x"} <= set(subject.names) and not {"query", "key"} <= set(subject.names):
        raise CannotAdapt(f"{subject.name}: no argument reads as x, or as q and k")


def _widths(subject: RotarySubject, made: Any) -> tuple[int, ...]:
    """The widths of a head to try, the likeliest first."""
    if subject.is_class or is_function(made):
        return (8,)
    told = [int(number_of(made, (name,)) or 0) for name in WIDTHS]
    buffers = getattr(made, "buffers", None)
    told += [2 * b.shape[-1] for b in (buffers() if buffers else ()) if b.dim()]
    return tuple(dict.fromkeys(width for width in (*told, *COMMON) if width > 1))


def _find_layout(subject: RotarySubject, widths: tuple[int, ...]) -> None:
    """The layout in which one vector, put everywhere, is turned along the sequence alone; else the first that runs."""
    declared = subject.declared.layout
    layouts: tuple[str, ...] = (str(declared),) if declared in LAYOUTS else LAYOUTS
    needs_tables = subject.required & {"cos", "sin", "freqs_cis"}
    forms = [f for f in TABLE_FORMS if (f == "complex") == ("freqs_cis" in needs_tables)] if needs_tables else [""]
    ran: list[tuple[int, str, bool, str, int]] = []
    errors: dict[str, str] = {}
    for width in widths:
        for form in forms:
            for layout in layouts:
                for batched in (False, True) if "positions" in subject.names else (False,):
                    subject.layout, subject.batched, subject.tables = layout, batched, form
                    score = _turns(subject, width, errors)
                    if score is not None:
                        ran.append((score, layout, batched, form, width))
        if ran:
            break
    if not ran:
        tried = "; ".join(f"{layout}: {error}" for layout, error in errors.items())
        hint = ""
        if any("and" in error and "expected" in error for error in errors.values()) and not subject.both:
            hint = " Where it returns cosines and sines, check the function that applies them."
        raise CannotAdapt(f"{subject.name}: no way was found to call it.{hint} Tried {tried}")
    _, subject.layout, subject.batched, subject.tables, width = max(ran, key=lambda way: way[0])
    if not subject.is_class and not is_function(subject.thing):
        subject.fixed_width = width
    length = min(SOME, subject.max_len) if subject.max_len else SOME
    subject.sizes = replace(subject.sizes, width=width, value_width=width, query_len=length, key_len=length)
    subject.contract = replace(subject.contract, layout=subject.layout)  # type: ignore[arg-type]


def _turns(subject: RotarySubject, width: int, errors: dict[str, str]) -> int | None:
    """2 where it is right in some pairing, 1 where it turns along the sequence alone, 0 where it runs, else None."""
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(width, generator=generator).expand(2, 3, 5, width).to(subject.device, torch.float32).contiguous()
    request = subject.question(x, start=1 if subject.batched else 0)
    try:
        got = subject.ask(request).output.detach().double()
    except (SubjectError, Violation) as error:
        errors.setdefault(subject.layout, str(error))
        return None
    if not bool(((got - got[:1, :1]).abs() < 1e-5).all()) or not bool((got[:, :, 1:] != got[:, :, :1]).any()):
        return 0
    for pairing in PAIRINGS:
        if width % 2 == 0 and bool(((rotate(x, request.positions, pairing=pairing) - got).abs() < 0.02).all()):
            return 2
    return 1


def _find_pairing(subject: RotarySubject, said: float | None) -> None:
    """The pairing and the base that explain the answer best, and a note that says so."""
    request = subject.make(subject.sizes, 2, dtype=torch.float32)
    try:
        got = subject.ask(request).output.detach().double()
    except (SubjectError, Violation):
        return
    off: dict[tuple[str, float], float] = {}
    for pairing in PAIRINGS:
        found = said or _base_of(request.query.double(), got, pairing)
        for base in {subject.base, found}:
            want = rotate(request.query, request.positions, base=base, pairing=pairing)
            off[pairing, base] = float((want - got).abs().max())
    best = min(off, key=lambda way: off[way])
    nearest = min(PAIRINGS, key=lambda pairing: min(error for way, error in off.items() if way[0] == pairing))
    subject.pairing = nearest
    if off[best] < 0.1:
        subject.pairing, subject.base = best
        subject.remark(f"{PAIRINGS[subject.pairing]}, base {subject.base:g}")
        if subject.base == 100 and said is None:
            subject.remark("base 100 is also what base 10000 gives if its exponent is i/D, without the 2")


def _base_of(x: torch.Tensor, got: torch.Tensor, pairing: str) -> float:
    """The base whose second pair turns as fast as this one's does from position 0 to 1, to three digits."""
    half = x.shape[-1] // 2
    if half < 2 or x.shape[-2] < 2:
        return 10000.0
    (a, b), (c, d) = unpair(x[0, 0, 1], pairing), unpair(got[0, 0, 1], pairing)
    turn = float(torch.atan2(a * d - b * c, a * c + b * d)[1])
    base = turn**-half if 0 < turn < 1 else 10000.0
    return float(f"{base:.3g}")
