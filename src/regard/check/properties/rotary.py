"""Properties of rotary positions: rows 30 to 32 of the table of bugs."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from regard.check.adapt.places import Places, short
from regard.check.adapt.rotation import RotarySubject, Turned
from regard.check.golden import PAIRINGS, angle_budget, pair_sizes
from regard.check.guard import SubjectError
from regard.check.properties.remembering import expect_finite, expect_no_memory
from regard.check.registry import property_
from regard.check.request import Sizes
from regard.check.violation import Unsupported, Violation, expect, expect_near

__all__ = [
    "check_rotary_angles",
    "check_rotary_far",
    "check_rotary_gradient",
    "check_rotary_half",
    "check_rotary_history",
    "check_rotary_identity",
    "check_rotary_inputs_unchanged",
    "check_rotary_instances",
    "check_rotary_keys_as_queries",
    "check_rotary_norms",
    "check_rotary_odd_width",
    "check_rotary_offset",
    "check_rotary_relative",
    "check_rotary_same_in_each_head",
]

UNIT = 2.0**-24
FAR = 100_000


@property_(suite="rotary", group="Rotation", rows=(30,), essential=True)
def check_rotary_relative(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """The product of a turned query and a turned key depends on the distance of their positions alone.

    Catches: how-to-train-your-gpt #6: angles laid out for halves (cos, cos) and applied to neighbours, or the other way
    round. Training hides it; what the model learns about distance is noise.
    """
    length = subject.length(max(8, at.query_len))
    q, code = subject.normal((2, 1, 1, 1, subject.even_width(at)), seed, subject.exact_dtype())
    code = (*code, f"q = q[0].expand(1, 1, {length}, -1)")
    q_turned = subject.turn(q[0].expand(1, 1, length, -1), code).output[0, 0].double()
    answer = subject.turn(q[1].expand(1, 1, length, -1), code)
    k_turned = (answer.output if answer.keys is None else answer.keys)[0, 0].double()
    scores = q_turned @ k_turned.T  # (L, L)
    request = subject.question(q[0].expand(1, 1, length, -1), code)
    # Both vectors may be off by their angle's budget, in both scores that are compared, and by their own rounding.
    eps = max(torch.finfo(answer.output.dtype).eps, 2.0**-50)
    size = float(q[0].double().norm() * q[1].double().norm())
    within = size * (4 * angle_budget(request.positions[-1:])[0] + 16 * eps)
    expect_finite("q . k", scores, request)
    what = "q . k one position on, the same distance apart"
    expect_near(what, scores[1:, 1:], scores[:-1, :-1], within, request=request)


@property_(suite="rotary", group="Rotation", rows=(30,))
def check_rotary_norms(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """A rotation keeps the length of every vector.

    Catches: pairs that are mixed up (how-to-train-your-gpt #6), a sign lost in rotate_half, tables in half precision:
    attention is sharpened or flattened by position.
    """
    request = _question(subject, at, seed)
    answer = subject.answers(request)
    want = request.query.double().norm(dim=-1)
    within = want * (angle_budget(request.positions)[:, 0] + 4 * _eps(request))
    expect_near("length of the turned vectors", answer.output.double().norm(dim=-1), want, within, request=request)


@property_(suite="rotary", group="Rotation", rows=(30,))
def check_rotary_identity(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Position 0 turns nothing.

    Catches: positions that start at 1: harmless within one model, and off by one beside a cache or a checkpoint from
    elsewhere.
    """
    request = _question(subject, at, seed)
    got = subject.answers(request).output[:, :, :1]
    within = 4 * (_eps(request) + UNIT) * pair_sizes(request.query[:, :, :1], subject.pairing)
    expect_near("x at position 0", got, request.query[:, :, :1], within, request=request)


@property_(suite="rotary", group="Rotation", rows=(30, 32), essential=True)
def check_rotary_angles(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Each pair turns by position * base^(-2i/D), counter-clockwise; pairs are neighbours or (i, i + D/2).

    Catches: an exponent of i/D, a base that is not the one stated, turning the other way, a table in half precision:
    the products still depend on distances alone, but nobody's checkpoints fit. The pairing and, where none is stated,
    the base are found and reported. Frequencies that are rescaled for long contexts (Llama 3, YaRN) are not known here.
    """
    request = _question(subject, at, seed)
    got = subject.answers(request).output
    # An angle's budget turns a pair by that much of its size; products and sum round three times.
    size = pair_sizes(request.query, subject.pairing)
    within = size * (angle_budget(request.positions) + 4 * _eps(request))
    what = f"x turned, {PAIRINGS[subject.pairing]}, base {subject.base:g}"
    expect_near(what, got, subject.truth(request), within, request=request)


@property_(suite="rotary", group="Rotation", rows=(32,))
def check_rotary_far(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """At positions up to 100,000 the rotation is still the formula's, as far as angles in float32 can tell.

    Catches: gpt-neox #1003, Modalities PR #462: positions or angles in half precision. bfloat16 counts to 256: beyond,
    neighbours are turned alike, and angles are off by radians. An angle in float32 is off by 0.006 at 100,000; most
    people have that, so it is a note.
    """
    length, last = 32, subject.length(FAR)
    if last < 1000:
        raise Unsupported(f"it knows positions up to {last - 1}")
    x, code = subject.normal((1, 1, length, subject.even_width(at)), seed, torch.float32)
    for end in (last, min(5000, last), 1000):
        request = subject.question(x, code, start=end - length)
        try:
            got = subject.ask(request).output
            break
        except SubjectError as error:
            refused = f"position {end - 1:,} is refused: {error}"
    else:
        raise Unsupported(refused)
    size, want = pair_sizes(x, subject.pairing), subject.truth(request)
    within = size * (angle_budget(request.positions) + 4 * _eps(request))
    expect_near(f"x turned at positions up to {end - 1:,}", got, want, within, request=request)
    off = float(((got.double() - want).abs() / size.clamp(min=0.1)).max())
    if off > 16 * UNIT:
        subject.remark(f"angles in float32: off by {off:.1g} up to position {end - 1:,}, with float64 by 6e-8")


@property_(suite="rotary", group="What comes back", rows=(30,))
def check_rotary_same_in_each_head(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Every sequence and every head is turned alike: positions run along the sequence.

    Catches: positions along the head axis, for x (B, H, L, D) given to code for (B, L, H, D), and positions that go on
    counting from one sequence to the next. Declare Contract(layout="BHLD") to have the axis verified.
    """
    width, length = subject.even_width(at), subject.length(at.query_len)
    x, code = subject.normal((1, 1, 1, width), seed, subject.dtype)
    code = (*code, f"q = q.expand({at.batch}, {at.heads}, {length}, -1)")
    request = subject.question(x.expand(at.batch, at.heads, length, width).contiguous(), code)
    got = subject.answers(request).output
    expect_finite("output", got, request)
    expect_near(
        "one vector in every sequence and head, turned", got, got[:1, :1].expand_as(got),
        _rounding(subject, request), request=request,
    )  # fmt: skip
    if length > 1:
        expect(not bool((got[0, 0] == got[0, 0, :1]).all()), "every position is turned alike", request=request)


@property_(suite="rotary", group="What comes back", needs=("both",))
def check_rotary_keys_as_queries(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Keys are turned exactly as queries are.

    Catches: a copied line that returns the key as it came, or turns it the other way: products then depend on sums of
    positions.
    """
    request = _question(subject, at, seed)
    answer = subject.answers(request)
    assert isinstance(answer, Turned)
    assert answer.keys is not None
    expect_finite("output", answer.output, request)
    within = _rounding(subject, request)
    expect_near("the key, equal to the query", answer.keys, answer.output, within, request=request)


@property_(suite="rotary", group="What comes back", rows=(31,), needs=("start",))
def check_rotary_offset(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """From position 5 on, x is turned as the same x is after five other rows: decoding equals one pass.

    Catches: an offset that is accepted and ignored, or that goes into a cache without being part of its key
    (rotary-embedding-torch #11): every decoded token stands at position 0.
    """
    start = 5
    length = subject.length(at.query_len)
    if length <= start:
        raise Unsupported(f"it knows {length} positions")
    whole = _question(subject, at, seed)
    code = (*whole.code, f"q = q[:, :, {start}:]")
    tail = subject.question(whole.query[:, :, start:].contiguous(), code, start=start)
    got, want = subject.answers(tail).output, subject.answers(whole).output[:, :, start:]
    expect_finite("output", want, whole)
    size = pair_sizes(tail.query, subject.pairing)
    within = size * (2 * angle_budget(tail.positions) + 4 * _eps(tail))
    expect_near(f"x turned from position {start} on", got, want, within, request=tail)


@property_(suite="rotary", group="What comes back", rows=(31,))
def check_rotary_history(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """What was asked before changes nothing: lengths, dtypes, offsets, widths, devices.

    Catches: caches whose key lacks something: the offset in rotary-embedding-torch #11, the width in mlx PR #561, where
    D/2 stood for D, the dtype where the first input was bfloat16: everything after it has bfloat16's angles.
    """
    first, others = _questions(subject, at, seed)
    expect_no_memory(subject, first, others, lambda request: _rounding(subject, request))


@property_(suite="rotary", group="What comes back", rows=(31,), needs=("base",))
def check_rotary_instances(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Another instance, made for another base, changes nothing.

    Catches: a cache of the class whose key lacks the base, as is visible in equinox's RotaryPositionalEmbedding: two
    models in one process share the angles of the first.
    """
    request = _question(subject, at, seed)
    subject.renew()
    before = subject.answers(request).output
    expect_finite("output", before, request)
    moved = subject.quietly(replace(request, base=313.0))
    subject.renew()
    again = subject.answers(request).output
    what = "after an instance with base 313, one with the default"
    expect_near(what, again, before, _rounding(subject, request), request=request)
    if moved is not None and request.query_len > 1 and request.query.shape[-1] > 2:
        same = torch.equal(moved, before)
        expect(not same, "an instance with base 313 turns as one with the default", request=request)


@property_(suite="rotary", group="What comes back", rows=(32,))
def check_rotary_half(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """X in half precision gives half precision, turned by the right angles; a module that is converted, too.

    Catches: gpt-neox #1003, Megatron-LM #744: a buffer of frequencies that .to(bfloat16) rounds, or positions made in
    the dtype of x: beyond 256 bfloat16 has no odd numbers. And cosines in float32 that turn everything after them into
    float32 (transformers PR #24262).
    """
    length = subject.length(640)
    for dtype in (torch.bfloat16, torch.float16):
        x, code = subject.normal((1, 1, length, subject.even_width(at)), seed, dtype)
        for cast in (None, dtype) if subject.is_module else (None,):
            request = replace(subject.question(x, code), cast=cast)
            try:
                got = subject.ask(request).output
            except SubjectError as error:
                if dtype == torch.float16 and cast is None:
                    raise Unsupported(f"{dtype} is refused: {error}") from error
                continue
            expect(got.dtype == dtype, f"x in {short(dtype)} gives {short(got.dtype)}", request=request,
                   got=got.dtype, wanted=dtype)  # fmt: skip
            # A rounded cosine, two rounded products and their sum: each half an eps of the pair at most.
            size = pair_sizes(x, subject.pairing)
            within = size * (angle_budget(request.positions) + 3 * torch.finfo(dtype).eps)
            expect_near(f"x turned in {short(dtype)}", got, subject.truth(request), within, request=request)


@property_(suite="rotary", group="What comes back", needs=("widths",))
def check_rotary_odd_width(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """An odd width is refused, or the column without a partner stays and the others are turned.

    Catches: floor division that drops the last column or leaves it 0 (rotary-embedding-torch #45 is an odd width that
    once was turned and then raised).
    """
    x, code = subject.normal((1, 1, subject.length(max(8, at.query_len)), 7 + 2 * (seed % 3)), seed, subject.dtype)
    request = subject.question(x, code)
    try:
        got = subject.ask(request).output
    except SubjectError:
        return
    want = x.double().norm(dim=-1)
    within = want * (angle_budget(request.positions)[:, 0] + 4 * _eps(request))
    what = f"length of the turned vectors, width {x.shape[-1]}"
    expect_near(what, got.double().norm(dim=-1), want, within, request=request)


@property_(suite="rotary", group="What comes back")
def check_rotary_gradient(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """The gradient is the inverse rotation: turned once more, it is the gradient that came in.

    Catches: a backward written by hand that turns the same way as the forward, and a detach() on one of two halves: the
    forward pass is right, and the model learns from something else.
    """
    request = _question(subject, at, seed)
    x = request.query.clone().requires_grad_()
    try:
        out = subject.ask(subject.question(x, request.code)).output
    except SubjectError as error:
        raise Violation(f"x that requires a gradient: raises {error}", request=request) from error
    expect(out.requires_grad, "the output has no gradient", request=request)
    g = torch.randn(out.shape, generator=torch.Generator().manual_seed(seed + 1)).to(out)
    (grad,) = torch.autograd.grad(out, x, g, allow_unused=True)
    if grad is None:
        raise Violation("the output does not depend on x, says autograd", request=request)
    again = subject.turn(grad, request.code).output
    within = pair_sizes(g, subject.pairing) * (2 * angle_budget(request.positions) + 8 * _eps(request))
    expect_near("the gradient, turned", again, g, within, request=request)


@property_(suite="rotary", group="What comes back")
def check_rotary_inputs_unchanged(subject: RotarySubject, at: Sizes, seed: int) -> None:
    """Queries and keys are not written to.

    Catches: `x[..., ::2] = ...`: the second half of an update in place reads what the first one wrote, and a key that
    is kept in a cache is turned again at every step.
    """
    request = _question(subject, at, seed)
    subject.answers(request)
    expect(not subject.findings.written, "what it is asked to turn is written to", request=request)


# -- helpers -----------------------------------------------------------------------------------------------------------


def _question(subject: RotarySubject, at: Sizes, seed: int) -> Places:
    return subject.make(replace(at, query_len=subject.length(at.query_len), width=subject.even_width(at)), seed)


def _rounding(subject: RotarySubject, request: Places) -> Tensor:
    """How far two answers to one question may be apart: units in the last place of the pair."""
    return 4 * _eps(request) * pair_sizes(request.query, subject.pairing)


def _eps(request: Places) -> float:
    return float(torch.finfo(request.query.dtype).eps)


def _questions(subject: RotarySubject, at: Sizes, seed: int) -> tuple[Places, list[tuple[str, Places]]]:
    """A question, and others that must not change its answer, in words."""
    length = subject.length(max(2, at.query_len // 2))
    longer = subject.longer(at)
    limit = max(64, longer + 8) if subject.has_limit else 0
    sizes = replace(at, query_len=length, width=subject.even_width(at))

    def make(n: int, dtype: torch.dtype | None = None, width: int = 0) -> Places:
        made = subject.make(replace(sizes, query_len=n, width=width or sizes.width), seed, dtype=dtype)
        return replace(made, limit=limit)

    others = [
        (f"x with {longer} positions", make(longer)),
        (f"x with {longer} positions in bfloat16", make(longer, torch.bfloat16)),
        ("the same x in bfloat16", make(length, torch.bfloat16)),
        ("the same x in float64", make(length, torch.float64)),
    ]
    if subject.shifts:
        others.append(("x from position 5 on", replace(make(length), start=5)))
    if not subject.fixed_width:
        others.append((f"x of width {2 * sizes.width}", make(length, width=2 * sizes.width)))
    if subject.kind == "function" and torch.cuda.is_available():
        moved = make(length).query.to("cpu" if subject.device.type == "cuda" else "cuda")
        others.append(("x on another device", replace(make(length), query=moved, key=moved)))
    return make(length), others
