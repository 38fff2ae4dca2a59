"""Loads a Hugging Face model of text: from safetensors alone, with no code but that of transformers."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import torch
from torch import nn

from regard.look.hub import Place, quietly, resolve, short, transformers_module
from regard.look.hugging_face_model import HuggingFaceModel
from regard.look.pieces import METASPACE
from regard.look.wording import one_line

__all__ = ["load"]

NO_TOKENIZER = (
    "there is no tokenizer that can be loaded with it; expected tokenizer.json beside config.json, as "
    "tokenizer.save_pretrained(folder) writes it"
)


def load(name: str) -> HuggingFaceModel:
    """A model of Hugging Face, without its head, in float32 on the CPU.

    It is read from safetensors, and runs no code but that of transformers. A model that has one attends with PyTorch's
    fused attention, another with regard's own.

    Args:
        name: a folder, or a name in the local cache or on the hub.

    Returns:
        The model and its tokenizer.

    Raises:
        ValueError: it cannot be looked at; the message says why.
        ImportError: a package that it needs is not installed.
    """
    place = resolve(name)
    transformers_module()
    with quietly():
        config, kind = _config(place)
        tokenizer = _tokenizer(place)
        model = _model(place, config, kind)
    return HuggingFaceModel(name, model, tokenizer)


def _config(place: Place) -> tuple[Any, Any]:
    """The configuration of a model of text, and its class."""
    auto = import_module("transformers.models.auto")
    kind_of = place.raw.get("model_type")
    try:
        config = auto.AutoConfig.from_pretrained(place.where, trust_remote_code=False, local_files_only=place.local)
    except Exception as error:
        _raise_if_import(place, error)
        if place.raw.get("auto_map") or "custom code" in str(error):
            raise ValueError(
                f"--model is {place.name!r}, which needs code of its own (trust_remote_code); regard look runs none: "
                "watch it in a program of yours, with regard.watch(model)"
            ) from error
        if kind_of is not None and kind_of not in auto.CONFIG_MAPPING:
            version = transformers_module().__version__
            raise ValueError(
                f"--model is {place.name!r}, of a kind that transformers {version} does not know, {kind_of!r}; "
                "a newer one may: pip install --upgrade 'regard[hf]'"
            ) from error
        raise _refused(place, "its config.json cannot be read", error) from error
    try:
        kind = auto.MODEL_MAPPING[type(config)]
    except Exception as error:
        _raise_if_import(place, error)
        raise ValueError(
            f"--model is {place.name!r}, of the kind {config.model_type!r}, which transformers' AutoModel does not load"
        ) from error
    kind = kind[0] if isinstance(kind, tuple) else kind
    modalities = kind.input_modalities
    modalities = (modalities,) if isinstance(modalities, str) else tuple(modalities)
    if kind.main_input_name != "input_ids" or "text" not in modalities:
        reads = ", ".join(modality for modality in modalities if modality != "text") or kind.main_input_name
        raise ValueError(
            f"--model is {place.name!r}, of the kind {config.model_type!r}, which reads {reads}; expected a model of "
            "text: watch this one in a program of yours, with regard.watch(model)"
        )
    return config, kind


def _tokenizer(place: Place) -> Any:
    auto = import_module("transformers.models.auto")
    try:
        tokenizer = auto.AutoTokenizer.from_pretrained(
            place.where, trust_remote_code=False, local_files_only=place.local
        )
    except Exception as error:
        _raise_if_import(place, error)
        raise _refused(place, NO_TOKENIZER, error) from error
    if getattr(tokenizer, "is_fast", False):
        # Where its files are missing, transformers may make one that knows its special tokens alone.
        added = tokenizer.added_tokens_decoder
        if not any(token.strip(METASPACE) for token, number in tokenizer.get_vocab().items() if number not in added):
            raise ValueError(f"--model is {place.name!r}, but {NO_TOKENIZER} (its vocabulary is empty)")
    return tokenizer


def _model(place: Place, config: Any, kind: Any) -> nn.Module:
    auto = import_module("transformers.models.auto")
    attention = "eager"  # what the model does by itself, which may be seen or not
    if kind._supports_sdpa:
        attention = "sdpa"
    elif kind._supports_attention_backend:
        from regard.hf import register

        attention = register()
    try:
        model, report = auto.AutoModel.from_pretrained(
            place.where,
            config=config,
            attn_implementation=attention,
            dtype=torch.float32,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=place.local,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # they are refused below, by name
        )
    except Exception as error:
        quantised = _quantised(config)
        _raise_if_import(place, error, quantised)
        raise _refused(place, f"its weights{quantised} cannot be loaded", error) from error
    if report["mismatched_keys"]:
        name, stored, wanted = min(report["mismatched_keys"])
        raise ValueError(
            f"--model is {place.name!r}, but its weights do not fit its config.json: {name} is {tuple(stored)} in the "
            f"file, and the model has {tuple(wanted)}; expected the config.json that was saved with the weights"
        )
    # A pooler comes after all attention, and models are often stored without theirs.
    missing = sorted(name for name in report["missing_keys"] if "pooler" not in name)
    if missing:
        raise ValueError(
            f"--model is {place.name!r}, but its files lack weights, which would be random numbers: {missing[0]}"
            + (f" and {len(missing) - 1:,} more" if len(missing) > 1 else "")
            + "; expected a whole model, as model.save_pretrained(folder) writes it"
        )
    whole: nn.Module = model.eval()
    return whole


def _quantised(config: Any) -> str:
    """How its weights are quantised, in words, or ""."""
    said = getattr(config, "quantization_config", None)
    if not said:
        return ""
    method = said.get("quant_method") if isinstance(said, dict) else getattr(said, "quant_method", None)
    return f", which are quantised ({one_line(str(getattr(method, 'value', method)))}),"


def _raise_if_import(place: Place, error: Exception, quantised: str = "") -> None:
    """A package that is missing is for the user to install, and said by the one that needs it."""
    if isinstance(error, ImportError):
        what = f"its weights{quantised} need" if quantised else "it needs"
        raise ImportError(
            f"--model is {place.name!r}, but {what} a package that is not installed ({short(error)})", name=error.name
        ) from error


def _refused(place: Place, what: str, error: Exception) -> ValueError:
    return ValueError(f"--model is {place.name!r}, but {what} ({short(error)})")
