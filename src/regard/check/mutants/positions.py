"""Named mistakes in sinusoidal encodings, and which of them a subject makes."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from regard.check.adapt.places import Places
from regard.check.adapt.table import TableSubject
from regard.check.contract import Contract
from regard.check.golden import sinusoid
from regard.check.guard import SubjectError, random_state
from regard.check.mutants import tables
from regard.check.mutants.places import Traits, Wrong, likely_among
from regard.check.request import Sizes
from regard.check.subject import Subject
from regard.check.violation import Violation

__all__ = ["POSITION_MUTANTS", "likely"]


def _made(thing: Any) -> Callable[[], Any]:
    return lambda: thing


_BATCH_FIRST = Contract(layout="BLE")
_WRONG = (
    Wrong("base 1000", "the base is 1000, not 10000", 33, _made(tables.base_1000)),
    Wrong("exponent i/d", "the exponent is i/d, without the 2", 33, _made(tables.exponent_without_two)),
    Wrong("exponent 4i/d", "the exponent is doubled twice, 4i/d", 33, _made(tables.exponent_doubled_twice)),
    Wrong("own exponent", "each column has an exponent of its own, cosines not that of their sines", 33,
          _made(tables.own_exponent)),
    Wrong("precedence", "`/ d // 2` is not `/ (d // 2)` (LoFTR #41)", 33, _made(tables.precedence)),
    Wrong("integers", "the frequencies are computed in integers, all 1 (BERT-pytorch #18)", 33, _made(tables.integers)),
    Wrong("from one", "positions start at 1", 33, _made(tables.from_one)),
    Wrong("swapped", "cosine is in even columns, sine in odd ones", 33, _made(tables.swapped)),
    Wrong("even only", "an odd width makes shapes collide (BERT-pytorch #78)", 33, _made(tables.even_only)),
    Wrong("last column empty", "the last column of an odd width stays 0", 33, _made(tables.last_column_empty)),
    Wrong("half table", "the table is computed in half precision", 32, _made(tables.half_table)),
    Wrong("half positions", "positions are counted in float16, which ends at 2048", 32, _made(tables.half_positions)),
    Wrong("one row", "one row is added to every position (DiffPoseTalk #20)", 33, _made(tables.OneRow)),
    Wrong("next row", "what is added starts at row 1 of the table", 33, _made(tables.NextRow)),
    Wrong("along batch", "positions run along the batch axis", 33, _made(tables.AlongBatch), _BATCH_FIRST),
    Wrong("counts on", "positions go on counting from one sequence to the next", 33, _made(tables.CountsOn),
          _BATCH_FIRST),
    Wrong("in place", "x is written to", None, _made(tables.InPlace)),
    Wrong("wraps", "positions past the end of the table start again at 0", None, _made(tables.Wraps)),
    Wrong("clamps", "positions past the end of the table are the last one", None, _made(tables.Clamps)),
    Wrong("in dtype of x", "the table is computed in the dtype of x", 32, _made(tables.InDtypeOfX)),
    Wrong("first dtype", "the table is kept in the dtype of the first x", 31, _made(tables.FirstDtype)),
    Wrong("never reset", "positions go on where the last call ended", 31, _made(tables.NeverReset)),
)  # fmt: skip

POSITION_MUTANTS: dict[str, Wrong] = {wrong.name: wrong for wrong in _WRONG}


# -- which of them a subject is like -----------------------------------------------------------------------------------


def likely(subject: TableSubject) -> str | None:
    """What is wrong with a subject, as a clause, where it does what one of the mutants does; None otherwise.

    >>> from regard.check.adapt import adapt
    >>> from regard.check.mutants.tables import base_1000
    >>> likely(adapt(base_1000, suite="positions"))
    'the base is 1000, not 10000'

    Args:
        subject: adapted, of the suite "positions".
    """
    known = _known(subject.fixed_width or 12)
    wrong = {name: traits for name, traits in known.items() if name in POSITION_MUTANTS}
    name = likely_among(_traits(subject), wrong, known[subject.convention])
    return POSITION_MUTANTS[name].says if name else None


@functools.cache
def _known(width: int) -> dict[str, Traits]:
    """What the mutants do, and what right ones of each convention do."""
    from regard.check.adapt import adapt

    with random_state():
        found = {
            name: _traits(_wide(adapt(wrong.build(), wrong.contract, suite="positions"), width))
            for name, wrong in POSITION_MUTANTS.items()
        }
        found["interleaved"] = _traits(_wide(adapt(tables.Added, suite="positions"), width))
        for convention in ("halves", "stretched halves"):
            right = functools.partial(_right, convention=convention)
            found[convention] = _traits(_wide(adapt(right, suite="positions"), width))
    return found


def _wide(subject: Subject, width: int) -> TableSubject:
    assert isinstance(subject, TableSubject)
    subject.sizes = replace(subject.sizes, width=width, value_width=width)
    return subject


def _right(length: int, d_model: int, *, convention: str) -> Tensor:
    return sinusoid(torch.arange(length), d_model, convention=convention).float()


def _traits(subject: TableSubject) -> Traits:
    """What a subject does, one question after the other."""
    width = subject.sizes.width
    subject.renew()
    odd = None if subject.fixed_width else _asked(subject, subject.table_of(20, width // 2 * 2 - 3))
    found = {
        "table": _asked(subject, subject.table_of(20, width)),
        "odd": odd,
        "far": _last(_asked(subject, subject.table_of(2500, width))),
    }
    if not subject.adds:
        return found
    at = Sizes(1 if subject.layout == "LE" else 3, 1, query_len=20, width=width)
    some = subject.make(at, 1, dtype=torch.float32)
    half = subject.make(replace(at, query_len=300), 2, dtype=torch.bfloat16)
    found["sum"] = _asked(subject, some)
    found["sum, again"] = _asked(subject, some)
    found["half"] = _last(_asked(subject, replace(half, query=torch.zeros_like(half.query))))
    found["after half"] = _asked(subject, some)
    subject.renew()
    _asked(subject, replace(subject.make(at, 2, dtype=torch.bfloat16), limit=64))
    found["half first"] = _asked(subject, replace(some, limit=64))
    if subject.has_limit:
        long = subject.make(replace(at, query_len=40), 3, dtype=torch.float32)
        found["long"] = _asked(subject, replace(long, limit=33))
    found["written"] = "x is written to" if subject.findings.written else "x is kept"
    subject.renew()
    return found


def _asked(subject: TableSubject, request: Places) -> Tensor | str | None:
    if subject.length(request.query_len) < request.query_len:
        return None
    try:
        return subject.ask(request).output
    except (SubjectError, Violation):
        return "raises"


def _last(answer: Tensor | str | None) -> Tensor | str | None:
    return answer[..., -60:, :] if isinstance(answer, Tensor) else answer
