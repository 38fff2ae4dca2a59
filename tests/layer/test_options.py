"""What a layer is made with beside its sizes, against the definition in float64."""

from __future__ import annotations

import math

import pytest
import torch
from tests.layer.definition import definition, drawn
from torch import nn

import regard
from regard import MultiHeadAttention, QKNorm, masks
from regard.positions import ALiBi, LearnedPositions, Positions, RelativeBias, Rotary
from regard.qk_norm import HeadwiseLayerNorm, OffsetRMSNorm

D = torch.float64
# Some hundred roundings of float64, of numbers of order 10.
EXACT = {"rtol": 1e-11, "atol": 1e-12}


def rms(heads: int, **options: str) -> QKNorm:
    return QKNorm(nn.RMSNorm(4 * heads, 1e-6, dtype=D), nn.RMSNorm(4 * (heads // 2 or 1), 1e-6, dtype=D), **options)


OPTIONS = {
    "mask": lambda: {"mask": masks.causal()},
    "window": lambda: {"mask": masks.causal() & masks.window(3)},
    "scale": lambda: {"scale": 0.7},
    "softcap": lambda: {"softcap": 1.5},
    "sinks": lambda: {"sinks": True},
    "gate elementwise": lambda: {"gate": "elementwise"},
    "gate headwise": lambda: {"gate": "headwise"},
    "no bias": lambda: {"bias": False, "gate": "headwise"},
    "bias of q and v": lambda: {"bias": {"q", "v"}},
    "bias of k and out": lambda: {"bias": ["k", "out"], "sinks": True},  # without sinks, that of k changes nothing
    "bias of the gate": lambda: {"bias": ("gate",), "gate": "headwise"},
    "rotary": lambda: {"positions": Rotary(4)},
    "alibi": lambda: {"positions": ALiBi(4), "mask": masks.causal()},
    "rms": lambda: {"norm": rms(1)},
    "layer norm": lambda: {"norm": QKNorm.layer(4, dtype=D)},
    "norm before rotary": lambda: {"norm": rms(1), "positions": Rotary(4)},
    "norm after rotary": lambda: {"norm": rms(1, when="after"), "positions": Rotary(4)},
    "norm over all": lambda: {"norm": rms(4, over="all"), "positions": Rotary(4)},
    "everything": lambda: {
        "mask": masks.causal() & masks.window(4),
        "positions": Rotary(4, base=100.0),
        "norm": QKNorm.rms(4, dtype=D),
        "scale": 0.4,
        "softcap": 3.0,
        "sinks": True,
        "gate": "elementwise",
        "bias": {"q", "v", "gate"},
    },
}


def made(name: str, **more: object) -> MultiHeadAttention:
    return drawn(MultiHeadAttention(12, 4, num_kv_heads=2, d_k=16, d_v=24, dtype=D, **{**OPTIONS[name](), **more}))


def dense(layer: MultiHeadAttention, length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool) if layer.mask is None else layer.mask.to_dense(length)


@pytest.mark.parametrize("name", OPTIONS)
def test_forward_and_gradients_against_the_definition(name: str):
    layer = made(name)
    x = torch.randn(2, 7, 12, dtype=D, generator=torch.Generator().manual_seed(1), requires_grad=True)
    inputs, seed = (x, *layer.parameters()), torch.randn(2, 7, 12, dtype=D)
    output, wanted = layer(x), definition(layer, x, dense(layer, 7))
    torch.testing.assert_close(output, wanted, **EXACT)
    got = torch.autograd.grad(output, inputs, seed)
    for a, b in zip(got, torch.autograd.grad(wanted, inputs, seed), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-10)  # sums of a few hundred products of order 10


@pytest.mark.parametrize("name", OPTIONS)
def test_each_option_changes_the_output(name: str):
    # Or the test above would compare two layers that both forgot it.
    layer = made(name)
    plain = MultiHeadAttention(12, 4, num_kv_heads=2, d_k=16, d_v=24, dtype=D)
    shared = {k: v for k, v in layer.state_dict().items() if k in plain.state_dict()}
    plain.load_state_dict({k: v for k, v in shared.items() if v.shape == plain.state_dict()[k].shape}, strict=False)
    x = torch.randn(2, 7, 12, dtype=D)
    assert (layer(x) - plain(x)).abs().max() > 1e-3


@pytest.mark.parametrize("name", ["rotary", "everything", "norm over all", "norm after rotary", "bias of q and v"])
def test_a_context_against_the_definition(name: str):
    layer, x, context = made(name, mask=None), torch.randn(2, 3, 12, dtype=D), torch.randn(2, 7, 12, dtype=D)
    everything = torch.ones(3, 7, dtype=torch.bool)
    for first in (4, 0, 9):
        offset = None if layer.positions is None else first
        torch.testing.assert_close(
            layer(x, context, offset=offset), definition(layer, x, everything, context, first), **EXACT
        )


def test_separate_projections_with_some_biases():
    layer = drawn(MultiHeadAttention(12, 4, d_context=6, bias={"k", "v"}, sinks=True, gate="headwise", dtype=D))
    assert [n for n, _ in layer.named_parameters() if n.endswith("bias")] == ["k_proj.bias", "v_proj.bias"]
    x, context = torch.randn(2, 3, 12, dtype=D), torch.randn(2, 5, 6, dtype=D)
    everything = torch.ones(3, 5, dtype=torch.bool)
    torch.testing.assert_close(layer(x, context), definition(layer, x, everything, context), **EXACT)


def test_by_hand():
    # One head, weights of 1: scores of x = (1, 0) are its values; a sink of log 2 counts as two keys of score 0.
    layer = MultiHeadAttention(1, 1, bias=False, sinks=True, gate="headwise", scale=1.0, mask=masks.causal())
    with torch.no_grad():
        for weight in (layer.in_proj.weight, layer.out_proj.weight):
            weight.fill_(1)
        layer.gate_proj.weight.fill_(math.log(3))
        layer.sinks.fill_(math.log(2))
    out = layer(torch.tensor([[1.0], [0.0]]))
    first = math.e / (math.e + 2) * 0.75  # sigmoid(log 3) = 3/4
    second = 1 / 4 * 0.5  # two keys and a sink of two, all of score 0; values 1 and 0; sigmoid(0) = 1/2
    torch.testing.assert_close(out, torch.tensor([[first], [second]]))


def test_a_mask_of_a_call_narrows_that_of_the_layer():
    layer, x = made("window"), torch.randn(2, 7, 12, dtype=D)
    keys = torch.tensor([True, True, False, True, True, True, True])
    every, own = layer.mask.to_dense(7), torch.rand(7, 7, generator=torch.Generator().manual_seed(0)) < 0.7
    own |= torch.eye(7, dtype=torch.bool)  # a row that reads nothing is 0 / 0 in the definition
    torch.testing.assert_close(layer(x, mask=own), definition(layer, x, every & own), **EXACT)
    got = layer(x, mask=masks.padding(keys), need_weights=True)[1].to_dense() > 0
    assert torch.equal(got, (every & keys).expand(2, 4, 7, 7))


def test_positions_depend_on_distance_alone():
    layer, x = made("rotary"), torch.randn(2, 7, 12, dtype=D)
    far = layer(x, offset=torch.tensor([1000, 3]))
    torch.testing.assert_close(far, layer(x), rtol=0, atol=1e-9)  # 1000 radians are known to 1e-13
    torch.testing.assert_close(layer(x[0], offset=5), layer(x)[0], rtol=0, atol=1e-11)
    layer = made("rotary", mask=masks.causal())
    assert torch.equal(layer(x)[:, :4], layer(x, mask=masks.padding(torch.tensor([4, 7])))[:, :4])


def test_grouped_norms_of_gemma_and_cohere():
    x = torch.randn(3, 2, 5, 4, dtype=D)
    gemma, cohere = OffsetRMSNorm(4, 0.1, dtype=D), HeadwiseLayerNorm(2, 4, 0.1, dtype=D)
    with torch.no_grad():
        gemma.weight.copy_(torch.arange(4))
        cohere.weight.copy_(torch.arange(8).view(2, 4))
    wanted = x / (x.square().mean(-1, keepdim=True) + 0.1).sqrt() * torch.tensor([1, 2, 3, 4])
    torch.testing.assert_close(gemma(x), wanted, **EXACT)
    centred = x - x.mean(-1, keepdim=True)
    for head in range(2):
        one = centred[:, head] / (centred[:, head].square().mean(-1, keepdim=True) + 0.1).sqrt()
        torch.testing.assert_close(cohere(x)[:, head], one * cohere.weight[head], **EXACT)
    layer = MultiHeadAttention(8, 2, norm=QKNorm(cohere, OffsetRMSNorm(4, dtype=D)), dtype=D)
    assert layer(torch.randn(2, 3, 8, dtype=D)).isfinite().all()


def test_half_precision_is_normed_in_float32():
    x = torch.full((1, 4), 300.0, dtype=torch.float16)  # its square is past the largest float16
    assert torch.equal(OffsetRMSNorm(4, dtype=torch.float16)(x), torch.ones_like(x))
    assert HeadwiseLayerNorm(1, 4, dtype=torch.float16)(x[None]).isfinite().all()


BAD = [
    ({"bias": "q"}, TypeError, r"bias must be True, False or a collection of names, got str; .* bias=\{\"q\"\}"),
    ({"bias": 1}, TypeError, "bias must be True, False or a collection of names, got int"),
    ({"bias": {"qkv"}}, ValueError, r"bias: the projections are 'q', 'k', 'v', 'out', 'gate', got 'qkv'"),
    ({"bias": {"gate"}}, ValueError, "bias names 'gate', and the layer has none: gate=None"),
    ({"mask": torch.ones(3, 3).bool()}, TypeError, r"mask of a layer must be .*, got Tensor; .*masks.dense\(tensor\)"),
    ({"mask": True}, TypeError, r"mask of a layer must be a regard.masks.Mask or None, got bool"),
    ({"positions": 4}, TypeError, r"positions must be one of regard.positions, such as Rotary\(head_dim\), got int"),
    (
        {"positions": LearnedPositions(5, 8)},
        TypeError,
        "got LearnedPositions; what is added to embeddings is added before the layer",
    ),
    ({"positions": Rotary(6)}, ValueError, "dim"),
    ({"positions": ALiBi(3)}, ValueError, "one slope a query head, expected num_heads=4, got 3"),
    ({"norm": nn.RMSNorm(2)}, TypeError, r"norm must be a regard.QKNorm, got RMSNorm; .*QKNorm.rms\(head_dim\)"),
    (
        {"norm": QKNorm.rms(8)},
        ValueError,
        r"norm: q must be made for the width 2 \(head_dim D\), got RMSNorm of shape \(8,\)",
    ),
    (
        {"norm": QKNorm(nn.RMSNorm(8), nn.RMSNorm(2), over="all")},
        ValueError,
        r"norm: k must be made for the width 8 \(all heads together, H \* D\), got RMSNorm of shape \(2,\)",
    ),
    (
        {"norm": QKNorm(HeadwiseLayerNorm(3, 2), nn.Identity())},
        ValueError,
        r"got HeadwiseLayerNorm of shape \(3, 2\)",
    ),
    ({"scale": "a"}, TypeError, "scale must be a number or None, got str"),
    ({"scale": math.inf}, ValueError, "scale must be a finite number, got inf"),
    ({"softcap": 0}, ValueError, "softcap must be a positive finite number, got 0"),
    ({"sinks": torch.zeros(4)}, TypeError, "sinks must be True or False, got Tensor; .* parameter layer.sinks"),
    ({"sinks": 1}, TypeError, "sinks must be True or False, got int"),
    ({"gate": "head"}, ValueError, "gate must be 'elementwise', 'headwise' or None, got 'head'"),
]


@pytest.mark.parametrize(("arguments", "error", "message"), BAD)
def test_bad_options(arguments: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention(8, 4, **arguments)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((nn.Identity(), 3), TypeError, r"QKNorm\(k\): k must be a torch.nn.Module, got int; QKNorm.rms"),
        ((nn.Identity(), nn.Identity(), "first"), ValueError, "when must be 'before' or 'after', got 'first'"),
    ],
)
def test_bad_norms(arguments: tuple, error: type, message: str):
    with pytest.raises(error, match=message):
        QKNorm(*arguments[:2], **({"when": arguments[2]} if len(arguments) > 2 else {}))


def test_a_norm_that_changes_the_shape_is_named():
    layer = MultiHeadAttention(8, 4, norm=QKNorm(nn.Flatten(0, 1), nn.Identity()))
    with pytest.raises(ValueError, match=r"QKNorm\(q\): q must keep the shape, got .* from Flatten for \(2, 4, 3, 2\)"):
        layer(torch.zeros(2, 3, 8))


class Late(Positions):
    def bias(self, query_len, key_len, **options):
        return torch.zeros(3, 3)


@pytest.mark.parametrize(
    ("options", "given", "error", "message"),
    [
        ({}, {"offset": 1.5}, TypeError, "offset must be an integer or an integer tensor"),
        ({}, {"offset": torch.zeros(2)}, TypeError, r"an integer tensor \(B,\), got float32"),
        ({}, {"offset": torch.zeros(3, dtype=torch.int)}, ValueError, r"\(B,\) = \(2,\), got shape \(3,\)"),
        ({"positions": Late()}, {}, ValueError, r"bias .* must broadcast to .*\(2, 4, 5, 5\), got \(3, 3\)"),
        ({"positions": ALiBi(4)}, {}, ValueError, "mask must let no query read past its own position"),
        ({"mask": masks.dense(torch.ones(4, 3, 3).bool())}, {}, ValueError, r"mask .* must broadcast to"),
    ],
)
def test_bad_calls(options: dict, given: dict, error: type, message: str):
    with pytest.raises(error, match=message):
        MultiHeadAttention(8, 4, **options)(torch.zeros(2, 5, 8), **given)


def test_bias_of_positions_and_softcap_of_low_rank_are_refused_together():
    with pytest.raises(ValueError, match=r"positions=ALiBi\(4\) with softcap=5.0: the cap comes before the bias"):
        MultiHeadAttention(8, 4, positions=ALiBi(4), mask=masks.causal(), softcap=5.0)


def test_no_positions_and_no_tokens():
    layer = MultiHeadAttention(8, 4, positions=regard.positions.NoPositions(), norm=QKNorm.rms(2), sinks=True)
    x = torch.randn(2, 5, 8)
    assert torch.equal(layer(x, offset=7), layer(x))
    assert layer(x, torch.randn(2, 3, 8)).shape == (2, 5, 8)  # no offset is needed
    for every in ({}, {"positions": Rotary(2)}, {"positions": RelativeBias(4)}, {"gate": "headwise", "bias": {"q"}}):
        layer = MultiHeadAttention(8, 4, sinks=True, **every)
        assert layer(x[:, :0]).shape == (2, 0, 8)
        assert layer(x[0, :0]).shape == (0, 8)
        cache = layer.kv_cache(2, 5)
        with torch.no_grad():
            assert layer(x[:, :0], cache=cache).shape == (2, 0, 8)
            layer(x[:, :2], cache=cache)
            assert layer(x[:, :0], cache=cache).shape == (2, 0, 8)
