"""Functions of query, key and value: which layout, tensors or arrays, which keyword for what."""

from __future__ import annotations

import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from regard.check.adapt.masks import MaskForm, encode, reach_of, spell_mask
from regard.check.adapt.names import Parameters
from regard.check.adapt.outputs import pick, place_of
from regard.check.contract import Contract
from regard.check.definition import Core
from regard.check.request import Answer, Request, Sizes, restride
from regard.check.subject import Subject
from regard.check.violation import Unsupported

__all__ = ["LAYOUTS", "FunctionSubject"]

LAYOUTS = ("BHLD", "BLHD", "NLD", "BLE", "LD")
QKV = ("query", "key", "value")


class FunctionSubject(Subject):
    """A function of query, key, value and keywords.

    Args:
        function: it.
        name: in reports.
        parameters: its parameters by role.
        declared: the author's conventions.
        options: device, dtype and seconds, see :class:`Subject`.
    """

    def __init__(
        self, function: Callable[..., Any], name: str, parameters: Parameters, declared: Contract, **options: Any
    ) -> None:
        super().__init__(name, declared, **options)
        self.function = function
        self.parameters = parameters
        self.layout: str = "BHLD"
        self.out_layout: str | None = None  # where it is not the layout of the inputs
        self.arrays = False
        self.everyone: bool | None = None
        self.place: int | None = None  # of the output among the tensors that come back
        self.forms: dict[str, MaskForm] = {}
        self.padding_form: MaskForm | None = None
        self.extra: dict[str, Any] = {}

    def make(self, at: Sizes, seed: int, *, size: float = 1.0, dtype: torch.dtype | None = None) -> Request:
        """Normal query, key and value, one after the other from one seed."""
        generator = torch.Generator().manual_seed(seed)
        dtype = dtype or self.dtype
        shapes = (
            (at.batch, at.heads, at.query_len, at.width),
            (at.batch, at.kv_heads, at.key_len, at.width),
            (at.batch, at.kv_heads, at.key_len, at.value_width),
        )
        times = "" if size == 1 else f"{size:g} * "
        code = [f"g = torch.Generator().manual_seed({seed})"]
        tensors = []
        for name, shape in zip("qkv", shapes, strict=True):
            tensors.append((size * torch.randn(shape, generator=generator)).to(self.device, dtype))
            code.append(f"{name} = ({times}torch.randn({shape}, generator=g)).to({str(self.device)!r}, {dtype})")
        query, key, value = tensors
        return Request(query, key, value, code=tuple(code))

    def raw(self, request: Request) -> tuple[Callable[[], Any], dict[str, Any]]:
        """One call, or for single (L, D) inputs one for each sequence and head."""
        if self.layout != "LD":
            tensors, keywords = self._inputs(request), self._keywords(request)
            given = dict(zip(self._names(), tensors, strict=True)) | keywords
            return lambda: self._call(given), dict(zip(QKV, tensors, strict=True)) | _readable(keywords)
        inputs: dict[str, Any] = {}
        calls = []
        heads = request.query.shape[1]
        group = heads // request.key.shape[1]
        for b in range(request.query.shape[0]):
            for h in range(heads):
                picked = [request.query[b, h], request.key[b, h // group], request.value[b, h // group]]
                one = [self._array(restride(t, request.strides)) for t in picked]  # (L, D), (S, D), (S, Dv)
                mask, bias = _of(request.mask, b, h), _of(request.bias, b, h)
                keywords = self._keywords(request.but(mask=mask, bias=bias))
                named = dict(zip(QKV, one, strict=True)) | _readable(keywords)
                inputs |= {f"{name}[{b}, {h}]": t for name, t in named.items()}
                calls.append(dict(zip(self._names(), one, strict=True)) | keywords)
        return lambda: [self._call(given) for given in calls], inputs

    def _call(self, given: dict[str, Any]) -> Any:
        positional = [given[name] for name in self.parameters.nameless if name in given]
        return self.function(*positional, **{n: t for n, t in given.items() if n not in self.parameters.nameless})

    def _names(self) -> list[str]:
        return [self.parameters.name(role) for role in QKV]

    def _inputs(self, request: Request) -> list[Any]:
        folded = (self.fold(t) for t in (request.query, request.key, request.value))
        return [self._array(restride(t, request.strides)) for t in folded]

    def fold(self, t: Tensor) -> Tensor:
        """(B, H, L, D) in the subject's own layout."""
        if self.layout == "BLHD":
            return t.transpose(1, 2)  # (B, H, L, D) -> (B, L, H, D)
        if self.layout == "NLD":
            return t.flatten(0, 1)  # (B, H, L, D) -> (N, L, D)
        if self.layout == "BLE":
            return t.transpose(1, 2).flatten(2)  # (B, H, L, D) -> (B, L, H * D)
        return t

    def _array(self, t: Tensor) -> Any:
        if not self.arrays:
            return t
        if t.dtype == torch.bfloat16:
            raise Unsupported("arrays have no bfloat16")
        return t.detach().cpu().numpy().copy()

    def _keywords(self, request: Request) -> dict[str, Any]:
        p, found = self.parameters, dict(self.extra)
        heads, kv_heads = request.query.shape[1], request.key.shape[1]
        if "module" in p:
            found[p.name("module")] = _Host(heads // kv_heads, request.training or request.dropout > 0)
        if "num_heads" in p:
            found[p.name("num_heads")] = heads
        if "causal" in p:
            found[p.name("causal")] = request.causal
        if "grouped" in p and heads != kv_heads:
            found[p.name("grouped")] = True
        if "scale" in p and (request.scale is not None or p.required("scale")):
            found[p.name("scale")] = 1 / math.sqrt(request.query.shape[-1]) if request.scale is None else request.scale
        if "dropout" in p and (request.dropout or p.required("dropout")):
            found[p.name("dropout")] = request.dropout
        if "training" in p:
            found[p.name("training")] = request.training or request.dropout > 0
        if "weights" in p and (request.weights or p.required("weights")):
            found[p.name("weights")] = request.weights
        if "average" in p:
            found[p.name("average")] = False
        for role in ("window", "softcap"):
            given = getattr(request, role)
            if role in p and (given is not None or p.required(role)):
                found[p.name(role)] = given
        if "bias" in p and (request.bias is not None or p.required("bias")):
            found[p.name("bias")] = (
                None if request.bias is None else self._array(self._fold_bias(request.bias, request))
            )
        return found | self._masks(request)

    def _everyone(self, request: Request) -> Any:
        """What a mask that must be given is where nobody asks for one: None, or all True or False."""
        if self.everyone is None:
            return None
        shape = (request.query_len, request.key_len)
        return self._array(torch.full(shape, self.everyone, dtype=torch.bool, device=request.query.device))

    def _masks(self, request: Request) -> dict[str, Any]:
        found: dict[str, Any] = {}
        batch, heads = request.query.shape[:2]
        for name in self.parameters.masks:
            if self.parameters.signature.parameters[name].default is self.parameters.signature.empty:
                found[name] = self._everyone(request)
        if request.mask is not None:
            form = self.forms[reach_of(request.mask)]
            mask = encode(request.mask, form, batch=batch, heads=heads, dtype=request.query.dtype)
            found[form.argument] = self._array_or_block(mask)
        if request.padding is not None:
            if self.padding_form is None:
                raise LookupError("this subject takes no padding")
            form = self.padding_form
            found[form.argument] = self._array(form.meaning(request.padding, request.query.dtype))
        return found

    def _array_or_block(self, mask: Any) -> Any:
        return self._array(mask) if isinstance(mask, Tensor) else mask

    def _fold_bias(self, bias: Tensor, request: Request) -> Tensor:
        if self.layout == "NLD":
            return bias.expand(*request.query.shape[:2], *bias.shape[-2:]).flatten(0, 1)  # -> (N, L, S)
        return bias[0, 0] if self.layout == "LD" else bias

    def read(self, raw: Any, request: Request) -> Answer:
        """The output, and the weights where they came too."""
        batch, heads = request.query.shape[:2]
        map_shape = (request.query_len, request.key_len) if request.weights else None
        if self.layout == "LD":
            each = [self._picked(one, (request.query_len, request.value.shape[-1]), map_shape) for one in raw]
            output = torch.stack([output for output, _ in each]).unflatten(0, (batch, heads))
            weights = [weight for _, weight in each if weight is not None]
            joined = torch.stack(weights).unflatten(0, (batch, heads)) if len(weights) == len(each) else None
            return Answer(output, joined)
        width = request.value.shape[-1]
        axes = {
            "BHLD": (batch, heads, request.query_len, width),
            "BLHD": (batch, request.query_len, heads, width),
            "NLD": (batch * heads, request.query_len, width),
            "BLE": (batch, request.query_len, heads * width),
        }
        layout = self.out_layout or self.layout
        output, weights_ = self._picked(raw, axes[layout], map_shape)
        if layout == "BLHD":
            output = output.transpose(1, 2)
        elif layout == "NLD":
            output = output.unflatten(0, (batch, heads))
        elif layout == "BLE":
            output = output.unflatten(2, (heads, width)).transpose(1, 2)
        if weights_ is not None and weights_.dim() == 3 and weights_.shape[0] == batch * heads:
            weights_ = weights_.unflatten(0, (batch, heads))
        return Answer(output, weights_ if weights_ is None or weights_.dim() == 4 else None)

    def _picked(
        self, raw: Any, shape: tuple[int, ...], map_shape: tuple[int, int] | None
    ) -> tuple[Tensor, Tensor | None]:
        """Where S = Dv the weights have the output's shape: where it stood in a call without doubt, it stands."""
        if self.place is None:
            self.place = place_of(raw, shape)
        return pick(raw, shape, map_shape, self.place or 0)

    def imagine(self, core: Core, request: Request) -> Tensor:
        """``core`` on the same numbers in float64."""
        exact = request.map(lambda t: t.double())
        return core(exact.but(bias=None if request.bias is None else request.bias.double()), self.contract)

    def spell(self, request: Request) -> str:
        """The call, as text."""
        form = {"BLHD": ".transpose(1, 2)", "NLD": ".flatten(0, 1)", "BLE": ".transpose(1, 2).flatten(2)"}
        suffix = form.get(self.layout, "[0, 0]" if self.layout == "LD" else "")
        suffix += ".numpy()" if self.arrays else ""
        words = [f"{name}={letter}{suffix}" for name, letter in zip(self._names(), "qkv", strict=True)]
        keywords = self._keywords(request)
        for name, given in keywords.items():
            if request.mask is not None and name == self.forms[reach_of(request.mask)].argument:
                words.append(f"{name}={spell_mask(self.forms[reach_of(request.mask)])}")
            elif isinstance(given, bool | int | float):
                if given is not False:
                    words.append(f"{name}={given!r}")
            elif given is not None and not isinstance(given, _Host):
                words.append(f"{name}={'bias' if given is not None and 'bias' in name else name}")
            elif isinstance(given, _Host):
                words.append(f"{name}=module")
        return f"{self.name}({', '.join(words)})"

    def probe(self, feature: str) -> str | None:
        """See :mod:`regard.check.features`."""
        from regard.check.features import probe

        return probe(self, feature)


class _Host(nn.Module):
    """The module that Hugging Face's attention functions are handed, with what they read of it."""

    def __init__(self, groups: int, training: bool) -> None:
        super().__init__()
        self.num_key_value_groups = groups
        self.is_causal = False
        self.layer_idx = 0
        self.config = SimpleNamespace(_attn_implementation="eager")
        self.training = training


def _readable(keywords: dict[str, Any]) -> dict[str, Any]:
    """Masks and biases: to be read and not to be written."""
    return {name: t for name, t in keywords.items() if isinstance(t, Tensor) or hasattr(t, "__array_interface__")}


def _of(t: Tensor | None, b: int, h: int) -> Tensor | None:
    """The part of one sequence and head, with axes of 1 in their place."""
    if t is None:
        return None
    b, h = (b if t.shape[0] > 1 else 0), (h if t.shape[1] > 1 else 0)
    return t[b : b + 1, h : h + 1]
