"""A trained model on disk: a folder with model.safetensors, tokenizer.json, config.json and training.json."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from regard.demo.model import Config, Decoder
from regard.demo.tokens import Tokenizer

SHIPPED = Path(__file__).parent / "data"
"""The model that comes with regard."""


def save(folder: str | Path, model: Decoder, tokenizer: Tokenizer, training: dict[str, Any]) -> None:
    """Write a model, each file whole or not at all.

    Weights are stored in float16, half the size of float32; `load` returns exactly the stored numbers in float32.

    Args:
        folder: where to; made if missing.
        model: the decoder.
        tokenizer: its tokenizer.
        training: how it was trained, as JSON can hold it.

    Raises:
        ImportError: the package safetensors is missing.
        ValueError: a weight cannot be represented in float16.
    """
    safetensors = _require_safetensors()
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().half().contiguous() for name, tensor in model.state_dict().items()}
    for name, tensor in tensors.items():
        if not tensor.isfinite().all():
            raise ValueError(f"save: {name} is not finite in float16; training has diverged, try a lower learning rate")
    _write(folder / "model.safetensors", safetensors.save(tensors))
    _write(folder / "tokenizer.json", tokenizer.to_json().encode())
    _write(folder / "config.json", _json(asdict(model.config)))
    _write(folder / "training.json", _json(training))


def load(folder: str | Path | None = None) -> tuple[Decoder, Tokenizer]:
    r"""The small trained model that ships with regard, or one that `python -m regard.demo.train` wrote.

    Example:
        >>> model, tokenizer = load()
        >>> tokens = torch.tensor([tokenizer.encode("def square(x):\n    return x * x")])
        >>> logits, weights = model(tokens, need_weights=True)
        >>> len(weights) == model.config.num_layers
        True

    Args:
        folder: the output of a training run; the shipped model without it.

    Returns:
        The decoder, float32 and in evaluation mode, and its tokenizer.

    Raises:
        FileNotFoundError: the folder lacks one of the files; the error names it.
        ValueError: a file is damaged, or the files do not belong together.
        ImportError: the package safetensors or tokenizers is missing.
    """
    safetensors = _require_safetensors()
    folder = SHIPPED if folder is None else Path(folder)
    names = ("model.safetensors", "tokenizer.json", "config.json")
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"load: {folder} has no {name}; expected {', '.join(names)} as python -m regard.demo.train writes them"
            )
    config = _read_config(folder / "config.json")
    tokenizer = Tokenizer.load(folder / "tokenizer.json")
    if len(tokenizer) != config.vocab_size:
        raise ValueError(
            f"load: {folder}/tokenizer.json has {len(tokenizer)} tokens but config.json says {config.vocab_size}"
        )
    # The random start is overwritten at once; whoever loads a model should not find their own random numbers changed.
    with torch.random.fork_rng(devices=[]):
        model = Decoder(config)
    path = folder / "model.safetensors"
    try:
        tensors = safetensors.load(path.read_bytes())
        model.load_state_dict({name: tensor.float() for name, tensor in tensors.items()})
    except Exception as error:  # SafetensorError derives from Exception, a mismatch raises RuntimeError
        raise ValueError(f"load: {path} does not hold the weights config.json describes: {error}") from error
    return model.eval(), tokenizer


def _read_config(path: Path) -> Config:
    try:
        return Config(**json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ValueError(f"load: {path} is not the configuration of a Decoder: {error}") from error


def _require_safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError as error:
        raise ImportError("regard.demo needs the package safetensors: pip install 'regard[demo]'") from error
    return safetensors.torch


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


def _write(path: Path, data: bytes) -> None:
    # Renaming within a folder is atomic: a reader, or an interrupted run, finds the old file or the new one, no half.
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
