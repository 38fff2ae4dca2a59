"""What kind of architecture a model type is, and which of them stand for the others in the quick tests."""

from __future__ import annotations

import inspect
from typing import Any

from tests.hf.tiny_models import build
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

REPRESENTATIVE = [
    "bart",  # encoder, decoder, cross-attention
    "bert",
    "clip",  # two towers
    "deepseek_v32",  # values of another width than keys, an indexer that chooses the keys
    "gemma2",  # softcap, windows
    "gpt2",
    "gpt_oss",  # sinks, windows, experts
    "inkling2",  # a sink for each query, relative positions
    "llama",  # grouped heads
    "llama4_text",  # chunks
    "mistral",  # windows
    "mixtral",
    "modernbert",  # windows to both sides
    "t5",  # relative positions
    "vit",
    "wav2vec2",
    "whisper",
]
"""One for each thing that attention does differently."""


MOST_PARAMETERS = 200_000_000
"""Of a model that the rules failed to make tiny: it would take longer than all others."""


def described(model_type: str) -> dict[str, Any]:
    """The class, the kind and what is particular of a model type, as its tiny model shows it."""
    model = build(model_type, "eager")
    size = sum(p.numel() for p in model.parameters())
    if size > MOST_PARAMETERS:
        raise ValueError(f"not tiny: {size} parameters")
    return {"class": type(model).__name__, "kind": kind(model), "traits": traits(model)}


def kind(model: PreTrainedModel) -> str:
    """What it reads."""
    names = set(inspect.signature(model.forward).parameters)
    text = bool(names & {"input_ids", "decoder_input_ids"})
    images = any("pixel" in name or "patches" in name for name in names)
    sound = bool(names & {"input_features", "input_values", "input_audio", "audio_values"})
    if text and (images or sound):
        return "text and images or sound" if "input_ids" in names or images else "sound"
    if images or sound:
        return "images and video" if images else "sound"
    if not text:
        return "other"
    if getattr(model.config, "is_encoder_decoder", False) and "decoder_input_ids" in names:
        return "text, encoder and decoder"
    return "text, decoder" if names & {"past_key_values", "use_cache"} and causal(model) else "text, encoder"


def causal(model: PreTrainedModel) -> bool:
    """Whether its attentions are causal, by their own flag, or the class by its name in the list of decoders."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as decoders
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as encoders

    name = model.config.model_type
    return name not in encoders and (name in decoders or any(getattr(m, "is_causal", False) for m in model.modules()))


def traits(model: PreTrainedModel) -> list[str]:
    """Grouped heads, windows, softcap, sinks, experts."""
    config = model.config.get_text_config()
    found = []
    heads, groups = _number(config, "num_attention_heads"), _number(config, "num_key_value_heads")
    if groups and heads and groups < heads:
        found.append("grouped heads")
    if any(type(getattr(m, "sliding_window", None)) is int for m in model.modules() if _attends(m)):
        found.append("windows")
    if _number(config, "attention_chunk_size"):
        found.append("chunks")
    if _number(config, "attn_logit_softcapping"):
        found.append("softcap")
    if any("sink" in name for name, _ in model.named_parameters()):
        found.append("sinks")
    if any("expert" in name for name, _ in model.named_modules()):
        found.append("experts")
    if any(
        "relative_attention_bias" in name or "relative_position_bias" in name for name, _ in model.named_parameters()
    ):
        found.append("relative positions")
    return found


def _attends(module: nn.Module) -> bool:
    return "attention" in type(module).__name__.lower()


def _number(config: PreTrainedConfig, name: str) -> float:
    try:
        value = getattr(config, name, None)
    except Exception:  # a field that has a value for each layer
        return 0
    return value if isinstance(value, int | float) and not isinstance(value, bool) else 0
