"""Sinusoidal encodings that are wrong, in the form in which people have written them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from regard.check.golden import sinusoid


def table(length: int, d_model: int, base: float = 10000.0) -> Tensor:
    """The right table, for those whose mistake is elsewhere."""
    return sinusoid(torch.arange(length), d_model, base=base).float()


def base_1000(length: int, d_model: int) -> Tensor:
    """A zero too few."""
    return table(length, d_model, base=1000.0)


def exponent_without_two(length: int, d_model: int) -> Tensor:
    """I counts pairs and is not doubled."""
    i = torch.arange((d_model + 1) // 2)
    return from_frequencies(length, d_model, 10000.0 ** (-i / d_model))


def exponent_doubled_twice(length: int, d_model: int) -> Tensor:
    """I counts columns, by two, and is doubled once more."""
    i = torch.arange(0, d_model, 2)
    return from_frequencies(length, d_model, 10000.0 ** (-2 * i / d_model))


def own_exponent(length: int, d_model: int) -> Tensor:
    """Each column has the exponent of its own number; a cosine does not have its sine's."""
    columns = torch.arange(d_model)
    angle = torch.arange(length)[:, None] / 10000.0 ** (columns / d_model)
    return torch.where(columns % 2 == 0, angle.sin(), angle.cos())


def precedence(length: int, d_model: int) -> Tensor:
    """LoFTR #41: `/ d_model // 2` is not `/ (d_model // 2)`."""
    i = torch.arange((d_model + 1) // 2).float()
    return from_frequencies(length, d_model, torch.exp(i * (-math.log(10000.0) / d_model // 2)))


def integers(length: int, d_model: int) -> Tensor:
    """BERT-pytorch #18: a product of integers, each frequency 1."""
    div_term = (torch.arange(0, d_model, 2) * int(-math.log(10000.0) / d_model)).float().exp()
    return from_frequencies(length, d_model, div_term)


def from_one(length: int, d_model: int) -> Tensor:
    """range(1, length + 1)."""
    return sinusoid(torch.arange(1, length + 1), d_model).float()


def swapped(length: int, d_model: int) -> Tensor:
    """Cosines first."""
    angle = torch.arange(length)[:, None] / 10000.0 ** (torch.arange(0, d_model, 2) / d_model)
    out = torch.zeros(length, d_model)
    out[:, 0::2], out[:, 1::2] = angle.cos(), angle.sin()[:, : d_model // 2]
    return out


def even_only(length: int, d_model: int) -> Tensor:
    """BERT-pytorch #78: right, and for an odd width a collision of shapes."""
    angle = torch.arange(length)[:, None] / 10000.0 ** (torch.arange(0, d_model, 2) / d_model)
    out = torch.zeros(length, d_model)
    out[:, 0::2] = angle.sin()
    out[:, 1::2] = angle.cos()
    return out


def last_column_empty(length: int, d_model: int) -> Tensor:
    """Pairs alone are filled."""
    out = torch.zeros(length, d_model)
    out[:, : d_model // 2 * 2] = table(length, d_model)[:, : d_model // 2 * 2]
    return out


def half_table(length: int, d_model: int) -> Tensor:
    """gpt-neox #1003: positions, angles and sines in bfloat16."""
    angle = torch.arange(length).bfloat16()[:, None] * (10000.0 ** (-torch.arange(0, d_model, 2) / d_model)).bfloat16()
    out = torch.zeros(length, d_model)
    out[:, 0::2], out[:, 1::2] = angle.sin(), angle.cos()[:, : d_model // 2]
    return out


def half_positions(length: int, d_model: int) -> Tensor:
    """Positions in float16, the rest in float32: right up to 2048."""
    return sinusoid(torch.arange(length).half(), d_model).float()


def from_frequencies(length: int, d_model: int, frequencies: Tensor) -> Tensor:
    """Sin and cos of position times frequency, in neighbouring columns."""
    angle = torch.arange(length)[:, None] * frequencies
    out = torch.zeros(length, d_model)
    out[:, 0::2], out[:, 1::2] = angle.sin(), angle.cos()[:, : d_model // 2]
    return out


class Added(nn.Module):
    """x + table, right; what follows changes one line of it."""

    def __init__(self, d_model: int, max_len: int = 512) -> None:
        super().__init__()
        self.d_model, self.max_len = d_model, max_len
        self.register_buffer("pe", table(max_len, d_model)[None])
        self.pe: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, L, d) -> (B, L, d)."""
        return x + self.pe[:, : x.size(1)]


class OneRow(Added):
    """DiffPoseTalk #20: a colon too few."""

    def forward(self, x: Tensor) -> Tensor:
        """X + one row."""
        return x + self.pe[:, x.size(1) - 1 : x.size(1)]


class NextRow(Added):
    """The sum starts at row 1 of a table that starts at 0."""

    def forward(self, x: Tensor) -> Tensor:
        """X + rows 1 .. L."""
        rows = self.pe[:, 1 : x.size(1) + 1]
        if rows.size(1) != x.size(1):
            raise ValueError("too long")
        return x + rows


class AlongBatch(nn.Module):
    """Written for (L, B, d), called with (B, L, d)."""

    def __init__(self, d_model: int, max_len: int = 512) -> None:
        super().__init__()
        self.register_buffer("pe", table(max_len, d_model)[:, None])
        self.pe: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """X + row b for sequence b."""
        return x + self.pe[: x.size(0)]


class CountsOn(Added):
    """The positions of the second sequence follow those of the first."""

    def forward(self, x: Tensor) -> Tensor:
        """X + rows 0 .. B * L - 1."""
        batch, length, width = x.shape
        return x + table(batch * length, width).view(batch, length, width).to(x.dtype)


class InPlace(Added):
    """The sum is written into x."""

    def forward(self, x: Tensor) -> Tensor:
        """X += table."""
        x += self.pe[:, : x.size(1)]
        return x


class Wraps(Added):
    """Positions past the end start again."""

    def forward(self, x: Tensor) -> Tensor:
        """X + rows modulo max_len."""
        return x + self.pe[:, torch.arange(x.size(1)) % self.max_len]


class Clamps(Added):
    """Positions past the end all are the last one."""

    def forward(self, x: Tensor) -> Tensor:
        """X + rows up to the last one."""
        return x + self.pe[:, torch.arange(x.size(1)).clamp(max=self.max_len - 1)]


class InDtypeOfX(Added):
    """The table is computed in the dtype of x."""

    def forward(self, x: Tensor) -> Tensor:
        """X + table, all of it in x's dtype."""
        position = torch.arange(x.size(1)).to(x)[:, None]
        angle = position * (10000.0 ** (-torch.arange(0, self.d_model, 2) / self.d_model)).to(x)
        rows = torch.zeros(x.shape[1:]).to(x)
        rows[:, 0::2], rows[:, 1::2] = angle.sin(), angle.cos()[:, : self.d_model // 2]
        return x + rows


class FirstDtype(Added):
    """The table is kept in the dtype of the first x."""

    kept: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        """X + what was kept."""
        if self.kept is None:
            self.kept = self.pe.to(x.dtype)
        return (x + self.kept[:, : x.size(1)]).to(x.dtype)


class NeverReset(Added):
    """Positions go on where the last call ended."""

    seen = 0

    def forward(self, x: Tensor) -> Tensor:
        """X + rows from where the last call ended."""
        start = self.seen
        self.seen = (start + x.size(1)) % (self.max_len - x.size(1) + 1)
        return x + self.pe[:, start : start + x.size(1)]
