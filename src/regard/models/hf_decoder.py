"""Decoders of Hugging Face, from their folders: Llama, Mistral, Qwen2 and Qwen3."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from regard.models import hf_config, hf_files
from regard.models.decoder import Decoder
from regard.models.decoder_config import DecoderConfig, Projections
from regard.models.hf_config import Settings
from regard.models.hf_files import Piece

__all__ = ["KINDS", "configuration", "load"]

#: The model_type of what can be loaded.
KINDS = ("llama", "mistral", "qwen2", "qwen3")
#: The only value of a setting that a kind of model has no other of; null is as good as absent.
ONLY: dict[str, dict[str, tuple[Any, ...]]] = {
    "llama": {"sliding_window": (None,)},
    "mistral": {"attention_bias": (None, False), "mlp_bias": (None, False)},
    "qwen2": {"mlp_bias": (None, False), "use_mrope": (None, False)},
    "qwen3": {"mlp_bias": (None, False)},
}


def load(folder: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Decoder:
    """The decoder that a folder of Hugging Face's holds, with the logits that transformers computes of it.

    >>> from regard.models import Decoder
    >>> Decoder.from_huggingface("no/such/folder")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    FileNotFoundError: no/such/folder is not a folder on this machine, and nothing is downloaded; expected one as ...

    The folder holds config.json and model.safetensors, or several files and model.safetensors.index.json. It is read
    without transformers. The model is in evaluation mode; ``max_position_embeddings`` is no limit to it, as it is none
    to transformers.

    Args:
        folder: with config.json of the model_type "llama", "mistral", "qwen2" or "qwen3".
        device: where the parameters are made.
        dtype: theirs; that of the file if None.

    Raises:
        ImportError: the package safetensors is missing.
        TypeError: the folder is no path.
        FileNotFoundError: a file is missing; pickles (pytorch_model.bin) are not read.
        ValueError: a setting that changes what the model computes and is not supported, or not known, named; a file
            that is damaged; tensors that are missing, too many, or of another shape.
    """
    config = configuration(hf_files.read_config(folder))
    files = hf_files.tensor_names(folder)
    files = {name: place for name, place in files.items() if not name.endswith(SKIPPED)}
    dtype = hf_files.stored_dtype(files) if dtype is None else dtype
    model = Decoder(config, device="meta", dtype=dtype).to_empty(device=device or "cpu").eval()
    files = hf_files.without_copies(files, {OUTPUT: EMBEDDING} if config.tied else {})
    hf_files.fill(model, list(_pieces(config)), files)
    return model


EMBEDDING, OUTPUT = "model.embed_tokens.weight", "lm_head.weight"
#: What old files hold of rotary positions, which are computed.
SKIPPED = ("rotary_emb.inv_freq",)


def configuration(raw: Mapping[str, Any]) -> DecoderConfig:
    """The configuration that config.json describes.

    Raises:
        ValueError: a setting that is missing, not supported or not known, by its name.
    """
    kind = raw.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"config.json has model_type={kind!r}; a Decoder can be {', '.join(KINDS)}")
    settings = Settings(raw, ONLY[kind])
    size = settings.size
    d_model, num_heads, num_layers = size("hidden_size"), size("num_attention_heads"), size("num_hidden_layers")
    base, scaling = hf_config.rotary(settings, 10000.0)
    config = DecoderConfig(
        vocab_size=size("vocab_size"),
        d_model=d_model,
        num_layers=num_layers,
        num_heads=num_heads,
        d_mlp=size("intermediate_size"),
        num_kv_heads=size("num_key_value_heads", {"mistral": 8, "llama": num_heads}.get(kind, 32), null=num_heads),
        head_dim=size("head_dim", 128 if kind == "qwen3" else d_model // num_heads, null=d_model // num_heads),
        rotary_base=base,
        rotary_scaling=scaling,
        norm_eps=settings.number("rms_norm_eps", 1e-6),
        qk_norm=kind == "qwen3",
        activation=settings.activation("hidden_act", "silu"),
        attention_bias=_attention_bias(kind, settings),
        mlp_bias=settings.flag("mlp_bias", default=False) if kind == "llama" else False,
        window=_windows(kind, settings, num_layers),
        tied=settings.flag("tie_word_embeddings", default=False),
        dropout=settings.number("attention_dropout", 0.0),
    )
    settings.close()
    return config


def _attention_bias(kind: str, settings: Settings) -> bool | tuple[Projections, ...]:
    if kind == "qwen2":  # whatever config.json says: it has no such setting
        return ("q", "k", "v")
    return settings.flag("attention_bias", default=False) if kind != "mistral" else False


def _windows(kind: str, settings: Settings, num_layers: int) -> int | tuple[int | None, ...] | None:
    """The window of each layer, as each kind of model decides it."""
    if kind == "llama":
        hf_config.windows(settings, num_layers, None)  # refuses layers in a window
        return None
    window: int | None
    if kind == "mistral":
        window = settings.size("sliding_window", 4096, null=None)
        by_type = hf_config.windows(settings, num_layers, window)
        if by_type is not None and set(by_type) != {window}:
            raise ValueError(
                f"config.json has sliding_window={window} and layer_types, which a mistral does not follow"
            )
        return window
    window = settings.size("sliding_window", 4096, null=None, least=0)  # which may be off
    if not settings.flag("use_sliding_window", default=False):
        window = None
    first = settings.size("max_window_layers", 28, least=0)
    by_type = hf_config.windows(settings, num_layers, window)
    return tuple(window if i >= first else None for i in range(num_layers)) if by_type is None else by_type


def _pieces(config: DecoderConfig) -> Iterator[Piece]:
    """Where each tensor goes."""
    head = config.head_width
    kv_heads = config.num_heads if config.num_kv_heads is None else config.num_kv_heads
    rows = {"q": config.num_heads * head, "k": kv_heads * head, "v": kv_heads * head}
    firsts = {"q": 0, "k": rows["q"], "v": rows["q"] + rows["k"]}
    named = config.attention_bias if isinstance(config.attention_bias, tuple) else ("q", "k", "v", "out")
    biased = named if config.attention_bias else ()
    yield Piece("embedding.weight", 0, EMBEDDING)
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"model.layers.{i}"
        yield Piece(f"{ours}.attention_norm.weight", 0, f"{theirs}.input_layernorm.weight")
        for name, row in firsts.items():
            for kind in ("weight", "bias") if name in biased else ("weight",):
                yield Piece(
                    f"{ours}.attention.in_proj.{kind}", row, f"{theirs}.self_attn.{name}_proj.{kind}", rows[name]
                )
        yield Piece(f"{ours}.attention.out_proj.weight", 0, f"{theirs}.self_attn.o_proj.weight")
        if "out" in biased:
            yield Piece(f"{ours}.attention.out_proj.bias", 0, f"{theirs}.self_attn.o_proj.bias")
        if config.qk_norm:
            for name in ("q", "k"):
                yield Piece(f"{ours}.attention.norm.{name}.weight", 0, f"{theirs}.self_attn.{name}_norm.weight")
        yield Piece(f"{ours}.mlp_norm.weight", 0, f"{theirs}.post_attention_layernorm.weight")
        for kind in ("weight", "bias") if config.mlp_bias else ("weight",):
            for row, name in ((0, "gate"), (config.d_mlp, "up")):
                yield Piece(f"{ours}.mlp.gate_up.{kind}", row, f"{theirs}.mlp.{name}_proj.{kind}", config.d_mlp)
            yield Piece(f"{ours}.mlp.down.{kind}", 0, f"{theirs}.mlp.down_proj.{kind}")
    yield Piece("norm.weight", 0, "model.norm.weight")
    if not config.tied:
        yield Piece("output.weight", 0, OUTPUT)
