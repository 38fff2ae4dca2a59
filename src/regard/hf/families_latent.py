"""Multi-head latent attention: DeepSeek-V3."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from regard import LatentAttention
from regard.hf.load_parts import Rows, assign
from regard.hf.load_reader import Reader
from regard.hf.load_rotary import rotary
from regard.masks import Mask
from regard.positions import Rotary

__all__ = ["Latent", "LatentParts"]


@dataclass(frozen=True)
class LatentParts:
    """A layer of latent attention in the terms of :class:`regard.LatentAttention`."""

    num_heads: int
    nope_dim: int
    rotary_dim: int
    v_dim: int
    projections: dict[str, Rows]
    norms: dict[str, Tensor]
    scale: float
    eps: float
    dropout: float
    mask: Mask
    positions: Rotary

    def state(self) -> dict[str, Tensor]:
        """The parameters of regard's layer by name, each a function of parameters of the layer that was read."""
        state = {f"{name}.weight": rows.weight for name, rows in self.projections.items()}
        state |= {f"{name}.bias": rows.bias for name, rows in self.projections.items() if rows.bias is not None}
        return state | {f"{name}.weight": weight for name, weight in self.norms.items()}

    def layer(self) -> LatentAttention:
        """The layer of regard, with copies of the parameters."""
        down, default = self.projections["kv_down"], (self.nope_dim + self.rotary_dim) ** -0.5
        first = {"q_down": "q", "kv_down": "kv", "out_proj": "out"}
        layer = LatentAttention(
            down.weight.shape[1],
            self.num_heads,
            q_rank=self.projections["q_down"].out_features if "q_down" in self.projections else None,
            kv_rank=down.out_features - self.rotary_dim,
            nope_dim=self.nope_dim,
            rotary_dim=self.rotary_dim,
            v_dim=self.v_dim,
            d_out=self.projections["out_proj"].out_features,
            bias=[first[name] for name, rows in self.projections.items() if rows.bias is not None],  # type: ignore[misc]
            dropout=self.dropout,
            mask=self.mask,
            positions=self.positions,
            scale=None if math.isclose(self.scale, default, rel_tol=1e-12) else self.scale,
            eps=self.eps,
            device="meta",  # neither memory nor random numbers for parameters that are replaced
            dtype=down.weight.dtype,
        )
        assign(layer, self.state())
        return layer


@dataclass(frozen=True)
class Latent:
    """Keys and values of all heads made of one latent, a rotary key beside it, queries by way of a latent or not."""

    models: tuple[str, ...]

    def read(self, reader: Reader) -> LatentParts:
        """The parts of a layer."""
        config, layer = reader.config, reader.layer
        reader.check_model(self.models)
        projections = {"kv_down": reader.rows("kv_a_proj_with_mqa"), "kv_up": reader.rows("kv_b_proj")}
        norms, eps = {"kv_norm": reader.parameter("kv_a_layernorm.weight")}, reader.eps("kv_a_layernorm")
        if reader.attribute("q_lora_rank") is None:
            projections["q_proj"] = reader.rows("q_proj")
        else:
            projections |= {"q_down": reader.rows("q_a_proj"), "q_up": reader.rows("q_b_proj")}
            norms["q_norm"] = reader.parameter("q_a_layernorm.weight")
            if reader.eps("q_a_layernorm") != eps:
                raise ValueError(
                    f"layer has an eps of {reader.eps('q_a_layernorm')} in q_a_layernorm and of {eps} in "
                    "kv_a_layernorm, and regard's layer has one for both"
                )
        projections["out_proj"] = reader.rows("o_proj")
        nope, rotated, v_dim = (int(reader.attribute(f"{name}_head_dim")) for name in ("qk_nope", "qk_rope", "v"))
        heads = int(reader.attribute("num_heads"))
        reader.check_heads("the keys", projections["kv_up"].out_features // (nope + v_dim), heads)
        reader.check_heads("the configuration", heads, config.num_attention_heads)
        positions = rotary(config)
        if positions.dim != rotated:
            raise ValueError(
                f"config.head_dim must be qk_rope_head_dim={rotated}, the width that a {type(layer).__name__} rotates, "
                f"got {positions.dim}"
            )
        return LatentParts(
            heads,
            nope,
            rotated,
            v_dim,
            projections,
            norms,
            scale=float(reader.attribute("scaling")),
            eps=eps,
            dropout=reader.dropout("attention_dropout"),
            mask=reader.causal(),
            positions=positions,
        )
