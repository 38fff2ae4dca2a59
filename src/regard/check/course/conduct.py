"""How the checks of every attention call it, and what they demand of it besides its numbers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.check.child import is_out_of_memory
from regard.check.course import definition
from regard.check.course.compare import expect_alive, expect_finite, expect_near, expect_shape
from regard.check.course.positions import expect_quiet
from regard.check.course.promises import promised_heads, promised_weights
from regard.check.course.registry import Lost, lose
from regard.check.course.subject import Subject

__all__ = [
    "causal",
    "checkered",
    "expect_gradients",
    "expect_inputs_untouched",
    "expect_leading_axes",
    "expect_nothing_printed",
    "expect_promised_weights",
    "some",
]

Inputs = tuple[Tensor, ...]


def some(*shape: int, seed: int = 1) -> Tensor:
    """Random numbers that do not depend on what the submission did to torch's own generator."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def causal(length: int) -> Tensor:
    """(length, length), True = may attend: the checks' own, so that a wrong create_mask costs its points once."""
    return torch.ones(length, length, dtype=torch.bool).tril()


def checkered(length: int) -> Tensor:
    """(length, length), neither a row of it nor of its inverse is empty: for what has nothing to do with the mask."""
    place = torch.arange(length)
    return (place[:, None] + place) % 2 == 0


def expect_inputs_untouched(
    subject: Subject, function: Callable[..., Any], inputs: Inputs, shape: tuple[int, ...]
) -> None:
    """No input is written to."""
    before = [given.clone() for given in inputs]
    expect_alive("the output", subject.output(function, *inputs).detach(), shape)
    for number, (after, kept) in enumerate(zip(inputs, before, strict=True)):
        if not torch.equal(after, kept):
            lose(
                asked="the inputs to stay as they were",
                came=f"argument number {number + 1} changed",
                hint="operations whose names end in _, and += on a tensor, write into the tensor itself",
            )


def expect_nothing_printed(
    subject: Subject, function: Callable[..., Any], inputs: Inputs, shape: tuple[int, ...]
) -> None:
    """The call prints nothing."""
    expect_alive("the output", subject.output(function, *inputs).detach(), shape)
    expect_quiet(subject)


def expect_gradients(output: Tensor, leaves: dict[str, Tensor], *, nonzero: set[str]) -> dict[str, Tensor]:
    """A gradient reaches every leaf, is finite, and is not zero where it cannot be; what the gradients are."""
    if not output.requires_grad:
        lose(
            asked="an output that gradients flow through",
            came="one that is cut off from its inputs",
            hint="does something on the way leave autograd: .detach(), .data, .numpy(), torch.no_grad()?",
        )
    weights = some(*output.shape, seed=9)
    found = torch.autograd.grad((output * weights).sum(), list(leaves.values()), allow_unused=True)
    gradients = {}
    for name, gradient in zip(leaves, found, strict=True):
        if gradient is None or (name in nonzero and not gradient.any()):
            lose(asked=f"a gradient for {name}", came="none" if gradient is None else "zero everywhere")
        expect_finite(f"the gradient of {name}", gradient)
        gradients[name] = gradient
    return gradients


def expect_promised_weights(value: object, *documented: Any) -> None:
    """A docstring that promises weights is kept."""
    if isinstance(value, Tensor):
        for function in documented:
            if words := promised_weights(function):
                lose(
                    asked=f"what the docstring of {function.__qualname__} promises to return, {words!r}",
                    came="the output alone",
                    hint="one of the two is to change: what does the exercise ask to be returned?",
                )
        expect_alive("the output", value.detach(), value.shape)


def expect_leading_axes(subject: Subject, name: str, *masks: Tensor) -> None:
    """(L, D) and (B, H, L, D) give the definition or an error; an error only where the docstring promises no heads."""
    function = subject.get(name)
    promise = promised_heads(function)
    shapes: list[tuple[int, ...]] = [(5,), (2, 3, 5)]
    if promise:
        shapes += [(2, 5, 5), (3, 5, 5)]
    for lead in shapes:
        q, k, v = some(*lead, 8, seed=1), some(*lead, 8, seed=2), some(*lead, 4, seed=3)
        wanted, _, within, _ = definition.attention(q, k, v, masks[0] if masks else None, 2.0**-24)
        try:
            got = subject.output(function, q, k, v, *masks)
        except Exception as error:
            if isinstance(error, Lost) or is_out_of_memory(error):
                raise
            if promise and len(lead) == 3:
                lose(
                    asked=f"input of shape {tuple(q.shape)}, as the docstring promises: {promise}",
                    came=f"{type(error).__name__}: {' '.join(str(error).split())[:120]}",
                    hint="which two axes does the transpose exchange, and which two are the last ones?",
                )
            continue
        hint = "which two axes does the transpose exchange, and which two are the last ones?"
        expect_near(
            f"the output for {tuple(q.shape)}", expect_shape("the output", got, wanted.shape), wanted, within, hint
        )
    expect_alive("the output", subject.output(function, *(some(2, 5, 4, seed=n) for n in (1, 2, 3))), (2, 5, 4))
