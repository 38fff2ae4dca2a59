"""Encoders of Hugging Face, from their folders: BERT and RoBERTa."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from regard.models import hf_files
from regard.models.encoder import Encoder
from regard.models.encoder_config import EncoderConfig
from regard.models.hf_config import Settings
from regard.models.hf_files import Piece

__all__ = ["KINDS", "configuration", "load"]

#: The model_type of what can be loaded.
KINDS = ("bert", "roberta")
#: For each kind, how its masked language model's head is called: dense, norm, the bias of the scores, their weight.
HEADS = {
    "bert": ("cls.predictions.transform.dense", "cls.predictions.transform.LayerNorm", "cls.predictions.bias",
             "cls.predictions.decoder"),
    "roberta": ("lm_head.dense", "lm_head.layer_norm", "lm_head.bias", "lm_head.decoder"),
}  # fmt: skip
#: What old files hold of positions, which are counted, and BERT's judgement of two sentences, which an Encoder lacks.
SKIPPED = ("embeddings.position_ids", "cls.seq_relationship.weight", "cls.seq_relationship.bias")


def load(folder: str | Path, *, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Encoder:
    """The encoder that a folder of Hugging Face's holds, with the numbers that transformers computes of it.

    The folder holds config.json and model.safetensors, or several files and model.safetensors.index.json. It is read
    without transformers. A pooler and the head of the masked language model are there where the file has them; what
    BERT has for telling whether two sentences follow each other is left out. RoBERTa counts the tokens that are not
    padding, and so does its Encoder, whose ``config.pad_token`` says which token that is.

    Args:
        folder: with config.json of the model_type "bert" or "roberta".
        device: where the parameters are made.
        dtype: theirs; that of the file if None.

    Raises:
        ImportError: the package safetensors is missing.
        TypeError: the folder is no path.
        FileNotFoundError: a file is missing; pickles (pytorch_model.bin) are not read.
        ValueError: a setting that changes what the model computes and is not supported, or not known, named; a file
            that is damaged; tensors that are missing, too many, or of another shape.
    """
    raw = hf_files.read_config(folder)
    kind = raw.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"config.json has model_type={kind!r}; an Encoder can be {', '.join(KINDS)}")
    files = {_name(name, kind): place for name, place in hf_files.tensor_names(folder).items()}
    files = {name: place for name, place in files.items() if name not in SKIPPED}
    config = configuration(raw, pooler="pooler.dense.weight" in files, masked_head=f"{HEADS[kind][0]}.weight" in files)
    dtype = hf_files.stored_dtype(files) if dtype is None else dtype
    model = Encoder(config, device="meta", dtype=dtype).to_empty(device=device or "cpu").eval()
    *_, bias, scores = HEADS[kind]
    files = hf_files.without_copies(files, {f"{scores}.weight": EMBEDDING, f"{scores}.bias": bias})
    hf_files.fill(model, list(_pieces(config, kind)), files)
    return model


EMBEDDING = "embeddings.word_embeddings.weight"


def _name(stored: str, kind: str) -> str:
    """A tensor's name without what a head puts before it, and with today's words for a norm's parameters."""
    name = stored.removeprefix(f"{kind}.")
    return name.replace("LayerNorm.gamma", "LayerNorm.weight").replace("LayerNorm.beta", "LayerNorm.bias")


def _pad_token(raw: Mapping[str, Any]) -> int | None:
    """The token that has no position. Its row of the table is padding's, and the first position's is the next."""
    if raw["model_type"] != "roberta":
        return None
    given = raw.get("pad_token_id", 1)
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ValueError(
            f"config.json has pad_token_id={given!r}, after which a roberta counts its positions; expected an integer "
            "of at least 0"
        )
    return given


def configuration(raw: Mapping[str, Any], *, pooler: bool = False, masked_head: bool = False) -> EncoderConfig:
    """The configuration that config.json describes.

    Args:
        raw: config.json.
        pooler: whether the model has one.
        masked_head: whether the model has one.

    Raises:
        ValueError: a setting that is missing, not supported or not known, by its name.
    """
    kind = raw.get("model_type")
    if kind not in KINDS:
        raise ValueError(f"config.json has model_type={kind!r}; an Encoder can be {', '.join(KINDS)}")
    settings = Settings(raw, {"tie_word_embeddings": (None, True), "is_causal": (None, False)})
    size, pad_token = settings.size, _pad_token(raw)
    activation = settings.activation("hidden_act", "gelu")
    if masked_head and kind == "roberta" and activation != "gelu":  # its head has gelu, whatever config.json says
        raise ValueError(f"config.json has hidden_act={raw['hidden_act']!r}, and a roberta's head always has 'gelu'")
    config = EncoderConfig(
        vocab_size=size("vocab_size"),
        d_model=size("hidden_size"),
        num_layers=size("num_hidden_layers"),
        num_heads=size("num_attention_heads"),
        d_mlp=size("intermediate_size"),
        max_len=size("max_position_embeddings", 512) - (0 if pad_token is None else pad_token + 1),
        num_token_types=size("type_vocab_size", 2),
        pad_token=pad_token,
        activation=activation,
        norm_eps=settings.number("layer_norm_eps", 1e-12),
        dropout=settings.number("hidden_dropout_prob", 0.1),
        attention_dropout=settings.number("attention_probs_dropout_prob", 0.1),
        pooler=pooler,
        masked_head=masked_head,
    )
    settings.close()
    return config


def _pieces(config: EncoderConfig, kind: str) -> Iterator[Piece]:
    """Where each tensor goes."""
    yield Piece("embedding.weight", 0, EMBEDDING)
    yield Piece("positions.weight", 0, "embeddings.position_embeddings.weight", skip=config.pad_token or 0)
    yield Piece("token_types.weight", 0, "embeddings.token_type_embeddings.weight")
    parts = {"norm": "embeddings.LayerNorm"}
    for i in range(config.num_layers):
        ours, theirs = f"blocks.{i}", f"encoder.layer.{i}"
        parts |= {
            f"{ours}.attention.out_proj": f"{theirs}.attention.output.dense",
            f"{ours}.attention_norm": f"{theirs}.attention.output.LayerNorm",
            f"{ours}.mlp.0": f"{theirs}.intermediate.dense",
            f"{ours}.mlp.2": f"{theirs}.output.dense",
            f"{ours}.mlp_norm": f"{theirs}.output.LayerNorm",
        }
        for row, name in enumerate(("query", "key", "value")):
            for what in ("weight", "bias"):
                first, stored = row * config.d_model, f"{theirs}.attention.self.{name}.{what}"
                yield Piece(f"{ours}.attention.in_proj.{what}", first, stored, config.d_model)
    if config.pooler:
        parts["pooler"] = "pooler.dense"
    if config.masked_head:
        dense, norm, bias, _ = HEADS[kind]
        parts |= {"head.dense": dense, "head.norm": norm}
        yield Piece("head.bias", 0, bias)
    for ours, theirs in parts.items():
        yield Piece(f"{ours}.weight", 0, f"{theirs}.weight")
        yield Piece(f"{ours}.bias", 0, f"{theirs}.bias")
