"""A layer with its options, head by head and from its parameters alone, in float64."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from regard import MultiHeadAttention
from regard.positions import ALiBi, Rotary


def linear(module: nn.Linear, x: Tensor, biased: bool = True) -> Tensor:
    out = x @ module.weight.T
    return out + module.bias if biased and module.bias is not None else out


def norm(module: nn.Module, x: Tensor) -> Tensor:
    """RMS norm or layer norm over the last axis."""
    if isinstance(module, nn.LayerNorm):
        x = x - x.mean(-1, keepdim=True)
    scaled = x / (x.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight
    return scaled + module.bias if getattr(module, "bias", None) is not None else scaled


def turned(t: Tensor, first: int, base: float) -> Tensor:
    """Pairs of the two halves as complex numbers that turn."""
    length, width = t.shape[-2:]
    theta = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)
    angles = (first + torch.arange(length, dtype=torch.float64))[:, None] * theta
    turned = torch.complex(*t.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def definition(
    layer: MultiHeadAttention, x: Tensor, mask: Tensor, context: Tensor | None = None, first: int = 0
) -> Tensor:
    """The output for x (B, L, d_in) where ``mask`` (L, S) is all that may be read."""
    source = x if context is None else context
    h, kv = layer.num_heads, layer.num_kv_heads
    d, dv = layer.d_k // h, layer.d_v // h
    if layer.d_context is None:
        rows, full = layer.in_proj.rows, layer.in_proj.full_bias()
        weights = layer.in_proj.weight.split(rows)
        biases = (0, 0, 0) if full is None else full.split(rows)
        q, k, v = (t @ w.T + b for t, w, b in zip((x, source, source), weights, biases, strict=True))
    else:
        q, k, v = linear(layer.q_proj, x), linear(layer.k_proj, source), linear(layer.v_proj, source)
    if layer.norm is not None and layer.norm.over == "all":
        q, k = norm(layer.norm.q, q), norm(layer.norm.k, k)
    outputs = []
    for i in range(h):
        j = i // (h // kv)
        qi, ki, vi = q[..., i * d : (i + 1) * d], k[..., j * d : (j + 1) * d], v[..., j * dv : (j + 1) * dv]
        by_head = layer.norm is not None and layer.norm.over == "head"
        if by_head and layer.norm.when == "before":
            qi, ki = norm(layer.norm.q, qi), norm(layer.norm.k, ki)
        if isinstance(layer.positions, Rotary):
            begin = 0 if context is None else first
            qi, ki = turned(qi, begin, layer.positions.base), turned(ki, 0, layer.positions.base)
        if by_head and layer.norm.when == "after":
            qi, ki = norm(layer.norm.q, qi), norm(layer.norm.k, ki)
        scores = qi @ ki.mT * (d**-0.5 if layer.scale is None else layer.scale)
        if layer.softcap is not None:
            scores = layer.softcap * (scores / layer.softcap).tanh()
        if isinstance(layer.positions, ALiBi):
            distance = torch.arange(x.shape[-2])[:, None] - torch.arange(source.shape[-2])
            scores = scores - 2.0 ** (-8 * (i + 1) / h) * distance
        weights = scores.exp() * mask
        sink = 0 if layer.sinks is None else layer.sinks[i].exp()
        outputs.append(weights / (weights.sum(-1, keepdim=True) + sink) @ vi)
    if layer.gate == "headwise":
        outputs = [o * linear(layer.gate_proj, x).sigmoid()[..., i : i + 1] for i, o in enumerate(outputs)]
    joined = torch.cat(outputs, dim=-1)
    if layer.gate == "elementwise":
        joined = joined * linear(layer.gate_proj, x).sigmoid()
    return linear(layer.out_proj, joined)


def drawn(layer: MultiHeadAttention, seed: int = 0) -> MultiHeadAttention:
    """The layer with every parameter drawn, also those that start at 0 or 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=torch.float64) * 0.5)
    return layer
