"""What an attention layer is made of, in regard's terms, and the regard layer that is made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from regard import MultiHeadAttention, QKNorm
from regard.masks import Mask
from regard.positions import Positions

__all__ = ["Parts", "Rows", "assign"]


class Rows(NamedTuple):
    """The weight (rows, width) and the bias (rows,) of a projection, or of some of its rows."""

    weight: Tensor
    bias: Tensor | None

    @property
    def out_features(self) -> int:
        """How many rows there are, the width of what comes out."""
        return self.weight.shape[0]

    def split(self, sizes: Sequence[int]) -> list[Rows]:
        """Consecutive rows, so many each."""
        weights = self.weight.split_with_sizes(list(sizes))
        biases = [None] * len(weights) if self.bias is None else self.bias.split_with_sizes(list(sizes))
        return [Rows(weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    def deal(self, groups: int, sizes: Sequence[int]) -> list[Rows]:
        """The rows of a projection whose rows come group by group, each with so many rows of every kind."""
        dealt = []
        for t in self:
            if t is None:
                dealt.append([None] * len(sizes))
                continue
            by_group = t.unflatten(0, (groups, sum(sizes)))  # (groups * rows, ...) -> (groups, rows, ...)
            dealt.append([each.flatten(0, 1) for each in by_group.split_with_sizes(list(sizes), dim=1)])
        return [Rows(weight, bias) for weight, bias in zip(*dealt, strict=True)]


@dataclass(frozen=True)
class Parts:
    """An attention layer in the terms of :class:`regard.MultiHeadAttention`, in tensors made of its parameters."""

    num_heads: int
    head_dim: int
    q: Rows
    k: Rows
    v: Rows
    out: Rows
    scale: float
    dropout: float
    mask: Mask | None = None
    positions: Positions | None = None
    norm: QKNorm | None = None
    softcap: float | None = None
    sinks: Tensor | None = None
    gate: Rows | None = None
    more: dict[str, Tensor] = field(default_factory=dict)
    """Parameters of norm and positions, by their names in regard's layer."""

    def state(self) -> dict[str, Tensor]:
        """The parameters of regard's layer by name, each a function of parameters of the layer that was read."""
        with torch.enable_grad():  # without a graph a part of a parameter does not say whether it is trained
            fused = {"q": self.q, "k": self.k, "v": self.v}
            state = {"in_proj.weight": _joined("weights", {name: rows.weight for name, rows in fused.items()})}
            biases = {name: rows.bias for name, rows in fused.items() if rows.bias is not None}
            if biases:
                state["in_proj.bias"] = _joined("biases", biases)
            state["out_proj.weight"] = self.out.weight
            if self.out.bias is not None:
                state["out_proj.bias"] = self.out.bias
            if self.sinks is not None:
                state["sinks"] = self.sinks
            if self.gate is not None:
                state["gate_proj.weight"] = self.gate.weight
                if self.gate.bias is not None:
                    state["gate_proj.bias"] = self.gate.bias
            return state | self.more

    def layer(self) -> MultiHeadAttention:
        """The layer of regard, with copies of the parameters."""
        named: dict[Literal["q", "k", "v", "out", "gate"], Rows | None] = {"q": self.q, "k": self.k, "v": self.v}
        named |= {"out": self.out, "gate": self.gate}
        biased = [name for name, rows in named.items() if rows is not None and rows.bias is not None]
        default = self.head_dim**-0.5
        layer = MultiHeadAttention(
            self.q.weight.shape[1],
            self.num_heads,
            num_kv_heads=self.k.out_features // self.head_dim,
            d_k=self.q.out_features,
            d_v=self.out.weight.shape[1],
            d_out=self.out.out_features,
            bias=biased,
            dropout=self.dropout,
            mask=self.mask,
            positions=self.positions,
            norm=self.norm,
            scale=None if math.isclose(self.scale, default, rel_tol=1e-12) else self.scale,
            softcap=self.softcap,
            sinks=self.sinks is not None,
            gate=None if self.gate is None else "elementwise",
            device="meta",  # neither memory nor random numbers for parameters that are replaced
            dtype=self.q.weight.dtype,
        )
        own, state = dict(layer.named_parameters()), self.state()
        # Positions that another layer owns stay its own.
        shared = {n: p for n, p in own.items() if n.startswith("positions.") and n not in state}
        assign(layer, state, shared)
        return layer


def _joined(kind: str, parts: Mapping[str, Tensor]) -> Tensor:
    """The rows of several parameters as one, which is trained or not as a whole."""
    trained = {name: t.requires_grad for name, t in parts.items()}
    if len(set(trained.values())) > 1:
        spelled = ", ".join(f"{name} {'does' if does else 'does not'}" for name, does in trained.items())
        raise ValueError(
            f"the {kind} of the projections must all require a gradient or none of them, as they become one parameter, "
            f"in_proj, got: {spelled}; set requires_grad of the layer's before loading"
        )
    return torch.cat(list(parts.values()))


def assign(layer: nn.Module, state: Mapping[str, Tensor], shared: Mapping[str, nn.Parameter] | None = None) -> None:
    """Make copies of tensors the parameters of a layer that was made without values.

    Args:
        layer: on the meta device.
        state: a tensor for each of its parameters, which is trained where the one that it was made of is.
        shared: parameters that become the layer's without being copied.
    """
    copies = {name: nn.Parameter(t.detach().clone()) for name, t in state.items()}
    trained = {name: t.requires_grad for name, t in {**state, **(shared or {})}.items()}
    layer.load_state_dict({**copies, **(shared or {})}, assign=True)
    for name, parameter in layer.named_parameters():
        parameter.requires_grad_(trained[name])  # assigned ones are as those were in whose place they are
