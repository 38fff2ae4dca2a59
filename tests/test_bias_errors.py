"""What a bias of low rank cannot be, and what is said of it."""

from __future__ import annotations

import pytest
import torch
from tests.properties import assert_near, budget, largest
from tests.test_biases import OPEN, inputs, truth

import regard
from regard import biases, masks

ROWS, COLS = torch.zeros(24, 2), torch.zeros(40, 2)
MADE_WRONG = {
    "rows": (
        lambda: biases.low_rank([1.0], COLS),
        TypeError,
        r"low_rank\(rows\): rows must be a torch.Tensor, got list",
    ),
    "integers": (lambda: biases.low_rank(ROWS, COLS.int()), TypeError, r"cols must be floats, got int32; convert with"),
    "axes": (
        lambda: biases.low_rank(ROWS[0], COLS),
        ValueError,
        r"rows must have axes \(..., length, rank\), got \(2,\)",
    ),
    "rank": (lambda: biases.low_rank(ROWS, COLS[:, :1]), ValueError, r"one rank r \(last axis\), got 2 and 1"),
    "slopes": (lambda: biases.alibi(0.5), TypeError, r"a tensor \(H,\) or the number of heads, got float"),
    "no heads": (lambda: biases.alibi(0), ValueError, r"the number of heads must be at least 1, got 0"),
    "slope axes": (lambda: biases.alibi(torch.ones(2, 1)), ValueError, r"slopes must have shape \(H,\).*got \(2, 1\)"),
    "slope kind": (lambda: biases.alibi(torch.ones(2).int()), TypeError, r"slopes must be floats, got int32"),
    "length": (lambda: biases.low_rank(ROWS, COLS).to_dense(24, 41), ValueError, r"a length of 40, got 41"),
}


@pytest.mark.parametrize("name", MADE_WRONG)
def test_what_is_made_wrong_says_so(name):
    make, kind, match = MADE_WRONG[name]
    with pytest.raises(kind, match=match):
        make()


USED_WRONG = {
    "heads": (biases.alibi(8), {}, ValueError, r"one slope a query head, expected H=4, got 8"),
    "cap": (
        biases.alibi(4),
        {"softcap": 5.0},
        ValueError,
        r"the cap comes before the bias.*pass bias.to_dense\(24, 40\)",
    ),
    "rows": (biases.low_rank(ROWS[1:], COLS), {}, ValueError, r"rows must broadcast to \(..., H, L, r\) beside query"),
    "cols": (biases.low_rank(ROWS, COLS[1:]), {}, ValueError, r"cols must broadcast to \(..., Hkv, S, r\) beside key"),
    "group": (
        biases.low_rank(ROWS, COLS.expand(4, -1, -1)),
        {},
        ValueError,
        r"got \(4, 40, 2\); the heads of a group share a key, and so cols: let rows differ by query head, or pass",
    ),
    "dtype": (
        biases.low_rank(ROWS.half(), COLS),
        {},
        TypeError,
        r"rows must be float64 like query, or float32, got float16",
    ),
    "number": (0.5, {}, TypeError, r"bias must be a torch.Tensor, got float; one of low rank"),
}


@pytest.mark.parametrize("name", USED_WRONG)
def test_what_is_used_wrong_says_so(name):
    bias, options, kind, match = USED_WRONG[name]
    with pytest.raises(kind, match=match):
        regard.attention(*inputs("grouped"), masks.causal(), bias=bias, **options)


def test_another_device_is_named():
    q, k, v = inputs("heads")
    for bias in (biases.alibi(torch.ones(4, device="meta")), biases.low_rank(ROWS.to("meta"), COLS.to("meta"))):
        with pytest.raises(ValueError, match=r"query's device cpu, got meta; move"):
            regard.attention(q, k, v, masks.causal(), bias=bias)


def test_repr_says_what_it_is():
    assert repr(biases.alibi(8)) == "alibi(8)"
    assert repr(biases.alibi(torch.ones(3))) == "alibi(3 slopes)"
    assert repr(biases.low_rank(ROWS, COLS)) == "low_rank(rank 2: rows (24, 2), cols (40, 2))"


@pytest.mark.parametrize("name", OPEN)
def test_alibi_refuses_a_mask_that_looks_ahead(name):
    q, k, v = inputs("heads")
    with pytest.raises(
        ValueError, match=r"bias=alibi\(4\): mask must let no query read past its own position.*to_dense"
    ):
        regard.attention(q, k, v, OPEN[name], bias=biases.alibi(4))
    dense = biases.alibi(4).to_dense(24, 40).double()
    want = truth(q, k, v, OPEN[name], dense).output
    assert_near(
        "output", regard.attention(q, k, v, OPEN[name], bias=dense)[0], want, budget(torch.float64, largest(want))
    )


def test_alibi_refuses_a_mask_of_many_pieces_that_looks_ahead():
    q, k, v = inputs("heads")
    chequered = masks.where(lambda b, h, i, j: (i + j) % 2 == 0)
    for mask in (chequered, masks.causal(offset=17), chequered & masks.causal(offset=19)):
        with pytest.raises(ValueError, match="past its own position"):
            regard.attention(q, k, v, mask, bias=biases.alibi(4))
    regard.attention(q, k, v, chequered & masks.causal(), bias=biases.alibi(4))
