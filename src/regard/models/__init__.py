"""Whole models of regard's parts: a decoder and an encoder to read from top to bottom, and text from a decoder.

>>> import torch
>>> from regard import models
>>> config = models.DecoderConfig(vocab_size=50, d_model=16, num_layers=2, num_heads=4, num_kv_heads=2, d_mlp=32)
>>> model = models.Decoder(config).eval()
>>> models.generate(model, torch.tensor([[3, 1, 4, 1, 5]]), max_new_tokens=8).shape
torch.Size([1, 8])
"""

from __future__ import annotations

from regard.models.decoder import Decoder
from regard.models.decoder_config import DecoderConfig
from regard.models.encoder import Encoder
from regard.models.encoder_config import EncoderConfig
from regard.models.generation import generate, stream

__all__ = ["Decoder", "DecoderConfig", "Encoder", "EncoderConfig", "generate", "stream"]
