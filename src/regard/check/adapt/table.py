"""Sinusoidal encodings: a table that is returned or kept, or that is added to x."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from regard.check.adapt.outputs import _kind
from regard.check.adapt.places import Places, PlaceSubject, apart
from regard.check.contract import Contract
from regard.check.definition import Core
from regard.check.golden import sinusoid
from regard.check.request import Answer, Request, Sizes
from regard.check.violation import Violation

__all__ = ["BUFFERS", "GETTERS", "LAYOUTS", "TableSubject", "as_tensor"]

GETTERS = ("get_encoding", "get_table", "get_encodings", "get_positional_encoding")
BUFFERS = (
    "pe", "encoding", "weight", "pos_table", "pos_encoding", "positional_encoding", "table", "pos_embedding", "P",
    "pos_enc", "encodings", "position_encoding", "pos_emb", "embeddings", "positional_encodings",
)  # fmt: skip
LAYOUTS = ("BLE", "LBE", "LE")


class TableSubject(PlaceSubject):
    """A sinusoidal encoding.

    Attributes:
        way: how its table is had: "call" (a function), "get_encoding" or another method, "pe" or another buffer, or
            "sum": what is added to x = 0.
        adds: whether it can be called with x, and gives x + table.
        layout: of x: "BLE", "LBE" or "LE".
        factor: "1" or "sqrt(d)": what x is multiplied by before the table is added.
        convention: one of :data:`regard.check.golden.TABLES`.
    """

    def __init__(self, thing: Any, name: str, declared: Contract, **options: Any) -> None:
        super().__init__(thing, name, declared, **options)
        self.way = ""
        self.adds = False
        self.layout: str = declared.layout if declared.layout in LAYOUTS else "BLE"
        self.factor = "1"
        self.convention = "interleaved"
        self.order: Callable[[int, int], dict[str, Any] | tuple[Any, ...]] | None = None

    # -- asking ----------------------------------------------------------------------------------------------------

    def make(self, at: Sizes, seed: int, *, size: float = 1.0, dtype: torch.dtype | None = None) -> Places:
        """Normal x, (B, 1, L, d)."""
        width = self.fixed_width or at.width
        length = min(at.query_len, self.max_len) if self.max_len else at.query_len
        x, code = self.normal((at.batch, 1, length, width), seed, dtype or self.dtype, size)
        return Places(x, x, x, code=code)

    def even_width(self, at: Sizes) -> int:
        """As asked for; exponents that are stretched over the pairs need two of them."""
        return max(super().even_width(at), 4 if self.convention == "stretched halves" else 2)

    def table_of(self, length: int, width: int = 0, *, limit: int = 0) -> Places:
        """The question for the table of positions 0 .. length - 1."""
        x = torch.zeros(1, 1, length, width or self.sizes.width, device=self.device)
        return Places(x, x, x, table=True, limit=limit)

    def raw(self, request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
        """One call, for the table or for the sum."""
        assert isinstance(request, Places)
        self.longest = max(self.longest, request.query_len)
        if request.table and self.way != "sum":
            return lambda: self._table(request), {}
        x = self.fold(request.query).clone()  # what is written there is nobody else's
        return lambda: apart(self.live(request)(x), (x,)), {"x": x}

    def _table(self, request: Places) -> Any:
        length, width = request.query_len, request.query.shape[-1]
        made = self.live(request)
        if self.way == "call":
            assert self.order is not None
            given = self.order(length, width)
            return made(**given) if isinstance(given, dict) else made(*given)
        found = getattr(made, self.way)
        return found() if callable(found) and not isinstance(found, Tensor) else found

    def fold(self, x: Tensor) -> Tensor:
        """(B, 1, L, d) in its own layout."""
        x = x[:, 0]
        if self.layout == "LE":
            return x[0].contiguous()
        return (x.transpose(0, 1) if self.layout == "LBE" else x).contiguous()

    def read(self, raw: Any, request: Request) -> Answer:
        """The table as (1, 1, L, d), a sum as (B, 1, L, d)."""
        assert isinstance(request, Places)
        got = as_tensor(raw)
        batch, _, length, width = request.query.shape
        if request.table:
            return Answer(rows_of(got, length, width, exactly=self.way in ("call", "sum"))[None, None])
        shape = {"BLE": (batch, length, width), "LBE": (length, batch, width), "LE": (length, width)}[self.layout]
        if tuple(got.shape) != shape:
            raise Violation(f"output: shape {tuple(got.shape)}, expected {shape}", request=request)
        if self.layout == "LBE":
            got = got.transpose(0, 1)
        return Answer(got.reshape(batch, 1, length, width))

    def imagine(self, core: Core, request: Request) -> Tensor:
        """The table in float64, or x and it."""
        assert isinstance(request, Places)
        table = sinusoid(request.positions, request.query.shape[-1], convention=self.convention)
        return table[None, None] if request.table else request.query.double() * self.times(request) + table

    def times(self, request: Request) -> float:
        """What x is multiplied by."""
        return math.sqrt(request.query.shape[-1]) if self.factor == "sqrt(d)" else 1.0

    def spell(self, request: Request) -> str:
        """The call, as text."""
        assert isinstance(request, Places)
        made = self.spell_made(request) + (f".to({request.cast})" if request.cast is not None else "")
        if not request.table or self.way == "sum":
            form = {"BLE": "q[:, 0]", "LBE": "q[:, 0].transpose(0, 1)", "LE": "q[0, 0]"}[self.layout]
            return f"{made}({f'torch.zeros{tuple(self.fold(request.query).shape)}' if request.table else form})"
        if self.way == "call":
            assert self.order is not None
            given = self.order(request.query_len, request.query.shape[-1])
            words = [f"{n}={v!r}" for n, v in given.items()] if isinstance(given, dict) else map(repr, given)
            return f"{made}({', '.join(words)})"
        return f"{made}.{self.way}{'()' if self.way in GETTERS else ''}"

    def probe(self, feature: str) -> str | None:
        """None where the feature is offered, otherwise the reason why not."""
        if feature == "sum":
            return None if self.adds else "it returns a table and adds it to nothing"
        if feature == "module":
            return None if self.is_module else "it is no module that could be converted"
        if feature == "widths":
            return f"its width, {self.fixed_width}, is its own" if self.fixed_width else None
        if feature == "batch":
            return None if self.adds and self.layout != "LE" else "it takes one sequence at a time"
        if feature == "limit":
            if not self.adds:
                return "it returns a table and adds it to nothing"
            return None if self.has_limit or self.max_len else "it has no number of positions to exceed"
        raise LookupError(f"no such feature: {feature}")


def as_tensor(raw: Any) -> Tensor:
    """What came back, as a tensor.

    Raises:
        Violation: for what is none.
    """
    if isinstance(raw, tuple) and len(raw) == 1:
        raw = raw[0]
    if isinstance(raw, Tensor):
        return raw.detach()
    try:
        found: Tensor = torch.as_tensor(raw)
    except (TypeError, ValueError, RuntimeError):
        raise Violation(f"returned {_kind(raw)}; expected a table, a tensor or an array", got=_kind(raw)) from None
    return found


def rows_of(got: Tensor, length: int, width: int, *, exactly: bool) -> Tensor:
    """(L, d) of (L, d), (1, L, d) or (L, 1, d); of a kept table, which may be longer, the first rows.

    Raises:
        Violation: for another shape.
    """
    shape = tuple(got.shape)
    flat = got.reshape(-1, shape[-1]) if got.dim() and got.numel() else got
    if flat.dim() != 2 or flat.shape[1] != width or len([n for n in shape[:-1] if n != 1]) > 1:
        raise Violation(f"table: shape {shape}, expected ({length}, {width})", got=shape, wanted=(length, width))
    if flat.shape[0] < length or (exactly and flat.shape[0] != length):
        raise Violation(f"table: shape {shape}, expected ({length}, {width})", got=shape, wanted=(length, width))
    return flat[:length]
