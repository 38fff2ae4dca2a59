"""What is demanded of both layers, with one head and with several."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn

from regard.check.course import conduct
from regard.check.course.compare import expect_alive, expect_finite, expect_near, expect_same
from regard.check.course.conduct import some
from regard.check.course.definition import Heads
from regard.check.course.masked_scores import FIRST_FLOAT32, HALF
from regard.check.course.masked_scores import expect_empty_row as expect_nothing_read
from regard.check.course.positions import expect_quiet
from regard.check.course.registry import lose
from regard.check.course.subject import Subject

__all__ = [
    "expect_causality",
    "expect_empty_row",
    "expect_equivariance",
    "expect_gradients",
    "expect_half",
    "expect_parameters",
    "expect_quiet_layer",
    "expect_steady",
    "linear_count",
]


def linear_count(layer: nn.Module) -> int:
    """How many linear layers a layer has."""
    return sum(isinstance(part, nn.Linear) for part in layer.modules())


def expect_parameters(layer: nn.Module, *, weights: int, biases: int) -> None:
    """So many numbers in matrices and so many in vectors, however they are divided among layers."""
    matrices = sum(part.numel() for part in layer.parameters() if part.dim() > 1)
    vectors = sum(part.numel() for part in layer.parameters() if part.dim() == 1)
    if matrices != weights:
        lose(asked=f"{weights:,} weights in all projections together", came=f"{matrices:,}")
    if vectors != biases:
        came = f"{vectors:,}" if vectors else "none"
        lose(asked=f"{biases:,} biases in all projections together", came=came, hint="what does bias=False leave out?")


def expect_equivariance(subject: Subject, layer: nn.Module, d_in: int) -> None:
    """Permuting the positions of a random input permutes the output, which does move."""
    layer = layer.eval()
    x, order = some(3, 6, d_in), torch.tensor([4, 0, 5, 2, 1, 3])
    straight, permuted = (subject.output(layer, given).detach() for given in (x, x[:, order]))
    expect_alive("the output", straight, straight.shape)
    if straight.dim() != 3 or straight.shape[:2] != (3, 6):
        lose(asked="an output (N, L, d_v)", came=f"{tuple(straight.shape)}")
    # The sums over the keys run in another order: twice the rounding of six terms, with room for what led to them.
    within = 64 * 2.0**-24 * straight.abs().amax(-1, keepdim=True).double().expand_as(straight) + 1e-6
    expect_near("the output of permuted positions", permuted, straight[:, order].double(), within)
    if float((permuted - straight).abs().max()) < 1e-3:
        lose(asked="positions that differ", came="the same output at every position, in whatever order")


def expect_causality(subject: Subject, layer: nn.Module, d_in: int) -> None:
    """With a causal mask, the first positions do not change by a bit when the later ones change by a lot."""
    layer = layer.eval()
    x, mask = some(3, 6, d_in), conduct.causal(6)
    changed = x.clone()
    changed[:, 3:] = 30 * some(3, 3, d_in, seed=5)
    before, after = (subject.output(layer, given, mask).detach() for given in (x, changed))
    expect_alive("the output", before, before.shape)
    hint = ""
    if torch.allclose(before, subject.output(layer, x).detach(), rtol=0, atol=1e-6):
        hint = "the output with a mask is the one without: is the mask handed on to where the scores are?"
    asked = "positions 0 to 2 to stay the same when positions 3 to 5 change, under a causal mask"
    expect_same("an output at positions 0 to 2", after[:, :3], before[:, :3], asked=asked, hint=hint)
    if (after[:, 3:] == before[:, 3:]).all(-1).any():
        lose(asked="the later positions to read themselves", came="an output that does not change with them")


def expect_half(subject: Subject, layer: nn.Module, d_in: int, heads: Heads | None) -> None:
    """In both half precisions, with a mask; right to the budget where the parameters are known."""
    x, mask = some(3, 5, d_in), conduct.causal(5)
    for dtype in HALF:
        lower = copy.deepcopy(layer).eval().to(dtype)
        got = subject.output(lower, x.to(dtype), mask).detach()
        short = str(dtype).removeprefix("torch.")
        if got.dtype != dtype:
            lose(asked=f"{short} out of {short}", came=str(got.dtype).removeprefix("torch."), hint="")
        expect_alive(f"the output in {short}", got, got.shape)
        if heads is not None:
            expect_near(f"the output in {short}", got, *heads(x.to(dtype), mask, dtype), FIRST_FLOAT32)


def expect_empty_row(subject: Subject, layer: nn.Module, d_in: int) -> None:
    """Position 2 may read nothing: finite, and the same for any input."""
    layer = layer.eval()
    x, mask = some(3, 5, d_in), conduct.causal(5)
    mask[2] = False
    before, after = (subject.output(layer, given, mask).detach() for given in (x, 3 - 2 * x))
    expect_nothing_read(before, after, 2)


def expect_steady(subject: Subject, layer: nn.Module, d_in: int) -> None:
    """In eval mode, two calls give the same bits."""
    layer = layer.eval()
    x = some(3, 6, d_in)
    first, second = (subject.output(layer, x).detach() for _ in range(2))
    expect_alive("the output", first, first.shape)
    asked = "the same output for the same input in eval mode"
    expect_same("an output", second, first, asked=asked, hint="")


def expect_gradients(subject: Subject, layer: nn.Module, d_in: int) -> None:
    """Every parameter and the input have a finite gradient; every matrix one that is not zero."""
    x = some(3, 5, d_in).requires_grad_()
    leaves: dict[str, Tensor] = {"X": x, **dict(layer.named_parameters())}
    output = subject.output(layer, x, conduct.checkered(5))
    expect_finite("the output", output)
    matrices = {name for name, leaf in leaves.items() if leaf.dim() > 1}
    if matrices == {"X"}:
        lose(asked="parameters that are registered with the layer", came="none")
    conduct.expect_gradients(output, leaves, nonzero=matrices)


def expect_quiet_layer(subject: Subject, name: str, sizes: tuple[int, ...], shape: tuple[int, ...]) -> None:
    """Making the layer and calling it, with a mask and without, prints nothing."""
    layer = subject.layer(name, *sizes)
    expect_quiet(subject)
    x = some(*shape[:-1], sizes[0])
    conduct.expect_nothing_printed(subject, layer, (x,), shape)
    conduct.expect_nothing_printed(subject, layer, (x, conduct.checkered(shape[-2])), shape)
