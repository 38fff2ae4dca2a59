"""to_torch: the way back of from_torch, or the name of what torch's layer has not."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from regard import MultiHeadAttention, QKNorm, masks
from regard.positions import Rotary

CLOSE = {"rtol": 1e-5, "atol": 2e-6}  # two ways to sum some tens of products of order 1 in float32
KINDS = {
    "plain": {},
    "no bias": {"bias": False},
    "as wide": {"d_context": 16},
    "context": {"d_context": 5},
    "key and value": {"d_context": (5, 7)},
    "the scale of old": {"scale": 0.5},
}


@pytest.mark.parametrize("kind", KINDS)
def test_there_and_back(kind: str):
    ours = MultiHeadAttention(16, 4, dropout=0.25, **KINDS[kind]).eval()
    for i, parameter in enumerate(ours.parameters()):
        nn.init.normal_(parameter, std=0.3)
        parameter.requires_grad_(i % 2 == 0 or kind == "as wide")
    theirs = ours.to_torch()
    assert isinstance(theirs, nn.MultiheadAttention)
    assert (theirs.batch_first, theirs.dropout, theirs.training) == (True, 0.25, False)
    x = torch.randn(2, 5, 16)
    context = None
    if ours.d_context is not None:
        context = tuple(torch.randn(2, 6, width) for width in ours.d_context)
    key, value = context or (x, x)
    for grads in (True, False):  # without gradients torch takes its fast path
        with torch.set_grad_enabled(grads):
            torch.testing.assert_close(theirs(x, key, value, need_weights=False)[0], ours(x, context), **CLOSE)
    back = MultiHeadAttention.from_torch(theirs)
    state = ours.state_dict()
    if kind == "as wide":
        assert torch.equal(back.in_proj.weight, torch.cat([state[f"{n}_proj.weight"] for n in "qkv"]))
        return
    wanted = {name: (t, t.requires_grad) for name, t in ours.named_parameters()}
    got = {name: (t, t.requires_grad) for name, t in back.named_parameters()}
    if ours.d_context is not None and "q_proj.bias" in wanted:  # torch has one bias for the three
        assert got.keys() == wanted.keys()
        return
    assert all(torch.equal(got[n][0], t) and got[n][1] == trained for n, (t, trained) in wanted.items())


def test_the_parameters_are_copies():
    ours = MultiHeadAttention(16, 4)
    theirs = ours.to_torch()
    before = {name: t.clone() for name, t in theirs.state_dict().items()}
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.fill_(7)
    assert all(torch.equal(t, before[name]) for name, t in theirs.state_dict().items())


UNTOLD = {
    "grouped heads": ({"num_kv_heads": 2}, r"grouped heads \(num_kv_heads=2 of num_heads=4\)"),
    "d_k": ({"d_k": 8, "d_v": 16}, "d_k=8 beside d_in=16"),
    "d_v": ({"d_v": 8}, "d_v=8 beside d_in=16"),
    "d_out": ({"d_out": 8}, "d_out=8 beside d_in=16"),
    "scale": ({"scale": 0.3}, "scale=0.3"),
    "sinks": ({"sinks": True}, "sinks"),
    "mask": ({"mask": masks.causal()}, r"mask=causal\(\)"),
    "positions": ({"positions": Rotary(4)}, "positions=Rotary"),
    "norm": ({"norm": QKNorm.rms(4)}, "norm=QKNorm"),
    "softcap": ({"softcap": 3.0}, "softcap=3.0"),
    "gate": ({"gate": "headwise"}, "gate='headwise'"),
    "bias": ({"bias": {"q", "v"}}, r"bias of q, v alone \(it has all four or none\)"),
    "bias within": ({"bias": {"q", "k", "v"}}, r"bias of q, k, v alone \(it has all four or none\)"),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_what_torch_does_not_have_is_named(name: str):
    options, message = UNTOLD[name]
    with pytest.raises(ValueError, match=rf"to_torch\(\): torch.nn.MultiheadAttention has no {message}$"):
        MultiHeadAttention(16, 4, **options).to_torch()


def test_all_of_it_is_named_at_once():
    layer = MultiHeadAttention(16, 4, sinks=True, softcap=3.0, mask=masks.window(2))
    with pytest.raises(ValueError, match=r"has no sinks; no mask=window\(2\); no softcap=3.0$"):
        layer.to_torch()


def test_wrapped_projections_and_parameters_trained_apart_are_named():
    layer = MultiHeadAttention(16, 4)
    layer.out_proj = nn.Sequential(layer.out_proj)
    with pytest.raises(ValueError, match="has no Sequential in the place of a projection"):
        layer.to_torch()
    layer = MultiHeadAttention(16, 4)
    layer.in_proj.register_forward_hook(lambda *_: None)
    with pytest.raises(ValueError, match="has no hooks of in_proj"):
        layer.to_torch()
    layer = MultiHeadAttention(16, 4, d_context=16)
    layer.q_proj.weight.requires_grad_(False)
    with pytest.raises(ValueError, match="has no requires_grad of q, k and v each"):
        layer.to_torch()


def test_heads_that_are_trained_apart_are_refused():
    heads = [(nn.Linear(6, 4), nn.Linear(6, 4), nn.Linear(6, 2)) for _ in range(2)]
    heads[0][1].bias.requires_grad_(False)
    with pytest.raises(ValueError, match="heads must agree in requires_grad of the bias of Wk"):
        MultiHeadAttention.from_heads(heads, nn.Linear(4, 4))
    for head in heads:
        for module in head:
            module.bias.requires_grad_(False)
    layer = MultiHeadAttention.from_heads(heads, nn.Linear(4, 4))
    assert (layer.in_proj.weight.requires_grad, layer.in_proj.bias.requires_grad) == (True, False)
    for head in heads:
        head[0].weight.requires_grad_(False)
    with pytest.raises(ValueError, match="heads must agree in requires_grad of their weight, got some"):
        MultiHeadAttention.from_heads(heads, nn.Linear(4, 4))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_layer_of_hugging_face_is_loaded_by_its_part():
    llama = pytest.importorskip("transformers.models.llama.modeling_llama")
    config = llama.LlamaConfig(hidden_size=16, num_attention_heads=4, num_key_value_heads=2, num_hidden_layers=1)
    config._attn_implementation = "sdpa"
    theirs = llama.LlamaAttention(config, 0).eval()
    ours, x = MultiHeadAttention.from_huggingface(theirs), torch.randn(2, 5, 16)
    turns = llama.LlamaRotaryEmbedding(config)(x, torch.arange(5)[None])
    torch.testing.assert_close(ours(x), theirs(x, turns, attention_mask=None)[0], **CLOSE)
