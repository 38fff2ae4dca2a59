"""Modules: on x, on x and a context, or on query, key and value; how they are called."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from regard.check.adapt.copies import copied
from regard.check.adapt.masks import MaskForm, encode, reach_of, spell_mask
from regard.check.adapt.names import Parameters
from regard.check.adapt.outputs import pick
from regard.check.adapt.projected import Projected
from regard.check.adapt.projections import Projections, find_projections
from regard.check.contract import Contract
from regard.check.guard import describe
from regard.check.request import Answer, Request, Sizes, restride
from regard.check.violation import Unsupported

__all__ = ["ModuleSubject"]

HEADS = ("num_heads", "n_heads", "heads", "nhead", "n_head", "num_attention_heads", "nheads", "h", "num_query_heads")
WIDTHS = ("embed_dim", "d_in", "d_model", "dim", "hidden_size", "n_embd", "emb_dim", "input_dim", "in_dim")


class ModuleSubject(Projected):
    """A module. Its request has one tensor where it reads x alone, two with a context, three for query, key, value.

    Args:
        module: it, or a copy of it, see :func:`regard.check.adapt.copies.own`: its mode and dropout are changed.
        name: in reports.
        parameters: of its forward.
        declared: the author's conventions.
        options: device, dtype and seconds, see :class:`regard.check.subject.Subject`.
    """

    kind = "module"

    def __init__(
        self, module: nn.Module, name: str, parameters: Parameters, declared: Contract, **options: Any
    ) -> None:
        super().__init__(name, declared, **options)
        self.module = module
        self.parameters = parameters
        inner = getattr(self.module, "_orig_mod", self.module)
        self.projections: Projections | str = find_projections(inner)
        self.slots = ("query", "key", "value") if "query" in parameters and "key" in parameters else ("x",)
        self.layout = "BLE"
        self.forms: dict[str, MaskForm] = {}
        self.padding_form: MaskForm | None = None
        self.width = self._width(inner)
        heads = declared.heads or self._heads(inner)
        self.heads_known = heads is not None
        self.heads = heads or 1
        self.inside = False  # whether numbers are compared between the projections: there is more around them
        self._held = False
        self._copies: dict[torch.dtype, nn.Module] = {}

    def _width(self, inner: nn.Module) -> int:
        if isinstance(self.projections, Projections):
            return self.projections.q[0].shape[1]
        for name in WIDTHS:
            if isinstance(found := getattr(inner, name, None), int):
                return found
        layers = [part for part in inner.modules() if isinstance(part, nn.Linear)]
        return layers[0].in_features if layers else 0

    def _heads(self, inner: nn.Module) -> int | None:
        if isinstance(self.projections, Projections) and self.projections.heads:
            return self.projections.heads
        for name in HEADS:
            found = getattr(inner, name, None)
            if isinstance(found, int) and not isinstance(found, bool):
                return found
            if isinstance(found, nn.ModuleList | list | tuple) and found:
                return len(found)
        return None

    # -- asking ----------------------------------------------------------------------------------------------------

    def make(self, at: Sizes, seed: int, *, size: float = 1.0, dtype: torch.dtype | None = None) -> Request:
        """Normal x; with key_len unlike query_len a context too, or query, key and value for modules that take them."""
        generator = torch.Generator().manual_seed(seed)
        dtype = dtype or self.dtype
        code = [f"g = torch.Generator().manual_seed({seed})"]
        times = "" if size == 1 else f"{size:g} * "

        def normal(letter: str, length: int) -> Tensor:
            shape = (at.batch, 1, length, self.width)
            code.append(f"{letter} = ({times}torch.randn({shape}, generator=g)).to({str(self.device)!r}, {dtype})")
            return (size * torch.randn(shape, generator=generator)).to(self.device, dtype)

        query = normal("q", at.query_len)
        if len(self.slots) == 3:
            key, value = normal("k", at.key_len), normal("v", at.key_len)
        elif at.key_len != at.query_len:
            if "context" not in self.parameters:
                raise Unsupported("it takes no context: queries and keys are as many")
            key = value = normal("k", at.key_len)
        else:
            key = value = query
        return Request(query, key, value, code=tuple(code))

    def raw(self, request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
        """One call in the mode and with the dropout that are asked for."""
        module = self._module(request.query.dtype)
        given, keywords = self._given(request), self._keywords(request)

        def call() -> Any:
            mode, before = module.training, _dropout_of(module)
            module.train(request.training)
            if not self._held:
                _set_dropout(module, request.dropout)
            try:
                return module(**given, **keywords)
            finally:
                if not self._held:
                    _set_dropout(module, before)
                module.train(mode)

        return call, {name: t for name, t in (given | keywords).items() if isinstance(t, Tensor)}

    @contextlib.contextmanager
    def held(self, rate: float) -> Iterator[None]:
        """Set the dropout rate once, for all calls inside."""
        before = _dropout_of(self.module)
        _set_dropout(self.module, rate)
        self._held = True
        try:
            yield
        finally:
            self._held = False
            _set_dropout(self.module, before)

    def _module(self, dtype: torch.dtype) -> nn.Module:
        if dtype == self.dtype:
            return self.module
        if dtype not in self._copies:
            try:
                self._copies[dtype] = copied(self.module).to(dtype)
            except Exception as error:
                raise Unsupported(f"it cannot be copied, to be converted to {dtype}: {describe(error)}") from error
        return self._copies[dtype]

    def _given(self, request: Request) -> dict[str, Tensor]:
        p = self.parameters
        folded = {
            "query": self.fold(restride(request.query[:, 0], request.strides)),
            "key": self.fold(restride(request.key[:, 0], request.strides)),
            "value": self.fold(restride(request.value[:, 0], request.strides)),
        }
        if len(self.slots) == 3:
            return {p.name(role): t for role, t in folded.items() if role in p}
        found = {p.name("x"): folded["query"]}
        if request.tied == "kv":
            found[p.name("context")] = folded["key"]
        return found

    def fold(self, t: Tensor) -> Tensor:
        """(B, L, E) in the module's own layout."""
        if self.layout == "LBE":
            return t.transpose(0, 1)  # (B, L, E) -> (L, B, E)
        return t[0] if self.layout == "LE" else t

    def _keywords(self, request: Request) -> dict[str, Any]:
        p = self.parameters
        found: dict[str, Any] = {}
        for name in p.masks:
            if p.signature.parameters[name].default is p.signature.empty:
                found[name] = None
        if "causal" in p:
            found[p.name("causal")] = request.causal
        if "weights" in p and (request.weights or p.required("weights") or p.by_role["weights"].default is True):
            found[p.name("weights")] = request.weights
        if "average" in p and request.weights:
            found[p.name("average")] = False
        if request.mask is not None:
            form = self.forms[reach_of(request.mask)]
            found[form.argument] = encode(
                request.mask, form, batch=request.query.shape[0], heads=self.heads, dtype=request.query.dtype
            )
        if request.padding is not None:
            if self.padding_form is None:
                raise LookupError("this subject takes no padding")
            form = self.padding_form
            found[form.argument] = form.meaning(request.padding, request.query.dtype)
        return found

    def read(self, raw: Any, request: Request) -> Answer:
        """The output as (B, 1, L, E), the weights as (B, H, L, S)."""
        batch, length, keys = request.query.shape[0], request.query_len, request.key_len
        width = self.out_width
        shape = {"BLE": (batch, length, width), "LBE": (length, batch, width), "LE": (length, width)}[self.layout]
        output, weights = pick(raw, shape, (length, keys) if request.weights else None)
        if self.layout == "LBE":
            output = output.transpose(0, 1)
        elif self.layout == "LE":
            output = output[None]
        return Answer(output[:, None], weights if weights is None or weights.dim() == 4 else None)

    def spell(self, request: Request) -> str:
        """The call, as text."""
        index = {"BLE": "[:, 0]", "LBE": "[:, 0].transpose(0, 1)", "LE": "[0, 0]"}[self.layout]
        given = self._given(request)
        letters = "qkv" if len(self.slots) == 3 else "qk"
        words = [f"{name}={letter}{index}" for name, letter in zip(given, letters, strict=False)]
        if request.causal and "causal" in self.parameters:
            words.append(f"{self.parameters.name('causal')}=True")
        if request.weights and "weights" in self.parameters:
            words.append(f"{self.parameters.name('weights')}=True")
        if request.mask is not None:
            form = self.forms[reach_of(request.mask)]
            words.append(f"{form.argument}={spell_mask(form)}")
        if request.padding is not None and self.padding_form is not None:
            deny = "~" if self.padding_form.polarity == "deny" else ""
            words.append(f"{self.padding_form.argument}={deny}padding")
        return f"{self.name}({', '.join(words)})"

    def probe(self, feature: str) -> str | None:
        """See :mod:`regard.check.features`."""
        from regard.check.features import probe

        return probe(self, feature)


def _dropout_of(module: nn.Module) -> dict[tuple[str, str], float]:
    found: dict[tuple[str, str], float] = {}
    for name, part in module.named_modules():
        if isinstance(part, nn.Dropout):
            found[name, "p"] = part.p
        for word in ("dropout", "dropout_p", "attn_dropout", "dropout_prob", "attention_dropout", "p_dropout"):
            given = part.__dict__.get(word)
            if isinstance(given, float | int) and not isinstance(given, bool):
                found[name, word] = float(given)
    return found


def _set_dropout(module: nn.Module, given: float | dict[tuple[str, str], float]) -> None:
    parts = dict(module.named_modules())
    for name, word in _dropout_of(module):
        setattr(parts[name], word, given if isinstance(given, float) else given[name, word])
