"""Decoders of Hugging Face beside transformers itself: small ones with random weights, written to a folder and read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard.models import Decoder, generate
from regard.models.hf_decoder import configuration

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 40,
}  # fmt: skip
NEW = {"eos_token_id": None, "bos_token_id": None, "pad_token_id": None}
#: class of the configuration and of the model, and what is special.
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {}),
    "llama, tied, biases": ("Llama", {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True}),
    "llama, wide heads, gelu": ("Llama", {"head_dim": 10, "hidden_act": "gelu_pytorch_tanh"}),
    "llama 3": ("Llama", {"rope_parameters": {
        "rope_type": "llama3", "rope_theta": 500.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16}}),
    "llama, linear": ("Llama", {"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4, "factor": 2.5}}),
    "llama, dynamic": ("Llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0},
                                 "max_position_embeddings": 8}),
    "llama, yarn": ("Llama", {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 10}}),
    "llama, yarn, null": ("Llama", {"rope_parameters": {
        "rope_type": "yarn", "rope_theta": 77.0, "factor": 4.0, "original_max_position_embeddings": 6,
        "truncate": None}}),
    "llama, longrope": ("Llama", {"rope_parameters": {
        "rope_type": "longrope", "rope_theta": 1e4, "short_factor": [1.0, 1.1, 1.2, 1.5],
        "long_factor": [1.0, 2.0, 3.0, 9.0], "original_max_position_embeddings": 10}}),
    "mistral": ("Mistral", {"sliding_window": 5}),
    "mistral, no window": ("Mistral", {"sliding_window": None}),
    "qwen2": ("Qwen2", {}),
    "qwen2, tied, windows": ("Qwen2", {"tie_word_embeddings": True, "use_sliding_window": True, "sliding_window": 5,
                                       "max_window_layers": 1}),
    "qwen3": ("Qwen3", {"head_dim": 8}),
    "qwen3, biases, windows": ("Qwen3", {
        "head_dim": 12, "attention_bias": True, "use_sliding_window": True, "sliding_window": 4,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}),
}  # fmt: skip


def theirs_of(name: str) -> Any:
    kind, options = MODELS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        config = getattr(transformers, f"{kind}Config")(**(SIZES | NEW | options), initializer_range=0.3)
        model = getattr(transformers, f"{kind}ForCausalLM")(config).eval()
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def saved(model: Any, folder: Path, **options: Any) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder, **options)
    return folder


def rewrite(folder: Path, **settings: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | settings))


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(61, (2, 24))


def far(theirs: Any, got: Tensor, wanted: Tensor, tokens: Tensor, at: slice = slice(None)) -> float:
    """How far from float64, in units of how far transformers is, plus a few roundings."""
    exact = theirs.double()(tokens).logits[:, at]
    theirs.float()
    ours, peer = ((each.double() - exact).abs().max().item() for each in (got, wanted))
    return ours / (4 * peer + 16 * torch.finfo(torch.float32).eps * exact.abs().max().item())


@torch.no_grad()
@pytest.mark.parametrize("name", MODELS)
def test_logits_are_those_of_transformers(name: str, tokens: Tensor, tmp_path: Path):
    theirs = theirs_of(name)
    ours = Decoder.from_huggingface(saved(theirs, tmp_path))
    assert not ours.training
    wanted = theirs(tokens).logits
    assert far(theirs, ours(tokens), wanted, tokens) <= 1
    one = ours(tokens[:, :7], last_only=True)
    some, at = tokens[:, :7], slice(-1, None)
    assert far(theirs, one, theirs(some).logits[:, at], some, at) <= 1


@torch.no_grad()
@pytest.mark.parametrize("name", ["llama 3", "mistral", "qwen2, tied, windows", "qwen3"])
def test_greedy_text_is_that_of_transformers(name: str, tokens: Tensor, tmp_path: Path):
    theirs = theirs_of(name)
    ours = Decoder.from_huggingface(saved(theirs, tmp_path))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"attention_mask": torch.ones_like(tokens), "do_sample": False, "pad_token_id": 0}
        text = theirs.generate(tokens, max_new_tokens=12, **options)
    assert torch.equal(generate(ours, tokens, 12), text[:, 24:])


@torch.no_grad()
def test_a_model_in_several_files(tokens: Tensor, tmp_path: Path):
    theirs = theirs_of("llama")
    saved(theirs, tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("*.safetensors"))) > 2
    ours = Decoder.from_huggingface(str(tmp_path))
    assert far(theirs, ours(tokens), theirs(tokens).logits, tokens) <= 1
    one = next(tmp_path.glob("*.safetensors"))
    one.rename(one.with_suffix(".gone"))
    with pytest.raises(FileNotFoundError, match=rf"has no {one.name}, which model.safetensors.index.json names"):
        Decoder.from_huggingface(tmp_path)


@torch.no_grad()
def test_dtype_and_device(tokens: Tensor, tmp_path: Path):
    theirs = theirs_of("qwen3").to(torch.bfloat16)
    saved(theirs, tmp_path)
    assert Decoder.from_huggingface(tmp_path).embedding.weight.dtype == torch.bfloat16
    ours = Decoder.from_huggingface(tmp_path, dtype=torch.float32, device="cpu")
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.float32}
    theirs = type(theirs).from_pretrained(tmp_path, dtype=torch.float32)  # .float() would keep rounded frequencies
    assert far(theirs, ours(tokens), theirs(tokens).logits, tokens) <= 1
    assert all(parameter.requires_grad for parameter in ours.parameters())


def test_yesterdays_words_mean_the_same(tmp_path: Path):
    """rope_theta beside rope_scaling, "type" for "rope_type", torch_dtype: as files of transformers 4 have it."""
    raw = {"model_type": "llama", **SIZES, "rms_norm_eps": 1e-5, "rope_theta": 500.0, "torch_dtype": "float32"}
    old = {"type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    today = {k: v for k, v in raw.items() if k != "rope_theta"}
    for position in ({"original_max_position_embeddings": 16}, {}):
        inside = {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            **{k: v for k, v in old.items() if k != "type"},
            **position,
        }
        got = configuration(raw | {"rope_scaling": old | position})
        assert got == configuration(today | {"rope_parameters": inside})
        assert got.rotary_scaling.original_len == position.get("original_max_position_embeddings", 40)
    assert got.rotary_base == 500.0
    assert configuration(raw | {"rope_scaling": None}).rotary_scaling is None


def test_what_is_absent_is_what_transformers_takes_for_it():
    for kind in ("llama", "mistral", "qwen2", "qwen3"):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            default = getattr(transformers, f"{kind.capitalize()}Config")()
        named = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        least = {name: getattr(default, name) for name in named}
        whole = default.to_dict() | {
            "model_type": kind,
            "use_sliding_window": getattr(default, "use_sliding_window", None),
        }
        assert configuration({"model_type": kind, **least, "max_position_embeddings": 99}) == configuration(whole), kind


BASE = {"model_type": "qwen2", **SIZES}


def test_layers_in_a_window_without_layer_types():
    """As files of transformers 4 have it: from the layer max_window_layers on."""
    windows = {"use_sliding_window": True, "sliding_window": 4, "max_window_layers": 1}
    assert configuration(BASE | windows).windows == (None, 4, 4)
    assert configuration(BASE | windows | {"use_sliding_window": False}).windows == (None, None, None)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "gpt2"}, r"model_type='gpt2'; a Decoder can be llama, mistral, qwen2, qwen3"),
        ({"is_causal": False}, "has is_causal=False, which is not supported; True is"),
        ({"hidden_act": "quick_gelu"}, "has hidden_act='quick_gelu', which is not supported; silu, swish, gelu"),
        ({"pretraining_tp": 2}, "has pretraining_tp=2, which is not supported; 1 is"),
        ({"partial_rotary_factor": 0.5}, "has partial_rotary_factor=0.5, which is not supported"),
        ({"quantization_config": {"bits": 4}}, r"has quantization_config=\{'bits': 4\}, which regard does not know"),
        ({"logit_scale": 2.0}, "has logit_scale=2.0, which regard does not know: it may change what a qwen2 computes"),
        ({"mlp_bias": True}, "has mlp_bias=True, which is not supported; False is"),
        ({"attention_bias": True}, "has attention_bias=True, which regard does not know"),
        ({"model_type": "mistral", "attention_bias": True}, "has attention_bias=True, which is not supported"),
        ({"model_type": "llama", "sliding_window": 8}, "has sliding_window=8, which is not supported; only null is"),
        ({"model_type": "llama", "attention_bias": "yes"}, "has attention_bias='yes'; expected true or false"),
        ({"model_type": "llama", "layer_types": ["sliding_attention"] * 3}, "and no sliding_window"),
        ({"layer_types": ["full_attention"] * 2}, r"expected one for each of the 3 layers"),
        ({"layer_types": ["full_attention", "chunked_attention", "x"]}, "a layer of the type 'chunked_attention'"),
        ({"layer_types": ["full_attention"] * 2 + ["sliding_attention"]}, "and no sliding_window"),
        (
            {"model_type": "mistral", "sliding_window": 4, "layer_types": ["full_attention"] * 3},
            "sliding_window=4 and layer_types, which a mistral does not follow",
        ),
        (
            {"rope_scaling": {"type": "mrope"}},
            "a rope_type of 'mrope', which is not supported; linear, dynamic, llama3",
        ),
        ({"rope_scaling": {"type": "linear"}}, "of the kind 'linear' without factor"),
        ({"rope_scaling": {"type": "linear", "factor": 2.0, "power": 3}}, "of the kind 'linear' with power"),
        ({"rope_parameters": {"rope_type": "default", "factor": 2.0}}, "of the kind 'default' with factor"),
        ({"rope_parameters": {"partial_rotary_factor": 0.5}}, "partial_rotary_factor other than 1"),
        ({"rope_parameters": 3}, "has rope_parameters=3; expected an object, or null"),
        (
            {"rope_theta": 5.0, "rope_parameters": {"rope_theta": 6.0}},
            r"has rope_theta=5.0 and, in rope_parameters, 6.0",
        ),
        (
            {
                "rope_scaling": {"rope_type": "linear", "factor": 2.0},
                "rope_parameters": {"rope_type": "linear", "factor": 3.0},
            },
            "rope_parameters and rope_scaling, and they contradict each other",
        ),
        # Transformers takes rope_scaling alone, and with it another base than the one that is written.
        (
            {"rope_scaling": {"rope_type": "linear", "factor": 2.0}, "rope_parameters": {"rope_theta": 77.0}},
            "rope_parameters and rope_scaling, and they contradict each other",
        ),
        ({"hidden_size": "32"}, "has hidden_size='32'; expected an integer of at least 1"),
        ({"num_attention_heads": 0}, "has num_attention_heads=0; expected an integer of at least 1"),
        ({"head_dim": 8.0}, "has head_dim=8.0; expected an integer of at least 1"),
        ({"max_window_layers": -1}, "has max_window_layers=-1; expected an integer of at least 0"),
        ({"rms_norm_eps": "small"}, "has rms_norm_eps='small'; expected a number"),
        ({"rope_theta": [1]}, r"has rope_theta=\[1\]; expected a number"),
        ({"rope_parameters": {"rope_theta": "x"}}, "rope_parameters with rope_theta='x'; expected a number"),
        ({"hidden_act": ["silu"]}, r"has hidden_act=\['silu'\], which is not supported"),
        (
            {"rope_scaling": {"rope_type": "dynamic", "factor": 2.0}, "max_position_embeddings": None},
            "of the kind 'dynamic' and no max_position_embeddings",
        ),
        ({"rope_scaling": {"rope_type": "linear", "factor": "2"}}, "of the kind 'linear' with factor must be .* got"),
        ({"hidden_size": None}, "has no hidden_size, which a qwen2 needs"),
        ({"num_key_value_heads": 3}, "num_heads 4 is not a multiple of num_kv_heads 3"),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        configuration(BASE | settings)


def test_what_the_files_lack_or_have_too_many_is_named(tmp_path: Path):
    saved(theirs_of("qwen2"), tmp_path)
    rewrite(tmp_path, num_hidden_layers=2, layer_types=["full_attention"] * 2)
    with pytest.raises(ValueError, match=r"hold 'model.layers.2.input_layernorm.weight', .* and 9 more, for which the"):
        Decoder.from_huggingface(tmp_path)
    rewrite(tmp_path, num_hidden_layers=4, layer_types=["full_attention"] * 4)
    with pytest.raises(
        ValueError, match=r"the files lack 'model.layers.3.input_layernorm.weight', .* and 9 more, which"
    ):
        Decoder.from_huggingface(tmp_path)
    rewrite(tmp_path, num_hidden_layers=3, layer_types=["full_attention"] * 3, intermediate_size=47)
    with pytest.raises(
        ValueError, match=r"'model.layers.0.mlp.\w+_proj.weight' has shape .*, and its place, by config"
    ):
        Decoder.from_huggingface(tmp_path)


@pytest.mark.parametrize("rows", [(40, 8), (32, 24)])
def test_projections_that_share_their_rows_otherwise_are_refused(rows: tuple[int, int], tmp_path: Path):
    from safetensors.torch import load_file, save_file

    path = saved(theirs_of("llama"), tmp_path) / "model.safetensors"
    tensors = load_file(path)
    for layer in range(3):
        names = [f"model.layers.{layer}.self_attn.{name}_proj.weight" for name in "qkv"]
        fused = torch.cat([tensors[name] for name in names])  # (32 + 16 + 16, 32)
        parts = fused.split([*rows, 64 - sum(rows)])
        tensors |= {name: part.contiguous() for name, part in zip(names, parts, strict=True)}
    save_file(tensors, path)
    with pytest.raises(ValueError, match=r"'model.layers.0.self_attn.[qkv]_proj.weight' has shape .*, and its place"):
        Decoder.from_huggingface(tmp_path)


def test_a_number_of_heads_that_is_not_the_files_is_refused(tmp_path: Path):
    saved(theirs_of("llama"), tmp_path)
    for settings in ({"num_key_value_heads": 4}, {"num_key_value_heads": None}, {"vocab_size": 62}):
        rewrite(tmp_path, **(SIZES | settings))
        with pytest.raises(ValueError, match=r"'(model|lm_head).* has shape .*, and its place, by config.json, has "):
            Decoder.from_huggingface(tmp_path)


def test_a_tied_output_that_differs_is_refused(tmp_path: Path):
    theirs = theirs_of("llama")
    saved(theirs, tmp_path)
    rewrite(tmp_path, tie_word_embeddings=True)
    with pytest.raises(ValueError, match=r"'lm_head.weight' differs from 'model.embed_tokens.weight', to which config"):
        Decoder.from_huggingface(tmp_path)
    with torch.no_grad():
        theirs.lm_head.weight.copy_(theirs.model.embed_tokens.weight)
    saved(theirs, tmp_path)
    rewrite(tmp_path, tie_word_embeddings=True)
    assert Decoder.from_huggingface(tmp_path).output is None


def test_random_numbers_of_the_user_are_left_alone(tmp_path: Path):
    saved(theirs_of("llama"), tmp_path)
    before = torch.get_rng_state()
    Decoder.from_huggingface(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)
