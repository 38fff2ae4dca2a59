"""A question to an attention, in one canonical form, and its answer: adapters translate both ways."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

__all__ = ["Answer", "Request", "Sizes", "restride"]


@dataclass(frozen=True)
class Sizes:
    """How large an input is: B batch, H heads, Hkv key/value heads, L queries, S keys, D and Dv widths.

    >>> Sizes(batch=1, key_len=9)
    Sizes(batch=1, heads=3, kv_heads=3, query_len=5, key_len=9, width=8, value_width=8)

    A module's width is its own: width and value_width say nothing there, heads follow the module's.
    """

    batch: int = 2
    heads: int = 3
    kv_heads: int = 0
    query_len: int = 5
    key_len: int = 0
    width: int = 8
    value_width: int = 0

    def __post_init__(self) -> None:
        for name, other in (("kv_heads", "heads"), ("key_len", "query_len"), ("value_width", "width")):
            if getattr(self, name) == 0:
                object.__setattr__(self, name, getattr(self, other))
        for field in fields(self):
            given = getattr(self, field.name)
            if isinstance(given, bool) or not isinstance(given, int):
                raise TypeError(f"Sizes({field.name}=): expected an integer, got {type(given).__name__}")
            if given < 1:
                raise ValueError(f"Sizes({field.name}=): expected at least 1, got {given}")

    def __str__(self) -> str:
        grouped = f"/{self.kv_heads}" if self.kv_heads != self.heads else ""
        lengths = f"L {self.query_len}" + (f", S {self.key_len}" if self.key_len != self.query_len else "")
        widths = f"D {self.width}" + (f", Dv {self.value_width}" if self.value_width != self.width else "")
        return f"B {self.batch}, H {self.heads}{grouped}, {lengths}, {widths}"


@dataclass(frozen=True)
class Request:
    """What is asked, the way regard says it.

    Args:
        query: (B, H, L, D). For a module (B, 1, L, E): what its projections read.
        key: (B, Hkv, S, D), or (B, 1, S, E).
        value: (B, Hkv, S, Dv), or (B, 1, S, E).
        mask: boolean, broadcasts to (B, H, L, S), True = may attend, whatever the subject's own polarity.
        padding: boolean (B, S), True = may be read; for subjects with an argument of its own for it.
        causal: the subject's own causal option is on.
        window: the subject's own window option.
        scale: multiplies the scores; 1 / sqrt(D) if None.
        bias: added to the scores, broadcasts to (B, H, L, S).
        softcap: cap * tanh(score / cap).
        dropout: the probability of dropping a weight.
        weights: whether the weights are asked for.
        training: the mode of a module.
        strides: None: contiguous; "columns" and "every other": the same values with other strides; "expanded": the
            first of the batch for all, with a stride of 0, and "repeated": the same contiguously.
        code: lines that make these tensors, for a snippet to paste.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    mask: Tensor | None = None
    padding: Tensor | None = None
    causal: bool = False
    window: int | None = None
    scale: float | None = None
    bias: Tensor | None = None
    softcap: float | None = None
    dropout: float = 0.0
    weights: bool = False
    training: bool = False
    strides: str | None = None
    code: tuple[str, ...] = ()

    @property
    def tied(self) -> str:
        """Which inputs are one tensor: "qkv" (self-attention), "kv" (a context) or "none"."""
        if self.key is not self.value:
            return "none"
        return "qkv" if self.query is self.key else "kv"

    @property
    def query_len(self) -> int:
        """L."""
        return self.query.shape[-2]

    @property
    def key_len(self) -> int:
        """S."""
        return self.key.shape[-2]

    def but(self, **changes: Any) -> Request:
        """The same question but for these."""
        return replace(self, **changes)

    def map(self, change: Any, *lines: str) -> Request:
        """The same question with ``change(tensor)`` in place of query, key and value; what is tied stays tied."""
        query = change(self.query)
        key = query if self.tied == "qkv" else change(self.key)
        value = key if self.tied in ("qkv", "kv") else change(self.value)
        return self.but(query=query, key=key, value=value, code=(*self.code, *lines))

    def moved(
        self, at: Any, *, times: float = 1.0, plus: float = 0.0, only: str = "kv", batch: Any = slice(None)
    ) -> Request:
        """The same question with the keys and values at these positions moved: ``x * times + plus``.

        Where query, key and value are one tensor, the queries there move with them: compare the other rows.

        Args:
            at: index into the positions.
            times: a factor.
            plus: a summand, after it.
            only: "kv", or "v" for the values alone, or "k"; tied inputs move together.
            batch: index into the batch.
        """

        def change(t: Tensor) -> Tensor:
            t = t.detach().clone()
            t[batch, :, at] = t[batch, :, at] * times + plus
            return t

        where = f"[{_spell(batch)}, :, {_spell(at)}]"
        names = {"qkv": ["q"], "kv": ["k"]}.get(self.tied, list(only))
        code = self.code + tuple(f"{name}{where} = {name}{where} * {times:g} + {plus:g}" for name in names)
        if self.tied == "qkv":
            moved = change(self.query)
            return self.but(query=moved, key=moved, value=moved, code=code)
        if self.tied == "kv":
            moved = change(self.key)
            return self.but(key=moved, value=moved, code=code)
        key = change(self.key) if "k" in only else self.key
        value = change(self.value) if "v" in only else self.value
        return self.but(key=key, value=value, code=code)

    def allowed(self, heads: int) -> Tensor | None:
        """Mask and padding together, (B, H, L, S), or None where neither is given. Causal and window are not in it."""
        if self.mask is None and self.padding is None:
            return None
        shape = (self.query.shape[0], heads, self.query_len, self.key_len)
        both = torch.ones(shape, dtype=torch.bool, device=self.query.device)
        if self.mask is not None:
            both = both & self.mask
        if self.padding is not None:
            both = both & self.padding[:, None, None, :]  # (B, S) -> (B, 1, 1, S)
        return both


def restride(t: Tensor, how: str | None) -> Tensor:
    """The same values in another arrangement in memory; differentiable."""
    if how is None:
        return t.contiguous()
    if how == "columns":
        return t.transpose(-1, -2).contiguous().transpose(-1, -2)  # the last axis has stride L
    if how == "every other":
        return torch.stack([t, torch.full_like(t, torch.nan)], dim=-1).flatten(-2)[
            ..., ::2
        ]  # the last axis has stride 2
    if how in ("expanded", "repeated"):
        one = t[:1].expand(t.shape)  # the first axis has stride 0
        return one if how == "expanded" else one.contiguous()
    raise ValueError(f"no such arrangement: {how}")


def _spell(index: Any) -> str:
    if isinstance(index, slice):
        return ":".join("" if part is None else str(part) for part in (index.start, index.stop))
    if isinstance(index, Tensor):
        return str(index.tolist())
    return str(index)


@dataclass(frozen=True)
class Answer:
    """What came back: output (B, H, L, Dv), or (B, 1, L, E) for a module; weights (B, H, L, S) where returned."""

    output: Tensor
    weights: Tensor | None = None
