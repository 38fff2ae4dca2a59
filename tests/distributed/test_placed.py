"""Positions of a text that is cut over ranks are those of the whole text, in either order."""

from __future__ import annotations

import pytest
from tests.distributed import asked, asked_layers

ORDERS = ("zigzag", "contiguous")


def assert_same(found: list[tuple[float, float]]) -> None:
    for output, gradients in found:
        assert output <= 1e-12
        assert gradients <= 1e-11  # sums over 64 tokens of squares


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", asked_layers.POSITIONS)
def test_a_layer_with_positions_is_the_layer_on_the_whole(crew, name, order):
    assert_same(crew(asked.on, 4, asked_layers.positioned, name, order))


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("name", ["sinusoidal", "learned"])
def test_positions_that_are_added_are_those_of_the_whole(crew, name, order):
    assert_same(crew(asked.on, 4, asked_layers.added, name, order))


@pytest.mark.parametrize("order", ORDERS)
def test_latent_attention_is_that_on_the_whole(crew, order):
    assert_same(crew(asked.on, 4, asked_layers.latent, order))
