"""The projections of a module, found by the names of its parameters: what makes its numbers comparable."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from regard.check.adapt.inside import strange_buffers

__all__ = ["Projections", "find_projections"]

NAMES: dict[str, tuple[str, ...]] = {
    "q": ("q", "query", "queries", "wq", "xq"),
    "k": ("k", "key", "keys", "wk", "xk"),
    "v": ("v", "value", "values", "wv", "xv"),
    "qkv": ("qkv", "in", "cattn", "querykeyvalue", "wqkv", "kqv", "inproj"),
    "kv": ("kv", "wkv"),
    "out": ("o", "out", "output", "wo", "c", "dense", "fc", "fcout", "unifyheads", "cproj", "outproj", "proj"),
}

Linear = tuple[Tensor, Tensor | None]


@dataclass(frozen=True)
class Projections:
    """Weights (rows, width) and biases (rows,) of q, k and v, all heads one after the other, and of the output.

    ``layers`` names the linear layers of each role; ``strange`` are parameters and buffers whose part in the result is
    not known.
    """

    q: Linear
    k: Linear
    v: Linear
    out: Linear | None
    fused: bool = False
    heads: int | None = None
    arrangement: str = "q|k|v"
    layers: dict[str, tuple[str, ...]] = field(default_factory=dict)
    strange: tuple[str, ...] = ()

    def arranged(self, how: str, heads: int) -> Projections:
        """The fused projection read another way: "head by head", q, k and v of one head before those of the next."""
        parts = (self.q, self.k, self.v)
        weight = torch.cat([part[0] for part in parts])
        biases = [part[1] for part in parts if part[1] is not None]
        bias = torch.cat(biases) if len(biases) == len(parts) else None
        rows = weight.shape[0] // (3 * heads)

        def part(index: int) -> Linear:
            def rows_of(t: Tensor) -> Tensor:
                split: Tensor = t.unflatten(0, (heads, 3, rows))
                return split[:, index].flatten(0, 1)

            return rows_of(weight), None if bias is None else rows_of(bias)

        return replace(self, q=part(0), k=part(1), v=part(2), arrangement=how)


def find_projections(module: nn.Module) -> Projections | str:
    """The projections, or why they were not found.

    It knows :class:`torch.nn.MultiheadAttention`, and modules with linear layers whose names say q, k, v, qkv and out,
    all heads in one or a list of heads. A parameter with another name has an unknown part in the result: then the
    numbers of the module are not comparable with the definition.
    """
    parameters = dict(module.named_parameters())
    if not parameters:
        return "it has no parameters"
    if isinstance(module, nn.MultiheadAttention) and module.bias_k is None and not module.add_zero_attn:
        return _of_torch(module)
    layers = _layers(module)
    known = {f"{name}.{part}" for names in layers.values() for name in names for part in ("weight", "bias")}
    strange = [name for name in parameters if name not in known] + strange_buffers(module)
    parts = dict(module.named_modules())
    found = _assemble({role: [_linear(parts[name]) for name in names] for role, names in layers.items()}, module)
    return found if isinstance(found, str) else replace(found, layers=layers, strange=tuple(strange))


def _layers(module: nn.Module) -> dict[str, tuple[str, ...]]:
    """Role -> the names of its linear layers; by their order where their names say nothing."""
    names = [name for name, part in module.named_modules() if isinstance(part, nn.Linear) or _conv(part)]
    found: dict[str, tuple[str, ...]] = {}
    for name in names:
        role = _role(name)
        if role is not None:
            found[role] = (*found.get(role, ()), name)
    if not found and len(names) in (3, 4):
        return {role: (name,) for role, name in zip(("q", "k", "v", "out"), names, strict=False)}
    return found


def _conv(part: nn.Module) -> bool:
    """A linear layer that stores its weight the other way round, as GPT-2 does."""
    return type(part).__name__ == "Conv1D"


def _linear(part: nn.Module) -> Linear:
    weight, bias = cast(Tensor, part.weight), cast("Tensor | None", part.bias)
    return weight.T if _conv(part) else weight, bias


def _of_torch(module: nn.MultiheadAttention) -> Projections:
    bias = module.in_proj_bias
    biases: tuple[Any, ...] = (None, None, None) if bias is None else bias.chunk(3)
    if module._qkv_same_embed_dim:
        weights: tuple[Any, ...] = module.in_proj_weight.chunk(3)
    else:
        weights = (module.q_proj_weight, module.k_proj_weight, module.v_proj_weight)
    q, k, v = zip(weights, biases, strict=True)
    return Projections(q, k, v, (module.out_proj.weight, module.out_proj.bias), heads=module.num_heads)


def _role(name: str) -> str | None:
    """The role of a layer by its name, from the end: "heads.3.W_q" and "query.linear" -> "q", "to_out.0" -> "out"."""
    for word in reversed([word for word in name.split(".") if not word.isdigit()]):
        plain = re.sub(r"[\d_]", "", word.lower())
        bare = re.sub(r"^(to|w|linear|lin|attn|self)|(proj|projection|linear|lin|layer|transform|states|s)$", "", plain)
        for role, names in NAMES.items():
            if plain in names or bare in names:
                return role
    return None


def _assemble(found: dict[str, list[Linear]], module: nn.Module) -> Projections | str:
    counts = {role: len(layers) for role, layers in found.items()}
    out = found.get("out", [])
    if len(out) > 1:
        return f"it has {len(out)} layers that may be the output projection"
    last = out[0] if out else None
    if set(counts) - {"out"} == {"q", "k", "v"} and counts["q"] == counts["k"] == counts["v"]:
        heads = counts["q"] if counts["q"] > 1 else None
        q, k, v = (_stack(found[role]) for role in "qkv")
        return Projections(q, k, v, last, heads=heads)
    if set(counts) - {"out"} == {"q", "kv"} and counts["kv"] == 1 and counts["q"] == 1:
        half = found["kv"][0][0].shape[0] // 2
        k, v = _split(found["kv"][0], [half, half])
        return Projections(found["q"][0], k, v, last)
    if set(counts) - {"out"} == {"qkv"} and counts["qkv"] == 1:
        rows = _rows(found["qkv"][0][0].shape[0], module)
        if rows is not None:
            q, k, v = _split(found["qkv"][0], rows)
            return Projections(q, k, v, last, fused=len(set(rows)) == 1)
    return f"its linear layers do not read as projections of q, k and v: {counts or 'none found'}"


def _stack(layers: list[Linear]) -> Linear:
    weights, biases = zip(*layers, strict=True)
    given = [bias for bias in biases if bias is not None]
    return torch.cat(weights), torch.cat(given) if len(given) == len(biases) else None


def _rows(total: int, module: nn.Module) -> list[int] | None:
    """How a fused projection divides: by the module's own sizes where it names them, otherwise into three."""

    def size(*names: str) -> int | None:
        found = (getattr(module, name, None) for name in names)
        return next((n for n in found if isinstance(n, int) and not isinstance(n, bool) and n > 0), None)

    heads = size("num_heads", "n_heads", "heads", "n_head", "num_attention_heads")
    kv_heads = size("num_kv_heads", "n_kv_heads", "kv_heads", "num_key_value_heads") or heads
    if heads and kv_heads and heads % kv_heads == 0:
        group = heads // kv_heads
        d_k, d_v = size("d_k"), size("d_v")
        if d_k and d_v and d_k + d_k // group + d_v // group == total:
            return [d_k, d_k // group, d_v // group]
        if total % (heads + 2 * kv_heads) == 0:
            width = total // (heads + 2 * kv_heads)
            return [heads * width, kv_heads * width, kv_heads * width]
    return [total // 3] * 3 if total % 3 == 0 else None


def _split(layer: Linear, rows: list[int]) -> list[Linear]:
    weight, bias = layer
    biases = [None] * len(rows) if bias is None else list(bias.split(rows))
    return list(zip(weight.split(rows), biases, strict=True))
