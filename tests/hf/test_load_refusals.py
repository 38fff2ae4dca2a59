"""regard.hf.load: what it refuses, and in which words."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import transformers
from tests.hf.load_cases import calls, layers_of, llama, model_of
from torch import nn
from torch.nn.utils import parametrize

import regard
from regard.hf.families import CLASSES


def refused(layer: Any, words: str, **options: Any) -> None:
    with pytest.raises(ValueError, match=words):
        regard.hf.load(layer, **options)


def test_no_module():
    with pytest.raises(TypeError, match="layer must be an attention layer of transformers, got str"):
        regard.hf.load("bert")


def test_an_unknown_class():
    refused(
        nn.Linear(2, 2), r"whose class regard knows, got torch\.nn\.modules\.linear\.Linear; the nearest name is .*"
    )
    refused(nn.Linear(2, 2), f"known are .*{sorted(CLASSES)[0].rpartition('.')[2]}.*LlamaAttention")


class LlamaAttention(nn.Module):
    """A class of the same name elsewhere."""


def test_a_class_of_the_same_name():
    refused(LlamaAttention(), r"got .*test_load_refusals\.LlamaAttention; the nearest name is LlamaAttention")


def test_a_subclass():
    layer = llama()
    layer.__class__ = type("Changed", (type(layer),), {})
    refused(layer, "Changed, a subclass of LlamaAttention: it may compute something else")


def test_the_block_around_a_layer():
    model = model_of("llama")
    refused(model.layers[0], "which holds 1 of them: pass layer.self_attn, a LlamaAttention")
    refused(model, r"which holds 2 of them: pass layer\.layers\[0\]\.self_attn, a LlamaAttention")


def test_the_half_of_berts_layer():
    (layer, *_) = layers_of("bert")
    refused(layer.self, "BertSelfAttention: pass the BertAttention that it is part of, which has the output projection")


class Adapter(nn.Linear):
    """A linear layer that is more than its weight."""


def test_adapters_and_quantised_modules():
    layer = llama()
    layer.q_proj = Adapter(32, 32, bias=False)
    refused(layer, r"layer\.q_proj must be a plain module such as torch\.nn\.Linear, got .*Adapter: .*merge_and_unload")


def test_parametrisations():
    layer = llama()
    parametrize.register_parametrization(layer.q_proj, "weight", nn.Identity())
    refused(layer, r"layer\.q_proj must be a plain module.*ParametrizedLinear")


@pytest.mark.parametrize(
    ("register", "kind"),
    [
        ("register_forward_hook", "a forward hook"),
        ("register_forward_pre_hook", "a forward pre-hook"),
        ("register_full_backward_hook", "a backward hook"),
        ("register_full_backward_pre_hook", "a backward pre-hook"),
    ],
)
def test_hooks(register, kind):
    layer = llama()
    getattr(layer.v_proj, register)(lambda *_: None)
    refused(layer, rf"layer\.v_proj has {kind} \(.*lambda.*remove it first")


def test_a_forward_of_its_own():
    layer = llama()
    layer.forward = layer.forward
    refused(layer, "layer has a forward of its own, set on the module")


def test_parameters_that_are_no_numbers_to_compute_with():
    layer = llama()
    layer.k_proj.weight = nn.Parameter(layer.k_proj.weight.to(torch.int8), requires_grad=False)
    refused(layer, r"layer\.k_proj\.weight must be a plain torch\.nn\.Parameter of a floating-point dtype.*torch\.int8")


def test_mixed_dtypes():
    layer = llama()
    layer.k_proj.to(torch.float16)
    refused(
        layer, r"layer\.k_proj\.weight must be torch\.float32 on cpu as layer\.q_proj\.weight is, got torch\.float16"
    )


def test_tied_parameters():
    layer = llama()
    layer.v_proj.weight = layer.k_proj.weight
    refused(layer, r"layer\.v_proj\.weight and layer\.k_proj\.weight are one parameter")


def test_projections_of_which_some_are_trained():
    layer = llama()
    layer.k_proj.requires_grad_(False)
    refused(layer, r"the weights .* become one parameter, in_proj, got: q does, k does not, v does")


def test_parameters_that_the_class_has_not():
    layer = llama()
    layer.extra = nn.Parameter(torch.zeros(3))
    refused(layer, "layer has parameters that a LlamaAttention of transformers has not: extra; an adapter")


def test_a_configuration_of_another_model():
    refused(llama(), "of model_type llama, got BertConfig with model_type 'bert'", config=transformers.BertConfig())


def test_no_configuration():
    layer = llama()
    layer.config = None
    refused(layer, "config must be given for a LlamaAttention, whose layer.config is missing")


def test_heads_of_another_number():
    layer = llama()
    config = copy.deepcopy(layer.config)
    config.num_key_value_heads = 4
    refused(layer, "layer has 2 heads in the keys and its configuration has 4", config=config)


def test_a_configuration_that_is_not_causal():
    refused(llama(is_causal=False), r"config\.is_causal is False: what it masks then depends on attn_implementation")
    layer = llama()
    layer.is_causal = False
    refused(layer, r"layer\.is_causal is False")
    for case in ("gpt2", "opt", "deepseek_v3"):
        (layer, *_) = layers_of(case)
        layer.config.is_causal = False
        refused(layer, r"config\.is_causal is False")


ENCODERS = ("bert", "roberta", "distilbert", "albert", "modernbert", "vit", "dinov2", "clip", "wav2vec2", "t5", "bart")


@pytest.mark.parametrize("case", [*ENCODERS, "whisper", "gpt2, cross", "bert, cross", "gemma3_text, both ways"])
def test_a_configuration_that_is_causal_of_layers_that_are_not(case):
    """With sdpa and no mask transformers then masks what is later, with eager it does not."""
    several = 0
    for layer in layers_of(case):
        config = getattr(layer, "config", None) or layer.self.config
        owner = regard.hf.load(layer) if getattr(layer, "has_relative_attention_bias", True) else None
        config.is_causal = True
        if owner is not None and (owner.mask is None or "band" in str(owner.mask)):
            refused(
                layer, r"config\.is_causal is True, but layer is one that reads all .* depends on attn_implementation"
            )
            several += 1
        elif owner is not None:
            assert str(regard.hf.load(layer).mask) == str(owner.mask)
        config.is_causal = None
    assert several


def test_a_decoder_in_the_configuration_alone():
    (layer, *_) = layers_of("bert")
    layer.self.config.is_decoder = True
    refused(layer, r"layer\.self\.is_causal is False, but config\.is_decoder is True")


@pytest.mark.parametrize("case", ["gemma", "gemma2"])
def test_attention_both_ways_that_the_masks_of_the_model_do_not_follow(case):
    (layer, *_) = layers_of(case)
    layer.is_causal = False  # as config.use_bidirectional_attention has it
    refused(layer, r"layer\.is_causal is False")


def test_clipped_projections():
    (layer, *_) = layers_of("olmo")
    layer.config.clip_qkv = 8.0
    refused(layer, r"clips queries, keys and values to config\.clip_qkv=8\.0, which regard's layer does not")


def test_layer_types_that_are_not_attention_to_all_or_a_window():
    (layer, *_) = layers_of("qwen3")
    layer.config.layer_types = ["chunked_attention", "full_attention"]
    refused(layer, r"layer_types\[0\] must be full_attention or sliding_attention, got 'chunked_attention'")


def test_a_layer_without_its_index():
    (layer, *_) = layers_of("qwen3")
    layer.layer_idx = None
    refused(layer, r"layer\.layer_idx must say which of the 2 config\.layer_types is the layer's, got None")


def test_a_window_of_another_size():
    (layer, *_) = layers_of("qwen3")
    layer.sliding_window = 3
    refused(layer, r"layer\.sliding_window must be config\.sliding_window in a layer of sliding_attention, got 3 and 4")


def test_rotary_positions_that_regard_has_not():
    layer = llama(rope_parameters={"rope_type": "proportional", "rope_theta": 100.0})
    refused(layer, "rope_type='proportional'")


@pytest.mark.parametrize(("case", "name"), [("gpt2", "resid_dropout"), ("starcoder2", "residual_dropout")])
def test_dropout_of_the_output_in_training(case, name):
    (layer, *_) = layers_of(case)
    value = getattr(layer, name)
    if isinstance(value, nn.Dropout):
        value.p, place = 0.1, rf"layer\.{name}\.p"
    else:
        setattr(layer, name, 0.1)
        place = rf"layer\.{name}"
    regard.hf.load(layer)
    refused(
        layer.train(),
        rf"layer drops 0\.1 of its output in training \({name}\).*call \.eval\(\) before loading, or set {place} to 0",
    )


def test_positions_of_t5():
    first, second = layers_of("t5")[:2]
    owner = regard.hf.load(first)
    refused(second, "positions must be given for a T5 layer without a relative bias of its own")
    refused(first, "positions must be None for a layer that has a relative bias of its own", positions=owner.positions)
    refused(llama(), "positions must be None for a LlamaAttention: only layers of T5", positions=owner.positions)
    (cross,) = [call.layer for call in calls("t5") if call.name.endswith("0.layer.1.EncDecAttention")]
    refused(cross, "positions must be None for a layer that reads the encoder", positions=owner.positions)
    with pytest.raises(
        TypeError, match="positions must be the RelativeBias of the loaded first layer of the stack, got int"
    ):
        regard.hf.load(second, positions=3)


def test_positions_of_the_other_stack():
    first, second = layers_of("t5")[:2]
    owner = regard.hf.load(first)
    other = copy.deepcopy(second)
    other.is_decoder = other.is_causal = True
    refused(other, "positions must be those of the same stack: .* got two_sided=True", positions=owner.positions)


def test_norms_of_latents_with_different_eps():
    (layer, *_) = layers_of("deepseek_v3")
    layer.q_a_layernorm.variance_epsilon = 1e-3
    refused(layer, "layer has an eps of 0.001 in q_a_layernorm and of 1e-06 in kv_a_layernorm")


def test_a_rotated_width_that_is_not_the_latents():
    (layer, *_) = layers_of("deepseek_v3")
    layer.config.head_dim = 4
    refused(layer, r"config\.head_dim must be qk_rope_head_dim=\d+, .* got 4")


def test_every_name_in_an_error_is_a_class():
    with pytest.raises(ValueError, match="known are") as error:
        regard.hf.load(nn.Linear(2, 2))
    named = re.split(r", ", str(error.value).partition("known are ")[2])
    assert sorted(named) == sorted(name.rpartition(".")[2] for name in CLASSES)


def test_gpt_j_without_a_width_to_rotate():
    (layer, *_) = layers_of("gptj")
    layer.rotary_dim = None
    refused(layer, r"config\.rotary_dim must say how many columns of a head are rotated, got None")


def test_gpt_neo_with_another_type_of_attention():
    (layer, *_) = layers_of("gpt_neo")
    layer.attention_type = "strided"
    refused(layer, r"layer\.attention_type must be global or local, got 'strided'")


def test_gpt_bigcode_with_a_context():
    (layer, *_) = layers_of("gpt_bigcode, all heads")
    layer.is_cross_attention = True
    refused(layer, "layer is a GPTBigCodeAttention with a context, whose forward fails in transformers")


def test_a_window_of_modernbert_that_is_not_the_configurations():
    (layer, *_) = layers_of("modernbert")
    layer.config.layer_types = ["full_attention", "full_attention"]
    refused(layer, r"layer\.sliding_window must be what config\.layer_types and .* say, None, got 4")


def test_clip_of_another_configuration():
    (layer, *_) = layers_of("clip")
    refused(layer, "config must be that of a CLIPAttention, of model_type clip_text_model or", config=llama().config)


def test_an_encoder_that_says_it_is_causal():
    (layer, *_) = layers_of("vit")
    layer.is_causal = True
    refused(layer, r"layer\.is_causal is True in a ViTAttention, whose model masks nothing by it")


def test_hooks_on_a_gradient():
    layer = llama()
    layer.q_proj.weight.register_hook(lambda grad: grad * 0)
    refused(layer, r"layer\.q_proj\.weight has a hook on its gradient")


def test_the_configuration_of_several_models():
    with pytest.raises(ValueError, match=r"with model_type 'gemma3'; pass config\.text_config; known are"):
        regard.hf.rotary(transformers.Gemma3Config())


def test_falcon_and_mpt_with_what_regard_has_not():
    (layer, *_) = layers_of("falcon")
    layer.config.alibi = True
    refused(layer, r"config\.alibi is True: Falcon rounds its biases to bfloat16")
    model = model_of("mpt")
    layer, config = model.blocks[0].attn, model.config
    refused(
        layer, r"config must be given for a MptAttention, whose layer\.config is missing: pass config=model\.config"
    )
    layer.clip_qkv = 6.0
    refused(layer, r"layer clips queries, keys and values to clip_qkv=6\.0", config=config)


def test_no_parameters():
    layer = llama()
    for name, _ in list(layer.named_children()):
        delattr(layer, name)
    refused(layer, "layer has no parameters")
