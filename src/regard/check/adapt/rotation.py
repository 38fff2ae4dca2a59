"""Rotary encodings: queries and keys that are turned by their position."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from regard.check.adapt.outputs import _tensors
from regard.check.adapt.places import Places, PlaceSubject, apart
from regard.check.contract import Contract
from regard.check.definition import Core
from regard.check.golden import angles, rotate
from regard.check.request import Answer, Request, Sizes
from regard.check.violation import Violation

__all__ = ["LAYOUTS", "TABLE_FORMS", "RotarySubject", "Turned"]

LAYOUTS = ("BHLD", "BLHD", "NLD", "LD")
TABLE_FORMS = ("complex", "twice, batched", "twice", "repeated", "once")
"""How a function that only applies a rotation is handed cosines and sines: (L, D/2) complex, (L, D) with the halves
alike, (L, D) with neighbours alike, (L, D/2), or (1, L, D)."""


@dataclass(frozen=True)
class Turned(Answer):
    """The turned queries are the output; keys where the subject turns both."""

    keys: Tensor | None = None


class RotarySubject(PlaceSubject):
    """A rotary encoding.

    Attributes:
        method: the name of what is called, where the instance itself is not.
        names: role -> the name of an argument of the call: "x", or "query" and "key"; "positions", "offset", "cos" ...
        required: the roles that must be given.
        layout: "BHLD", "BLHD", "NLD" or "LD".
        batched: whether positions are handed over as (B, L).
        tables: one of :data:`TABLE_FORMS`, for functions that are handed cosines and sines.
        pairing: one of :data:`regard.check.golden.PAIRINGS`.
        base: of the wavelengths: what a default or an attribute says, otherwise what was found.
    """

    def __init__(self, thing: Any, name: str, declared: Contract, **options: Any) -> None:
        super().__init__(thing, name, declared, **options)
        self.method = ""
        self.names: dict[str, str] = {}
        self.required: set[str] = set()
        self.layout: str = declared.layout if declared.layout in LAYOUTS else "BHLD"
        self.batched = False
        self.tables = ""
        self.pairing = "interleaved"
        self.base = 10000.0

    @property
    def both(self) -> bool:
        """Whether queries and keys are turned in one call."""
        return "key" in self.names

    # -- asking ----------------------------------------------------------------------------------------------------

    def make(self, at: Sizes, seed: int, *, size: float = 1.0, dtype: torch.dtype | None = None) -> Places:
        """Normal x, (B, H, L, D), both query and key."""
        shape = (at.batch, at.heads, at.query_len, self.fixed_width or at.width)
        x, code = self.normal(shape, seed, dtype or self.dtype, size)
        return self.question(x, code)

    def question(self, x: Tensor, code: tuple[str, ...] = (), *, start: int = 0) -> Places:
        """The question that turns x."""
        return Places(x, x, x, start=start, code=code)

    def turn(self, x: Tensor, code: tuple[str, ...] = ()) -> Turned:
        """x, turned from position 0 on."""
        answer = self.answers(self.question(x.detach().contiguous(), code))
        assert isinstance(answer, Turned)
        return answer

    def exact_dtype(self) -> torch.dtype:
        """float64 where it takes that, otherwise its own."""
        taken = self.quietly(self.make(self.sizes, 0, dtype=torch.float64))
        return self.dtype if taken is None else torch.float64

    def raw(self, request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
        """One call, or for single (L, D) inputs one for each sequence and head."""
        assert isinstance(request, Places)
        self.longest = max(self.longest, request.start + request.query_len)
        # Copies: what is written there is nobody else's.
        q, k = self.fold(request.query, request).clone(), self.fold(request.key, request).clone()
        if self.layout != "LD":
            return lambda: self._call(request, q, k), {"q": q, "k": k} if self.both else {"x": q}
        rows = [(q[b, h], k[b, h]) for b in range(q.shape[0]) for h in range(q.shape[1])]
        named = {f"x[{i}]": pair[0] for i, pair in enumerate(rows)}
        return lambda: [self._call(request, *pair) for pair in rows], named

    def _call(self, request: Places, q: Tensor, k: Tensor) -> Any:
        made = self.live(request)
        target = getattr(made, self.method) if self.method else made
        given: dict[str, Any] = {self.names["query"]: q, self.names["key"]: k} if self.both else {self.names["x"]: q}
        return apart(target(**given, **self.words_of(request)), (q, k))

    def words_of(self, request: Places) -> dict[str, Any]:
        """The arguments beside x."""
        found: dict[str, Any] = {}
        length = request.query_len
        for role in ("positions", "offset"):
            if role in self.names and (role in self.required or (request.start and self.shifts == role)):
                positions = request.positions.expand(len(request.query), -1) if self.batched else request.positions
                found[self.names[role]] = positions if role == "positions" else request.start
        others = {"seq_len": length, "width": request.query.shape[-1], "base": self.base}
        found |= {self.names[role]: value for role, value in others.items() if role in self.required}
        if self.tables:
            found |= self._tables(request)
        return found

    @property
    def shifts(self) -> str:
        """How the first position is told: by an argument, by tables, or "" where rows before it must be there."""
        return next((role for role in ("positions", "offset") if role in self.names), "tables" if self.tables else "")

    def _tables(self, request: Places) -> dict[str, Tensor]:
        angle = angles(request.positions, request.query.shape[-1], base=self.base)  # (L, D // 2)
        if self.tables == "complex":
            wide = torch.complex128 if request.query.dtype == torch.float64 else torch.complex64
            return {self.names["freqs_cis"]: torch.polar(torch.ones_like(angle), angle).to(wide)}
        if self.tables.startswith("twice"):
            angle = torch.cat([angle, angle], dim=-1)
        elif self.tables == "repeated":
            angle = angle.repeat_interleave(2, dim=-1)
        angle = angle[None] if self.tables.endswith("batched") else angle
        dtype = request.query.dtype
        return {self.names["cos"]: angle.cos().to(dtype), self.names["sin"]: angle.sin().to(dtype)}

    def fold(self, x: Tensor, request: Places) -> Tensor:
        """(B, H, L, D) in its own layout, after rows of zeros where that is the only way to a later position."""
        if request.start and not self.shifts:
            x = torch.nn.functional.pad(x, (0, 0, request.start, 0))
        if self.layout == "BLHD":
            return x.transpose(1, 2)
        return x.flatten(0, 1) if self.layout == "NLD" else x

    def read(self, raw: Any, request: Request) -> Turned:
        """What was turned, as (B, H, L, D)."""
        assert isinstance(request, Places)
        batch, heads, length, width = request.query.shape
        skipped = request.start if not self.shifts else 0
        length += skipped
        shape = {
            "BHLD": (batch, heads, length, width),
            "BLHD": (batch, length, heads, width),
            "NLD": (batch * heads, length, width),
            "LD": (length, width),
        }[self.layout]
        calls = raw if self.layout == "LD" else [raw]
        turned = [self._pick(one, shape) for one in calls]
        sides = []
        for side in zip(*turned, strict=True):
            t = torch.stack(list(side)) if self.layout == "LD" else side[0]
            if self.layout == "BLHD":
                t = t.transpose(1, 2)
            sides.append(t.reshape(batch, heads, length, width)[:, :, skipped:])
        return Turned(sides[0], keys=sides[1] if self.both else None)

    def _pick(self, raw: Any, shape: tuple[int, ...]) -> tuple[Tensor, ...]:
        wanted = 2 if self.both else 1
        tensors = list(_tensors(raw))
        got = " and ".join(str(tuple(t.shape)) for t in tensors[:3]) or type(raw).__name__
        if len(tensors) != wanted or any(tuple(t.shape) != shape for t in tensors):
            raise Violation(f"output: {got}, expected {' and '.join([str(shape)] * wanted)}", got=got, wanted=shape)
        return tuple(tensors)

    def imagine(self, core: Core, request: Request) -> Tensor:
        """X turned, in float64."""
        assert isinstance(request, Places)
        return rotate(request.query.detach(), request.positions, base=self.base, pairing=self.pairing)

    def spell(self, request: Request) -> str:
        """The call, as text."""
        assert isinstance(request, Places)
        form = {"BHLD": "q", "BLHD": "q.transpose(1, 2)", "NLD": "q.flatten(0, 1)", "LD": "q[0, 0]"}[self.layout]
        names = (self.names["query"], self.names["key"]) if self.both else (self.names["x"],)
        words = [f"{name}={form}" for name in names]
        for name, given in self.words_of(request).items():
            whole = f"torch.arange({request.start}, {request.start + request.query_len})"
            words.append(f"{name}={given!r}" if not isinstance(given, Tensor) else f"{name}={name}" if self.tables
                         else f"{name}={whole}")  # fmt: skip
        made = self.spell_made(request) + (f".to({request.cast})" if request.cast is not None else "")
        return f"{made}{'.' + self.method if self.method else ''}({', '.join(words)})"

    def probe(self, feature: str) -> str | None:
        """None where the feature is offered, otherwise the reason why not."""
        if feature == "start":
            return None if self.shifts else "it takes no positions and no offset"
        if feature == "both":
            return None if self.both else "it turns one tensor a call"
        if feature == "widths":
            return f"its width, {self.fixed_width}, is its own" if self.fixed_width else None
        if feature == "base":
            return None if "base" in self._roles else "it is not made for a base"
        raise LookupError(f"no such feature: {feature}")
