"""Checks of exercise 2, with a mask: attention_score."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from regard.check.course import conduct, definition
from regard.check.course.compare import expect_alive, expect_finite, expect_near, expect_same, expect_shape
from regard.check.course.conduct import some
from regard.check.course.registry import Check, check, lose
from regard.check.course.scores import FLOAT32, score_hint, triple
from regard.check.course.subject import Subject

__all__ = ["CHECKS", "FIRST_FLOAT32", "HALF", "expect_empty_row"]

CHECKS: list[Check] = []
score = partial(check, "attention_score", into=CHECKS)

FIRST_FLOAT32 = "is the output right in float32? The same numbers are asked for here, with fewer digits"

HALF = (torch.float16, torch.bfloat16)


def _random_mask(*shape: int) -> Tensor:
    """Half of it True, and every query reads its own position."""
    return (some(*shape, seed=4) > 0) | torch.eye(shape[-1], dtype=torch.bool)


@score(
    points=1,
    asks="the output (N, L, d_v) alone, a tensor",
    hint="which of the two functions of this exercise returns weights?",
)
def returns_the_output(subject: Subject) -> None:
    """A tuple where the output alone is asked for; another shape."""
    value = subject.run("attention_score", *triple(20, 5, 512, 64))
    expect_alive("the output", value, (20, 5, 64))


@score(
    points=2,
    asks="softmax(Q K^T / sqrt(d_k)) V without a mask, and with mask=None",
    hint="what does your function do with a mask that is None?",
)
def without_mask(subject: Subject) -> None:
    """A mask that has to be there, or one that is applied although none was given."""
    q, k, v = triple()
    wanted, _, within, _ = definition.attention(q, k, v, None, FLOAT32)
    function = subject.get("attention_score")
    for got in (subject.output(function, q, k, v), subject.output(function, q, k, v, mask=None)):
        expect_near("the output", got, wanted, within, score_hint(q, k, v, got))


@score(
    points=3,
    asks="weights of 0 where the mask is False, and the softmax over the rest",
    hint="does the mask act before the softmax or after it?",
)
def with_mask(subject: Subject) -> None:
    """A mask that is ignored, inverted, applied after the softmax, or works for the causal pattern alone."""
    q, k, v = triple()
    function = subject.get("attention_score")
    for mask in (conduct.checkered(5), conduct.causal(5), _random_mask(5, 5), _random_mask(3, 5, 5)):
        wanted, _, within, _ = definition.attention(q, k, v, mask, FLOAT32)
        got = subject.output(function, q, k, v, mask)
        expect_near("the output", got, wanted, within, score_hint(q, k, v, got, mask))


@score(
    points=2,
    asks="the earlier positions to stay bit for bit the same, whatever later ones hold",
    hint="a weight of nearly 0 is not 0: what is left of a masked score after the softmax?",
)
def future(subject: Subject) -> None:
    """A mask that lets a little of the future through, which no comparison of small numbers sees."""
    q, k, v = triple(length=6)
    changed_k, changed_v = k.clone(), v.clone()
    changed_k[:, 3:] = 30 * some(3, 3, 8, seed=5)
    changed_v[:, 3:] = 1e4 * some(3, 3, 4, seed=6)
    function, mask = subject.get("attention_score"), conduct.causal(6)
    before = subject.output(function, q, k, v, mask)
    after = subject.output(function, q, changed_k, changed_v, mask)
    expect_alive("the output", before, (3, 6, 4))
    asked = "positions 0 to 2 to stay the same when positions 3 to 5 change"
    expect_same("an output at positions 0 to 2", after[:, :3], before[:, :3], asked=asked, hint="")
    if (after[:, 3:] == before[:, 3:]).all(-1).any():
        lose(asked="the later positions to read themselves", came="an output that does not change with them")


@score(
    points=1,
    asks="float16 and bfloat16 with a mask: the same dtype out, finite, as exact as the dtype is",
    hint="what is the largest number of float16, and what do you fill masked scores with?",
)
def half_precision(subject: Subject) -> None:
    """A fill value such as -1e10, which does not exist in float16; a result in another dtype."""
    function, mask = subject.get("attention_score"), conduct.causal(5)
    for dtype in HALF:
        q, k, v = (given.to(dtype) for given in triple())
        wanted, _, within, _ = definition.attention(q, k, v, mask, definition.roundoff(dtype))
        got = subject.output(function, q, k, v, mask)
        if got.dtype != dtype:
            lose(asked=f"{dtype} out of {dtype}", came=str(got.dtype), hint="")
        hint = FIRST_FLOAT32 if torch.isfinite(got).all() else ""
        expect_near(f"the output in {str(dtype).removeprefix('torch.')}", got, wanted, within, hint)


@score(
    points=2,
    asks="a finite output that reads nothing, where the mask allows no key",
    hint="what does a softmax make of a row in which all scores are the same?",
)
def empty_row(subject: Subject) -> None:
    """A fully masked row that attends to everything (a fill value of -1e10) or is NaN (-inf)."""
    q, k, v = triple()
    mask = conduct.causal(5)
    mask[2] = False
    function = subject.get("attention_score")
    before = subject.output(function, q, k, v, mask)
    expect_shape("the output", before, v.shape)
    after = subject.output(function, q, k, v + 100, mask)
    if torch.allclose(before[:, 2], v.mean(1), atol=1e-4):
        lose(asked="a row that reads nothing, as the mask says", came="the mean of all values: it attends to every key")
    expect_empty_row(before, after, 2)


def expect_empty_row(before: Tensor, after: Tensor, row: int) -> None:
    """The row that may read nothing is finite and the same for other input; the rest is alive.

    regard's own convention is an output of zeros. Any finite number is accepted that does not depend on what was
    masked: a bias that W^O adds, for one.
    """
    hint = "what does the softmax of a row of -inf hold?"
    if not torch.isfinite(before[..., row, :]).all():
        expect_finite("the row that may read nothing", before[..., row, :], hint)
    others = [other for other in range(before.shape[-2]) if other != row]
    expect_alive("the output of the other rows", before[..., others, :], before[..., others, :].shape)
    if torch.equal(before[..., others, :], after[..., others, :]):
        lose(asked="an output that depends on the values", came="one that does not change with them")
    asked = "an output that stays the same when everything masked changes, in the row that may read nothing"
    same = "an output in that row"
    expect_same(same, after[..., row, :], before[..., row, :], asked=asked, hint="")


@score(
    points=1,
    asks="the definition, or an error, for (L, d) and (B, H, L, d); no error where the docstring promises heads",
    hint="which two axes does the transpose exchange?",
)
def leading_axes(subject: Subject) -> None:
    """Only 3-D input works although the docstring promises heads; or input with heads gives wrong numbers silently."""
    conduct.expect_leading_axes(subject, "attention_score", conduct.causal(5))


@score(points=1, asks="what its docstring promises to return", hint="")
def promised_weights(subject: Subject) -> None:
    """The docstring promises weights, and the output alone is returned."""
    function = subject.get("attention_score")
    conduct.expect_promised_weights(subject.call(function, *triple()), function)


@score(points=1, asks="Q, K, V and the mask to stay as they were", hint="")
def inputs_untouched(subject: Subject) -> None:
    """Scaling, filling or inverting in place."""
    inputs = (*triple(), conduct.checkered(5))
    conduct.expect_inputs_untouched(subject, subject.get("attention_score"), inputs, (3, 5, 4))


@score(points=1, asks="gradients that reach Q, K and V, and none at keys that nobody may read", hint="")
def gradients(subject: Subject) -> None:
    """A way out of autograd; a gradient of NaN at what is masked."""
    leaves = dict(zip("QKV", (given.requires_grad_() for given in triple()), strict=True))
    mask = conduct.checkered(5)
    mask[:, 4] = False
    output = subject.output(subject.get("attention_score"), *leaves.values(), mask)
    found = conduct.expect_gradients(output, leaves, nonzero={"Q", "K", "V"})
    if found["K"][:, 4].any() or found["V"][:, 4].any():
        lose(asked="no gradient at a key that no query may read", came="one", hint="is the mask there at all?")


@score(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
def quiet(subject: Subject) -> None:
    """Printing in the function."""
    inputs = (*triple(), conduct.checkered(5))
    conduct.expect_nothing_printed(subject, subject.get("attention_score"), inputs, (3, 5, 4))
