"""Checks that every layer of the course passes, whatever it computes."""

from __future__ import annotations

from collections.abc import Callable

from regard.check.course import conduct, layers
from regard.check.course.conduct import some
from regard.check.course.subject import Subject

__all__ = ["of_every_layer"]


Run = Callable[[Subject], None]


def of_every_layer(layer: Callable[..., Callable[[Run], Run]], name: str, sizes: tuple[int, ...]) -> None:
    """Register them for one task.

    Args:
        layer: the registration of the task: ``layer(points=, asks=, hint=)``.
        name: of the class.
        sizes: what it is constructed with: d_in, d_k, d_v and so on.
    """
    d_in, d_v = sizes[0], sizes[2]

    @layer(
        points=1,
        asks="an output whose positions are permuted as those of the input are",
        hint="does anything in your layer know where a position stands?",
    )
    def permutation(subject: Subject) -> None:
        """Mixing along the batch, the positions or the heads; the course's test, with an input of ones, is blind."""
        layers.expect_equivariance(subject, subject.layer(name, *sizes), d_in)

    @layer(
        points=1,
        asks="a finite output that reads nothing, where the mask allows no key",
        hint="what does a softmax make of a row in which all scores are the same?",
    )
    def empty_row(subject: Subject) -> None:
        """A fully masked row that attends to everything, or is NaN."""
        layers.expect_empty_row(subject, subject.layer(name, *sizes), d_in)

    @layer(
        points=1,
        asks="the same output for the same input in eval mode",
        hint="what does F.dropout do unless it is told that the layer is not training?",
    )
    def steady(subject: Subject) -> None:
        """Dropout, or other randomness, that eval() does not turn off."""
        layers.expect_steady(subject, subject.layer(name, *sizes), d_in)

    @layer(points=1, asks="what its docstring promises to return", hint="")
    def promised_weights(subject: Subject) -> None:
        """The docstring promises weights, and the output alone is returned."""
        made = subject.layer(name, *sizes)
        conduct.expect_promised_weights(subject.call(made, some(2, 5, d_in)), type(made).forward, type(made))

    @layer(points=1, asks="the input and the mask to stay as they were", hint="")
    def inputs_untouched(subject: Subject) -> None:
        """Scaling, filling or inverting in place."""
        inputs = (some(2, 5, d_in), conduct.checkered(5))
        conduct.expect_inputs_untouched(subject, subject.layer(name, *sizes), inputs, (2, 5, d_v))

    @layer(points=1, asks="gradients that reach the input and every parameter", hint="")
    def gradients(subject: Subject) -> None:
        """A way out of autograd; parameters that take no part; heads in a plain list, which no optimiser sees."""
        layers.expect_gradients(subject, subject.layer(name, *sizes), d_in)

    @layer(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
    def quiet(subject: Subject) -> None:
        """Printing while the layer is made or runs."""
        layers.expect_quiet_layer(subject, name, sizes, (2, 5, d_v))
