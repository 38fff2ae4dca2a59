"""The models that `regard look` runs: the demo's own, and those of Hugging Face; what each makes of a text."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

if TYPE_CHECKING:
    from regard import AttentionWeights
    from regard.demo import Decoder, Tokenizer

__all__ = ["Attended", "Encoded", "Model", "load"]

Progress = Callable[[int, int], None]

DEMO = "demo"


@dataclass(frozen=True)
class Encoded:
    """A text as a model takes it.

    Attributes:
        ids: the tokens as integers.
        tokens: the same as text, one each.
        total: how many tokens the whole text has; more than ids where it was cut.
    """

    ids: list[int]
    tokens: list[str]
    total: int


@dataclass(frozen=True)
class Attended:
    """What a model attended to.

    Attributes:
        weights: one AttentionWeights a layer, each (1, H, L, L).
        notes: what the reader must know of them, in words.
    """

    weights: list[AttentionWeights]
    notes: list[str]


class Model(Protocol):
    """A model and its tokenizer.

    Attributes:
        title: what it is called at the beginning of a sentence.
        context: the most tokens it takes; None where nothing limits them.
        num_layers: where it is known before it has run; None where it is not.
        num_heads: likewise.
    """

    title: str
    context: int | None
    num_layers: int | None
    num_heads: int | None

    def limit(self, max_tokens: int | None) -> int | None:
        """The most tokens to read, of those that the user allows; None for all."""

    def encode(self, text: str, limit: int | None) -> Encoded:
        """The first tokens of a text, at most so many."""

    def attend(self, ids: list[int], progress: Progress) -> Attended:
        """The weights of every layer; progress is called with (layers done, layers in all)."""

    def positional_encoding(self, length: int) -> Tensor | None:
        """What it adds to its input at each position, (length, d_model); None if it adds nothing."""


def load(name: str) -> Model:
    """The model of that name.

    Args:
        name: "demo", a folder that the demo's training wrote, a folder of a Hugging Face model, or the name of one.

    Returns:
        The model, ready to run on the CPU in float32.

    Raises:
        ValueError: there is no such model, or it cannot be looked at; the message says why.
        ImportError: a package that it needs is not installed.
    """
    from regard import demo
    from regard.look.hub import is_folder

    if name == DEMO:
        return DemoModel("The demo model", *demo.load())
    if name and is_folder(name) and not _is_hugging_face(Path(name)):  # Path("") is the folder we are in
        try:
            return DemoModel(name, *demo.load(name))
        except FileNotFoundError as error:
            raise ValueError(
                f"--model is {name!r}, a folder without a model in it: {error}, or a folder with config.json, "
                "model.safetensors and a tokenizer, as save_pretrained of transformers writes them"
            ) from error
    from regard.look import hugging_face

    model: Model = hugging_face.load(name)
    return model


def _is_hugging_face(folder: Path) -> bool:
    """Whether its config.json names a kind of model; that of the demo's training only counts layers and heads."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        # A tokenizer's own settings are no file of the demo's.
        return (folder / "tokenizer_config.json").exists() or (folder / "adapter_config.json").exists()
    except ValueError:
        return not (folder / "training.json").exists()
    return isinstance(config, dict) and not {"model_type", "architectures", "auto_map"}.isdisjoint(config)


class DemoModel:
    """The demo's decoder, or one that its training made: its layers hand out their weights."""

    def __init__(self, title: str, decoder: Decoder, tokenizer: Tokenizer) -> None:
        self.title = title
        self._decoder = decoder
        self._tokenizer = tokenizer
        self.context: int | None = decoder.context
        self.num_layers: int | None = decoder.config.num_layers
        self.num_heads: int | None = decoder.config.num_heads

    def limit(self, max_tokens: int | None) -> int | None:
        """The context, or less where the user wants less."""
        return self._decoder.context if max_tokens is None else min(max_tokens, self._decoder.context)

    def encode(self, text: str, limit: int | None) -> Encoded:
        """The first tokens of a text."""
        ids = self._tokenizer.encode(text)
        return Encoded(ids[:limit], self._tokenizer.pieces(ids[:limit]), len(ids))

    @torch.no_grad()
    def attend(self, ids: list[int], progress: Progress) -> Attended:
        """The weights of every layer."""
        _, weights = self._decoder(torch.tensor([ids]), need_weights=True)
        progress(len(weights), len(weights))
        return Attended(list(weights), [])

    def positional_encoding(self, length: int) -> Tensor | None:
        """The sinusoids, (length, d_model)."""
        positions = self._decoder.positions
        return None if positions is None else positions.get_encoding()[:length]
