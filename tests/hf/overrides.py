"""What the rules cannot know of single architectures: their class, fields of their configuration, their inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

CLASSES: dict[str, str] = {}

MAMBA = {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_d_state": 8}
LINEAR = {"linear_key_head_dim": 8, "linear_value_head_dim": 8, "linear_num_key_heads": 2, "linear_num_value_heads": 4}

MROPE = {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}}
IN_TEXT = {"text_config": MROPE}

SPARSE = {
    "index_n_heads": 2,
    "index_block_size": 2,
    "index_topk_blocks": 2,
    "layer_types": ["full_attention", "minimax_m3_sparse"],
}

CONFIGS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(
        (
            "paddleocr_vl_text",
            "qwen2_5_omni_talker",
            "qwen2_5_omni_text",
            "qwen2_5_vl_text",
            "qwen2_vl_text",
            "glm4v_text",
            "glm_image_text",
            "glm_ocr_text",
        ),
        MROPE,
    ),
    **dict.fromkeys(
        ("paddleocr_vl", "qwen2_5_omni_thinker", "qwen2_5_vl", "qwen2_vl", "glm4v", "glm46v", "glm_image", "glm_ocr"),
        IN_TEXT,
    ),
    "bamba": {**MAMBA, "attn_layer_indices": [1]},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "donut-swin": {"image_size": 64, "window_size": 2},
    "swin": {"image_size": 64, "window_size": 2},
    "glm4v_moe_text": {"rope_parameters": {**MROPE["rope_parameters"], "mrope_section": [1, 1, 0]}},
    "glm4v_moe": {"text_config": {"rope_parameters": {**MROPE["rope_parameters"], "mrope_section": [1, 1, 0]}}},
    "glm5_next_text": {"index_kpool": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "nemotron3_diarization_audio": {"num_key_value_heads": 4},
    "bros": {"dim_bbox_sinusoid_emb_2d": 16, "dim_bbox_projection": 8},
    "sam": {
        "vision_config": {"output_channels": 32, "image_size": 64, "window_size": 2},
        "prompt_encoder_config": {"image_size": 64, "hidden_size": 32},
    },
    "esm": {"vocab_size": 33, "pad_token_id": 1, "mask_token_id": 2},
    "falcon_h1": {**MAMBA, "mamba_d_ssm": 64},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]], "num_layers": 2, "window_size": 4},
    "granitemoehybrid": {**MAMBA, "layer_types": ["mamba", "attention"]},
    "laguna": {"num_attention_heads_per_layer": [4, 4]},
    "xlnet": {"d_head": 8},
    "minimax_m3_vl": {"text_config": SPARSE},
    "minimax_m3_vl_text": SPARSE,
    "ministral": {"head_dim": 8},
    "dots1": {"n_routed_experts": 4},
    "step3p5": {"sliding_window": 4},
    "autoformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
    "informer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
    "time_series_transformer": {"prediction_length": 4, "context_length": 8, "lags_sequence": [1, 2]},
}


def _series(config: Any) -> dict[str, Any]:
    past = config.context_length + max(config.lags_sequence)
    return {
        "past_values": torch.randn(2, past),
        "past_time_features": torch.randn(2, past, config.num_time_features),
        "past_observed_mask": torch.ones(2, past),
        "future_values": torch.randn(2, config.prediction_length),
        "future_time_features": torch.randn(2, config.prediction_length, config.num_time_features),
    }


# Of random matrices, where scores of 100 would make rounding show in the weights, or of nothing leave them uniform; 1
# elsewhere.
GAINS: dict[str, float] = {
    "embedding_gemma2": 0.1,
    "embedding_gemma2_text": 0.1,
    "granite_docling": 1.5,
    "granite_docling_text": 1.5,
    "mobilebert": 0.8,
}

INPUTS: dict[str, Callable[[Any], dict[str, Any]]] = {
    "autoformer": _series,
    "informer": _series,
    "time_series_transformer": _series,
}
