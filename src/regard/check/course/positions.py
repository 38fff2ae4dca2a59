"""Checks of exercise 1: the table of sines and cosines, and what it is added to."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from regard.check.course import definition
from regard.check.course.compare import (
    expect_alive,
    expect_golden,
    expect_near,
    expect_same,
    expect_shape,
    tuple_of,
)
from regard.check.course.registry import Check, check, lose
from regard.check.course.subject import Subject

__all__ = ["CHECKS"]

CHECKS: list[Check] = []
positional = partial(check, "PositionalEncoding", into=CHECKS)
added = partial(check, "add_positional_encoding", into=CHECKS)

GOLDEN = (1.4000, 1.0479, 0.2396, -0.4558, -0.5485, 0.0267, 0.8648, 1.3756, 1.1994, 0.4603)


@positional(
    points=1,
    asks="a float32 tensor (max_len, d_model)",
    hint="which of the two arguments counts the rows?",
)
def shape(subject: Subject) -> None:
    """A table of another shape or dtype, one that is not a tensor, or one of a single number."""
    for max_len, d_model in ((10, 128), (7, 6)):
        table = subject.table(d_model, max_len)
        expect_alive(f"the encoding of d_model {d_model} and max_len {max_len}", table, (max_len, d_model))
        if table.dtype != torch.float32:
            lose(
                asked="a table in float32, the dtype of the embeddings",
                came=f"{str(table.dtype).removeprefix('torch.')}",
                hint="what dtype does the sum with the embeddings have?",
            )


@positional(
    points=3,
    asks="PE(pos, 2i) = sin(pos / 10000^(2i/d_model)) and PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model))",
    hint="print row 0 and row 1, and work out by hand what columns 0 to 3 should hold",
)
def formula(subject: Subject) -> None:
    """Another base, sine and cosine swapped or side by side, a wrong exponent, a table of low precision."""
    for max_len, d_model in ((10, 128), (64, 32)):
        table, within = definition.encoding(max_len, d_model)
        got = expect_shape("the encoding", subject.table(d_model, max_len), table.shape)
        expect_near("the encoding", got, table, within, _hint(got, table))


def _hint(got: Tensor, table: Tensor) -> str:
    sines, cosines = table[:, 0::2], table[:, 1::2]
    near = partial(torch.allclose, got.double(), rtol=0, atol=5e-3)
    if near(torch.stack([cosines, sines], -1).flatten(1)):
        return "at position 0 every sine is 0 and every cosine is 1: which columns of your row 0 are which?"
    if near(torch.cat([sines, cosines], 1)):
        return "the formula gives a sine to every even column and a cosine to every odd one: where are yours?"
    if near(table):
        return "the formula is right and the digits are few: in which dtype is the table made?"
    if torch.allclose(got[:, :2].double(), table[:, :2], rtol=0, atol=1e-4):
        return "columns 0 and 1 are right, later ones are not: what is the base, and what the exponent, for column 2?"
    return ""


@positional(
    points=1,
    asks="the same formula for an odd d_model",
    hint="with d_model 7 the columns are 0 to 6: does your loop or slice reach column 6?",
)
def odd_width(subject: Subject) -> None:
    """A last column that is left out, or an error, where d_model is odd."""
    table, within = definition.encoding(12, 7)
    got = expect_shape("the encoding of d_model 7", subject.table(7, 12), table.shape)
    if not got[:, -1].any() and got[:, :-1].any():
        lose(asked="sines in the last column of an odd d_model", came="a last column that is zero at every position")
    expect_near("the encoding of d_model 7", got, table, within)


@positional(
    points=2,
    asks="the same formula at positions in the thousands",
    hint="which dtype holds the positions and the angles on the way to the sine?",
)
def large_positions(subject: Subject) -> None:
    """Angles of low precision: whole numbers beyond 2048 do not exist in float16, beyond 256 not in bfloat16."""
    table, within = definition.encoding(5000, 16)
    expect_near("the encoding of 5000 positions", subject.table(16, 5000), table, within)


@positional(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
def quiet(subject: Subject) -> None:
    """Printing while the table is made or read."""
    expect_alive("the encoding", subject.table(8, 4), (4, 8))
    expect_quiet(subject)


def expect_quiet(subject: Subject) -> None:
    """The latest call of the submission printed nothing."""
    if subject.heard:
        shown = " ".join(subject.heard.split())
        lose(asked="nothing to be printed", came=f"{shown[:60] + '...' if len(shown) > 60 else shown!r} on stdout")


def _some(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@added(
    points=2,
    asks="the course's numbers: 0.1 * [1 .. 128] at every position, plus the encoding",
    hint="if the encoding itself has all its points, what is added to what?",
)
def numbers(subject: Subject) -> None:
    """A sum that differs from what the course prints for encoded[:, :, 3], in any sequence of the batch."""
    embeddings = (0.1 * torch.arange(1, 129)).repeat(3, 10, 1)
    encoded = subject.run("add_positional_encoding", embeddings, subject.table(128, 10))
    for number, sequence in enumerate(expect_shape("the sum", encoded, (3, 10, 128))):
        expect_golden(f"encoded[{number}, :, 3]", sequence[:, 3], GOLDEN, "")


@added(
    points=2,
    asks="(B, L, d_model) + (L, d_model): every sequence gets the same encoding",
    hint="which axis of the embeddings has no counterpart in the encoding?",
)
def every_sequence(subject: Subject) -> None:
    """An encoding that goes along the batch, reaches the first sequence alone, or is scaled on the way."""
    for batch, length, d_model in ((4, 6, 10), (6, 6, 6)):
        embeddings, table = _some(batch, length, d_model), _some(length, d_model)
        got = subject.run("add_positional_encoding", embeddings.clone(), table.clone())
        got = expect_shape("the sum", got, (batch, length, d_model))
        wanted = embeddings.double() + table.double()
        expect_near("the sum", got, wanted, 2 * definition.roundoff(torch.float32) * wanted.abs() + 1e-12)


@added(
    points=1,
    asks="embeddings and encoding to stay as they were",
    hint="which operations of torch write into the tensor that they are called on?",
)
def inputs_untouched(subject: Subject) -> None:
    """Adding in place: the caller's embeddings, or the table of everyone after, change."""
    embeddings, table = _some(2, 5, 8), _some(5, 8)
    given = (embeddings.clone(), table.clone())
    value = subject.run("add_positional_encoding", *given)
    expect_alive("the sum", value, (2, 5, 8))
    for what, after, before in zip(("embeddings", "encodings"), given, (embeddings, table), strict=True):
        expect_same(what, after, before, asked=f"the {what} to stay as they were", hint="")


@added(points=1, asks="nothing to be printed", hint="a print left over from looking for a mistake?")
def prints_nothing(subject: Subject) -> None:
    """Printing while the encoding is added."""
    value = subject.run("add_positional_encoding", _some(2, 5, 8), _some(5, 8))
    if not isinstance(value, Tensor):
        lose(asked="a tensor", came=tuple_of(value))
    expect_alive("the sum", value, (2, 5, 8))
    expect_quiet(subject)
