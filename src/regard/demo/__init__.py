"""The small trained transformer that regard looks at first; its attention layers are regard's own."""

from __future__ import annotations

from regard.demo.model import Config, Decoder
from regard.demo.store import load
from regard.demo.tokens import Tokenizer

__all__ = ["Config", "Decoder", "Tokenizer", "load"]
