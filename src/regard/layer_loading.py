"""Parameters of other layers in the terms of regard's: what ``from_heads`` and ``from_torch`` copy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["Parameters", "Triple", "of_heads", "of_torch"]

Triple = tuple[nn.Linear, nn.Linear, nn.Linear]
NAMES = ("Wq", "Wk", "Wv")


@dataclass(frozen=True)
class Parameters:
    """Weights (rows, width) and biases (rows,) of the projections to queries, keys and values, and of the output."""

    num_heads: int
    weights: Sequence[Tensor]
    biases: Sequence[Tensor] | None
    out_weight: Tensor
    out_bias: Tensor | None
    own_context: bool
    names: str  # of what they are of, for an error


@torch.enable_grad()  # under no_grad a part of a parameter would not tell whether the parameter is trained
def of_torch(layer: nn.MultiheadAttention) -> Parameters:
    """The parameters of a torch layer: its rows are [q | k | v], head after head, as regard's are."""
    if not isinstance(layer, nn.MultiheadAttention):
        raise TypeError(f"layer must be a torch.nn.MultiheadAttention, got {type(layer).__name__}")
    if layer.bias_k is not None or layer.bias_v is not None:
        raise ValueError(
            "layer has add_bias_kv=True: every position attends to a learned key that no mask covers, and regard's "
            "layer has none; append bias_k and bias_v to the projected keys and values for regard.attention()"
        )
    if layer.add_zero_attn:
        raise ValueError(
            "layer has add_zero_attn=True: every position attends to a key and value of zeros that no mask covers, and "
            "regard's layer has none; it is a sink of logit 0 in each head, regard.attention(..., sinks=torch.zeros(H))"
        )
    # Torch has one parameter for all three where the widths are equal, and None in its place where they are not.
    fused: Tensor | None = layer.in_proj_weight
    three = (layer.q_proj_weight, layer.k_proj_weight, layer.v_proj_weight) if fused is None else fused.chunk(3)
    bias: Tensor | None = layer.in_proj_bias
    biases = None if bias is None else bias.chunk(3)
    out = layer.out_proj
    return Parameters(layer.num_heads, three, biases, out.weight, out.bias, fused is None, "layer")


@torch.enable_grad()
def of_heads(heads: Sequence[Any], out_proj: nn.Linear) -> Parameters:
    """The parameters of single heads: the rows of each projection, head after head."""
    triples = [_triple(head, i) for i, head in enumerate(heads)]
    _check(triples, out_proj)
    by_kind = list(zip(*triples, strict=True))  # Wq of every head, Wk of every head, Wv of every head
    weights = [torch.cat([w.weight for w in linears]) for linears in by_kind]  # H times (D, width) -> (H * D, width)
    own = [w.bias for triple in triples for w in triple if w.bias is not None]
    trained = any(bias.requires_grad for bias in own)
    each = [torch.cat([_bias(w, trained=trained) for w in linears]) for linears in by_kind]  # (H * D,) of each kind
    own_context = len({w.in_features for w in triples[0]}) > 1
    return Parameters(
        len(triples), weights, each if own else None, out_proj.weight, out_proj.bias, own_context, "heads"
    )


def _bias(linear: nn.Linear, *, trained: bool) -> Tensor:
    bias: Tensor | None = linear.bias
    return linear.weight.new_zeros(linear.out_features, requires_grad=trained) if bias is None else bias


def _triple(head: Any, i: int) -> Triple:
    if isinstance(head, tuple | list):
        if len(head) != 3:
            raise ValueError(f"heads[{i}] must be three layers (Wq, Wk, Wv), got {len(head)}")
        return head[0], head[1], head[2]
    missing = ", ".join(name for name in NAMES if not hasattr(head, name))
    if missing:
        kind = type(head).__name__
        raise TypeError(f"heads[{i}] must be (Wq, Wk, Wv) or have these attributes, got {kind} without {missing}")
    return head.Wq, head.Wk, head.Wv


def _check(triples: Sequence[Triple], out_proj: nn.Linear) -> None:
    if not triples:
        raise ValueError("heads must hold at least one head, got none")
    named = [(f"{n} of heads[{i}]", w) for i, t in enumerate(triples) for n, w in zip(NAMES, t, strict=True)]
    for name, linear in (("out_proj", out_proj), *named):
        if not isinstance(linear, nn.Linear):
            raise TypeError(f"{name} must be a torch.nn.Linear, got {type(linear).__name__}")
        if _kind(linear) != _kind(out_proj):
            raise ValueError(f"{name} must be {_kind(out_proj)} like out_proj, got {_kind(linear)}")
    for i, triple in enumerate(triples):
        sizes, first = ([(w.in_features, w.out_features) for w in t] for t in (triple, triples[0]))
        if sizes != first:
            raise ValueError(
                f"heads must agree in the (in_features, out_features) of Wq, Wk and Wv, got {first} in heads[0] "
                f"and {sizes} in heads[{i}]"
            )
    for i, kind in enumerate(NAMES):
        for name in ("weight", "bias"):
            own = [getattr(triple[i], name) for triple in triples]
            if len({t.requires_grad for t in own if t is not None}) > 1:
                raise ValueError(
                    f"heads must agree in requires_grad of the {name} of {kind}, got some that are trained and others "
                    "that are not; the layer has one parameter for all heads: freeze or train all, and then this one"
                )
    wq, wk, wv = triples[0]
    if wq.out_features != wk.out_features:
        raise ValueError(f"Wq and Wk of a head must have one width D, got {wq.out_features} and {wk.out_features}")
    total = len(triples) * wv.out_features
    if out_proj.in_features != total:
        raise ValueError(
            f"out_proj must take H * Dv = {len(triples)} * {wv.out_features} = {total} features, "
            f"got {out_proj.in_features}"
        )


def _kind(linear: nn.Linear) -> str:
    return f"{str(linear.weight.dtype).removeprefix('torch.')} on {linear.weight.device}"
