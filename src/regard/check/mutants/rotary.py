"""Named mistakes in rotary encodings, and which of them a subject makes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.check.adapt.places import Places, short
from regard.check.adapt.rotation import RotarySubject, Turned
from regard.check.contract import Contract
from regard.check.golden import unpair
from regard.check.guard import SubjectError, random_state
from regard.check.mutants import turns
from regard.check.mutants.places import Traits, Wrong, likely_among
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["ROTARY_MUTANTS", "likely"]


def _made(thing: Any) -> Callable[[], Any]:
    return lambda: thing


_HEADS_FIRST = Contract(layout="BHLD")
_WRONG = (
    Wrong("mixed pairs", "angles are laid out for halves and applied to neighbours (how-to-train-your-gpt #6)", 30,
          _made(turns.mixed_pairs)),
    Wrong("mixed pairs back", "angles are laid out for neighbours and applied to halves", 30,
          _made(turns.mixed_pairs_back)),
    Wrong("lost sign", "rotate_half has lost its minus", 30, _made(turns.lost_sign)),
    Wrong("other way", "pairs are turned clockwise", 30, _made(turns.other_way)),
    Wrong("from one", "positions start at 1", 30, _made(turns.from_one)),
    Wrong("exponent i/D", "the exponent is i/D, without the 2", 30, _made(turns.exponent_without_two)),
    Wrong("half table", "the table is computed in half precision", 32, _made(turns.half_table)),
    Wrong("half positions", "positions are counted in float16, which ends at 2048", 32, _made(turns.half_positions)),
    Wrong("in dtype of x", "angles are computed in the dtype of x", 32, _made(turns.in_dtype_of_x)),
    Wrong("half frequencies", "the frequencies are a buffer, which .to(bfloat16) rounds", 32,
          _made(turns.HalfFrequencies)),
    Wrong("wide", "float32 comes back for half precision", 32, _made(turns.wide)),
    Wrong("counts on", "positions go on counting from one sequence to the next", 30, _made(turns.counts_on),
          _HEADS_FIRST),
    Wrong("along heads", "positions run along the axis of the heads", 30, _made(turns.along_heads), _HEADS_FIRST),
    Wrong("key as it came", "the queries alone are turned", None, _made(turns.key_as_it_came)),
    Wrong("key back", "the keys are turned the other way", None, _made(turns.key_back)),
    Wrong("ignored offset", "the offset is accepted and ignored", 31, _made(turns.ignored_offset)),
    Wrong("key without offset", "the cache's key lacks the offset (rotary-embedding-torch #11)", 31,
          _made(turns.KeyWithoutOffset)),
    Wrong("key without dtype", "the cache's key lacks the dtype", 31, _made(turns.KeyWithoutDtype)),
    Wrong("key without base", "the cache's key lacks the base", 31, turns.key_without_base),
    Wrong("key of half", "the cache's key has D/2 for D (mlx PR #561)", 31, turns.key_of_half),
    Wrong("last column lost", "the last column of an odd width is lost", None, _made(turns.last_column_lost)),
    Wrong("detached", "one half of x is detached", None, _made(turns.detached)),
    Wrong("backward forward", "the backward turns the same way as the forward", None, _made(turns.backward_forward)),
    Wrong("in place", "x is written to", None, _made(turns.in_place)),
)  # fmt: skip

ROTARY_MUTANTS: dict[str, Wrong] = {wrong.name: wrong for wrong in _WRONG}


# -- which of them a subject is like -----------------------------------------------------------------------------------


def likely(subject: RotarySubject) -> str | None:
    """What is wrong with a subject, as a clause, where it does what one of the mutants does; None otherwise.

    >>> from regard.check.adapt import adapt
    >>> from regard.check.mutants.turns import mixed_pairs_back
    >>> likely(adapt(mixed_pairs_back, suite="rotary"))
    'angles are laid out for neighbours and applied to halves'

    Args:
        subject: adapted, of the suite "rotary".
    """
    width = subject.fixed_width or 8
    wrong, right = _known(width), _right(width, subject.base)
    # The mutants turn halves. A subject that turns neighbours makes the same mistake in other columns, unless the
    # mistake is in the columns.
    for columns in ("halves", "interleaved"):
        name = likely_among(_traits(subject, columns), wrong, right)
        if name:
            return ROTARY_MUTANTS[name].says
    return None


@functools.cache
def _known(width: int) -> dict[str, Traits]:
    """What the mutants do."""
    return {name: _asked_all(wrong.build(), width, wrong.contract) for name, wrong in ROTARY_MUTANTS.items()}


@functools.cache
def _right(width: int, base: float) -> Traits:
    """What right ones do, with this base."""
    both, odd = functools.partial(_both, base=base), functools.partial(_odd, base=base)
    stated = base

    class Right(turns.Rotary):
        def __init__(self, dim: int, base: float = stated) -> None:
            super().__init__(dim, base)

    return {
        **_asked_all(Right, width),
        "keys": _asked_all(both, width)["keys"],
        "odd": _asked_all(odd, width)["odd"],
    }


def _asked_all(thing: Any, width: int, contract: Contract | None = None) -> Traits:
    from regard.check.adapt import adapt

    with random_state():
        return _traits(_wide(adapt(thing, contract, suite="rotary"), width), "halves")


def _both(q: Tensor, k: Tensor, *, base: float) -> tuple[Tensor, Tensor]:
    return turns.turn(q, turns.angles_of(q, 0, base)), turns.turn(k, turns.angles_of(k, 0, base))


def _odd(x: Tensor, *, base: float) -> Tensor:
    even = x[..., : x.shape[-1] // 2 * 2]
    return torch.cat([turns.turn(even, turns.angles_of(even, 0, base)), x[..., even.shape[-1] :]], dim=-1)


def _wide(subject: Subject, width: int) -> RotarySubject:
    assert isinstance(subject, RotarySubject)
    subject.sizes = replace(subject.sizes, width=width, value_width=width)
    return subject


def _traits(subject: RotarySubject, columns: str) -> Traits:
    """What a subject does, one question after the other, its pairs moved to (i, i + D/2)."""
    asked = functools.partial(_asked, subject, columns=columns)
    subject.renew()
    some = _some(subject, 20)
    far, half = _some(subject, 60, start=2440), _some(subject, 300, dtype=torch.bfloat16)
    found: dict[str, Tensor | str | None] = {"turned": asked(some), "far": asked(far)}
    if subject.both:
        found["keys"] = asked(some, keys=True)
    if not subject.fixed_width:
        odd = asked(_some(subject, 20, width=subject.sizes.width - 1))
        found["odd"] = odd if isinstance(odd, Tensor) else None  # a refusal is no mistake
    in_half = asked(half)
    found["half"] = in_half[..., -60:, :] if isinstance(in_half, Tensor) else in_half
    found["dtype"] = short(in_half.dtype) if isinstance(in_half, Tensor) else None
    if subject.is_module:
        cast = asked(replace(half, cast=torch.bfloat16))
        found["cast"] = cast[..., -60:, :] if isinstance(cast, Tensor) else cast
    found["gradient"] = _gradient(subject, some, columns)
    found |= _memories(subject, some, asked)
    found["written"] = "x is written to" if subject.findings.written else "x is kept"
    subject.renew()
    return found


def _memories(
    subject: RotarySubject, some: Places, asked: Callable[[Places], Tensor | str | None]
) -> dict[str, Tensor | str | None]:
    """What is answered after another question."""
    before: dict[str, Places] = {"half first": replace(some, query=some.query.bfloat16(), key=some.key.bfloat16())}
    if subject.shifts:
        before["offset first"] = replace(some, start=5)
    if "base" in subject._roles:
        before["base first"] = replace(some, base=313.0)
    if not subject.fixed_width:
        before["wide first"] = _some(subject, 20, width=2 * some.query.shape[-1])
    found: dict[str, Tensor | str | None] = {}
    for name, other in before.items():
        subject.renew()
        asked(other)
        found[name] = asked(some)
    if subject.shifts:
        subject.renew()
        found["offset"] = asked(replace(some, start=5))
        subject.renew()
        asked(some)
        found["offset after"] = asked(replace(some, start=5))
    if "base" in subject._roles:
        subject.renew()
        asked(some)
        found["base after"] = asked(replace(some, base=313.0))
    return found


def _some(
    subject: RotarySubject, length: int, *, start: int = 0, width: int = 0, dtype: torch.dtype = torch.float32
) -> Places:
    x = torch.randn(2, 3, length, width or subject.sizes.width, generator=torch.Generator().manual_seed(length))
    return subject.question(x.to(subject.device, dtype), start=start)


def _asked(subject: RotarySubject, request: Places, *, columns: str, keys: bool = False) -> Tensor | str | None:
    last = request.start + request.query_len
    if subject.length(last) < last:
        return None
    x = _moved(request.query, columns)
    try:
        answer = subject.ask(replace(request, query=x, key=x))
    except (SubjectError, Violation):
        return "raises"
    got = answer.keys if keys and isinstance(answer, Turned) else answer.output
    return None if got is None else _back(got.detach(), columns)


def _gradient(subject: RotarySubject, request: Places, columns: str) -> Tensor | str | None:
    x = _moved(request.query, columns).requires_grad_()
    try:
        out = subject.ask(replace(request, query=x, key=x.detach())).output
        (grad,) = torch.autograd.grad(out, x, _moved(request.query.flip(-2), columns), allow_unused=True)
    except (SubjectError, Violation, RuntimeError):
        return "raises"
    return None if grad is None else _back(grad, columns)


def _moved(x: Tensor, columns: str) -> Tensor:
    """From columns (i, i + D/2) to where this subject has its pairs."""
    if columns == "halves":
        return x.clone()
    a, b = unpair(x, "halves")
    return torch.cat([torch.stack([a, b], dim=-1).flatten(-2), x[..., 2 * a.shape[-1] :]], dim=-1)


def _back(x: Tensor, columns: str) -> Tensor:
    if columns == "halves":
        return x
    a, b = unpair(x, "interleaved")
    return torch.cat([a, b, x[..., 2 * a.shape[-1] :]], dim=-1)
