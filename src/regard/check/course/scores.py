"""Checks of exercise 2, without a mask: att_score, and create_mask."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from regard.check.course import conduct, definition
from regard.check.course.compare import expect_finite, expect_near, expect_shape, tuple_of
from regard.check.course.conduct import some
from regard.check.course.positions import expect_quiet
from regard.check.course.registry import Check, check, lose
from regard.check.course.subject import Subject

__all__ = ["CHECKS", "score_hint"]

CHECKS: list[Check] = []
score = partial(check, "att_score", into=CHECKS)
mask = partial(check, "create_mask", into=CHECKS)

FIRST_SMALL = "are small scores right? The same formula is asked for here"

FLOAT32 = definition.roundoff(torch.float32)


def triple(batch: int = 3, length: int = 5, d_k: int = 8, d_v: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Q, K (batch, length, d_k) and V (batch, length, d_v), random."""
    return some(batch, length, d_k, seed=1), some(batch, length, d_k, seed=2), some(batch, length, d_v, seed=3)


def score_hint(q: Tensor, k: Tensor, v: Tensor, got: Tensor, given: Tensor | None = None) -> str:
    """Where to look, if the output is what a common mistake gives."""
    q, k, v = q.double(), k.double(), v.double()
    scores, d_k = q @ k.mT, q.shape[-1]

    def attend(scaled: Tensor, axis: int = -1) -> Tensor:
        scaled = scaled if given is None else scaled.masked_fill(~given, -1e30)
        return torch.softmax(scaled, axis) @ v

    def near(wrong: Tensor) -> bool:
        return got.shape == wrong.shape and torch.allclose(got.detach().double(), wrong, rtol=0, atol=1e-4)

    if near(attend(scores / d_k)) or near(attend(scores)):
        return "the directions are right, the sizes are not: what are the scores divided by?"
    if near(attend(scores / d_k**0.5, -2)) or near(attend(scores / d_k**0.5, 0)):
        return "sum the weights of one query over all keys: is it 1?"
    if near(scores / d_k**0.5 @ v):
        return "what turns scores into weights that are positive and sum to 1?"
    if given is not None:
        if near(torch.softmax(scores / d_k**0.5, -1) @ v):
            return "the output is the one without a mask: what happens to the mask on its way?"
        given = ~given
        if near(attend(scores / d_k**0.5)):
            return "True = may attend: which positions does your code fill?"
    return ""


@score(
    points=1,
    asks="a pair: the output (N, L, d_v) and the weights (N, L, L)",
    hint="which sizes does the product of Q with K have, and which the product of that with V?",
)
def pair(subject: Subject) -> None:
    """One of the two left out, another order, other shapes."""
    value = subject.run("att_score", *triple(20, 5, 512, 64))
    if not isinstance(value, tuple | list) or len(value) != 2:
        lose(asked="a pair (output, weights)", came=tuple_of(value))
    expect_finite("the output", expect_shape("the output", value[0], (20, 5, 64)))
    expect_finite("the weights", expect_shape("the weights", value[1], (20, 5, 5)))
    if float(value[0].detach().std()) < 1e-4:
        lose(asked="an output that depends on the input", came="the same number everywhere")


@score(
    points=3,
    asks="softmax(Q K^T / sqrt(d_k)) V",
    hint="take L = 2 and d_k = 1, and work one row out by hand",
)
def formula(subject: Subject) -> None:
    """A softmax over another axis, another scale or none, anything that is off in a single element."""
    for sizes in ((3, 5, 8, 4), (20, 5, 512, 64)):
        q, k, v = triple(*sizes)
        wanted, _, within, _ = definition.attention(q, k, v, None, FLOAT32)
        got = subject.output(subject.get("att_score"), q, k, v)
        expect_near("the output", got, wanted, within, score_hint(q, k, v, got))


@score(
    points=2,
    asks="the weights softmax(Q K^T / sqrt(d_k)), the ones that the output is made with",
    hint="multiply your weights with V: is it your output?",
)
def weights(subject: Subject) -> None:
    """Scores in place of weights, weights of another softmax than the output's."""
    q, k, v = triple()
    _, wanted, _, within = definition.attention(q, k, v, None, FLOAT32)
    value = subject.run("att_score", q, k, v)
    if not isinstance(value, tuple | list) or len(value) < 2:
        lose(asked="the weights beside the output", came=tuple_of(value))
    expect_near("the weights", value[1], wanted, within)


@score(
    points=1,
    asks="the same formula, however large the scores",
    hint="exp(100) does not exist in float32: what does a softmax subtract first?",
)
def large_scores(subject: Subject) -> None:
    """A softmax written out as exp(x) / sum(exp(x)), which overflows."""
    q, k, v = triple()
    q, k = 30 * q, 30 * k
    wanted, wanted_weights, within, weights_within = definition.attention(q, k, v, None, FLOAT32)
    value = subject.run("att_score", q, k, v)
    if not isinstance(value, tuple | list) or len(value) < 2:
        lose(asked="the weights beside the output", came=tuple_of(value))
    hint = FIRST_SMALL if torch.isfinite(value[0]).all() else ""
    expect_near("the output of large scores", value[0], wanted, within, hint)
    expect_near("the weights of large scores", value[1], wanted_weights, weights_within, hint)


@score(
    points=1,
    asks="the definition, or an error, for (L, d) and (B, H, L, d); no error where the docstring promises heads",
    hint="which two axes does the transpose exchange?",
)
def leading_axes(subject: Subject) -> None:
    """Only 3-D input works although the docstring promises heads; or input with heads gives wrong numbers silently."""
    conduct.expect_leading_axes(subject, "att_score")


@score(points=1, asks="Q, K and V to stay as they were", hint="")
def inputs_untouched(subject: Subject) -> None:
    """Scaling or filling in place."""
    conduct.expect_inputs_untouched(subject, subject.get("att_score"), triple(), (3, 5, 4))


@score(points=1, asks="gradients that reach Q, K and V", hint="")
def gradients(subject: Subject) -> None:
    """A way out of autograd: .detach(), .data, numpy, a new tensor that is filled."""
    leaves = dict(zip("QKV", (given.requires_grad_() for given in triple()), strict=True))
    output = subject.output(subject.get("att_score"), *leaves.values())
    conduct.expect_gradients(output, leaves, nonzero={"Q", "K", "V"})


@score(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
def quiet(subject: Subject) -> None:
    """Printing in the function."""
    conduct.expect_nothing_printed(subject, subject.get("att_score"), triple(), (3, 5, 4))


@mask(
    points=1,
    asks="a boolean tensor (seq_len, seq_len)",
    hint="what does a mask of numbers do where a mask of True and False is expected?",
)
def boolean(subject: Subject) -> None:
    """Zeros and ones, or zeros and -inf, in place of False and True; a batch axis that nobody asked for."""
    value = expect_shape("the mask", subject.run("create_mask", 5), (5, 5))
    if value.dtype != torch.bool:
        lose(asked="a boolean mask", came=f"dtype {str(value.dtype).removeprefix('torch.')}")
    if value.all() or not value.any():
        lose(asked="a mask that allows some positions and forbids others", came=f"{bool(value.any())} everywhere")


@mask(
    points=2,
    asks="True where the key is not later than the query",
    hint="draw the mask for seq_len 3: what may position 0 read, and what position 2?",
)
def lower_triangle(subject: Subject) -> None:
    """True and False exchanged, the upper triangle, a diagonal that is off by one."""
    for length in (5, 1, 2, 8):
        value = expect_shape("the mask", subject.run("create_mask", length), (length, length))
        got, wanted = value != 0, conduct.causal(length)
        if not torch.equal(got, wanted):
            row, column = (got != wanted).nonzero()[0].tolist()
            lose(
                asked=f"{bool(wanted[row, column])} for query {row} and key {column} of {length}",
                came=str(bool(got[row, column])),
                hint=_mask_hint(got, wanted),
            )


def _mask_hint(got: Tensor, wanted: Tensor) -> str:
    if torch.equal(got, ~wanted):
        return "True = may attend: what does your True say?"
    if torch.equal(got, wanted.T):
        return "rows are queries, columns are keys: which of the two comes later where you have True?"
    if torch.equal(got.tril(-1), wanted.tril(-1)) and not got.diagonal().all():
        return "may a position read itself? If not, what does the first one read?"
    if torch.equal(got & wanted, wanted):
        return "some query reads a key that comes after it: how far does its row reach?"
    return ""


@mask(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
def prints_nothing(subject: Subject) -> None:
    """Printing in the function."""
    value = expect_shape("the mask", subject.run("create_mask", 5), (5, 5))
    expect_quiet(subject)
    if value.all() or not value.any():
        lose(asked="a mask that allows some positions and forbids others", came="the same everywhere")
