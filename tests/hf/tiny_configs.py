"""Any configuration of transformers made tiny, by rules on the names of its fields."""

from __future__ import annotations

import copy
import dataclasses
import re
from typing import Any

from transformers import PreTrainedConfig

# The first rule whose pattern is found in a field's name says what an integer becomes. Numbers smaller than that stay.
RULES: list[tuple[str, int]] = [
    (r"index_topk", 4),
    (r"token_id|token_index|_id$|_idx$|label", 7),
    (r"codebook_size|codebook_dim", 64),
    (r"audio_vocab|vocab_size|num_embeddings|n_tokens|classifier_proj", 99),
    (r"experts_per_tok|num_experts_per|top_?k$|moe_k|num_selected|experts_top", 2),
    (r"n_group|topk_group|num_limited", 1),
    (r"num_.*experts|n_routed|num_expert|expert_num|n_experts", 4),
    (r"shared_experts", 1),
    (r"(num_)?(key_value|kv)_heads|num_query_groups|n_kv", 2),
    (r"heads?$|_head$|n_heads?$|num_attention_heads|heads$", 4),
    (r"head_dim|d_kv|kv_channels|head_size|attention_dim_per|key_length", 8),
    (r"lora_rank|index_dim|rank$", 16),
    (r"sliding_window|local_attention$|window_length|attention_window|attention_chunk_size|max_window_layers", 4),
    (r"num_hidden_layers|num_.*layers|_layers$|n_layers?$|depth$|num_blocks|layers_block|encoder_layers|layer_num", 2),
    (r"rotary_dim", 4),
    (r"window_size$", 4),
    (r"first_k_dense|num_dense|dense_layers", 1),
    (r"intermediate|ffn|d_ff|n_inner|ff_dim|mlp_dim|mlp_hidden|feed_forward|moe_dim|inner", 48),
    (r"max_position|n_positions|max_.*positions|max_seq|n_ctx|max_target|max_source|position_embedding_size", 128),
    (r"hidden_size|d_model|n_embd|embed_dim|embedding_size|hidden_dim|embedding_dim|projection_dim|_dim$|^dim$", 32),
    (r"hidden_channels|d_embed|width$|_size_per|projection_size|hidden_width|latent", 32),
    (r"image_size|img_size|input_size|resolution", 32),
    (r"num_queries|num_latents|n_queries|num_query|resampler_n", 6),
    (r"state_size|d_state|chunk_size|num_groups|n_groups", 8),
    (r"num_conv_pos_embeddings", 16),
]  # fmt: skip
# Named as a rule above would have it, but numbers of another kind, or bound to others that stay.
KEPT = re.compile(
    r"num_channels|in_channels|^id2label|label2id|num_labels|num_frames|layer_norm|eps|initializer|dropout|type_vocab"
    r"|kernel|stride|_rate|patch_size|relative|rope|bucket|num_mel|feature_size|feat|time|n_fft"
)
WIDTHS = re.compile(r"dim|hidden_sizes|channels|embed_dims|widths")


def tiny_config(config_class: type[PreTrainedConfig], overrides: dict[str, Any] | None = None) -> PreTrainedConfig:
    """A configuration of this class whose model takes milliseconds.

    Args:
        config_class: any.
        overrides: fields that the rules cannot know; for a nested configuration, a dict of its fields.
    """
    overrides = dict(overrides or {})
    default = config_class()
    nested = {}
    for name in config_class.sub_configs:
        inner = getattr(default, name, None)
        if isinstance(inner, PreTrainedConfig):
            nested[name] = tiny_config(type(inner), overrides.pop(name, {}))
    changed: dict[str, Any] = {}
    given = {f.name for f in dataclasses.fields(config_class)}
    for f in dataclasses.fields(config_class):
        if f.name in config_class.sub_configs:
            continue
        before = _value(default, f.name, f.default)
        value = _shrunk(f.name, before)
        # What is derived from other fields when it is not given is derived anew.
        if _differs(value, before) and not (f.default is None and f.name in DERIVED):
            changed[f.name] = value
        elif f.name == "head_dim" and before is None:
            changed[f.name] = 8
    if getattr(default, "kv_lora_rank", None) and "num_key_value_heads" in changed:
        changed["num_key_value_heads"] = changed.get("num_attention_heads", 4)  # latent keys have all heads
    rope = _value(default, "rope_parameters", None)
    if isinstance(rope, dict) and "mrope_section" in rope:
        changed["rope_parameters"] = {**rope, "mrope_section": [2, 1, 1]}
    patch = _value(default, "patch_size", None)
    if isinstance(patch, int) and isinstance(changed.get("image_size"), int):
        # Of one patch the only weight is 1, whatever the attention.
        changed["image_size"] = max(changed["image_size"], 4 * patch)
    config = config_class(**{**changed, **nested, **overrides})
    types = getattr(config, "layer_types", None)
    if "layer_types" in given and "layer_types" not in overrides and types and set(types) <= RECURRENT:
        # Every fourth layer of some reads everything; of two layers none would.
        mixed = [*types[:-1], "full_attention"]
        config = config_class(**{**changed, "layer_types": mixed, **nested, **overrides})
    return config


def _value(config: PreTrainedConfig, name: str, default: Any) -> Any:
    try:
        return getattr(config, name, default)
    except Exception:  # of a field that has a value for each layer
        return default


RECURRENT = {"linear_attention", "conv"}
DERIVED = ("layer_types", "rope_parameters", "mlp_layer_types", "block_types", "layers_block_type")


def _differs(value: Any, default: Any) -> bool:
    return not (type(value) is type(default) and value == default)


def _shrunk(name: str, value: Any) -> Any:
    if KEPT.search(name) and not re.search(r"head_dim|hidden_size|embed_dim$", name):
        return copy.copy(value)
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        least = next((least for pattern, least in RULES if re.search(pattern, name)), None)
        return value if least is None else min(value, least) if value > 0 else value
    if isinstance(value, list | tuple) and value and all(type(each) is int for each in value):
        if re.search(r"depths|num_blocks|layer_nums|layers$", name):
            return type(value)(min(each, 2) for each in value)
        if re.search(r"heads", name):
            return type(value)(min(each, 2) for each in value)
        if WIDTHS.search(name):
            return type(value)(min(each, 16) for each in value)
    return copy.copy(value)
