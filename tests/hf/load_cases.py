"""Tiny models whose attention layers are loaded, and what each of these layers was called with in its model."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from tests.hf.overrides import CONFIGS
from tests.hf.tiny_configs import tiny_config
from tests.hf.tiny_models import LENGTH, NoText, Tiny, inputs_for, model_class, randomise
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from regard.hf.families import CLASSES, full_name

BOTH = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 4}
BY_LAYER_ROPE = {
    "full_attention": {
        "rope_type": "yarn",
        "rope_theta": 500000.0,
        "factor": 8.0,
        "original_max_position_embeddings": 64,
    },
    "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
}
YARN = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 32.0, "original_max_position_embeddings": 64}
DEEPSEEK = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 0.7}

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{
        name: (name, {})
        for name in (
            *("llama", "arcee", "jais2", "gemma", "phi", "olmo", "olmo2", "flex_olmo", "minimax_m2", "cohere"),
            *(
                "granitemoe",
                "granitemoeshared",
                "hyperclovax",
                "hy_v3",
                "stablelm",
                "gpt_neox",
                "persimmon",
                "glm",
                "glm4",
                "helium",
            ),
            *(
                "glm4_moe",
                "gptj",
                "gpt_bigcode",
                "distilbert",
                "albert",
                "ernie4_5",
                "ernie4_5_moe",
                "seed_oss",
                "apertus",
                "hunyuan_v1_dense",
                "hunyuan_v1_moe",
            ),
            *("youtu", "gpt2", "decision_transformer", "opt", "biogpt", "bert", "roberta", "xlm-roberta", "camembert"),
            *("electra", "ernie", "roc_bert", "layoutlm", "splinter", "t5", "mt5", "switch_transformers", "bart"),
            *("mbart", "plbart", "m2m_100", "marian", "pegasus", "blenderbot", "blenderbot-small", "whisper"),
            *("wav2vec2", "hubert", "vit", "vit_mae", "vit_msn", "deit", "dinov2", "dinov2_with_registers", "ijepa"),
            *("clip", "clipseg", "metaclip_2", "siglip", "siglip2"),
        )
    },
    **{name: (name, {"sliding_window": 4}) for name in ("mistral", "mixtral", "starcoder2", "phi3")},
    **{name: (name, BOTH) for name in ("gemma2", "cohere2", "exaone4")},
    "dots1": ("dots1", {**BOTH, "n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2}),
    "nemotron": ("nemotron", {"num_key_value_heads": 2}),
    **{name: (name, {**BOTH, "use_sliding_window": True}) for name in ("qwen2", "qwen2_moe", "qwen3")},
    "qwen3_moe": ("qwen3_moe", {"sliding_window": 4, "use_sliding_window": True}),
    "qwen3_next": ("qwen3_next", {"layer_types": ["full_attention", "full_attention"]}),
    "gemma3_text": ("gemma3_text", BOTH),
    "gpt_oss": ("gpt_oss", {**BOTH, "rope_parameters": YARN}),
    "olmo3": ("olmo3", {**BOTH, "rope_parameters": BY_LAYER_ROPE}),
    "smollm3": ("smollm3", {**BOTH, "use_sliding_window": True, "no_rope_layers": [1, 0]}),
    "audio-spectrogram-transformer": ("audio-spectrogram-transformer", {"max_length": 32, "num_mel_bins": 32}),
    "granite": ("granite", {"attention_multiplier": 0.2}),
    "lfm2": ("lfm2", {"layer_types": ["conv", "full_attention"]}),
    "lfm2_moe": ("lfm2_moe", {}),
    "gpt_neo": ("gpt_neo", {}),
    "modernbert": ("modernbert", {"layer_types": ["sliding_attention", "full_attention"], "local_attention": 6}),
    "deepseek_v3": ("deepseek_v3", {"rope_parameters": DEEPSEEK}),
    "glm4_moe, norms": ("glm4_moe", {"use_qk_norm": True}),
    "gpt_bigcode, all heads": ("gpt_bigcode", {"multi_query": False}),
    # The same classes where the configuration asks for something else.
    "llama, biases": ("llama", {"attention_bias": True}),
    "mistral, no window": ("mistral", {"sliding_window": None}),
    "exaone4, no windows": ("exaone4", {"layer_types": ["full_attention"] * 2, "sliding_window": None}),
    "gemma3_text, both ways": ("gemma3_text", {**BOTH, "sliding_window": 6, "use_bidirectional_attention": True}),
    "cohere, norms": ("cohere", {"use_qk_norm": True}),
    "phi, norms": ("phi", {"qk_layernorm": True}),
    "stablelm, norms": ("stablelm", {"qk_layernorm": True, "use_qkv_bias": True}),
    "gpt2, by layer": ("gpt2", {"scale_attn_by_inverse_layer_idx": True}),
    "gpt2, cross": ("gpt2", {"add_cross_attention": True}),
    "bert, decoder": ("bert", {"is_decoder": True}),
    "bert, cross": ("bert", {"is_decoder": True, "add_cross_attention": True}),
    "deepseek_v3, no query latent": ("deepseek_v3", {"q_lora_rank": None, "rope_interleave": False}),
    "gpt_neox, no biases": ("gpt_neox", {"attention_bias": False}),
}


CACHES = ("past_key_values", "layer_past", "use_cache")


def _decisions(model: PreTrainedModel) -> Tiny:
    config, made = model.config, {"returns_to_go": torch.randn(2, 4, 1), "timesteps": torch.arange(4).expand(2, 4)}
    made |= {"states": torch.randn(2, 4, config.state_dim), "actions": torch.randn(2, 4, config.act_dim)}
    return Tiny(model, {**made, "attention_mask": torch.ones(2, 4)})


def _patches(model: PreTrainedModel) -> Tiny:
    config = model.config
    width = config.vision_config.num_channels * config.vision_config.patch_size**2
    made = {"pixel_values": torch.randn(2, 6, width), "spatial_shapes": torch.tensor([[2, 3], [2, 2]])}
    made["pixel_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0]])
    return Tiny(model, {**made, "input_ids": torch.randint(20, 90, (2, LENGTH))})


def _spectrogram(model: PreTrainedModel) -> Tiny:
    return Tiny(model, {"input_values": torch.randn(2, model.config.max_length, model.config.num_mel_bins)})


INPUTS = {"audio-spectrogram-transformer": _spectrogram, "decision_transformer": _decisions, "siglip2": _patches}


@dataclass(frozen=True)
class Call:
    """A layer of a model and what it was called with there."""

    name: str
    layer: nn.Module
    kwargs: dict[str, Any]

    def run(self, layer: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        """What a layer of this class gives; for BERT what its output projection does, before the residual."""
        kwargs = {name: _as(value, x.dtype) for name, value in self.kwargs.items()}
        kwargs["hidden_states"] = x
        if self.context_name is not None:
            kwargs[self.context_name] = context
        inner = getattr(getattr(layer, "output", None), "dense", None)
        if hasattr(layer, "LayerNorm"):
            inner = layer.dense
        if inner is None:
            out: Tensor = layer(**kwargs)[0]
            return out
        kept: list[Tensor] = []
        handle = inner.register_forward_hook(lambda module, given, output: kept.append(output))
        layer(**kwargs)
        handle.remove()
        return kept[0]

    @property
    def x(self) -> Tensor:
        """The input (B, L, width)."""
        x: Tensor = self.kwargs["hidden_states"]
        return x

    @property
    def context_name(self) -> str | None:
        """The argument that is a context."""
        for name in ("encoder_hidden_states", "key_value_states"):
            if isinstance(self.kwargs.get(name), Tensor) and getattr(self.layer, "is_cross_attention", True):
                return name
        return None

    @property
    def context(self) -> Tensor | None:
        """The context (B, S, width)."""
        return None if self.context_name is None else self.kwargs[self.context_name]

    @property
    def real(self) -> Tensor | None:
        """Which keys any query may read, (B, S); None without a mask."""
        names = ["mask", "attention_mask"]
        if self.context_name is not None and "encoder_attention_mask" in self.kwargs:
            names = ["encoder_attention_mask"]
        masks = [self.kwargs[name] for name in names if isinstance(self.kwargs.get(name), Tensor)]
        if not masks:
            return None
        return (masks[0] == 0 if masks[0].is_floating_point() else masks[0]).any(dim=(1, 2))  # eager masks add 0


def _as(value: Any, dtype: torch.dtype) -> Any:
    if isinstance(value, tuple):
        return tuple(_as(each, dtype) for each in value)
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


def model_of(case: str) -> PreTrainedModel:
    """The model of a case, the same each time, with no two parameters alike."""
    model_type, overrides = CASES[case]
    config = tiny_config(CONFIG_MAPPING[model_type], {**CONFIGS.get(model_type, {}), **overrides})
    torch.manual_seed(0)
    model = model_class(model_type)._from_config(config, attn_implementation="eager")
    randomise(model, 1.0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.dim() < 2 or "norm" in name:
                p.add_(0.3 * torch.randn(p.shape, generator=generator))
    return model.eval()


def calls(case: str, *, padding: str | None = None) -> Iterator[Call]:
    """Every attention layer of a case's model that is in the table, as it was called."""
    model_type, _ = CASES[case]
    model = model_of(case)
    if model_type in INPUTS:
        if padding is not None:
            return
        tiny = INPUTS[model_type](model)
    else:
        try:
            tiny = inputs_for(model_type, model, padding)
        except NoText:
            return
    if "cross" in case:
        tiny.inputs["encoder_hidden_states"] = torch.randn(2, 6, 32)
        if padding is not None:
            tiny.inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 0, 0, 0, 0]])
    found: dict[str, dict[str, Any]] = {}
    known = {name: m for name, m in model.named_modules() if full_name(type(m)) in CLASSES}
    handles = [m.register_forward_pre_hook(_keep(found, name), with_kwargs=True) for name, m in known.items()]
    with torch.no_grad():
        model(**tiny.inputs)
    for handle in handles:
        handle.remove()
    for name, module in known.items():
        if name in found:
            yield Call(name, module, {n: v for n, v in found[name].items() if n not in CACHES})


def _keep(found: dict[str, Any], name: str) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = inspect.signature(module.forward).bind(*args, **kwargs).arguments
        found[name] = given | given.pop("kwargs", {})

    return hook
