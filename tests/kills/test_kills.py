"""The suite can fail: a known bug, put in on purpose, is caught by the property that the suite calls on the real code.

Bugs with a number have shipped in a widely used library. The properties are the functions of tests/properties.py and
its neighbours, the same that the other tests call.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import pytest
import torch
from tests import dropout_properties, intervention_properties, operator_properties, properties
from tests.kills import wrong
from tests.properties import Attention
from tests.shapes import Shape
from tests.strategies import Case

import regard
from regard import masks
from regard.masks import Mask


def case(
    mask: Mask | None = None,
    *,
    query_len: int = 6,
    key_len: int = 9,
    heads: int = 4,
    kv_heads: int = 2,
    **options: object,
) -> Case:
    """Two sequences, grouped heads of width 8."""
    q, k, v = properties.problem(2, heads, query_len=query_len, key_len=key_len, kv_heads=kv_heads)
    allowed = None if mask is None else mask.to_dense(query_len, key_len)
    return Case(Shape((2,), heads, kv_heads, query_len, key_len, 8, 8), q, k, v, mask, allowed, options)


def half(size: float) -> Case:
    """bfloat16 with logits of this size squared."""
    full = case(query_len=64, key_len=64, kv_heads=4)
    q, k, v = ((size * t).bfloat16() for t in (full.query, full.key, full.value))
    return Case(full.shape, q, k, v)


EVERY_OTHER = torch.arange(9)[:, None] % 2 == torch.zeros(6, dtype=torch.long)
LOWER = torch.ones(6, 6).bool().tril()
PADDED = masks.causal() & masks.padding(torch.tensor([3]))
BIAS = torch.linspace(-3, 3, 9, dtype=torch.float64)


def by_tensor(part: slice) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return (torch.rand(3, 2, 7, 9, generator=generator) > 0.5)[part]


@dataclass(frozen=True)
class Kill:
    """A property, and the bug that it must catch."""

    holds: Callable[[Attention], None]
    bug: Callable[[pytest.MonkeyPatch], Attention]


def kill(
    bug: Callable[[pytest.MonkeyPatch], Attention], prop: Callable[..., None], *args: object, **options: object
) -> Kill:
    return Kill(lambda attention: partial(prop, attention)(*args, **options), bug)


p, m, o, d = properties, intervention_properties, operator_properties, dropout_properties
KILLS = {
    "1 causal from the top left": kill(wrong.causal_from_the_top_left, m.last_query_sees_every_key, 3, 8),
    "1 the same, L > S": kill(wrong.causal_from_the_top_left, m.last_query_sees_every_key, 8, 3),
    "2 NaN on empty rows": kill(wrong.nan_on_empty_rows, m.empty_rows_follow_the_contract, EVERY_OTHER, 9, 6),
    "3 NaN gradients behind a fine output": kill(
        wrong.nan_gradients_behind_a_fine_output, m.empty_rows_follow_the_contract, EVERY_OTHER, 9, 6
    ),
    "7 causal dropped with dropout": kill(
        wrong.causal_dropped_with_dropout, m.the_future_changes_nothing, 9, 12, dropout=0.4
    ),
    "8 mask ignored by one backend": kill(
        wrong.mask_ignored_by_one_backend, m.the_future_changes_nothing, 9, 12, softcap=4.0
    ),
    "10 padding ignored": kill(wrong.padding_ignored, m.padding_changes_nothing, torch.tensor([4, 11]), 9, 11),
    "11 causal off beside padding": kill(
        wrong.causal_off_beside_padding, m.reads_exactly, PADDED, LOWER & (torch.arange(6) < 3)
    ),
    "12 mask added as zeros and ones": kill(wrong.mask_added_as_zeros_and_ones, m.reads_exactly, LOWER, LOWER),
    "13 polarity inverted": kill(wrong.polarity_inverted, m.reads_exactly, LOWER, LOWER),
    "14 a finite fill in place of -inf": kill(
        wrong.finite_fill, m.padding_changes_nothing, torch.tensor([4, 11]), 9, 11
    ),
    "14 the same, empty rows": kill(wrong.finite_fill, m.empty_rows_follow_the_contract, EVERY_OTHER, 9, 6),
    "16 the mask of another sequence": kill(wrong.mask_of_another_sequence, m.sequences_are_independent, by_tensor),
    "17 scale of the whole width": kill(wrong.scale_of_the_whole_width, p.matches_the_definition, case()),
    "18 scale inverted": kill(wrong.scale_inverted, p.matches_the_definition, case()),
    "19 scale dropped": kill(wrong.scale_dropped, p.matches_the_definition, case(scale=2.0)),
    "21 softmax over the queries": kill(wrong.softmax_over_queries, p.rows_sum_to_one),
    "22 heads viewed without transpose": kill(
        wrong.heads_viewed_without_transpose, m.grouped_heads_are_interleaved, 4, 4
    ),
    "23 grouped heads tiled": kill(wrong.grouped_heads_tiled, m.grouped_heads_are_interleaved, 6, 2),
    "24 stride of the last axis ignored": kill(
        wrong.stride_of_the_last_axis_ignored, p.strides_do_not_matter, "every other", None
    ),
    "26 dropout never off": kill(wrong.dropout_never_off, d.dropout_of_zero_is_none),
    "28 dropout unscaled": kill(wrong.dropout_unscaled, d.dropout_scales_what_it_keeps),
    "28 dropout unscaled, the mean": kill(wrong.dropout_unscaled, d.dropout_is_unbiased),
    "28 dropout differs in the backward pass": kill(
        wrong.dropout_differs_in_the_backward_pass, d.dropout_gradient_is_that_of_the_forward_pass
    ),
    "29 window off by one": kill(
        wrong.window_off_by_one, m.reads_exactly, masks.window(3), LOWER & ~torch.ones(6, 6).bool().tril(-3)
    ),
    "34 NaN leaks from keys that nobody may read": kill(
        wrong.nan_leaks_from_keys_that_nobody_may_read,
        m.unread_keys_leave_no_trace,
        ~masks.prefix(3) & masks.prefix(9),
        9,
        7,
        math.nan,
    ),
    "34 infinity leaks": kill(
        wrong.nan_leaks_from_keys_that_nobody_may_read,
        m.unread_keys_leave_no_trace,
        ~masks.prefix(3) & masks.prefix(9),
        9,
        7,
        math.inf,
    ),
    "bias subtracted": kill(wrong.bias_subtracted, p.matches_the_definition, case(bias=BIAS)),
    "bias before the cap": kill(wrong.bias_before_the_cap, p.matches_the_definition, case(bias=BIAS, softcap=2.0)),
    "sinks forgotten": kill(wrong.sinks_forgotten, p.matches_the_definition, case(sinks=torch.zeros(4).double())),
    "query scaled in place": kill(wrong.query_scaled_in_place, p.matches_the_definition, case()),
    "lse of an empty row is 0": kill(
        wrong.lse_of_an_empty_row_is_zero, m.empty_rows_follow_the_contract, EVERY_OTHER, 9, 6
    ),
    "lse without gradient": kill(
        wrong.lse_without_gradient, p.gradients_match_the_definition, case(), through_lse=True
    ),
    "parts averaged, not merged": kill(
        wrong.parts_averaged, p.matches_the_definition, case(masks.causal(), query_len=40, key_len=50)
    ),
    "half precision throughout": kill(
        wrong.half_precision_throughout, p.half_precision_is_within_budget, half(2.0), gradients=8.0
    ),
    "received without lse": kill(wrong.received_without_lse, o.statistics_match_the_definition, case()),
    "cells of the pool shifted": kill(wrong.cells_of_the_pool_shifted, o.pool_matches_the_definition, case(), 3, 4),
}


@pytest.mark.parametrize("name", KILLS)
def test_the_property_holds(name):
    KILLS[name].holds(regard.attention)


@pytest.mark.parametrize("name", KILLS)
def test_the_property_catches_the_bug(name, monkeypatch):
    attention = KILLS[name].bug(monkeypatch)
    with pytest.raises(AssertionError):
        KILLS[name].holds(attention)


def test_every_bug_is_put_in():
    bugs = {found.bug for found in KILLS.values()}
    assert {bug.__name__ for bug in bugs} == {
        name for name in vars(wrong) if callable(vars(wrong)[name]) and vars(wrong)[name].__module__ == wrong.__name__
    } - {"Stored", "naive", "changed"}
