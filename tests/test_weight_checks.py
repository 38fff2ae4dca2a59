"""Bad input to the questions that weights are asked: each error names the argument, what came and what was expected."""

from __future__ import annotations

import re

import pytest
import torch

import regard

W = "for weights (2, 4, 3, 5)"
QUESTIONS = {
    "x a list": (lambda w: w @ [1.0], TypeError, "weights @ x: x must be a torch.Tensor, got list"),
    "x of another length": (
        lambda w: w @ torch.zeros(4, 2),
        ValueError,
        f"weights @ x: x must have 5 rows (S, axis -2), got shape (4, 2) {W}",
    ),
    "x of other heads": (
        lambda w: w @ torch.zeros(3, 5, 2),
        ValueError,
        f"weights @ x: the axes of x before the last two must broadcast to (2, 4), got (3,) {W}",
    ),
    "x of another batch": (
        lambda w: w @ torch.zeros(3, 4, 5, 2),
        ValueError,
        f"weights @ x: the axes of x before the last two must broadcast to (2, 4), got (3, 4) {W}",
    ),
    "y of another length": (
        lambda w: w.mT @ torch.zeros(5, 2),
        ValueError,
        "weights @ y: y must have 3 rows (L, axis -2), got shape (5, 2) for weights (2, 4, 5, 3)",
    ),
    "pool(0, 1)": (
        lambda w: w.pool(0, 1),
        ValueError,
        "pool(rows): rows must be in 1..L=3, got 0; a cell holds at least one entry",
    ),
    "pool(1, 6)": (lambda w: w.pool(1, 6), ValueError, "pool(cols): cols must be in 1..S=5, got 6"),
    "pool(1.0, 1)": (lambda w: w.pool(1.0, 1), TypeError, "pool(rows): rows must be an integer, got float"),
    "pool, sum": (lambda w: w.pool(1, 1, "sum"), ValueError, "pool(reduce): reduce must be 'mean' or 'max', got 'sum'"),
    "topk(0)": (lambda w: w.topk(0), ValueError, "topk(k): k must be in 1..S=5, got 0"),
    "topk(6)": (lambda w: w.topk(6), ValueError, "topk(k): k must be in 1..S=5, got 6"),
    "topk(1.0)": (lambda w: w.topk(1.0), TypeError, "topk(k): k must be an integer, got float"),
    "diagonal(5)": (lambda w: w.diagonal(5), ValueError, f"diagonal(offset): offset must be in -2..4 {W}, got 5"),
    "diagonal(-3)": (lambda w: w.diagonal(-3), IndexError, "diagonal(offset): offset must be in -2..4"),
    "diagonal('0')": (lambda w: w.diagonal("0"), TypeError, "diagonal(offset): offset must be an integer, got str"),
    "mass(5)": (lambda w: w.mass(5), IndexError, "mass(keys): key 5 is out of range for S=5; expected -5..4"),
    "mass(True)": (
        lambda w: w.mass(True),
        TypeError,
        "mass(keys): keys must be an index, a slice, indices or booleans (S,), got bool",
    ),
    "mass, booleans": (
        lambda w: w.mass([True]),
        ValueError,
        "mass(keys): booleans must have shape (S,) = (5,), got (1,)",
    ),
    "mass, floats": (
        lambda w: w.mass([0.5]),
        TypeError,
        "mass(keys): keys must be an index, a slice, indices (n,) or booleans (S,), got float32 of shape (1,)",
    ),
    "an index past the end": (
        lambda w: w[0, 4],
        IndexError,
        "weights[index]: index 4 is out of range for axis 1 of weights (2, 4, 3, 5); expected -4..3",
    ),
    "... in a list": (
        lambda w: w[..., [0, -6]],
        ValueError,
        "weights[index]: index -6 is out of range for axis 3 of weights (2, 4, 3, 5); expected -5..4",
    ),
    "too many indices": (
        lambda w: w[0, 0, 0, 0, 0],
        IndexError,
        "weights[index]: 5 indices for weights of 4 axes, (2, 4, 3, 5)",
    ),
    "a float": (
        lambda w: w[0.5],
        TypeError,
        "weights[index]: an index must be an integer, slice, tensor, list, None or ..., got float",
    ),
    "a boolean": (
        lambda w: w[True],
        TypeError,
        "weights[index]: an index must be an integer, slice, tensor, list, None or ..., got bool",
    ),
    # Fails: "tuple index out of range", and not a message of ours.
    "a boolean tensor without axes": (lambda w: w[torch.tensor(True)], (IndexError, TypeError), "weights[index]: "),
    "floats": (
        lambda w: w[torch.tensor([0.5])],
        TypeError,
        "weights[index]: an index tensor must be integer or boolean, got float32",
    ),
    "booleans of another length": (
        lambda w: w[..., torch.ones(4).bool()],
        IndexError,
        "weights[index]: a boolean index of shape (4,) does not fit axis 3 of weights (2, 4, 3, 5)",
    ),
    "an array without a copy": (
        lambda w: w.__array__(copy=False),
        ValueError,
        "numpy.asarray(weights, copy=False): the weights are not stored, so an array is always made",
    ),
    "plot of a batch": (
        lambda w: w.plot(),
        ValueError,
        "weights.plot(): one sequence at a time, got a batch of shape (2, 4, 3, 5)",
    ),
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_error(name):
    ask, error, message = QUESTIONS[name]
    weights = regard.attention(torch.zeros(2, 4, 3, 8), torch.zeros(2, 2, 5, 8), torch.zeros(2, 2, 5, 6))[1]
    with pytest.raises(error, match="^" + re.escape(message)):
        ask(weights)
