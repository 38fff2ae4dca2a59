"""regard.hf.load: what it gives, by hand and by formula, and what it keeps."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import transformers
from tests.hf.load_cases import LLAMA, layers_of, llama
from torch import Tensor

import regard

EPS = torch.finfo(torch.float32).eps


# -- by hand, by formula, by property ---------------------------------------------------------------------------------


def test_one_head_by_hand():
    config = transformers.ViTConfig(hidden_size=2, num_attention_heads=1, num_hidden_layers=1, qkv_bias=False)
    theirs = transformers.ViTModel(config).layers[0].attention
    with torch.no_grad():
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(theirs, name).weight.copy_(torch.eye(2))
        theirs.o_proj.bias.copy_(torch.tensor([10.0, 20.0]))
    out = regard.hf.load(theirs)(torch.eye(2)[None])
    # Scores are 1 / sqrt(2) for a token's own key and 0 for the other's.
    own = math.exp(2**-0.5) / (math.exp(2**-0.5) + 1)
    expected = torch.tensor([[[own + 10, 1 - own + 20], [1 - own + 10, own + 20]]])
    torch.testing.assert_close(out, expected, rtol=4 * EPS, atol=0)


def test_llama_by_its_formula_in_float64():
    layer, length = llama(), 7
    torch.manual_seed(1)
    x = torch.randn(1, length, 32)
    q, k, v = (
        (x[0].double() @ getattr(layer, f"{name}_proj").weight.double().mT).unflatten(-1, (-1, 8)).transpose(0, 1)
        for name in "qkv"
    )  # (H, L, D), (Hkv, L, D)
    angles = torch.arange(length)[:, None] * 10000.0 ** (-torch.arange(4).double() / 4)  # (L, D / 2)

    def turned(t: Tensor) -> Tensor:
        a, b = t.chunk(2, dim=-1)
        return torch.cat([a * angles.cos() - b * angles.sin(), b * angles.cos() + a * angles.sin()], dim=-1)

    q, k, v = turned(q), turned(k).repeat_interleave(2, 0), v.repeat_interleave(2, 0)
    scores = (q @ k.mT / math.sqrt(8)).masked_fill(torch.ones(length, length).triu(1).bool(), -torch.inf)
    expected = (scores.softmax(-1) @ v).transpose(0, 1).flatten(1) @ layer.o_proj.weight.double().mT
    # Three products of 32 terms and a softmax after another.
    torch.testing.assert_close(regard.hf.load(layer)(x)[0].double(), expected, rtol=0, atol=64 * EPS)


def test_parameters_are_copies_and_the_layer_is_left_as_it_was():
    theirs = llama()
    before = copy.deepcopy(theirs.state_dict())
    ours = regard.hf.load(theirs)
    with torch.no_grad():
        for p in ours.parameters():
            p.add_(1)
    assert all(torch.equal(before[name], t) for name, t in theirs.state_dict().items())
    assert all(p.grad is None and p.grad_fn is None for p in [*theirs.parameters(), *ours.parameters()])


def test_loading_draws_no_random_numbers():
    theirs = llama()
    torch.manual_seed(3)
    regard.hf.load(theirs)
    drawn = torch.rand(3)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(3))


def test_under_no_grad_requires_grad_is_still_read():
    with torch.no_grad():
        ours = regard.hf.load(llama())
    assert all(p.requires_grad for p in ours.parameters())


# -- what is kept -----------------------------------------------------------------------------------------------------


def test_dtype_dropout_training_and_requires_grad_are_kept():
    theirs = llama(attention_dropout=0.25).to(torch.bfloat16).train().requires_grad_(False)
    ours = regard.hf.load(theirs)
    assert {p.dtype for p in ours.parameters()} == {torch.bfloat16}
    assert not any(p.requires_grad for p in ours.parameters())
    assert (ours.dropout, ours.training) == (0.25, True)
    assert not regard.hf.load(theirs.eval()).training


def test_a_frozen_projection_stays_frozen():
    theirs = llama()
    theirs.o_proj.requires_grad_(False)
    ours = regard.hf.load(theirs)
    assert not ours.out_proj.weight.requires_grad
    assert ours.in_proj.weight.requires_grad


@pytest.mark.parametrize("case", ["llama", "t5", "gpt2", "deepseek_v3", "bert", "gpt_oss", "cohere, norms"])
def test_meta_layers_load(case):
    layer = layers_of(case)[0].to("meta")
    ours = regard.hf.load(layer)
    assert {p.device.type for p in ours.parameters()} == {"meta"}
    assert ours(torch.empty(1, 3, 32, device="meta")).shape == (1, 3, 32)


def test_a_layer_that_was_asked_for_its_attentions_loads():
    model = transformers.LlamaModel._from_config(transformers.LlamaConfig(**LLAMA), attn_implementation="eager")
    model(torch.ones(1, 3, dtype=torch.long), output_attentions=True)
    assert model.layers[0].self_attn._forward_hooks
    regard.hf.load(model.layers[0].self_attn)


def test_layers_of_t5_share_the_relative_bias():
    first, second = layers_of("t5")[:2]
    owner = regard.hf.load(first)
    before = owner.positions.weight.detach().clone()
    other = regard.hf.load(second, positions=owner.positions)
    assert other.positions.weight is owner.positions.weight
    assert torch.equal(owner.positions.weight, before)
    assert torch.equal(before, first.relative_attention_bias.weight)


def test_the_class_method_loads_too():
    theirs = llama()
    x = torch.randn(1, 4, 32)
    ours = regard.MultiHeadAttention.from_huggingface(theirs)
    assert torch.equal(ours(x), regard.hf.load(theirs)(x))


def test_a_configuration_of_ones_own_goes_before_the_layers():
    theirs = llama()
    other = copy.deepcopy(theirs.config)
    other.rope_parameters = {"rope_type": "default", "rope_theta": 500.0}
    assert regard.hf.load(theirs, other).positions.base == 500.0
    assert regard.hf.load(theirs).positions.base == 10000.0


def test_loaded_in_inference_mode_a_layer_can_be_trained():
    theirs = llama()
    with torch.inference_mode():
        ours = regard.hf.load(theirs)
    assert all(p.requires_grad for p in ours.parameters())
    ours(torch.randn(1, 3, 32)).sum().backward()
    assert ours.in_proj.weight.grad is not None
