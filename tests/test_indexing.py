"""weights[index] does what indexing the dense tensor does: the same numbers, the same shape, or an error in both."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests import properties
from tests.strategies import examples

import regard
from regard import masks

LEADS = ((), (2,), (2, 3), (1, 4), (2, 2, 2))  # (L, S), (N, L, S), (B, H, L, S), ..., (B1, B2, H, L, S)


def weights_of(lead: tuple[int, ...]) -> tuple[regard.AttentionWeights, torch.Tensor]:
    """Weights (*lead, 5, 7) under a mask, and their dense matrix."""
    generator = torch.Generator().manual_seed(0)
    keys = (*lead[:-1], 2) if len(lead) > 1 and lead[-1] % 2 == 0 else lead  # grouped heads where they divide
    q = torch.randn(*lead, 5, 3, generator=generator, dtype=torch.float64)
    k, v = (torch.randn(*keys, 7, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    options = {"sinks": torch.zeros(lead[-1], dtype=torch.float64)} if len(lead) > 1 else {}
    definition = regard.attention(q, k, v, masks.causal(), **options, impl="reference")[1]
    weights = regard.attention(q, k, v, masks.causal(), **options)[1]
    identity = torch.eye(7, dtype=torch.float64)
    return weights, definition @ identity  # by products, which do not index


WEIGHTS = {lead: weights_of(lead) for lead in LEADS}


@st.composite
def items(draw: st.DrawFn, n: int) -> Any:
    """One item of an index for an axis of n, now and then out of range."""
    kind = draw(
        st.sampled_from(("int", "int", "slice", "slice", "all", "tensor", "list", "array", "bools", "none", "ellipsis"))
    )
    inside = st.integers(-n, n - 1)
    if kind == "int":
        return draw(st.one_of(inside, inside, inside, st.integers(-n - 2, n + 1)))
    if kind == "slice":
        end = st.one_of(st.none(), st.integers(-n - 2, n + 2))
        return slice(draw(end), draw(end), draw(st.one_of(st.none(), st.integers(1, 3))))
    if kind in ("tensor", "list", "array"):
        given_items = draw(st.lists(inside, min_size=1, max_size=3))
        if kind == "tensor":
            t = torch.tensor(given_items)
            return draw(st.sampled_from((t, t[0], t[:, None], t[:0])))
        return given_items if kind == "list" else np.array(given_items)
    if kind == "bools":
        return torch.tensor(draw(st.lists(st.booleans(), min_size=n, max_size=n)))
    return {"all": slice(None), "none": None, "ellipsis": ...}[kind]


@st.composite
def indices(draw: st.DrawFn) -> tuple[tuple[int, ...], Any]:
    lead = draw(st.sampled_from(LEADS))
    axes = (*lead, 5, 7)
    found, axis = [], 0
    for _ in range(draw(st.integers(0, len(axes) + 1))):
        item = draw(items(axes[min(axis, len(axes) - 1)]))
        if item is ... and any(i is ... for i in found):
            continue  # torch takes several, where regard, like numpy, refuses
        axis += item is not None and item is not ...
        found.append(item)
    return lead, found[0] if len(found) == 1 and draw(st.booleans()) else tuple(found)


@examples(400)
@given(indices())
def test_indexing_is_that_of_the_dense_tensor(lead_and_index):
    lead, index = lead_and_index
    weights, dense = WEIGHTS[lead]
    try:
        want = dense[index]
    except (IndexError, TypeError, ValueError):
        with pytest.raises((IndexError, TypeError, ValueError)):
            weights[index]
        return
    got = weights[index]
    assert got.shape == want.shape, f"{tuple(got.shape)}, expected {tuple(want.shape)}"
    torch.testing.assert_close(got, want, rtol=0, atol=1e-13)


@pytest.mark.parametrize("lead", LEADS, ids=str)
def test_booleans_over_several_axes(lead):
    weights, dense = WEIGHTS[lead]
    chosen = dense > 0.3
    assert chosen.any()
    torch.testing.assert_close(weights[chosen], dense[chosen], rtol=0, atol=1e-13)
    torch.testing.assert_close(
        weights[..., chosen[(0,) * len(lead)]], dense[..., chosen[(0,) * len(lead)]], rtol=0, atol=1e-13
    )


def test_a_negative_step_is_refused_as_on_a_tensor():
    weights, dense = WEIGHTS[(2, 3)]
    with pytest.raises(ValueError, match="step"):
        dense[..., ::-1]
    with pytest.raises(
        ValueError, match=r"weights\[index\]: a slice must have a positive step, got -1; flip the result instead"
    ):
        weights[..., ::-1]


def test_a_second_ellipsis_is_refused_as_by_numpy():
    weights, dense = WEIGHTS[(2, 3)]
    with pytest.raises(IndexError, match="ellipsis"):
        dense.numpy()[..., 0, ...]
    with pytest.raises(IndexError, match=r"weights\[index\]: an index can hold only one ellipsis"):
        weights[..., 0, ...]


def test_masked_entries_are_zero():
    weights, dense = WEIGHTS[(2, 3)]
    assert (weights[:, :, 0, 3:] == 0).all()
    assert (weights[0, 0, [0, 1], [3, 4]] == 0).all()
    assert (dense[:, :, 0, 3:] == 0).all()


def test_a_row_of_a_long_sequence_is_right():
    q, k, v = properties.problem(1, 2, query_len=3000, key_len=3000, width=4)
    row = regard.attention(q, k, v, masks.causal())[1][0, 1, 2000]
    want = torch.softmax(q[0, 1, 2000] @ k[0, 1, :2001].T / 2, -1)
    torch.testing.assert_close(row[:2001], want, rtol=0, atol=1e-13)
    assert not row[2001:].any()


def test_half_precision_entries_are_rounded_once():
    q, k, v = (t.bfloat16() for t in properties.problem(1, 1, query_len=4, key_len=5))
    row = regard.attention(q, k, v)[1][0, 0, 1]
    want = torch.softmax(q[0, 0, 1].double() @ k[0, 0].double().T / 8**0.5, -1)
    assert row.dtype == torch.bfloat16
    # eps / 2 of a weight of at most 1, and the 2^-14 that lse is good to.
    torch.testing.assert_close(row.double(), want, rtol=2**-8 + 2**-13, atol=0)
