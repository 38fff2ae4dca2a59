"""ALiBi as positions of a layer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import regard
from regard import masks
from regard.positions import ALiBi

SIZES = {"device": torch.device("cpu"), "dtype": torch.float32}

# The paper's: 2^(-8 h / H) for a power of two; for 6 heads those of 4, and every other of those of 8.
SLOPES = {
    1: [2.0**-8],
    2: [2.0**-4, 2.0**-8],
    4: [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8],
    6: [2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8, 2.0**-1, 2.0**-3],
    8: [2.0**-h for h in range(1, 9)],
}


@pytest.mark.parametrize("heads", SLOPES)
def test_slopes_by_hand(heads):
    dense = ALiBi(heads).bias(1, 2, num_heads=heads, **SIZES).to_dense(1, 2)
    assert dense[:, 0, 0].tolist() == [-slope for slope in SLOPES[heads]]
    assert dense[:, 0, 1].tolist() == [0.0] * heads


def test_slopes_of_transformers():
    pytest.importorskip("transformers")
    from transformers.models.bloom.modeling_bloom import build_alibi_tensor

    for heads in (2, 8, 12):
        theirs = build_alibi_tensor(torch.ones(1, 30), heads, torch.float32).view(heads, 1, 30)
        ours = ALiBi(heads).bias(1, 30, num_heads=heads, **SIZES).to_dense(1, 30)
        # Theirs counts from the first key, which the softmax does not see.
        torch.testing.assert_close(ours - ours[..., :1], theirs)


def test_in_attention_and_past_any_length():
    q, k, v = torch.randn(3, 1, 2, 40, 8).unbind()
    bias = ALiBi(2).bias(40, 40, num_heads=2, **SIZES)
    out, _ = regard.attention(q, k, v, masks.causal(), bias=bias)
    i, j = torch.arange(40)[:, None], torch.arange(40)
    scores = q.double() @ k.double().mT / math.sqrt(8) - torch.tensor(SLOPES[2])[:, None, None] * (i - j)
    want = torch.softmax(scores.masked_fill(j > i, -math.inf), dim=-1) @ v.double()
    torch.testing.assert_close(out.double(), want, rtol=0, atol=1e-5)


def test_slopes_that_are_given():
    fixed, learned = torch.tensor([0.5, 0.25]), nn.Parameter(torch.tensor([0.5, 0.25]))
    assert [name for name, _ in ALiBi(fixed).named_buffers()] == ["slopes"]
    module = ALiBi(learned)
    assert [name for name, _ in module.named_parameters()] == ["slopes"]
    assert ALiBi(2).state_dict() == {}
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    out, _ = regard.attention(q, k, v, masks.causal(), bias=module.bias(5, 5, num_heads=2, **SIZES))
    out.sum().backward()
    assert learned.grad is not None
    assert learned.grad.abs().min() > 0


def test_plot():
    pytest.importorskip("matplotlib")
    (axes,) = ALiBi(4).plot().axes
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("key's position less query's", "bias")
    assert [line.get_data()[1][0] for line in axes.lines] == [-128 * slope for slope in SLOPES[4]]


def test_repr():
    assert repr(ALiBi(4)) == "ALiBi(4)"
    assert repr(ALiBi(torch.ones(3))) == "ALiBi(3 slopes)"


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"alibi\(slopes\): the number of heads must be at least 1, got 0"):
        ALiBi(0)
    with pytest.raises(TypeError, match=r"alibi\(slopes\): slopes must be floats, got int64"):
        ALiBi(torch.ones(2).long())
    with pytest.raises(ValueError, match=r"alibi\(slopes\): slopes must have shape \(H,\)"):
        ALiBi(torch.ones(2, 2))
    message = r"positions=ALiBi\(4\): one slope a query head, expected num_heads=8, got 4"
    with pytest.raises(ValueError, match=message):
        ALiBi(4).check_layer(num_heads=8, num_kv_heads=4, head_dim=4)
    with pytest.raises(ValueError, match=message):
        ALiBi(4).bias(2, 2, num_heads=8, **SIZES)
