"""Properties of sinusoidal positions: rows 31 to 33 of the table of bugs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.check.adapt.places import Places, short
from regard.check.adapt.table import TableSubject
from regard.check.golden import TABLES, angle_budget, angles, sinusoid
from regard.check.guard import SubjectError
from regard.check.properties.remembering import expect_finite, expect_no_memory
from regard.check.registry import property_
from regard.check.request import Sizes
from regard.check.violation import Unsupported, Violation, expect, expect_near, expect_same

__all__ = [
    "check_table_far",
    "check_table_formula",
    "check_table_half",
    "check_table_history",
    "check_table_inputs_unchanged",
    "check_table_is_added",
    "check_table_odd_width",
    "check_table_same_in_each_sequence",
    "check_table_starts_at_zero",
    "check_table_too_long",
    "check_table_wavelengths",
]

REFUSALS = (ValueError, NotImplementedError, AssertionError, TypeError)
"""What somebody raises who refuses an input on purpose; a RuntimeError is what torch raises when shapes collide."""

UNIT = 2.0**-24  # half the distance between two float32 just below 1: what rounding a sine may change
FAR = 20_000  # far beyond the integers that float16 (2048) and bfloat16 (256) can count


@property_(suite="positions", group="Table", rows=(33,), essential=True)
def check_table_formula(subject: TableSubject, at: Sizes, seed: int) -> None:
    """The table is sin(pos / 10000^(2i/d)) in even columns and cos(pos / 10000^(2i/d)) in odd ones.

    Catches: maxjcohen/transformer #62 and its like: a base of 1000, an exponent i/d without the 2, sine and cosine
    swapped. Models train with such a table; checkpoints and papers do not carry over. All sines and then all cosines is
    another well-known convention, as is the one of tensor2tensor: they are reported and do not fail.
    """
    request = subject.table_of(subject.length(at.query_len), subject.even_width(at))
    got = subject.answers(request).output
    # Angles in float32 are what most people compute, see angle_budget: at position 50 that allows 1.2e-5, and a table
    # that was rounded to float16 alone is off by 2.4e-4.
    within = angle_budget(request.positions)
    expect_near(f"table ({TABLES[subject.convention]})", got, subject.truth(request), within, request=request)


@property_(suite="positions", group="Table", rows=(33,), essential=True)
def check_table_starts_at_zero(subject: TableSubject, at: Sizes, seed: int) -> None:
    """The first row is position 0: every sine is 0 and every cosine is 1.

    Catches: tables that start at 1, as range(1, n + 1) and offsets for a padding index make them (fairseq keeps row 0
    for padding): every position is off by one against a checkpoint from elsewhere.
    """
    request = subject.table_of(subject.length(at.query_len), subject.even_width(at))
    got = subject.answers(request).output
    want = subject.truth(request)
    expect_near("row 0, sines 0 and cosines 1", got[..., :1, :], want[..., :1, :], 4 * UNIT, request=request)


@property_(suite="positions", group="Table", rows=(33,))
def check_table_wavelengths(subject: TableSubject, at: Sizes, seed: int) -> None:
    """From one position to the next, pair i turns by 10000^(-2i/d): the first by 1, the last by almost 1/10000.

    Catches: LoFTR #41, where `-log(10000) / d // 2` is -1 for every width, so that the wavelengths depend on nothing;
    BERT-pytorch #18, where integer arithmetic makes all of them equal. Both trained.
    """
    request = subject.table_of(subject.length(max(2, at.query_len)), subject.even_width(at))
    if request.query_len < 2:
        raise Unsupported("its table has one row")
    table = subject.answers(request).output[0, 0].double()
    expect_finite("table", table, request)
    sine, cosine = _pairs(table, subject.convention)
    # The angle between two rows, whatever position the first one is.
    turn = torch.atan2(
        sine[1] * cosine[0] - cosine[1] * sine[0], cosine[1] * cosine[0] + sine[1] * sine[0]
    )  # (d // 2,)
    want = angles(torch.ones(1), table.shape[1], stretched=subject.convention == "stretched halves")[0, : len(turn)]
    # Four rounded numbers between two rows, and the rounding of a frequency, see angle_budget.
    wrong = ~((turn - want).abs() <= 8 * UNIT + 16 * UNIT * want)
    if bool(wrong.any()):
        i = int(wrong.nonzero()[0])
        digits = 4 if abs(float(turn[i] - want[i])) > 1e-3 else 8
        raise Violation(
            f"pair {i} of {len(turn)} turns by {float(turn[i]):.{digits}g} from one position to the next, "
            f"expected {_power(subject, i, table.shape[1])} = {float(want[i]):.{digits}g}",
            request=request, got=float(turn[i]), wanted=float(want[i]),
        )  # fmt: skip


@property_(suite="positions", group="Table", rows=(33,), needs=("widths",))
def check_table_odd_width(subject: TableSubject, at: Sizes, seed: int) -> None:
    """An odd width works, and every column of it is filled; a refusal in words is skipped, a collision of shapes fails.

    Catches: BERT-pytorch #78: `pe[:, 1::2] = cos(...)` has one column less than the sines, and raises a RuntimeError
    about sizes; others leave the last column at 0.
    """
    width = 7 + 2 * (seed % 5)
    request = subject.table_of(subject.length(at.query_len), width)
    try:
        got = subject.ask(request).output
    except SubjectError as error:
        if isinstance(error.cause, REFUSALS):
            raise Unsupported(f"odd widths are refused: {error}") from error
        raise Violation(f"width {width} raises {error}", request=request) from error
    want = subject.truth(request)
    if subject.convention == "halves" and bool((got[..., -1] == 0).all()):
        # Halves of an odd width: as many sines as cosines and a column of zeros, or one sine more.
        want = torch.nn.functional.pad(_even_halves(request), (0, 1))
        subject.remark("an odd width ends with a column of zeros")
    expect_near(f"table of width {width}", got, want, angle_budget(request.positions), request=request)


@property_(suite="positions", group="Table", rows=(32,))
def check_table_far(subject: TableSubject, at: Sizes, seed: int) -> None:
    """At large positions the table still is the formula's, as far as angles in float32 can tell.

    Catches: gpt-neox #1003: positions or angles in half precision. bfloat16 counts to 256 and float16 to 2048; beyond,
    neighbours share one row and everything is off by up to 2. An angle in float32 at position p is off by p * 2^-24 and
    some: 0.001 at 20,000. That is what most people write and no model was seen to suffer, so it is a note. A table
    computed in float64 and rounded once is off by 3e-8 everywhere, and gets none.
    """
    last = subject.length(FAR)
    if last < 1000:
        raise Unsupported(f"its table ends at position {last - 1}")
    request = subject.table_of(last, subject.fixed_width or 16)
    rows = torch.randint(last, (256,), generator=torch.Generator().manual_seed(seed))
    rows = torch.cat([rows, torch.arange(last - 256, last)]).to(subject.device)
    got = subject.answers(request).output[0, 0, rows]
    want = sinusoid(rows, request.query.shape[-1], convention=subject.convention)
    expect_near(f"512 rows of a table of {last:,}", got, want, angle_budget(rows), request=request)
    off = float((got.double() - want).abs().max())
    if off > 16 * UNIT:
        subject.remark(f"angles in float32: off by {off:.1g} up to position {last - 1:,}, with float64 by 3e-8")


@property_(suite="positions", group="Sum", rows=(33,), needs=("sum",), essential=True)
def check_table_is_added(subject: TableSubject, at: Sizes, seed: int) -> None:
    """What comes out is x plus row 0, 1, 2 ... of the table, whatever x is.

    Catches: DiffPoseTalk #20: `pe[:, x.shape[1]]` without the colon adds one row to every position, so that the model
    has no positions at all. It trained.
    """
    request = subject.make(_cut(subject, at), seed)
    got, want = subject.answers(request).output, subject.truth(request)
    # One rounded sum in the dtype of x, twice over, beside what the table's angles may be off by.
    eps = torch.finfo(request.query.dtype).eps
    within = angle_budget(request.positions) + eps * (request.query.double().abs() * subject.times(request) + 1)
    expect_near("x + table", got, want, within, request=request)


@property_(suite="positions", group="Sum", rows=(33,), needs=("sum", "batch"))
def check_table_same_in_each_sequence(subject: TableSubject, at: Sizes, seed: int) -> None:
    """Every sequence of a batch gets the same rows: positions run along the sequence, not along the batch.

    Catches: `x + pe[:x.size(0)]`, written for (L, B, d), with x (B, L, d): each sequence gets one row for all of its
    positions (neuracore PR #154 had the new axis of its table in the wrong place). Declare Contract(layout="BLE") where
    x is batch-first: undeclared, the axis that is found is reported.
    """
    request = subject.make(_cut(subject, at), seed)
    zero = request.but(query=torch.zeros_like(request.query), code=_zeros(request))
    got = subject.answers(zero).output
    for b in range(1, len(got)):
        expect_same(f"the table of sequence {b} beside that of sequence 0", got[b], got[0], request=zero)
    if subject.layout == "BLE" and got.shape[2] > 1:
        expect(not bool((got[0, 0] == got[0, 0, :1]).all()), "every position gets the same row", request=zero)


@property_(suite="positions", group="Sum", needs=("sum",))
def check_table_inputs_unchanged(subject: TableSubject, at: Sizes, seed: int) -> None:
    """The x that it is called with is not written to.

    Catches: `x += pe[:, :L]` and `x *= sqrt(d)`: the embeddings that the caller holds for a residual path change too.
    """
    request = subject.make(_cut(subject, at), seed)
    subject.answers(request)
    expect("x" not in subject.findings.written, "x is written to", request=request)


@property_(suite="positions", group="Sum", rows=(31,))
def check_table_history(subject: TableSubject, at: Sizes, seed: int) -> None:
    """What was asked before changes nothing: lengths, dtypes and widths.

    Catches: caches whose key lacks something: rotary-embedding-torch #11 and mlx PR #561 did this to rotary tables, and
    a table kept in the dtype of the first x, or a count of positions that is never reset, does it to these.
    """
    first, others = _questions(subject, at, seed)

    def budget(request: Places) -> Tensor:
        # A unit in the last place of the table, and one of the sum.
        return 2 * UNIT + 2 * torch.finfo(request.query.dtype).eps * (1 + request.query.double().abs())

    expect_no_memory(subject, first, [(_said(other, first), other) for other in others], budget)


@property_(suite="positions", group="Sum", rows=(32,), needs=("sum",))
def check_table_half(subject: TableSubject, at: Sizes, seed: int) -> None:
    """Converted to float16 or bfloat16, it adds the right table, rounded; or it refuses.

    Catches: gpt-neox #1003, Modalities PR #462: positions or angles computed in the model's dtype. In bfloat16 there is
    no 257: positions fall together, and sines of large angles are off by up to 2.
    """
    length = subject.length(1024)
    for dtype in (torch.bfloat16, torch.float16):
        x = torch.zeros(1, 1, length, subject.even_width(at), dtype=dtype, device=subject.device)
        code = (f"q = torch.zeros({tuple(x.shape)}, dtype={dtype})",)
        request = Places(x, x, x, cast=dtype if subject.is_module else None, code=code)
        try:
            got = subject.ask(request).output
        except SubjectError as error:
            if dtype == torch.float16:
                raise Unsupported(f"{dtype} is refused: {error}") from error
            continue
        if got.dtype != dtype:
            subject.remark(f"x in {short(dtype)} gives {short(got.dtype)}")
        # A table that was rounded is off by eps / 4, and the sum with 0 adds nothing: four times that.
        within = angle_budget(request.positions) + torch.finfo(dtype).eps
        expect_near(f"table in {short(dtype)}", got, subject.truth(request), within, request=request)


@property_(suite="positions", group="Sum", needs=("limit",))
def check_table_too_long(subject: TableSubject, at: Sizes, seed: int) -> None:
    """An x longer than the table is an error, or the table grows; it is never answered with other positions.

    Catches: indices that wrap around or are clamped to the end: every position past the end looks like another one, and
    nothing says so.
    """
    limit = 16 if subject.has_limit else subject.max_len
    if limit > 20_000:
        raise Unsupported(f"its table has {limit:,} positions")
    for extra in (1, 7):
        sizes = Sizes(subject.sizes.batch, 1, query_len=limit + extra, width=subject.even_width(at))
        x, code = subject.normal((sizes.batch, 1, limit + extra, sizes.width), seed, subject.dtype)
        request = Places(x, x, x, limit=limit if subject.has_limit else 0, code=code)
        try:
            got = subject.ask(request).output
        except SubjectError:
            continue
        eps = torch.finfo(x.dtype).eps
        within = angle_budget(request.positions) + eps * (x.double().abs() * subject.times(request) + 1)
        what = f"x of {limit + extra} positions, {extra} more than the table has, raises nothing; x + table"
        expect_near(what, got, subject.truth(request), within, request=request)
        subject.remark("its table grows with longer input")


# -- helpers -----------------------------------------------------------------------------------------------------------


def _cut(subject: TableSubject, at: Sizes) -> Sizes:
    batch = 1 if subject.layout == "LE" else at.batch
    return replace(at, batch=batch, query_len=subject.length(at.query_len), width=subject.even_width(at))


def _pairs(table: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    """(L, d) -> the sines and the cosines that belong together, (L, d // 2) each."""
    half = table.shape[1] // 2
    if convention == "interleaved":
        return table[:, 0 : 2 * half : 2], table[:, 1 : 2 * half : 2]
    first = half if convention == "stretched halves" else table.shape[1] - half
    return table[:, :half], table[:, first : first + half]


def _power(subject: TableSubject, i: int, width: int) -> str:
    if subject.convention == "stretched halves":
        return f"10000^(-{i}/{width // 2 - 1})"
    return f"10000^(-{2 * i}/{width})"


def _even_halves(request: Places) -> Tensor:
    width = request.query.shape[-1]
    full = sinusoid(request.positions, width, convention="halves")
    return torch.cat([full[:, : width // 2], full[:, width - width // 2 :]], dim=-1)[None, None]


def _questions(subject: TableSubject, at: Sizes, seed: int) -> tuple[Places, list[Places]]:
    """A question, and others that must not change its answer."""
    length = subject.length(max(2, at.query_len // 2))
    longer = subject.longer(at)
    width, limit = subject.even_width(at), max(64, longer) if subject.has_limit else 0
    if not subject.adds:
        first = subject.table_of(length, width, limit=limit)
        others = [subject.table_of(longer, width, limit=limit)]
        if not subject.fixed_width:
            others.append(subject.table_of(length, width + 2, limit=limit))
            others.append(subject.table_of(longer, 2 * width, limit=limit))
        return first, others
    batch = 1 if subject.layout == "LE" else at.batch
    short_at = replace(at, batch=batch, query_len=length, width=width)
    long_at = replace(short_at, query_len=longer)
    first = replace(subject.make(short_at, seed), limit=limit)
    others = [replace(subject.make(long_at, seed + 1), limit=limit)]
    others += [
        replace(subject.make(long_at, seed + 2, dtype=dtype), limit=limit) for dtype in (torch.bfloat16, torch.float64)
    ]
    if batch > 1:
        others.append(replace(subject.make(replace(short_at, batch=1), seed + 3), limit=limit))
    return first, others


def _said(other: Places, first: Places) -> str:
    parts = []
    if other.query.dtype != first.query.dtype:
        parts.append(short(other.query.dtype))
    if other.query_len != first.query_len:
        parts.append(f"{other.query_len} positions")
    if other.query.shape[-1] != first.query.shape[-1]:
        parts.append(f"width {other.query.shape[-1]}")
    return f"x ({', '.join(parts)})" if parts else "one sequence"


def _zeros(request: Places) -> tuple[str, ...]:
    return (f"q = torch.zeros({tuple(request.query.shape)}, dtype={request.query.dtype})",)
