"""What a kernel's author would try: odd shapes, half precision, NaN, gradients of some, second derivatives, groups."""

from __future__ import annotations

import pytest
import torch
from tests.distributed import asked, asked_extremes
from tests.distributed.test_parallel import WAYS, assert_matches

ROUNDING = 1e-12  # float64


def assert_small(found: list[dict[str, float]]) -> None:
    for each in found:
        for name, worst in each.items():
            assert worst <= ROUNDING, (name, worst)


@pytest.mark.parametrize("way", WAYS)
def test_queries_and_keys_of_different_lengths(crew, way):
    assert_small(crew(asked.on, 4, asked_extremes.lengths, way))


@pytest.mark.parametrize("way", WAYS)
def test_batch_axes_heads_and_none_of_them(crew, way):
    assert_small(crew(asked.on, 4, asked_extremes.axes, way))


@pytest.mark.parametrize("way", WAYS)
def test_no_queries_no_keys_no_sequences(crew, way):
    for rows, batch, entropy, output, lse in crew(asked.on, 4, asked_extremes.none_at_all, way):
        assert rows == (1, 4, 0, 8)
        assert batch == (0, 4, 8, 8)
        assert (entropy, output, lse) == (0, 0, -torch.inf)


@pytest.mark.parametrize("size", [1, 3000])  # one key head a message, and two
@pytest.mark.parametrize("way", ["ring", "gather"])
def test_heads_that_go_out_in_groups_have_their_own_masks(crew, way, size):
    assert_small(crew(asked.on, 4, asked_extremes.groups, way, size))


@pytest.mark.parametrize("way", WAYS)
def test_nothing_leaks_from_what_nobody_may_read(crew, way):
    assert_small(crew(asked.on, 4, asked_extremes.nothing_leaks, way))


@pytest.mark.parametrize("order", ["zigzag", "contiguous"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("way", ["ring", "gather"])
def test_half_precision_is_rounded_once(crew, way, dtype, order):
    for found in crew(asked.on, 4, asked_extremes.half, way, dtype, order):
        # The contract is 2; what is summed in float32 and rounded at the end is 1 but for the last place.
        assert max(found.values()) <= 1.1, found


@pytest.mark.parametrize("way", WAYS)
def test_autocast_rounds_nothing(crew, way):
    for found in crew(asked.on, 4, asked_extremes.autocast, way):
        assert found.pop("mixed") == "torch.bfloat16"
        assert max(found.values()) <= 2e-6, found  # float32 sums of 32; bfloat16 would be 1e-2


@pytest.mark.parametrize("way", WAYS)
def test_gradients_of_one_and_of_none(crew, way):
    for found in crew(asked.on, 4, asked_extremes.gradients, way):
        assert found[:3] == [[True, False, False], [False, True, False], [False, False, True]]
        assert found[3:] == [False, False, 64.0]  # 4 heads of 16 rows


def test_gradients_on_some_processes_are_refused_on_all(crew):
    # The others would not come to the backward pass, and the first would wait for them.
    for found in crew(asked.on, 4, asked_extremes.gradients_on_one):
        assert_matches(found, r"ValueError: mask, .* order and gradients must be the same on every rank, got others on")
        assert "gradients=" in found


def test_any_error_of_one_process_ends_the_call_on_all(crew):
    found = crew(asked.on, 4, asked_extremes.unheard_of)
    assert found[0] == "OSError: the ids are on a disk that is not there"
    assert found[1:] == ["ValueError: rank 0 refused its arguments; its own error says why"] * 3


@pytest.mark.parametrize("way", WAYS)
def test_a_second_derivative_is_refused(crew, way):
    for found in crew(asked.on, 4, asked_extremes.twice, way):
        for said in found:
            assert_matches(said, r"(attention over ranks|regard.attention\(\)) has first derivatives only")


@pytest.mark.parametrize("way", WAYS)
def test_a_group_of_any_ranks(crew, way):
    assert max(crew(asked_extremes.odd_ranks, way)) <= ROUNDING


def test_two_ways_alternate(crew):
    for found in crew(asked.on, 4, asked_extremes.two_at_once):
        assert max(found) <= ROUNDING
