"""Normalised queries and keys: the norms of transformers in regard's modules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from regard import QKNorm
from regard.hf.load_reader import Reader
from regard.qk_norm import HeadwiseLayerNorm, OffsetRMSNorm

__all__ = ["Norm"]


@dataclass(frozen=True)
class Norm:
    """Which norms a class puts on queries and keys."""

    kind: Literal["rms", "offset_rms", "layer", "headwise", "headwise_list"]
    query: str = "q_norm"
    key: str = "k_norm"
    over: Literal["head", "all"] = "head"
    when: Literal["before", "after"] = "before"
    switch: str | None = None
    """The attribute of the layer that says whether it has them; None where it always has."""

    def read(self, reader: Reader) -> tuple[QKNorm | None, dict[str, Tensor]]:
        """The norms without values, and their parameters by the names they have in regard's layer."""
        if self.switch is not None and not reader.attribute(self.switch):
            return None, {}
        q, q_state = self._one(reader, self.query)
        k, k_state = self._one(reader, self.key)
        state = {f"norm.q.{name}": t for name, t in q_state.items()}
        state |= {f"norm.k.{name}": t for name, t in k_state.items()}
        return QKNorm(q, k, when=self.when, over=self.over), state

    def _one(self, reader: Reader, name: str) -> tuple[nn.Module, dict[str, Tensor]]:
        if self.kind == "headwise_list":
            norms = reader.layer.get_submodule(f"{name}.norms")
            names = [f"{name}.norms.{each}" for each, _ in norms.named_children()]
            with torch.enable_grad():
                weight = torch.stack([reader.parameter(f"{each}.weight") for each in names])  # H of (D,) -> (H, D)
            return HeadwiseLayerNorm(len(names), weight.shape[1], reader.eps(names[0]), device="meta"), {
                "weight": weight
            }
        weight, eps = reader.parameter(f"{name}.weight"), reader.eps(name)
        if self.kind == "headwise":
            return HeadwiseLayerNorm(weight.shape[0], weight.shape[1], eps, device="meta"), {"weight": weight}
        (width,) = weight.shape
        if self.kind == "rms":
            return nn.RMSNorm(width, eps=eps, device="meta"), {"weight": weight}
        if self.kind == "offset_rms":
            return OffsetRMSNorm(width, eps=eps, device="meta"), {"weight": weight}
        bias = reader.parameter(f"{name}.bias")
        return nn.LayerNorm(width, eps=eps, device="meta"), {"weight": weight, "bias": bias}
