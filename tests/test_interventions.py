"""Who reads whom, decided by moving inputs and comparing bits: causality, padding, windows, unread keys, empty rows."""

from __future__ import annotations

import math

import pytest
import torch
from tests import intervention_properties, properties

import regard
from regard import masks

# Every way of running: the fused op, blocks of rows, the definition.
WAYS = {
    "plain": {},
    "bias": {"bias": torch.linspace(-1, 1, 9, dtype=torch.float64)[:, None]},
    "sinks": {"sinks": torch.tensor([0.5, -0.5], dtype=torch.float64)},
    "softcap": {"softcap": 4.0},
    "dropout": {"dropout": 0.4},
    "reference": {"impl": "reference"},
}
way = pytest.mark.parametrize("options", [pytest.param(o, id=name) for name, o in WAYS.items()])
# What perturbation can see whole: a dropped weight it cannot, and this bias has 9 rows.
plainly = pytest.mark.parametrize(
    "options", [pytest.param(WAYS[name], id=name) for name in ("plain", "sinks", "softcap", "reference")]
)


@pytest.mark.parametrize(("query_len", "key_len"), [(5, 5), (3, 8), (8, 3), (1, 6), (40, 45)])
@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_last_query_sees_every_key(query_len, key_len, impl):
    intervention_properties.last_query_sees_every_key(
        lambda *a, **o: regard.attention(*a, **o, impl=impl), query_len, key_len
    )


@pytest.mark.parametrize("key_len", [9, 12, 6, 50])
@way
def test_the_future_changes_nothing(key_len, options):
    intervention_properties.the_future_changes_nothing(regard.attention, 9, key_len, **options)


@pytest.mark.parametrize("query_len", [130, 600])
def test_the_future_changes_nothing_across_blocks(query_len):
    intervention_properties.the_future_changes_nothing(regard.attention, query_len, 700)


@way
def test_padding_changes_nothing(options):
    intervention_properties.padding_changes_nothing(regard.attention, torch.tensor([4, 0, 11]), 9, 11, **options)


@pytest.mark.parametrize(("n", "query_len", "key_len"), [(1, 6, 6), (3, 6, 6), (3, 4, 7), (2, 7, 4), (9, 5, 5)])
@plainly
def test_a_window_counts_the_query_itself(n, query_len, key_len, options):
    allowed = torch.zeros(query_len, key_len, dtype=torch.bool)
    for i in range(query_len):
        at = key_len - query_len + i
        allowed[i, max(0, at - n + 1) : max(0, at + 1)] = True
    intervention_properties.reads_exactly(regard.attention, masks.window(n), allowed, **options)


def test_a_boolean_tensor_means_may_attend():
    allowed = torch.tensor([[1, 0, 0, 1], [0, 1, 1, 0], [1, 1, 1, 1]]).bool()
    intervention_properties.reads_exactly(regard.attention, allowed, allowed)


def test_combined_masks_are_their_conjunction():
    mask = masks.causal() & masks.padding(torch.tensor([3]))
    allowed = torch.tensor([[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]]).bool()
    intervention_properties.reads_exactly(regard.attention, mask, allowed)


def test_without_a_mask_everything_is_read():
    intervention_properties.reads_exactly(regard.attention, None, torch.ones(4, 6, dtype=torch.bool))


def test_dropout_keeps_within_the_mask():
    found = intervention_properties.reads(regard.attention, masks.causal(), 12, 12, dropout=0.4)
    assert not (found & ~torch.ones(12, 12).tril().bool()).any()
    assert found.any()


@pytest.mark.parametrize("poison", [math.nan, math.inf, 1e38], ids=str)
@pytest.mark.parametrize(
    ("mask", "query_len", "key_len"),
    [
        (masks.padding(torch.tensor([4, 0])), 9, 7),
        (masks.causal() & masks.padding(torch.tensor([2, 7])), 9, 7),
        (masks.window(2), 9, 12),
        (masks.causal(offset=-2), 9, 9),
        (masks.prefix(3), 9, 7),
    ],
    ids=["padding", "causal & padding", "window, S > L", "causal from row 2", "prefix"],
)
@way
def test_unread_keys_leave_no_trace(mask, query_len, key_len, poison, options):
    intervention_properties.unread_keys_leave_no_trace(regard.attention, mask, query_len, key_len, poison, **options)


@pytest.mark.parametrize(
    ("mask", "query_len", "key_len"),
    [
        (masks.causal(), 9, 5),
        (masks.causal(offset=-1), 9, 9),
        (masks.window(2), 9, 4),
        (masks.padding(torch.tensor(0)), 9, 4),
        (torch.arange(9)[:, None] % 2 == torch.zeros(6, dtype=torch.long), 9, 6),
    ],
    ids=["causal, L > S", "causal from row 1", "window, L > S", "all padding", "every other row"],
)
@way
def test_empty_rows_follow_the_contract(mask, query_len, key_len, options):
    intervention_properties.empty_rows_follow_the_contract(regard.attention, mask, query_len, key_len, **options)


def test_a_bias_of_minus_infinity_makes_empty_rows_too():
    def biased(q, k, v, mask, **options):
        return regard.attention(
            q, k, v, bias=torch.zeros(mask.shape, dtype=q.dtype).masked_fill(~mask, -torch.inf), **options
        )

    allowed = torch.tensor([[1, 1, 0], [0, 0, 0], [1, 1, 1]]).bool()
    intervention_properties.empty_rows_follow_the_contract(biased, allowed, 3, 3)


@pytest.mark.parametrize("impl", ["auto", "reference"])
def test_a_sink_of_minus_infinity_is_no_sink(impl):
    # "auto" fails: the fused path gives NaN for an empty row, from -inf less -inf.
    q, k, v = properties.problem(1, 2, query_len=5, key_len=3)
    q.requires_grad_()
    sinks = torch.full((2,), -torch.inf, dtype=q.dtype)
    want, plain = regard.attention(q, k, v, masks.causal())  # rows 0 and 1 are empty
    got, weights = regard.attention(q, k, v, masks.causal(), sinks=sinks, impl=impl)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-14)
    torch.testing.assert_close(weights.lse, plain.lse, rtol=0, atol=1e-14)
    (gradient,) = torch.autograd.grad(got.sum(), q)
    assert torch.isfinite(gradient).all()


def by_lengths(part: slice) -> masks.Mask:
    return masks.padding(torch.tensor([9, 3, 5])[part])


def by_documents(part: slice) -> masks.Mask:
    return masks.causal() & masks.documents((torch.arange(9) // torch.tensor([[2], [3], [5]]))[part])


def by_tensor(part: slice) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(3, 2, 7, 9, generator=generator) > 0.5)[part]


@pytest.mark.parametrize(
    "mask", [lambda part: None, by_lengths, by_documents, by_tensor], ids=["none", "padding", "documents", "tensor"]
)
@pytest.mark.parametrize("options", [{}, {"softcap": 3.0}], ids=["plain", "softcap"])
def test_sequences_are_independent(mask, options):
    intervention_properties.sequences_are_independent(regard.attention, mask, **options)
