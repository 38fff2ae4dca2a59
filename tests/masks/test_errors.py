"""Bad input to masks: each error names the argument, what came and what was expected."""

from __future__ import annotations

import re

import pytest
import torch

from regard import masks

MASKS = {
    "window(0)": (
        lambda: masks.window(0),
        ValueError,
        "window: the number of keys must be at least 1, got 0; a window holds the query's own "
        "position, so the smallest is window(1)",
    ),
    "window(2.0)": (lambda: masks.window(2.0), TypeError, "window: the number of keys must be an integer, got float"),
    "window(True)": (lambda: masks.window(True), TypeError, "window: the number of keys must be an integer, got bool"),
    "band(-1, 0)": (lambda: masks.band(-1, 0), ValueError, "band left: the number of keys must be at least 0, got -1"),
    "band(0, -1)": (lambda: masks.band(0, -1), ValueError, "band right: the number of keys must be at least 0, got -1"),
    "prefix(-1)": (lambda: masks.prefix(-1), ValueError, "prefix: the number of keys must be at least 0, got -1"),
    "causal(0.5)": (
        lambda: masks.causal(0.5),
        TypeError,
        "causal(offset): offset must be an integer or None, got float",
    ),
    "padding, a list": (
        lambda: masks.padding([1]),
        TypeError,
        "padding(given): a tensor of integer lengths or boolean valid keys, got list",
    ),
    "padding, floats": (
        lambda: masks.padding(torch.zeros(2)),
        TypeError,
        "padding(given): integer lengths or boolean valid keys, got float32",
    ),
    "padding, a matrix of lengths": (
        lambda: masks.padding(torch.zeros(2, 2, dtype=torch.long)),
        ValueError,
        "padding(lengths): lengths must have shape (B,) or (), got (2, 2)",
    ),
    "padding, negative": (
        lambda: masks.padding(torch.tensor([-1])),
        ValueError,
        "padding(lengths): a length must be at least 0, got -1",
    ),
    "padding, valid of 3 axes": (
        lambda: masks.padding(torch.zeros(1, 1, 2, dtype=torch.bool)),
        ValueError,
        "padding(valid): valid must have shape (S,) or (B, S), got (1, 1, 2)",
    ),
    "documents, floats": (
        lambda: masks.documents(torch.zeros(2)),
        TypeError,
        "documents(ids): ids must be an integer tensor, got float32",
    ),
    "documents, a list": (
        lambda: masks.documents([1]),
        TypeError,
        "documents(ids): ids must be an integer tensor, got list",
    ),
    "documents, 3 axes": (
        lambda: masks.documents(torch.zeros(1, 1, 2, dtype=torch.long)),
        ValueError,
        "documents(ids): ids must have shape (S,) or (B, S), got (1, 1, 2)",
    ),
    "where, a tensor": (
        lambda: masks.where(torch.zeros(2)),
        TypeError,
        "where(): rule must be a function of (b, h, q, kv), got Tensor",
    ),
    "dense, floats": (
        lambda: masks.dense(torch.zeros(2, 2)),
        TypeError,
        "mask must be boolean (True = may attend), got float32; pass a tensor to be added to the scores as bias=",
    ),
    "and a tensor": (
        lambda: masks.causal() & torch.zeros(2, 2, dtype=torch.bool),
        TypeError,
        "mask & other: other must be a regard Mask, got Tensor; wrap a boolean tensor in masks.dense(tensor)",
    ),
    "or a number": (lambda: masks.causal() | 1, TypeError, "mask | other: other must be a regard Mask, got int"),
    "to_dense(-1)": (lambda: masks.causal().to_dense(-1), ValueError, "query_len must be at least 0, got -1"),
    "to_dense(2, 2.5)": (lambda: masks.causal().to_dense(2, 2.5), TypeError, "key_len must be an integer, got float"),
}


@pytest.mark.parametrize("name", MASKS)
def test_error(name):
    make, error, message = MASKS[name]
    with pytest.raises(error, match="^" + re.escape(message)):
        make()
