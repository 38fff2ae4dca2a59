"""Sinusoidal encodings that are right, in the styles in which people write them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

import regard


class Textbook:
    """The loop of textbooks, with one entry at a time; in Python's floats, which are float64."""

    def __init__(self, d_model: int, max_len: int) -> None:
        self.encoding = torch.zeros(max_len, d_model)
        for pos in range(max_len):
            row = [pos / 10000 ** ((i - i % 2) / d_model) for i in range(d_model)]
            self.encoding[pos] = torch.tensor([math.cos(a) if i % 2 else math.sin(a) for i, a in enumerate(row)])

    def get_encoding(self) -> Tensor:
        return self.encoding


class Tutorial(nn.Module):
    """PyTorch's tutorial: exp and log in float32, x (L, B, d), a buffer (max_len, 1, d)."""

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 5000) -> None:
        super().__init__()
        self.dropout = nn.Dropout(p=dropout)
        position = torch.arange(max_len).unsqueeze(1)
        div_term = torch.exp(torch.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        pe = torch.zeros(max_len, 1, d_model)
        pe[:, 0, 0::2] = torch.sin(position * div_term)
        pe[:, 0, 1::2] = torch.cos(position * div_term)[:, : d_model // 2]
        self.register_buffer("pe", pe)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.pe[: x.size(0)]
        return self.dropout(x)


class Annotated(nn.Module):
    """Batch-first, x scaled by sqrt(d) first."""

    def __init__(self, d_model, max_len=512):
        super().__init__()
        self.d_model = d_model
        position = torch.arange(0, max_len, dtype=torch.float32)[:, None]
        freq = 1.0 / 10000 ** (torch.arange(0, d_model, 2, dtype=torch.float32) / d_model)
        pe = torch.zeros(max_len, d_model)
        pe[:, 0::2] = torch.sin(position * freq)
        pe[:, 1::2] = torch.cos(position * freq[: d_model // 2])
        self.register_buffer("pe", pe[None])

    def forward(self, x):
        return x * math.sqrt(self.d_model) + self.pe[:, : x.shape[1]]


def arrays(length, d_model):
    """NumPy, on one line."""
    angles = np.arange(length)[:, None] / 10000 ** (2 * (np.arange(d_model)[None] // 2) / d_model)
    angles[:, 0::2] = np.sin(angles[:, 0::2])
    angles[:, 1::2] = np.cos(angles[:, 1::2])
    return angles


def width_first(d, n):
    """Names that say nothing, the width before the length, (1, L, d)."""
    return torch.from_numpy(arrays(n, d)).float()[None]


def concatenated(length, depth):
    """TensorFlow's tutorial: sines, then cosines."""
    depths = np.arange((depth + 1) // 2)[None] * 2 / depth
    angle = np.arange(length)[:, None] / 10000**depths
    return np.concatenate([np.sin(angle), np.cos(angle)], axis=-1)[:, :depth].astype(np.float32)


def whisper(length, channels, max_timescale=10000):
    """Whisper's, exponents up to 1."""
    increment = np.log(max_timescale) / (channels // 2 - 1)
    inv = torch.exp(-increment * torch.arange(channels // 2))
    scaled = torch.arange(length)[:, None] * inv[None]
    out = torch.cat([torch.sin(scaled), torch.cos(scaled)], dim=1)
    return torch.nn.functional.pad(out, (0, channels - out.shape[1]))


def add_positions(x: Tensor) -> Tensor:
    """A function of x."""
    return x + torch.from_numpy(arrays(x.shape[-2], x.shape[-1])).to(x.dtype)


class Grows(nn.Module):
    """A table that grows when it has to, and is kept in float32 whatever comes."""

    def __init__(self, d_model):
        super().__init__()
        self.d_model = d_model
        self.table = torch.zeros(0, d_model)

    def forward(self, x):
        if x.shape[1] > len(self.table):
            self.table = torch.from_numpy(arrays(x.shape[1], self.d_model)).float()
        return x + self.table[: x.shape[1]].to(x.dtype)


class Frozen(nn.Embedding):
    """A table as the weight of an embedding, as Hugging Face has it."""

    def __init__(self, num_positions: int, embedding_dim: int) -> None:
        super().__init__(num_positions, embedding_dim)
        self.weight.data = torch.from_numpy(arrays(num_positions, embedding_dim)).float()
        self.weight.requires_grad_(False)

    def forward(self, input_ids: Tensor) -> Tensor:
        return super().forward(torch.arange(input_ids.shape[1]))


RIGHT = {
    "regard": regard.PositionalEncoding,
    "regard, an instance": regard.PositionalEncoding(16, 200),
    "textbook": Textbook,
    "tutorial": Tutorial,
    "tutorial, an instance": Tutorial(16, dropout=0.3, max_len=100),
    "annotated": Annotated,
    "arrays": arrays,
    "width first": width_first,
    "concatenated": concatenated,
    "whisper": whisper,
    "a function of x": add_positions,
    "grows": Grows,
    "frozen": Frozen,
}
