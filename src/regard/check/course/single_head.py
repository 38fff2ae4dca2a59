"""Checks of exercise 3: SelfAttention."""

from __future__ import annotations

from functools import partial

import torch

from regard.check.course import conduct, layers
from regard.check.course.compare import expect_alive, expect_golden, expect_near, expect_shape
from regard.check.course.conduct import some
from regard.check.course.definition import heads_of
from regard.check.course.every_layer import of_every_layer
from regard.check.course.registry import Check, check, lose
from regard.check.course.subject import Subject

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
layer = partial(check, "SelfAttention", into=CHECKS)

GOLDEN = (
    *(-0.0166, -0.4199, -0.5860, 0.3721, 0.5411, 0.4073, 0.8418, 0.2554),
    *(-0.2712, 0.6178, -0.0495, -0.0552, 0.6988, -0.3643, 0.7696),
)
NAME = "SelfAttention"
SIZES = (6, 8, 4)  # d_in, d_k, d_v


@layer(
    points=3,
    asks="the course's numbers, from its seed: Wq, Wk and Wv created in this order",
    hint="the numbers depend on the order in which the parameters are created, and on there being no others",
)
def numbers(subject: Subject) -> None:
    """Parameters created in another order, or not by nn.Linear; a value that does not depend on the value layer."""
    torch.manual_seed(40)
    x = torch.ones(20, 5, 32)
    made = subject.call(subject.get(NAME), 32, 512, 64)
    output = expect_shape("the output", subject.output(made, x), (20, 5, 64))
    expect_golden("output[-1, 1, :15]", output[-1, 1, :15], GOLDEN, "")


@layer(
    points=1,
    asks="the output (N, L, d_v) alone, a tensor",
    hint="what does the last line of forward return?",
)
def returns_the_output(subject: Subject) -> None:
    """A tuple where the output alone is asked for; another shape."""
    made = subject.layer(NAME, 32, 512, 64)
    expect_alive("the output", subject.call(made, some(20, 5, 32)), (20, 5, 64))


@layer(
    points=1,
    asks="three linear layers with a bias each: to d_k, d_k and d_v",
    hint="list(layer.named_parameters()) shows what an optimiser would see",
)
def projections(subject: Subject) -> None:
    """No bias; a layer too many or too few; layers that are not registered, so that nothing trains them."""
    made = subject.layer(NAME, *SIZES)
    d_in, d_k, d_v = SIZES
    layers.expect_parameters(made, weights=d_in * (2 * d_k + d_v), biases=2 * d_k + d_v)
    expect_alive("the output", subject.output(made, some(2, 5, d_in)), (2, 5, d_v))


@layer(
    points=3,
    asks="attention over the three projections of a random input",
    hint="the course tests with an input of ones, where every weight is 1/L: what differs for another input?",
)
def formula(subject: Subject) -> None:
    """What an input of ones hides: another scale, a softmax over another axis, layers exchanged."""
    made = subject.layer(NAME, *SIZES).eval()
    heads = heads_of(made)
    if heads is None:
        lose(asked="three linear layers Wq, Wk and Wv", came=f"{layers.linear_count(made)} linear layers")
    for mask in (None, conduct.causal(5)):
        x = some(3, 5, SIZES[0])
        wanted, within = heads(x, mask)
        got = subject.output(made, x) if mask is None else subject.output(made, x, mask)
        expect_near("the output" if mask is None else "the output with a causal mask", got, wanted, within)


@layer(
    points=2,
    asks="the earlier positions to stay bit for bit the same, whatever later ones hold",
    hint="follow the mask from forward to the scores: is it there?",
)
def future(subject: Subject) -> None:
    """A mask that is ignored or does not reach the scores."""
    layers.expect_causality(subject, subject.layer(NAME, *SIZES), SIZES[0])


@layer(
    points=1,
    asks="float16 and bfloat16 with a mask: the same dtype out, finite, as exact as the dtype is",
    hint="what is the largest number of float16, and what do you fill masked scores with?",
)
def half_precision(subject: Subject) -> None:
    """A fill value that does not exist in float16; a result in another dtype."""
    made = subject.layer(NAME, *SIZES)
    layers.expect_half(subject, made, SIZES[0], heads_of(made))


of_every_layer(layer, NAME, SIZES)
