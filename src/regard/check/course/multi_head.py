"""Checks of exercise 4: MultiHeadSelfAttention."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from regard.check.child import is_out_of_memory
from regard.check.course import layers
from regard.check.course.compare import expect_alive, expect_golden, expect_near, expect_shape
from regard.check.course.conduct import some
from regard.check.course.definition import Heads, candidates, several_heads_of
from regard.check.course.every_layer import of_every_layer
from regard.check.course.registry import Check, check, lose
from regard.check.course.subject import Subject

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
layer = partial(check, "MultiHeadSelfAttention", into=CHECKS)

GOLDEN = (
    *(0.0275, -0.1630, 0.1510, 0.3983, -0.0111, -0.4692, -0.1411, 0.1411),
    *(0.2040, 0.0587, 0.1210, -0.1313, -0.0088, 0.1773, -0.0538),
)
NAME = "MultiHeadSelfAttention"
SIZES = (6, 16, 12, 4)  # d_in, d_k, d_v, num_heads
SEED = 11


@layer(
    points=3,
    asks="the course's numbers, from its seed: W^O created first, then head by head Wq, Wk and Wv",
    hint="the numbers depend on the order in which the parameters are created",
)
def numbers(subject: Subject) -> None:
    """Parameters created in another order, heads of another width, anything that differs for a single element."""
    torch.manual_seed(40)
    x = torch.rand(32, 10, 256)
    made = subject.call(subject.get(NAME), 256, 512, 64, 8)
    output = expect_shape("the output", subject.output(made, x), (32, 10, 64))
    expect_golden("output[-1, 1, :15]", output[-1, 1, :15], GOLDEN, "")


@layer(points=1, asks="the output (N, L, d_v) alone, a tensor", hint="what does the last line of forward return?")
def returns_the_output(subject: Subject) -> None:
    """A tuple where the output alone is asked for; another shape."""
    made = subject.layer(NAME, 256, 512, 64, 8)
    expect_alive("the output", subject.call(made, some(4, 10, 256)), (4, 10, 64))


@layer(
    points=2,
    asks="heads that share d_k and d_v: d_k/h, d_k/h and d_v/h each, and a W^O of d_v by d_v",
    hint="add up the widths of all heads: is it d_k?",
)
def head_widths(subject: Subject) -> None:
    """Each head uses d_k and d_v whole, not d_k/h and d_v/h."""
    made = subject.layer(NAME, *SIZES)
    d_in, d_k, d_v, num_heads = SIZES
    wanted = d_in * (2 * d_k + d_v) + d_v * d_v
    weights = sum(part.numel() for part in made.parameters() if part.dim() > 1)
    whole = d_in * num_heads * (2 * d_k + d_v)
    if weights > whole:
        lose(
            asked=f"{num_heads} heads that are {d_k // num_heads} wide with d_k = {d_k}, and {d_v // num_heads} with "
            f"d_v = {d_v}: {wanted:,} weights with W^O",
            came=f"{weights:,} weights, as many as heads have that take d_k and d_v whole",
        )
    if weights != wanted:
        hint = "" if weights > wanted else "list(layer.named_parameters()) shows what an optimiser would see"
        lose(asked=f"{wanted:,} weights in the heads and W^O together", came=f"{weights:,}", hint=hint)
    expect_alive("the output", subject.output(made, some(2, 5, d_in)), (2, 5, d_v))


@layer(
    points=1,
    asks="a bias for every linear layer, W^O too",
    hint="what does bias=False leave out?",
)
def biases(subject: Subject) -> None:
    """Linear layers without a bias."""
    made = subject.layer(NAME, *SIZES)
    linear = [part for part in made.modules() if isinstance(part, nn.Linear)]
    found = sum(part.numel() for name, part in made.named_parameters() if "bias" in name or part.dim() == 1)
    bare = [part for part in linear if part.bias is None]
    if bare or not found:
        came = f"{len(bare)} of {len(linear)} linear layers without" if bare else "none"
        lose(asked="a bias for every linear layer", came=came)
    expect_alive("the output", subject.output(made, some(2, 5, SIZES[0])), (2, 5, SIZES[2]))


def _known(subject: Subject) -> tuple[nn.Module, Heads | None]:
    """A layer in eval mode, and its parameters: from its linear layers, or those that its seed drew, in some order."""
    made = subject.layer(NAME, *SIZES, seed=SEED).eval()
    if (heads := several_heads_of(made, SIZES[3])) is not None:
        return made, heads
    x = some(3, 5, SIZES[0])
    got = subject.output(made, x).detach()
    for heads in candidates(*SIZES, seed=SEED):
        wanted, within = heads(x, None)
        if got.shape == wanted.shape and bool(((got.double() - wanted).abs() <= within).all()):
            return made, heads
    return made, None


@layer(
    points=3,
    asks="Concat(head_1, ..., head_h) W^O for a random input, whichever order the parameters were created in",
    hint="take 2 heads with d_v = 2: which columns of the concatenation come from which head?",
)
def formula(subject: Subject) -> None:
    """Heads that are mixed by a view without a transpose, another scale, a softmax over another axis."""
    made, heads = _known(subject)
    x = some(3, 5, SIZES[0])
    got = expect_shape("the output", subject.output(made, x), (3, 5, SIZES[2]))
    known = candidates(*SIZES, seed=SEED)[0] if heads is None else heads
    expect_near("the output", got, *known(x, None))


@layer(
    points=3,
    asks="every head to leave out what the mask forbids",
    hint="follow the mask from forward into each head: where does it end?",
)
def mask_reaches_every_head(subject: Subject) -> None:
    """The mask is not passed to the heads, or to some of them only."""
    layers.expect_causality(subject, subject.layer(NAME, *SIZES), SIZES[0])


@layer(
    points=1,
    asks="the same numbers as the definition with a mask that is not causal",
    hint="True = may attend: which positions does your code fill?",
)
def any_mask(subject: Subject) -> None:
    """A mask that is inverted, or taken for the causal one."""
    made, heads = _known(subject)
    x = some(3, 5, SIZES[0])
    mask: Tensor = (some(5, 5, seed=4) > 0) | torch.eye(5, dtype=torch.bool)
    known = candidates(*SIZES, seed=SEED)[0] if heads is None else heads
    expect_near("the output with a random mask", subject.output(made, x, mask), *known(x, mask))


@layer(
    points=1,
    asks="an error where d_k or d_v is not a multiple of num_heads",
    hint="what is d_k // num_heads for d_k = 10 and 4 heads, and what becomes of the rest?",
)
def indivisible(subject: Subject) -> None:
    """Widths that do not divide among the heads are rounded down in silence."""
    made = subject.layer(NAME, *SIZES)
    expect_alive("the output", subject.output(made, some(2, 5, SIZES[0])), (2, 5, SIZES[2]))
    for d_k, d_v in ((10, 12), (16, 10)):
        try:
            subject.layer(NAME, 6, d_k, d_v, 4)
        except Exception as error:
            if is_out_of_memory(error):
                raise
            continue
        lose(asked=f"an error for d_k = {d_k}, d_v = {d_v} and num_heads = 4", came="a layer")


@layer(
    points=1,
    asks="float16 and bfloat16 with a mask: the same dtype out, finite, as exact as the dtype is",
    hint="what is the largest number of float16, and what do you fill masked scores with?",
)
def half_precision(subject: Subject) -> None:
    """A fill value that does not exist in float16; a result in another dtype."""
    layers.expect_half(subject, *_half(subject))


def _half(subject: Subject) -> tuple[nn.Module, int, Heads | None]:
    made, heads = _known(subject)
    return made, SIZES[0], heads


of_every_layer(layer, NAME, SIZES)
