from __future__ import annotations

import math

import pytest
import torch

from regard.models.feed_forward import ACTIVATIONS, GatedFeedForward, feed_forward


@torch.no_grad()
def test_one_number_by_hand():
    part = GatedFeedForward(1, 1)
    part.gate_up.weight.copy_(torch.tensor([[2.0], [3.0]]))
    part.down.weight.fill_(5.0)
    # x = 1: silu(2) * 3 * 5
    assert part(torch.ones(1, 1)).item() == pytest.approx(15 * 2 / (1 + math.exp(-2)), rel=1e-6)


FORMULAS = {
    "silu": lambda x: x / (1 + (-x).exp()),
    "gelu": lambda x: x * (1 + torch.special.erf(x / math.sqrt(2))) / 2,
    "gelu_tanh": lambda x: x * (1 + (math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)).tanh()) / 2,
    "relu": lambda x: x.clamp(min=0),
}


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_formula_in_float64(activation: str, gated: bool):
    part = feed_forward(6, 10, activation=activation, gated=gated, bias=True, dtype=torch.float64)
    x = torch.randn(2, 3, 6, dtype=torch.float64)
    if gated:
        gate, up = (x @ part.gate_up.weight.mT + part.gate_up.bias).split(10, -1)
        hidden, down = FORMULAS[activation](gate) * up, part.down
    else:
        hidden, down = FORMULAS[activation](x @ part[0].weight.mT + part[0].bias), part[2]
    # Sums of 10 products of numbers below 10, in float64.
    torch.testing.assert_close(part(x), hidden @ down.weight.mT + down.bias, rtol=1e-13, atol=1e-13)


@torch.no_grad()
@pytest.mark.parametrize("gated", [False, True])
def test_each_position_is_looked_at_alone(gated: bool):
    part = feed_forward(6, 10, activation="silu", gated=gated, bias=False)
    x = torch.randn(1, 4, 6)
    changed = x.clone()
    changed[0, 2] += 1
    same = (part(x) == part(changed)).all(-1)[0]
    assert same.tolist() == [True, True, False, True]
