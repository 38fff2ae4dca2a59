from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from regard import SelfAttention, masks, reference


def test_numbers_of_the_exercise():
    torch.manual_seed(40)
    x = torch.ones(20, 5, 32)
    output = SelfAttention(32, 512, 64)(x)
    first = "-0.0166 -0.4199 -0.5860 0.3721 0.5411 0.4073 0.8418 0.2554 -0.2712 0.6178 -0.0495 -0.0552"
    assert " ".join(f"{number:.4f}" for number in output[-1, 1, :12].tolist()) == first
    assert " ".join(f"{number:.4f}" for number in output[-1, 1, 12:15].tolist()) == "0.6988 -0.3643 0.7696"
    assert output.shape == (20, 5, 64)


def test_by_hand():
    layer = SelfAttention(1)
    with torch.no_grad():
        for linear, weight, bias in ((layer.Wq, 1.0, 0.0), (layer.Wk, 1.0, 1.0), (layer.Wv, 2.0, 0.5)):
            linear.weight.fill_(weight)
            linear.bias.fill_(bias)
    # q = (0, 1), k = (1, 2), v = (0.5, 2.5): row 0 is even, row 1 has the scores 1 and 2.
    output, weights = layer(torch.tensor([[0.0], [1.0]]), need_weights=True)
    larger = 1 / (1 + math.exp(-1))
    torch.testing.assert_close(weights.to_dense(), torch.tensor([[0.5, 0.5], [1 - larger, larger]]))
    torch.testing.assert_close(output, torch.tensor([[1.5], [0.5 + 2 * larger]]))


def by_definition(layer: SelfAttention, x: Tensor, mask: Tensor | None = None) -> reference.Definition:
    """The layer in float64, from its parameters alone."""
    x = x.double()
    q, k, v = (
        x @ w.weight.double().T + (0 if w.bias is None else w.bias.double()) for w in (layer.Wq, layer.Wk, layer.Wv)
    )
    return reference.attention(q, k, v, mask)


@settings(max_examples=40)
@given(
    lead=st.sampled_from([(), (1,), (3,), (2, 3)]),
    length=st.integers(1, 9),
    widths=st.tuples(st.integers(1, 7), st.none() | st.integers(1, 7), st.none() | st.integers(1, 7)),
    bias=st.booleans(),
    causal=st.booleans(),
)
def test_against_the_definition_in_float64(
    lead: tuple[int, ...], length: int, widths: tuple[int, int | None, int | None], bias: bool, causal: bool
):
    torch.manual_seed(0)
    d_in, d_k, d_v = widths
    layer = SelfAttention(d_in, d_k, d_v, bias=bias)
    x = torch.randn(*lead, length, d_in)
    output, weights = layer(x, mask=masks.causal() if causal else None, need_weights=True)
    wanted = by_definition(layer, x, torch.ones(length, length).tril().bool() if causal else None)
    assert output.shape == (*lead, length, d_v or d_k or d_in)
    assert weights.shape == (*lead, length, length)
    # Sums of at most 9 terms of order 1, in float32.
    torch.testing.assert_close(output.double(), wanted.output, rtol=2e-5, atol=2e-6)
    torch.testing.assert_close(weights.to_dense().double(), wanted.weights, rtol=2e-5, atol=2e-6)


def test_gradients_against_the_definition_in_float64():
    layer, x = SelfAttention(6, 4, 3).double(), torch.randn(2, 5, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, *layer.parameters())
    seed = torch.randn(2, 5, 3, dtype=torch.float64)
    got = torch.autograd.grad(layer(x), inputs, seed)
    for a, b in zip(got, torch.autograd.grad(by_definition(layer, x).output, inputs, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-13)


@settings(max_examples=20)
@given(order=st.permutations(range(6)))
def test_permuting_the_positions_permutes_the_output(order: list[int]):
    torch.manual_seed(0)
    layer, x = SelfAttention(8, 16, 4), torch.randn(3, 6, 8)
    torch.testing.assert_close(layer(x[:, order]), layer(x)[:, order], rtol=0, atol=1e-6)
    if order != sorted(order):
        assert (layer(x)[:, order] - layer(x)).abs().max() > 1e-3  # so that the line above can fail


@pytest.mark.parametrize("mask", [masks.causal(), torch.ones(6, 6).tril().bool()], ids=["causal()", "tensor"])
def test_what_comes_later_does_not_matter_to_the_bit(mask: object):
    layer, x = SelfAttention(8), torch.randn(2, 6, 8)
    changed = x.clone()
    changed[:, 4:] = 1e3 * torch.randn(2, 2, 8)
    before, after = layer(x, mask=mask), layer(changed, mask=mask)
    assert torch.equal(before[:, :4], after[:, :4])
    assert (before[:, 4:] != after[:, 4:]).any(-1).all()


def test_padding_may_hold_nan():
    layer, x = SelfAttention(8), torch.randn(2, 6, 8)
    mask = masks.padding(torch.tensor([6, 4]))
    padded = x.clone()
    padded[1, 4:] = torch.nan
    torch.testing.assert_close(layer(padded, mask=mask)[1, :4], layer(x[1, :4]), rtol=0, atol=1e-6)
    assert torch.equal(layer(padded, mask=mask)[0], layer(x, mask=mask)[0])


def test_a_position_that_may_read_nothing_has_output_0_and_finite_gradients():
    layer, x = SelfAttention(8), torch.randn(2, 6, 8, requires_grad=True)
    mask = torch.ones(6, 6, dtype=torch.bool)
    mask[2] = False
    output, weights = layer(x, mask=mask, need_weights=True)
    assert not output[:, 2].any()
    assert not weights[:, 2].any()
    output.sum().backward()
    assert all(t.grad.isfinite().all() for t in (x, *layer.parameters()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_asking_for_the_weights_does_not_change_a_bit(dtype: torch.dtype):
    layer, x = SelfAttention(8, 5, 7).to(dtype), torch.randn(2, 6, 8, dtype=dtype)
    for mask in (None, masks.causal(), torch.rand(6, 6) < 0.7):
        assert torch.equal(layer(x, mask=mask, need_weights=True)[0], layer(x, mask=mask))


def test_dropout_in_training_only():
    layer, x = SelfAttention(8, dropout=0.5), torch.randn(2, 6, 8)
    plain = SelfAttention(8)
    plain.load_state_dict(layer.state_dict())
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), plain(x))
    assert not torch.equal(layer.train()(x), plain(x))
    mean = torch.stack([layer(x) for _ in range(400)]).mean(0)
    # 400 draws of deviation about 0.3: 0.02. Without rescaling the mean is half of what it should be.
    assert (mean - plain(x)).abs().max() < 0.1 < plain(x).abs().max() / 3


def test_without_bias_there_is_none():
    assert sorted(SelfAttention(4, bias=False).state_dict()) == ["Wk.weight", "Wq.weight", "Wv.weight"]


def test_repr():
    assert "dropout=0.1\n" in repr(SelfAttention(4, dropout=0.1))
    assert "(Wv): Projection(in_features=4, out_features=3, bias=True)" in repr(SelfAttention(4, 2, 3))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"d_in": 0}, ValueError, "d_in must be at least 1, got 0"),
        ({"d_k": -2}, ValueError, "d_k must be at least 1, got -2"),
        ({"d_v": 0.5}, TypeError, "d_v must be an integer, got float"),
        ({"dropout": -0.1}, ValueError, r"dropout must be in \[0, 1\], got -0.1"),
    ],
)
def test_bad_arguments(arguments: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        SelfAttention(**{"d_in": 4, **arguments})


@pytest.mark.parametrize(
    ("x", "mask", "error", "message"),
    [
        (torch.zeros(2, 3, 5), None, ValueError, r"x must have the width d_in=4 in its last axis, got \(2, 3, 5\)"),
        (torch.zeros(2, 4, 3), None, ValueError, r"got \(2, 4, 3\); the width comes last, after batch and length"),
        (torch.zeros(4), None, ValueError, r"x must have at least 2 axes \(..., length, d_in\), got shape \(4,\)"),
        (
            torch.zeros(3, 4).double(),
            None,
            TypeError,
            r"the layer's dtype float32, got float64; .*layer.to\(torch.float64\)",
        ),
        ([[1.0]], None, TypeError, "x must be a torch.Tensor, got list"),
        (
            torch.zeros(3, 4),
            torch.zeros(3, 3),
            TypeError,
            "mask must be boolean .* pass a tensor to be added .* as bias=",
        ),
        (
            torch.zeros(3, 4),
            torch.ones(3, 2).bool(),
            ValueError,
            r"mask .* must broadcast to \(N, L, S\) = \(3, 3\), got \(3, 2\)",
        ),
    ],
)
def test_bad_input(x: object, mask: Tensor | None, error: type, message: str):
    with pytest.raises(error, match=message):
        SelfAttention(4)(x, mask=mask)
