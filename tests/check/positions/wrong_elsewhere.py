"""The mistakes of the mutants, made by other people: another form, another style, another convention beside them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from regard.check.contract import Contract

BATCH_FIRST, HEADS_FIRST = Contract(layout="BLE"), Contract(layout="BHLD")


class Kept(nn.Module):
    """A table (1, L, d) that is added, made by `rows`."""

    def __init__(self, d_model: int, max_len: int = 256):
        super().__init__()
        self.register_buffer("pe", torch.tensor(self.rows(max_len, d_model), dtype=torch.float32)[None])

    @staticmethod
    def rows(n: int, d: int) -> np.ndarray:
        columns = np.arange(d)
        angle = np.arange(n)[:, None] / 10000 ** (columns // 2 * 2 / d)
        return np.where(columns % 2 == 0, np.sin(angle), np.cos(angle))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.pe[:, : x.shape[1]]


class Thousand(Kept):
    @staticmethod
    def rows(n, d):
        div = np.exp(np.arange(0, d, 2) * -(math.log(1000.0) / d))
        return np.stack([np.sin(np.outer(range(n), div)), np.cos(np.outer(range(n), div))], -1).reshape(n, -1)[:, :d]


class Kazemnejad(Kept):
    """i without the 2, scaled input, no odd widths."""

    @staticmethod
    def rows(n, d):
        out = np.zeros((n, d))
        for i in range(d // 2):
            angle = np.arange(n) / np.power(10000, i / d)
            out[:, 2 * i], out[:, 2 * i + 1] = np.sin(angle), np.cos(angle)
        if d % 2:
            raise ValueError("even widths only")
        return out


def doubled(seq_len, d, n=10000):
    P = np.zeros((seq_len, d))
    for k in range(seq_len):
        for i in range(0, d, 2):
            angle = k / np.power(n, 2 * i / d)
            P[k, i] = np.sin(angle)
            if i + 1 < d:
                P[k, i + 1] = np.cos(angle)
    return P


def per_column(seq_len, dim):
    return torch.tensor(
        [[(math.cos if i % 2 else math.sin)(p / 10000 ** (i / dim)) for i in range(dim)] for p in range(seq_len)]
    )


def from_one(length, width):
    return Kept.rows(length + 1, width)[1:]


class Crashes:
    """The exp form, whose cosines do not fit an odd width."""

    def __init__(self, max_len, d_model):
        pe = torch.zeros(max_len, d_model)
        at = torch.arange(max_len, dtype=torch.float64).unsqueeze(1)
        div = torch.exp(torch.arange(0, d_model, 2, dtype=torch.float64) * -(math.log(10000.0) / d_model))
        pe[:, 0::2] = torch.sin(at * div)
        pe[:, 1::2] = torch.cos(at * div)
        self.pos_table = pe

    def __call__(self, x):
        return x + self.pos_table[: x.shape[-2]]


class SameForAll(Kept):
    def forward(self, x):
        return x + self.pe[:, [x.shape[1] - 1]]


class BatchAxis(Kept):
    def forward(self, x):
        return x + self.pe.transpose(0, 1)[: len(x)]


class Overwrites(Kept):
    def forward(self, x):
        return x.add_(self.pe[:, : x.shape[1]])


class EndsAtTheEnd(Kept):
    def forward(self, x):
        index = torch.minimum(torch.arange(x.shape[1]), torch.tensor(self.pe.shape[1] - 1))
        return x + self.pe[0].index_select(0, index)


class Low(Kept):
    """Positions in the dtype of x, with its own spelling of the frequencies."""

    def forward(self, x):
        d = x.shape[-1]
        inv = (1 / 10000 ** (torch.arange(0, d, 2, dtype=torch.float32) / d)).type_as(x)
        angle = torch.arange(x.shape[1], dtype=x.dtype).outer(inv)
        return x + torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :d]


TABLES = {
    "base 1000": (Thousand, None),
    "exponent i/d": (Kazemnejad, None),
    "exponent 4i/d": (doubled, None),
    "own exponent": (per_column, None),
    "from one": (from_one, None),
    "even only": (Crashes, None),
    "one row": (SameForAll, None),
    "along batch": (BatchAxis, BATCH_FIRST),
    "in place": (Overwrites, None),
    "clamps": (EndsAtTheEnd, None),
    "in dtype of x": (Low, None),
}

# -- rotary ------------------------------------------------------------------------------------------------------------


def cis(x: Tensor, positions: Tensor, sign: float = 1.0, power: float = 2.0) -> Tensor:
    """Neighbours as complex numbers."""
    dim = x.shape[-1]
    angle = sign * torch.outer(positions.double(), 10000.0 ** (-power * torch.arange(dim // 2) / dim).double())
    z = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(z * torch.polar(torch.ones_like(angle), angle)).flatten(-2).to(x.dtype)


def conjugated(x):
    return cis(x, torch.arange(x.shape[-2]), sign=-1)


def shifted(q, k):
    at = torch.arange(1, q.shape[-2] + 1)
    return cis(q, at), cis(k, at)


class NoTwo(nn.Module):
    def __init__(self, head_dim, theta=10000.0):
        super().__init__()
        self.head_dim = head_dim

    def forward(self, x):
        return cis(x, torch.arange(x.shape[-2]), power=1)


def queries_only(xq, xk):
    return cis(xq, torch.arange(xq.shape[-2])), xk


def keys_back(xq, xk):
    return cis(xq, torch.arange(xq.shape[-2])), conjugated(xk)


class Forgetful(nn.Module):
    """A cache by length."""

    def __init__(self, dim):
        super().__init__()
        self.dim, self.cache = dim, {}

    def forward(self, x, start_pos=0):
        at = self.cache.setdefault(x.shape[-2], torch.arange(start_pos, start_pos + x.shape[-2]))
        return cis(x, at)


def deaf(x, start=0):
    return cis(x, torch.arange(x.shape[-2]))


def promoted(x):
    return cis(x.float(), torch.arange(x.shape[-2]))


class Buffer(nn.Module):
    """Frequencies in a buffer, neighbours."""

    def __init__(self, dim):
        super().__init__()
        self.register_buffer("freqs", 1.0 / 10000 ** (torch.arange(0, dim, 2).float() / dim))

    def forward(self, x):
        angle = torch.outer(torch.arange(x.shape[-2]).float(), self.freqs.float())
        a, b = x[..., ::2], x[..., 1::2]
        cos, sin = angle.cos().to(x), angle.sin().to(x)
        return torch.stack([a * cos - b * sin, a * sin + b * cos], -1).flatten(-2)


def overwritten(x):
    with torch.no_grad():
        x[:] = cis(x, torch.arange(x.shape[-2]))
    return x


def stopped(x):
    at = torch.arange(x.shape[-2])
    dim = x.shape[-1]
    angle = torch.outer(at.double(), 10000.0 ** (-torch.arange(0, dim, 2).double() / dim))
    a, b = x[..., ::2], x[..., 1::2]
    cos, sin = angle.cos().to(x), angle.sin().to(x)
    return torch.stack([a * cos - b.detach() * sin, a.detach() * sin + b * cos], -1).flatten(-2)


def swapped_layout(x):
    return cis(x.movedim(1, 2), torch.arange(x.shape[1])).movedim(1, 2)


TURNS = {
    "other way": (conjugated, None),
    "from one": (shifted, None),
    "exponent i/D": (NoTwo, None),
    "key as it came": (queries_only, None),
    "key back": (keys_back, None),
    "key without offset": (Forgetful, None),
    "ignored offset": (deaf, None),
    "wide": (promoted, None),
    "half frequencies": (Buffer, None),
    "in place": (overwritten, None),
    "detached": (stopped, None),
    "along heads": (swapped_layout, HEADS_FIRST),
}
