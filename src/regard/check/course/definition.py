"""What the exercises define, in float64, and how far from it rounding may take a right solution.

The budgets are worst cases to first order. With the unit roundoff u, a product of n terms is off by at most (n + 1) u
of the product of the magnitudes; a score that is off by d moves a weight by at most 2 d of itself, and the softmax and
the sum over S keys add (2 S + 8) u.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product

import torch
from torch import Tensor, nn

from regard import reference

__all__ = ["Heads", "Projection", "attention", "candidates", "encoding", "heads_of", "roundoff", "several_heads_of"]


GROUPS = ("head by head", "kind by kind", "fused")


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff: the relative error of rounding once."""
    return torch.finfo(dtype).eps / 2


def encoding(max_len: int, d_model: int) -> tuple[Tensor, Tensor]:
    """The table (max_len, d_model) of sines and cosines, and the budget of one that was made in float32.

    The frequency 10000^(-2i/d_model) is a power of a rounded exponent: off by u times its logarithm, a few times over.
    The angle, a position times it, is off by as much of itself, and so are its sine and cosine.
    """
    column = torch.arange(d_model, dtype=torch.float64)
    exponent = math.log(10000.0) * 2 * (column // 2) / d_model
    angle = torch.arange(max_len, dtype=torch.float64)[:, None] * torch.exp(-exponent)  # (max_len, d_model)
    table = torch.where(column % 2 == 0, torch.sin(angle), torch.cos(angle))
    return table, roundoff(torch.float32) * (4 + angle * (4 + 3 * exponent))


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    mask: Tensor | None,
    u: float,
    off: tuple[Tensor | float, Tensor | float, Tensor | float] = (0.0, 0.0, 0.0),
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Output and weights by :mod:`regard.reference` in float64, and the budget of each; q, k, v may be off already."""
    q, k, v = q.detach().double(), k.detach().double(), v.detach().double()
    output, weights, _ = reference.attention(q, k, v, mask)
    scale, width, keys = q.shape[-1] ** -0.5, q.shape[-1], k.shape[-2]
    off_q, off_k, off_v = (torch.as_tensor(given, dtype=torch.float64) for given in off)
    off_q, off_k = off_q.expand_as(q), off_k.expand_as(k)
    score = u * (width + 4) * (q.abs() @ k.abs().mT) + off_q @ k.abs().mT + q.abs() @ off_k.mT  # (..., L, S)
    if mask is not None:
        score = torch.where(mask, score, 0.0)
    row = 2 * scale * score.amax(-1, keepdim=True) + (2 * keys + 8) * u  # (..., L, 1), of a weight
    tiny = 1e-12 if u < 1e-6 else 1e-6  # weights of float16 that are below its smallest normal number
    within = row * (weights @ v.abs()) + weights @ off_v.expand_as(v) + tiny
    return output, weights, within, row * weights + tiny


@dataclass(frozen=True)
class Projection:
    """A linear layer's weight (out, in) and bias (out,), the bias None if it has none."""

    weight: Tensor
    bias: Tensor | None

    @staticmethod
    def of(layer: nn.Linear) -> Projection:
        """The parameters of a layer, as they are now."""
        return Projection(layer.weight.detach().clone(), None if layer.bias is None else layer.bias.detach().clone())

    @staticmethod
    def stacked(parts: list[Projection]) -> Projection:
        """Several projections of one input as one, head after head."""
        biases = [part.bias for part in parts if part.bias is not None]
        return Projection(torch.cat([part.weight for part in parts]), torch.cat(biases) if biases else None)

    def __call__(self, x: Tensor, u: float, off: Tensor | float = 0.0) -> tuple[Tensor, Tensor]:
        """The projection of a float64 x, and the budget where x may be off already."""
        weight = self.weight.double()
        bias = torch.zeros(()) if self.bias is None else self.bias.double()
        before = torch.as_tensor(off, dtype=torch.float64).expand_as(x)
        budget = u * (x.shape[-1] + 3) * (x.abs() @ weight.T.abs() + bias.abs()) + before @ weight.T.abs()
        return x @ weight.T + bias, budget

    def to(self, dtype: torch.dtype) -> Projection:
        """The same, rounded."""
        return Projection(self.weight.to(dtype), None if self.bias is None else self.bias.to(dtype))


@dataclass(frozen=True)
class Heads:
    """Self-attention with one head or several: its projections, and W^O, None for a single head."""

    q: Projection
    k: Projection
    v: Projection
    o: Projection | None
    num_heads: int = 1

    def __call__(self, x: Tensor, mask: Tensor | None, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
        """The output (B, L, d_v) in float64 of the parameters rounded to dtype, and the budget of a layer of dtype."""
        u, x = roundoff(dtype), x.detach().double()
        pairs = [projection.to(dtype)(x, u) for projection in (self.q, self.k, self.v)]
        (q, off_q), (k, off_k), (v, off_v) = [(self._split(value), self._split(off)) for value, off in pairs]
        out, _, within, _ = attention(q, k, v, mask, u, (off_q, off_k, off_v))
        out, within = self._joined(out), self._joined(within)
        return (out, within) if self.o is None else self.o.to(dtype)(out, u, within)

    def _split(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.num_heads, -1).transpose(-3, -2)  # (B, L, H D) -> (B, H, L, D)

    def _joined(self, x: Tensor) -> Tensor:
        return x.transpose(-3, -2).flatten(-2)  # (B, H, L, D) -> (B, L, H D)


def heads_of(layer: nn.Module) -> Heads | None:
    """The projections of a single-head layer: by their names, else its three linear layers; None if it has others."""
    linear = {name: part for name, part in layer.named_modules() if isinstance(part, nn.Linear)}
    letters: dict[str, nn.Linear] = {}
    for name, part in linear.items():
        plain = name.lower().replace("_", "")
        for letter, words in {"q": ("wq", "query"), "k": ("wk", "key"), "v": ("wv", "value")}.items():
            if plain in (letter, *words):
                letters[letter] = part
    chosen = [letters[letter] for letter in "qkv"] if len(letters) == 3 else list(linear.values())
    if len(chosen) != 3:
        return None
    q, k, v = map(Projection.of, chosen)
    return Heads(q, k, v, None)


def several_heads_of(layer: nn.Module, num_heads: int) -> Heads | None:
    """The projections of a layer whose heads are layers of their own, with one linear layer besides; else None."""
    linear = [part for part in layer.modules() if isinstance(part, nn.Linear)]
    inner = [part for part in layer.modules() if part is not layer and not isinstance(part, nn.Linear)]
    # A list of one head has its three linear layers, too.
    single = [part for part in inner if not isinstance(part, nn.ModuleList)]
    heads = [found for part in single if (found := heads_of(part))]
    if len(heads) == num_heads and len(linear) == 3 * num_heads + 1:
        taken = {id(inside) for part in single if heads_of(part) for inside in part.modules()}
        last = next(part for part in linear if id(part) not in taken)
        q, k, v = (Projection.stacked([getattr(head, kind) for head in heads]) for kind in "qkv")
        return Heads(q, k, v, Projection.of(last), num_heads)
    return None


def candidates(d_in: int, d_k: int, d_v: int, num_heads: int, seed: int) -> list[Heads]:
    """The parameters of a multi-head layer that were drawn with this seed, for every usual order of drawing them.

    The first is the course's: W^O, then head by head. The others are as right; only the printed numbers differ.
    """
    found = []
    sizes = (d_in, d_k, d_v, num_heads)
    for order, groups, output_first in product(("qkv", "qvk", "kqv", "kvq", "vqk", "vkq"), GROUPS, (True, False)):
        torch.manual_seed(seed)
        found.append(_drawn(*sizes, order, groups, output_first=output_first))
    return found


def _drawn(d_in: int, d_k: int, d_v: int, num_heads: int, order: str, groups: str, *, output_first: bool) -> Heads:
    def draw(width_in: int, width_out: int) -> Projection:
        return Projection.of(nn.Linear(width_in, width_out))

    o = draw(d_v, d_v) if output_first else None
    count = 1 if groups == "fused" else num_heads
    widths = {"q": d_k // count, "k": d_k // count, "v": d_v // count}
    drawn: dict[str, list[Projection]] = {kind: [] for kind in order}
    if groups == "head by head":
        for _, kind in product(range(count), order):
            drawn[kind].append(draw(d_in, widths[kind]))
    else:
        for kind, _ in product(order, range(count)):
            drawn[kind].append(draw(d_in, widths[kind]))
    q, k, v = (Projection.stacked(drawn[kind]) for kind in "qkv")
    return Heads(q, k, v, draw(d_v, d_v) if o is None else o, num_heads)
