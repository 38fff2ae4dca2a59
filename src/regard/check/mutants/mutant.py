"""A mutant: an attention with one bug, its name, and the function or module somebody might have written with it."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard.check.contract import REGARD, Contract
from regard.check.definition import Core, define, grouped
from regard.check.request import Request

__all__ = ["MUTANTS", "Attention", "Drop", "Mutant", "as_function", "as_module", "behaviour", "built", "mutant"]

WIDTH, HEADS = 24, 3
HALVES = (torch.float16, torch.bfloat16)

Drop = Callable[[Tensor, float], Tensor]
"""Weights (B, H, L, S) and the probability of dropping one -> the weights that are used."""


@dataclass(frozen=True)
class Mutant:
    """An attention with one bug.

    Args:
        name: it.
        says: completes "this is what you get from ...".
        rows: the numbers of the bug in the table of docs/check/properties.md.
        aims: the property that is meant to catch it, without ``check_``.
        core: the attention on single heads, right under any contract but for the bug; None where the bug does not show
            in the numbers of one answer: in a gradient, in what is left behind, in a call that depends on another.
        build: makes the function or module.
    """

    name: str
    says: str
    rows: tuple[int, ...]
    aims: str
    core: Core | None
    build: Callable[[], Any]


MUTANTS: dict[str, Mutant] = {}


def _register(found: Mutant) -> None:
    if found.name in MUTANTS:
        raise ValueError(f"two mutants are called {found.name}")
    MUTANTS[found.name] = found


Register = Callable[[Core], Core]


def mutant(*, aims: str, rows: tuple[int, ...] = (), build: Callable[[Core], Any] | None = None) -> Register:
    """Register a core; its docstring is what it says.

    Args:
        aims: the property that is meant to catch it.
        rows: of the table.
        build: makes a subject of the core; :func:`as_function` if None.
    """

    def register(core: Core) -> Core:
        _register(Mutant(_name(core), _clause(core), rows, aims, core, functools.partial(build or as_function, core)))
        return core

    return register


def behaviour(*, aims: str, rows: tuple[int, ...] = (), build: Callable[[Core], Any] | None = None) -> Register:
    """Register a core whose bug the numbers of one answer do not show: it is built, and never compared with."""

    def register(core: Core) -> Core:
        _register(Mutant(_name(core), _clause(core), rows, aims, None, functools.partial(build or as_function, core)))
        return core

    return register


def built(*, aims: str, rows: tuple[int, ...] = ()) -> Callable[[Callable[[], Any]], Callable[[], Any]]:
    """Register a function without arguments that makes the subject."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        _register(Mutant(_name(build), _clause(build), rows, aims, None, build))
        return build

    return register


def _clause(function: Callable[..., Any]) -> str:
    """The docstring as a clause: it begins small and has no full stop."""
    text = " ".join((function.__doc__ or "").split()).rstrip(".")
    return text[:1].lower() + text[1:]


def _name(function: Callable[..., Any]) -> str:
    return str(getattr(function, "__name__", type(function).__name__))


def drop_weights(weights: Tensor, p: float) -> Tensor:
    """Dropout as it should be."""
    return F.dropout(weights, p)


def as_function(
    core: Core, *, drop: Drop = drop_weights, weigh: Core | None = None, upcast: bool = True
) -> Callable[..., Any]:
    """The core as a function that a user might have written, under regard's conventions.

    Args:
        core: the attention on single heads.
        drop: dropout on the weights.
        weigh: the core whose weights are returned, where they are not those of ``core``.
        upcast: whether half precision is computed in float32.
    """

    def attention(
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None = None,
        *,
        is_causal: bool = False,
        scale: float | None = None,
        bias: Tensor | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
        window: int | None = None,
        need_weights: bool = False,
    ) -> Any:
        if query.dim() != 4:
            # Without this, a bug along the heads would be none for inputs without heads, and hide behind them.
            raise ValueError(f"query: expected (B, H, L, D), got {tuple(query.shape)}")
        bias = None if bias is None else _four(bias)
        if mask is not None and mask.is_floating_point():
            mask, bias = _split(_four(mask), bias)
        r = Request(
            query, key, value, mask=None if mask is None else _four(mask), causal=is_causal, window=window, scale=scale,
            bias=bias, softcap=softcap, dropout=dropout, weights=need_weights,
        )  # fmt: skip
        output, weights = _answer(core, r, drop, weigh or core, upcast=upcast)
        return (output, weights) if need_weights else output

    attention.__name__ = attention.__qualname__ = _name(core)
    return attention


def as_module(core: Core, *, drop: Drop = drop_weights, weigh: Core | None = None) -> Attention:
    """The core as a module of three heads with projections; see :func:`as_function`."""
    return Attention(core, drop=drop, weigh=weigh)


class Attention(nn.Module):
    """Multi-head attention around a core. The parts that a mutant may replace are methods."""

    def __init__(self, core: Core = define, *, drop: Drop = drop_weights, weigh: Core | None = None) -> None:
        super().__init__()
        self.num_heads = HEADS
        self.core, self.drop, self.weigh = core, drop, weigh or core
        generator = torch.Generator().manual_seed(0)
        self.q_proj, self.k_proj, self.v_proj, self.out_proj = (_linear(generator) for _ in range(4))
        self.dropout = nn.Dropout(0.0)

    def forward(
        self,
        x: Tensor,
        context: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        is_causal: bool = False,
        need_weights: bool = False,
    ) -> Any:
        """Output (B, L, E), or it and the weights (B, H, L, S)."""
        q, k, v = (self.split(t) for t in self.project(x, x if context is None else context))
        bias = None
        if mask is not None and mask.is_floating_point():
            mask, bias = _split(_four(mask), None)
        mask = None if mask is None else _four(mask)
        r = Request(
            q, k, v, mask=mask, bias=bias, causal=is_causal, dropout=self.rate(), weights=need_weights,
            training=self.training,
        )  # fmt: skip
        output, weights = self.attend(r)
        output = self.finish(self.join(output))
        return (output, weights) if need_weights else output

    def project(self, x: Tensor, source: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (B, L, E), keys and values (B, S, E) of all heads."""
        return self.q_proj(x), self.k_proj(source), self.v_proj(source)

    def split(self, t: Tensor) -> Tensor:
        """(B, L, H * D) -> (B, H, L, D)."""
        heads: Tensor = t.unflatten(-1, (self.num_heads, -1))  # (B, L, H, D)
        return heads.transpose(1, 2)

    def rate(self) -> float:
        """The probability of dropping a weight, now."""
        return self.dropout.p if self.training else 0.0

    def attend(self, r: Request) -> tuple[Tensor, Tensor | None]:
        """Outputs of the heads (B, H, L, D), and the weights where they are asked for."""
        return _answer(self.core, r, self.drop, self.weigh, upcast=True)

    def join(self, heads: Tensor) -> Tensor:
        """(B, H, L, D) -> (B, L, H * D)."""
        return heads.transpose(1, 2).flatten(2)

    def finish(self, joined: Tensor) -> Tensor:
        """The output projection."""
        found: Tensor = self.out_proj(joined)
        return found


def _linear(generator: torch.Generator) -> nn.Linear:
    # The constructor of a linear layer would draw from everybody's generator.
    layer = nn.utils.skip_init(nn.Linear, WIDTH, WIDTH)
    with torch.no_grad():
        layer.weight.copy_(torch.randn(WIDTH, WIDTH, generator=generator) / math.sqrt(WIDTH))
        layer.bias.copy_(torch.randn(WIDTH, generator=generator) / 10)
    assert isinstance(layer, nn.Linear)
    return layer


def _four(t: Tensor) -> Tensor:
    """With axes of 1 in front, up to four."""
    return t[(None,) * (4 - t.dim())]


def _split(added: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor]:
    """A float mask as who may be read at all, and what is added there."""
    allowed = added > -math.inf
    finite = torch.where(allowed, added, 0)
    return allowed, finite if bias is None else bias + finite


def _answer(
    core: Core, r: Request, drop: Drop, weigh: Core, *, upcast: bool, contract: Contract = REGARD
) -> tuple[Tensor, Tensor | None]:
    dtype = r.query.dtype
    if upcast and dtype in HALVES:
        bias = None if r.bias is None else r.bias.float()
        r = r.but(query=r.query.float(), key=r.key.float(), value=r.value.float(), bias=bias)
    weights = _weights(weigh, r, contract) if r.weights or r.dropout else None
    if weights is not None and r.dropout:
        value = grouped(r.value, r.query.shape[1], contract)
        read = (weights != 0).any(-2)[..., None]  # (B, H, S, 1)
        output = drop(weights, r.dropout) @ torch.where(read, value, 0)
    else:
        output = core(r, contract)
    return output.to(dtype), None if weights is None or not r.weights else weights.to(dtype)


def _weights(core: Core, r: Request, contract: Contract) -> Tensor:
    """(B, H, L, S): the weights are what comes out where the identity goes in as values."""
    identity = torch.eye(r.key_len, dtype=r.value.dtype, device=r.value.device)
    return core(r.but(value=identity.expand(*r.key.shape[:2], -1, -1)), contract)
