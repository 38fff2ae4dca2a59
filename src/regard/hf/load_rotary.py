"""The rotary positions that a configuration of transformers asks for."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from regard.positions import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, Rotary, YaRN

__all__ = ["rotary"]

Pairing = Literal["halves", "interleaved"]
Scaling = LinearScaling | DynamicNTK | YaRN | Llama3Scaling | LongRoPE


@dataclass(frozen=True)
class Kind:
    """What the RotaryEmbedding and the apply_rotary_pos_emb of an architecture do beyond reading rope_parameters."""

    pairing: Pairing = "halves"
    partial: bool = False
    """Whether it rotates a part of the head. The others do not read partial_rotary_factor with the default type."""
    by_layer: bool = False
    """Whether rope_parameters holds one set for each type of layer."""
    alpha: bool = False
    """Whether "dynamic" with an alpha means a larger base, whatever the length (HunYuan)."""


HALVES, PARTIAL, INTERLEAVED = Kind(), Kind(partial=True), Kind("interleaved")
KINDS: dict[str, Kind] = {
    **dict.fromkeys(
        (
            *("llama", "arcee", "jais2", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "dots1"),
            *("gemma", "gemma2", "gpt_oss", "granite", "granitemoe", "granitemoeshared", "starcoder2", "smollm3"),
            *(
                "olmo",
                "olmo2",
                "flex_olmo",
                "seed_oss",
                "apertus",
                "lfm2",
                "lfm2_moe",
                "hy_v3",
                "hyperclovax",
                "exaone4",
                "falcon",
            ),
        ),
        HALVES,
    ),
    **dict.fromkeys(
        ("phi", "phi3", "stablelm", "gpt_neox", "nemotron", "persimmon", "qwen3_next", "minimax_m2", "glm4_moe"),
        PARTIAL,
    ),
    **dict.fromkeys(("cohere", "cohere2", "helium", "ernie4_5", "ernie4_5_moe"), INTERLEAVED),
    **dict.fromkeys(("glm", "glm4"), Kind("interleaved", partial=True)),
    **dict.fromkeys(("gemma3_text", "olmo3", "modernbert"), Kind(by_layer=True)),
    **dict.fromkeys(("hunyuan_v1_dense", "hunyuan_v1_moe"), Kind(alpha=True)),
    # The rotated width is qk_rope_head_dim, all of it; which columns make a pair is said by rope_interleave.
    **dict.fromkeys(("deepseek_v3", "youtu"), HALVES),
}


NEEDED = {
    "linear": ("factor",),
    "dynamic": ("factor",),
    "yarn": ("factor",),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor"),
    "longrope": ("short_factor", "long_factor"),
}


def rotary(config: Any, *, layer_type: str | None = None) -> Rotary:
    """The rotary positions of a configuration of transformers; what regard has not is refused by name.

    ``(x_a, x_b) -> (x_a cos - x_b sin, x_b cos + x_a sin)`` with angles ``position * frequency``: the frequencies and
    the factor of its ``rope_parameters``, and the pairs (a, b) of its architecture.

    >>> import transformers, regard
    >>> config = transformers.LlamaConfig(hidden_size=64, num_attention_heads=4, rope_theta=500000.0)
    >>> regard.hf.rotary(config).base
    500000.0

    Args:
        config: of an architecture in the table of docs/hf_layers.md, such as ``model.config``; that of the text where
            a model has several.
        layer_type: which set of parameters, where they differ by layer ("sliding_attention", "full_attention").

    Returns:
        The :class:`regard.positions.Rotary` of one head.

    Raises:
        ValueError: an architecture whose rotary positions are not known here, a rope_type that regard has not, a
            layer_type that is missing or not among those of the configuration, an odd number of rotated columns,
            something that is no number.
    """
    kind = kind_of(config)
    given = parameters(config, kind, layer_type)
    pairing = kind.pairing
    if hasattr(config, "rope_interleave") and hasattr(config, "qk_rope_head_dim"):
        pairing = "interleaved" if config.rope_interleave else "halves"
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    rotated = rotated_width(given, kind, width)
    try:
        base, scaling = float(given["rope_theta"]), _scaling(config, given, kind)
    except TypeError as error:
        raise ValueError(f"config.rope_parameters must hold numbers, got {dict(given)}: {error}") from error
    if kind.alpha and given["rope_type"] == "dynamic" and given.get("alpha"):
        base, scaling = base * given["alpha"] ** (rotated / (rotated - 2)), None
    return Rotary(width, base=base, pairing=pairing, scaling=scaling, rotary_dim=rotated)


def kind_of(config: Any) -> Kind:
    """The conventions of an architecture."""
    name = getattr(config, "model_type", None)
    if name not in KINDS:
        text = getattr(getattr(config, "text_config", None), "model_type", None)
        hint = "pass config.text_config; " if text in KINDS else ""
        raise ValueError(
            f"config must be of an architecture whose rotary positions regard knows, got {type(config).__name__} with "
            f"model_type {name!r}; {hint}known are {', '.join(sorted(KINDS))}"
        )
    return KINDS[name]


def parameters(config: Any, kind: Kind, layer_type: str | None) -> Mapping[str, Any]:
    """The rope_parameters of a layer, with its rope_type."""
    given = getattr(config, "rope_parameters", None)
    if not given:
        raise ValueError(f"config.rope_parameters must hold rope_theta, got {given!r}")
    if kind.by_layer:
        types = [name for name, each in given.items() if isinstance(each, Mapping)]
        if layer_type not in types:
            raise ValueError(
                f"layer_type must be one of {types}, for which config.rope_parameters has a set each, "
                f"got {layer_type!r}"
            )
        given = given[layer_type]
    elif "rope_theta" not in given:
        raise ValueError(
            f"config.rope_parameters must be one set of parameters for all layers of a {config.model_type} model, got "
            f"the keys {sorted(given)}"
        )
    return {"rope_type": given.get("type", "default"), **given}


def rotated_width(given: Mapping[str, Any], kind: Kind, width: int) -> int:
    """How many leading columns of a head are rotated."""
    factor = given.get("partial_rotary_factor", 1.0)
    if not kind.partial:
        # The default type of these architectures rotates the whole head whatever the factor says; the scaled ones
        # would make fewer frequencies than the head has pairs, and transformers fails on them.
        if factor != 1.0 and given["rope_type"] != "default":
            raise ValueError(
                f"config.rope_parameters has partial_rotary_factor={factor}, but this architecture rotates whole heads"
            )
        return width
    rotated = int(width * factor)
    if rotated % 2 or rotated < 2:
        raise ValueError(
            f"config.rope_parameters has partial_rotary_factor={factor}, which rotates {rotated} of {width} columns; "
            "the number must be even and at least 2"
        )
    return rotated


def _scaling(config: Any, given: Mapping[str, Any], kind: Kind) -> Scaling | None:
    rope_type = given["rope_type"]
    if rope_type == "default":
        return None
    for name in NEEDED.get(rope_type, ()):
        if name not in given:
            raise ValueError(f"config.rope_parameters has rope_type={rope_type!r} and must have {name}, got {given}")
    if rope_type == "linear":
        return LinearScaling(given["factor"])
    if rope_type == "dynamic":
        return DynamicNTK(given["factor"], config.max_position_embeddings)
    if rope_type not in ("yarn", "longrope", "llama3"):
        raise ValueError(
            f"config.rope_parameters has rope_type={rope_type!r}, which regard's rotary positions have not; they have "
            "default, linear, dynamic, yarn, llama3 and longrope"
        )
    original = _original_len(config, given, kind)
    if rope_type == "llama3":
        return Llama3Scaling(given["factor"], given["low_freq_factor"], given["high_freq_factor"], original)
    factor = given.get("factor")
    if factor is None:
        factor = config.max_position_embeddings / original
    attention = given.get("attention_factor")
    if rope_type == "longrope":
        if attention is None:
            attention = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
        return LongRoPE(given["short_factor"], given["long_factor"], original, attention_factor=attention)
    if attention is None:
        first, second = given.get("mscale"), given.get("mscale_all_dim")
        both = bool(first and second)
        attention = magnitude(factor, first) / magnitude(factor, second) if both else magnitude(factor, 1)
    return YaRN(
        factor,
        original,
        beta_fast=given.get("beta_fast") or 32,
        beta_slow=given.get("beta_slow") or 1,
        attention_factor=attention,
        # Transformers reads it beside the sets of the layer types, where there are several, and so finds none in them.
        truncate=bool(config.rope_parameters.get("truncate", True)),
    )


def magnitude(factor: float, mscale: Any) -> float:
    """YaRN's ``0.1 * mscale * ln(factor) + 1``."""
    return 1.0 if factor <= 1 else float(0.1 * mscale * math.log(factor) + 1.0)


def _original_len(config: Any, given: Mapping[str, Any], kind: Kind) -> int:
    # In transformers (RotaryEmbeddingConfigMixin.standardize_rope_params) a field of the configuration goes before
    # that of one set for all layers, and where neither is, it is the longest text.
    own = given.get("original_max_position_embeddings")
    if not kind.by_layer:
        own = getattr(config, "original_max_position_embeddings", own)
    return int(own if own is not None else config.max_position_embeddings)
