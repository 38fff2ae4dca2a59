"""Tiny models with random weights, and inputs for them, of any architecture that transformers knows."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
import transformers
from tests.hf.overrides import CLASSES, CONFIGS, GAINS, INPUTS
from tests.hf.tiny_configs import tiny_config
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.models.auto import modeling_auto
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

LENGTH = 10
"""Tokens of a text."""

# Where a model class is looked for, by the name of its config; the base models first.
WITH_HEADS = sorted(n for n in dir(modeling_auto) if n.startswith("MODEL_FOR_") and n.endswith("_NAMES"))
MAPPINGS = ["MODEL_MAPPING_NAMES", *WITH_HEADS]


class NoText(Exception):
    """There is no text in the inputs that could be padded."""


@dataclass(frozen=True)
class Tiny:
    """A model and what it is called with."""

    model: PreTrainedModel
    inputs: dict[str, Any]
    real: Tensor | None = None
    """(B, L) booleans, False for padding; None without padding."""
    fields: dict[str, list[Any]] = field(default_factory=dict)
    """The weights in the fields of eager attention's outputs."""


def model_class(model_type: str) -> type[PreTrainedModel]:
    """The base model of an architecture, or the first with a head."""
    if model_type in CLASSES:
        return _class(CLASSES[model_type])
    for mapping in MAPPINGS:
        found = getattr(modeling_auto, mapping).get(model_type)
        if found is not None:
            return _class(found if isinstance(found, str) else found[0])
    config = CONFIG_MAPPING[model_type]
    module = inspect.getmodule(config)
    assert module is not None
    modeling = __import__(module.__name__.replace(".configuration_", ".modeling_"), fromlist=["x"])
    found: list[type[PreTrainedModel]] = []
    for each in vars(modeling).values():
        if isinstance(each, type) and issubclass(each, PreTrainedModel) and each.config_class is config:
            found.append(each)
    called = [each for each in found if "forward" in vars(each)]
    if not called:
        raise LookupError("no model class for this configuration")
    return called[0]


def _class(name: str) -> type[PreTrainedModel]:
    found: type[PreTrainedModel] = getattr(transformers, name)
    return found


def build(model_type: str, attn: str | None) -> PreTrainedModel:
    """A model of this architecture, the same weights each time."""
    config = tiny_config(CONFIG_MAPPING[model_type], CONFIGS.get(model_type))
    torch.manual_seed(0)
    asked = {} if attn is None else {"attn_implementation": attn}
    model = model_class(model_type)._from_config(config, **asked)
    randomise(model, GAINS.get(model_type, 1.0))
    return model.eval()


@torch.no_grad()
def randomise(model: nn.Module, gain: float) -> None:
    """Weights whose products neither vanish nor grow, so that attention has something to choose between."""
    generator = torch.Generator().manual_seed(0)
    tables = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    for name, p in model.named_parameters():
        if not p.is_floating_point():
            continue
        if p.dim() >= 2 and "norm" not in name:
            fan_in = 1 if id(p) in tables else p.numel() // p.shape[0] if p.dim() != 3 else p.shape[-1]
            p.copy_(torch.randn(p.shape, generator=generator) * gain * max(fan_in, 1) ** -0.5)
        elif "q_norm" in name:
            p.mul_(gain)
        elif "sink" in name or name.endswith("query") or not torch.isfinite(p).all():
            p.copy_(torch.randn(p.shape, generator=generator))


def inputs_for(model_type: str, model: PreTrainedModel, padding: str | None) -> Tiny:
    """Inputs that a model runs with: the fewest, or those for all that it takes, or a video for an image."""
    problems: list[Exception] = []
    for wide, moving in ((False, False), (True, False), (False, True)):
        tiny = _inputs(model_type, model, padding, wide=wide, moving=moving)
        problem = _problem(tiny)
        if problem is None:
            return tiny
        problems.append(problem)
    raise problems[0]


def _problem(tiny: Tiny) -> Exception | None:
    """What a model says to inputs that it cannot be called with."""
    try:
        with torch.no_grad():
            tiny.model(**tiny.inputs)
    except Exception as error:
        return error
    return None


def _inputs(model_type: str, model: PreTrainedModel, padding: str | None, *, wide: bool, moving: bool) -> Tiny:
    """Inputs by the names of the arguments of ``forward``.

    Args:
        model_type: the architecture.
        model: of it.
        padding: "left" or "right" for a batch of which the second text is shorter; None without padding.
        wide: images and sounds too, for a model that takes texts.
        moving: images as videos.
    """
    torch.manual_seed(1)
    config = model.config
    names = inspect.signature(model.forward).parameters
    made: dict[str, Any] = {}
    real = None
    main = getattr(model, "main_input_name", "input_ids")
    if "input_ids" in names:
        made["input_ids"] = _tokens(config)
        made["input_ids"][:, -1] = _special(config, "eos_token_id", 2)
        if padding is not None and "attention_mask" in names:
            real = _real(padding)
            made["attention_mask"] = real.long()
            made["input_ids"][~real] = _special(config, "pad_token_id", 1)
            if padding == "right":
                made["input_ids"][1, -4] = _special(config, "eos_token_id", 2)
        if "bbox" in names:
            corners = torch.randint(0, 50, (2, LENGTH, 2))
            made["bbox"] = torch.cat([corners, corners + 10], -1)
        if "decoder_input_ids" in names:
            made["decoder_input_ids"] = _tokens(config)[:, :7]
    elif padding is not None:
        raise NoText("no text to pad")
    for name, make in MAKERS.items():
        if name in names and (wide or name == main or "input_ids" not in names):
            made[name] = make(config)
    if "input_ids" not in names and "decoder_input_ids" in names:
        made["decoder_input_ids"] = _tokens(config)[:, :7]
    if moving and "pixel_values" in made:
        made["pixel_values"] = _video(config)
    if moving and "input_values" in made:
        made["input_values"] = torch.randn(2, getattr(config, "max_length", 64), getattr(config, "num_mel_bins", 64))
    made.update(INPUTS.get(model_type, lambda c: {})(config))
    return Tiny(model, {name: value for name, value in made.items() if value is not None}, real)


def _real(padding: str) -> Tensor:
    real = torch.ones(2, LENGTH, dtype=torch.bool)
    if padding == "left":
        real[1, :3] = False
    else:
        real[1, -3:] = False
    return real


def _tokens(config: PreTrainedConfig) -> Tensor:
    vocab = getattr(config.get_text_config(), "vocab_size", None) or getattr(config, "vocab_size", 99) or 99
    # The small ids are special tokens: of padding, of images.
    return torch.randint(20, max(21, min(vocab, 90)), (2, LENGTH))


def _special(config: PreTrainedConfig, name: str, default: int) -> int:
    found = getattr(config.get_text_config(), name, None)
    return found if isinstance(found, int) and 0 <= found < 20 else default


def _image_sizes(config: PreTrainedConfig) -> tuple[int, int, int]:
    vision = getattr(config, "vision_config", None) or config
    size = getattr(vision, "image_size", None) or getattr(vision, "input_size", None) or 64
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    return getattr(vision, "num_channels", None) or getattr(vision, "in_channels", None) or 3, height, width


def _images(config: PreTrainedConfig) -> Tensor:
    return torch.randn(2, *_image_sizes(config))


def _video(config: PreTrainedConfig) -> Tensor:
    return torch.randn(2, getattr(config, "num_frames", 4) or 4, *_image_sizes(config))


def _features(config: PreTrainedConfig) -> Tensor:
    audio = getattr(config, "audio_config", None) or getattr(config, "encoder_config", None) or config
    mels = next((m for n in ("num_mel_bins", "input_feat_per_channel", "feature_size", "input_dim", "n_mels")
                 if isinstance(m := getattr(audio, n, None), int)), 80)  # fmt: skip
    frames = 2 * (getattr(audio, "max_source_positions", None) or 32)
    shape = (2, frames, mels) if getattr(config, "model_type", "") not in FIRST_MELS else (2, mels, frames)
    return torch.randn(*shape)


FIRST_MELS = {"whisper", "qwen2_audio", "qwen2_audio_encoder", "voxtral", "voxtral_encoder", "audioflamingo3"}

MAKERS = {
    "pixel_values": _images,
    "pixel_values_videos": _video,
    "input_features": _features,
    "input_values": lambda config: torch.randn(2, 1600),
}
