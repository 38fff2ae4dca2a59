"""nn.MultiheadAttention and torch's Transformer layers under a watch, against the weights that they return."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import by_definition, same
from torch import nn

import regard

FORBIDDEN = torch.ones(7, 7).triu(1).bool()
PADDING = torch.tensor([[False] * 7, [False] * 4 + [True] * 3])


def as_float(mask):
    return torch.zeros(mask.shape, dtype=torch.float64).masked_fill(mask, -torch.inf)


ATTN_MASKS = {
    "none": None,
    "bool": FORBIDDEN,
    "float": as_float(FORBIDDEN),
    "bias": torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1)),
    "per head": FORBIDDEN.expand(8, 7, 7),
}
PADDINGS = {"none": None, "bool": PADDING, "float": as_float(PADDING)}
# torch warns of masks of two types.
PAIRS = [
    (mask, padding)
    for mask, padding in itertools.product(ATTN_MASKS, PADDINGS)
    if "none" in (mask, padding) or ATTN_MASKS[mask].dtype == PADDINGS[padding].dtype
]


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("extra", [False, True])
@pytest.mark.parametrize("masks", PAIRS, ids="-".join)
def test_masks(masks, extra, need_weights):
    attn_mask, padding = ATTN_MASKS[masks[0]], PADDINGS[masks[1]]
    layer = nn.MultiheadAttention(16, 4, batch_first=True, add_bias_kv=extra, add_zero_attn=extra).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    options = {"attn_mask": attn_mask, "key_padding_mask": padding}
    _, expected = layer(x, x, x, **options, average_attn_weights=False)
    plain = layer(x, x, x, **options, need_weights=need_weights)
    with regard.watch(layer) as seen:
        output = layer(x, x, x, **options, need_weights=need_weights)
    assert torch.equal(output[0], plain[0])
    assert need_weights == (output[1] is not None)
    assert [record.function for record in seen] == ["F.multi_head_attention_forward"]
    assert seen[0].shape == (2, 4, 7, 9 if extra else 7)
    same(seen["(model)"].weights, expected)


@pytest.mark.parametrize("need_weights", [True, False])
@pytest.mark.parametrize("batched", [True, False])
def test_cross_attention_of_other_widths(batched, need_weights):
    layer = nn.MultiheadAttention(16, 4, kdim=10, vdim=6).double()
    lead = (2,) if batched else ()
    q, k, v = (torch.randn(n, *lead, w, dtype=torch.float64) for n, w in ((5, 16), (7, 10), (7, 6)))
    expected = layer(q, k, v, average_attn_weights=False)[1]
    with regard.watch(layer) as seen:
        layer(q, k, v, need_weights=need_weights)
    same(seen[0].weights, expected if batched else expected[None])


def test_the_hint_of_a_causal_mask_is_what_runs():
    layer = nn.MultiheadAttention(16, 4, batch_first=True).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    with regard.watch(layer) as seen:
        layer(x, x, x, attn_mask=FORBIDDEN, is_causal=True, need_weights=False)
    assert seen[0].mask == "causal(offset=0)"
    same(seen[0].weights, layer(x, x, x, attn_mask=FORBIDDEN, average_attn_weights=False)[1])


def test_padding_keeps_no_tensor_as_large_as_the_weights():
    layer = nn.MultiheadAttention(16, 4, batch_first=True).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    with regard.watch(layer) as seen:
        layer(x, x, x, attn_mask=as_float(FORBIDDEN), key_padding_mask=as_float(PADDING), need_weights=False)
    assert seen[0].mask == "dense(float (7, 7)) & padding(float (2, 7))"
    assert seen[0].weights.mask is not None


@pytest.mark.parametrize("mode", ["train", "eval"])
def test_transformer_encoder(mode):
    layer = nn.TransformerEncoderLayer(16, 4, 32, dropout=0.0, batch_first=True)
    model = getattr(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).double(), mode)()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    options = {"mask": as_float(FORBIDDEN), "src_key_padding_mask": as_float(PADDING)}
    plain = model(x, **options)
    with regard.watch(model) as seen:
        output = model(x, **options)
    if mode == "train":
        assert torch.equal(output, plain)
    torch.testing.assert_close(output, plain, rtol=0, atol=1e-12)
    assert seen.names == ["layers.0.self_attn", "layers.1.self_attn"]
    for layer, record in zip(model.layers, seen, strict=True):
        expected = layer.self_attn(
            x, x, x, as_float(PADDING), attn_mask=as_float(FORBIDDEN), average_attn_weights=False
        )
        same(record.weights, expected[1])
        x = layer(x, src_mask=as_float(FORBIDDEN), src_key_padding_mask=as_float(PADDING))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_an_encoder_that_would_take_its_fast_path_takes_the_other():
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2).double().eval()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    with torch.no_grad():
        fast = model(x, src_key_padding_mask=PADDING)
        with regard.watch(model) as seen:
            output = model(x, src_key_padding_mask=PADDING)
    torch.testing.assert_close(output[~PADDING], fast[~PADDING], rtol=0, atol=1e-12)
    assert seen.names == ["layers.0.self_attn", "layers.1.self_attn"]
    same(seen[0].weights, model.layers[0].self_attn(x, x, x, PADDING, average_attn_weights=False)[1])


def test_transformer_decoder_names_its_cross_attention():
    model = nn.TransformerDecoder(nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, batch_first=True), 2).double()
    x, memory = (torch.randn(2, n, 16, dtype=torch.float64) for n in (7, 5))
    with regard.watch(model) as seen:
        model(x, memory, tgt_mask=FORBIDDEN)
    assert seen.names == [f"layers.{n}.{part}" for n in (0, 1) for part in ("self_attn", "multihead_attn")]
    assert [tuple(record.shape[-2:]) for record in seen] == [(7, 7), (7, 5)] * 2
    first = model.layers[0]
    same(seen[0].weights, first.self_attn(x, x, x, attn_mask=FORBIDDEN, average_attn_weights=False)[1])
    y = first.norm1(x + first.self_attn(x, x, x, attn_mask=FORBIDDEN)[0])
    same(seen[1].weights, first.multihead_attn(y, memory, memory, average_attn_weights=False)[1])


@pytest.mark.parametrize("need_weights", [True, False])
def test_autocast(need_weights):
    layer = nn.MultiheadAttention(16, 4, batch_first=True)
    x = torch.randn(2, 7, 16)
    with torch.autocast("cpu", torch.bfloat16):
        expected = layer(x, x, x, average_attn_weights=False)[1]
        with regard.watch(layer) as seen:
            layer(x, x, x, need_weights=need_weights)
    assert seen[0].dtype == torch.bfloat16
    same(seen[0].weights, expected, rtol=0, atol=2 * torch.finfo(torch.bfloat16).eps)


def test_gradients_are_those_without_a_watch():
    layer = nn.MultiheadAttention(16, 4, batch_first=True, dropout=0.3).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    grads = []
    for watch in (False, True):
        torch.manual_seed(3)
        layer.zero_grad()
        if watch:
            with regard.watch(layer):
                output = layer(x, x, x)[0]
        else:
            output = layer(x, x, x)[0]
        output.square().sum().backward()
        grads.append(layer.in_proj_weight.grad.clone())
    assert torch.equal(*grads)


def test_definition_agrees_with_what_torch_returns():
    # The oracle of the tests above is torch's own softmax; this one is regard's definition.
    layer = nn.MultiheadAttention(16, 4, batch_first=True, bias=False).double()
    x = torch.randn(2, 7, 16, dtype=torch.float64)
    q, k, _ = (x @ layer.in_proj_weight.T).unflatten(-1, (3, 4, 4)).permute(2, 0, 3, 1, 4)
    with regard.watch(layer) as seen:
        layer(x, x, x, attn_mask=FORBIDDEN)
    same(seen[0].weights, by_definition(q, k, ~FORBIDDEN))


@pytest.mark.parametrize("need_weights", [True, False])
def test_the_function_itself_takes_booleans(need_weights):
    layer = nn.MultiheadAttention(16, 4).double()
    x = torch.randn(7, 2, 16, dtype=torch.float64)
    out = layer.out_proj
    given = (x, x, x, 16, 4, layer.in_proj_weight, layer.in_proj_bias, None, None, False, 0.0, out.weight, out.bias)
    options = {"attn_mask": FORBIDDEN, "key_padding_mask": PADDING}
    with regard.watch() as seen:
        F.multi_head_attention_forward(*given, need_weights=need_weights, **options)
    assert seen[0].mask == "dense(bool, True forbids (7, 7)) & padding(bool, True forbids (2, 7))"
    same(seen[0].weights, layer(x, x, x, **options, average_attn_weights=False)[1])


@pytest.mark.parametrize("need_weights", [True, False])
def test_what_runs_inside_of_the_function_is_not_asked_for(need_weights, monkeypatch):
    layer, x = nn.MultiheadAttention(16, 4), torch.randn(7, 2, 16)
    modes = []
    name = "baddbmm" if need_weights else "scaled_dot_product_attention"
    module = torch if need_weights else F
    original = getattr(module, name)

    def counting(*args):
        modes.append(torch._C._len_torch_function_stack())
        return original(*args)

    monkeypatch.setattr(module, name, counting)
    with regard.watch(layer) as seen:
        layer(x, x, x, attn_mask=FORBIDDEN, need_weights=need_weights)
    assert modes == [0]
    assert len(seen) == 1
