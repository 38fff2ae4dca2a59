"""Attention over several processes is attention on one: output, gradients, weights, and what is refused."""

from __future__ import annotations

import itertools
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.distributed import asked
from tests.mask_strategies import masked
from tests.shapes import Shape
from tests.strategies import examples

WAYS = ("ring", "gather", "heads")
ORDERS = ("zigzag", "contiguous")
# What is asked of the whole: it is much more than rounding costs here, and much less than any fault.
BUDGET = {"float64": 1e-12, "float32": 1e-5}

# Each mask with each way, in one of the orders and with one of the further arguments, so that each pair of them is met.
CASES = [
    (name, way, ORDERS[(m + w) % 2], asked.GIVEN[(m + w + m // 4) % 4])
    for m, name in enumerate(asked.MASKS)
    for w, way in enumerate(WAYS)
]


@pytest.mark.parametrize("world", [1, 2, 4])
def test_output_and_gradients_are_those_of_one_process(crew, world):
    for name, way, order, more in CASES:
        for found in crew(asked.on, world, asked.errors, way, order, asked.MASKS[name], more)[:world]:
            for dtype, worst in found.items():
                assert worst <= BUDGET[dtype], (name, way, order, more, dtype, worst)


@given(st.data())
@examples(8)
def test_any_mask_of_the_algebra(crew, data):
    shape = Shape((asked.BATCH,), asked.HEADS, asked.KV_HEADS, asked.LENGTH, asked.LENGTH, asked.WIDTH, asked.WIDTH)
    mask, _ = data.draw(masked(shape))
    way, order = data.draw(st.sampled_from(WAYS)), data.draw(st.sampled_from(ORDERS))
    for found in crew(asked.on, 2, asked.errors, way, order, mask, {})[:2]:
        for dtype, worst in found.items():
            assert worst <= BUDGET[dtype]


@pytest.mark.parametrize("world", [2, 4])
def test_weights_answer_as_those_of_one_process(crew, world):
    for name, way, order, more in CASES[world % 4 // 2 :: 3]:
        if name == "dense":
            continue
        for found in crew(asked.on, world, asked.statistics, way, order, asked.MASKS[name], more)[:world]:
            for question, worst in found.items():
                assert worst <= 1e-12, (name, way, order, more, question, worst)


@pytest.mark.parametrize("order", ORDERS)
def test_a_layer_in_the_context_is_the_layer_on_the_whole(crew, order):
    for output, gradients in crew(asked.on, 4, asked.layer, order):
        assert output <= 1e-12
        assert gradients <= 1e-11  # sums over 64 tokens of squares


@pytest.mark.parametrize("way", WAYS)
def test_alibi_counts_from_the_whole_text(crew, way):
    assert max(crew(asked.on, 4, asked.alibi, way)) <= 1e-12


SAID = {
    "shape": r"ValueError: key must have the same shape and dtype on every rank, got \(2, 4, 8, 16\) float32 on rank "
    r"0, .*\(2, 4, 4, 16\) float32 on rank 3; every rank holds an equal share",
    "dtype": r"ValueError: query must have the same shape and dtype on every rank, .* float64 on rank 3",
    "mask": r"ValueError: mask, scale, softcap, sinks, strategy, order and gradients must be the same on every rank, "
    r"got others on rank 3 than on rank 0; this rank has mask=",
    "dropout": r"ValueError: dropout must be 0 with context_parallel, got 0.1: .*; call .eval\(\)",
    "bias": r"TypeError: bias must be of low rank, from regard.biases, with context_parallel, got Tensor",
    "impl": r'ValueError: impl must be "auto" with context_parallel, got \'reference\'',
    "length": r"ValueError: length: a text in zigzag order over 4 ranks is cut into 8 equal pieces, got a length of "
    r"12; the nearest that fits is 8 or 16: pad it",
    "shard": r"ValueError: length: a text in zigzag order .* got a length of 30; the nearest that fits is 24 or 32",
    "rows": r"IndexError: rows\(queries\): positions must lie in 0 .. L - 1 = 31, got \[40\]",
    "diagonal": r"ValueError: weights.ask\(\): 'diagonal' is not answered by weights that are cut over ranks",
    "between": r"RuntimeError: mask was written to between attention\(\) and its backward pass; pass mask.clone\(\)",
    "key": r"RuntimeError: key was written to after attention\(\) returned these weights",
}


@pytest.mark.parametrize("what", SAID)
def test_bad_input_is_refused_on_every_process(crew, what):
    for found in crew(asked.on, 4, asked.raised, what):
        assert_matches(found, SAID[what])


def test_what_one_process_refuses_the_others_refuse_too(crew):
    found = crew(asked.on, 4, asked.raised, "refused")
    assert_matches(found[3], r"ValueError: scale must be .*nan")
    for other in found[:3]:
        assert_matches(other, r"ValueError: rank 3 refused its arguments; its own error says why")


def test_heads_that_do_not_divide_are_refused(crew):
    for found in crew(asked.on, 4, asked.heads_that_do_not_divide):
        assert_matches(
            found, r"strategy='heads' gives each of 4 ranks an equal number of heads, got 6 heads of query; use"
        )


def assert_matches(text: str, pattern: str) -> None:
    assert re.match(pattern, text), text


def test_every_pair_of_way_and_further_argument_is_met():
    met = {(way, str(more)) for _, way, _, more in CASES}
    assert met == {(way, str(more)) for way, more in itertools.product(WAYS, asked.GIVEN)}


def test_without_a_process_group_the_error_says_what_to_do():
    from regard.distributed import context_parallel

    with pytest.raises(ValueError, match=r"needs a process group: start the script with torchrun"):
        context_parallel()
    assert not torch.distributed.is_initialized()
