"""Layers that share their reading with no other: GPT-J, GPT-Neo, GPTBigCode, ModernBERT."""

from __future__ import annotations

from dataclasses import dataclass

from regard import masks
from regard.hf.load_parts import Parts
from regard.hf.load_reader import Reader
from regard.hf.load_rotary import rotary
from regard.positions import Rotary

__all__ = ["GptBigCode", "GptJ", "GptNeo", "ModernBert"]


@dataclass(frozen=True)
class GptJ:
    """Rotary positions of neighbouring columns, from a table of its own."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("gptj",))
        reader.check_no_output_dropout("resid_dropout")
        heads, d = int(reader.attribute("num_attention_heads")), int(reader.attribute("head_dim"))
        rotated = reader.attribute("rotary_dim")
        if rotated is None:
            raise ValueError("config.rotary_dim must say how many columns of a head are rotated, got None")
        q, k, v = (reader.rows(name) for name in ("q_proj", "k_proj", "v_proj"))
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("out_proj"),
            scale=1 / float(reader.attribute("scale_attn")),
            dropout=reader.dropout("attn_dropout"),
            mask=reader.causal(),
            positions=Rotary(d, pairing="interleaved", rotary_dim=int(rotated)),
        )


@dataclass(frozen=True)
class GptNeo:
    """Scores that are not scaled, in every other layer of a window."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("gpt_neo",))
        reader.check_no_output_dropout("resid_dropout")
        kind = reader.attribute("attention_type")
        if kind not in ("global", "local"):
            raise ValueError(f"layer.attention_type must be global or local, got {kind!r}")
        q, k, v = (reader.rows(name) for name in ("q_proj", "k_proj", "v_proj"))
        return Parts(
            int(reader.attribute("num_heads")),
            int(reader.attribute("head_dim")),
            q,
            k,
            v,
            reader.rows("out_proj"),
            scale=1.0,
            dropout=reader.dropout("attn_dropout"),
            mask=reader.causal(window=int(reader.config.window_size) if kind == "local" else None),
        )


@dataclass(frozen=True)
class GptBigCode:
    """One head of keys and values for all queries, or rows that are fused head by head."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("gpt_bigcode",))
        reader.check_no_output_dropout("resid_dropout")
        if reader.attribute("is_cross_attention"):
            raise ValueError("layer is a GPTBigCodeAttention with a context, whose forward fails in transformers")
        heads, d = int(reader.attribute("num_heads")), int(reader.attribute("head_dim"))
        fused = reader.rows("c_attn")
        q, k, v = fused.split([heads * d, d, d]) if reader.attribute("multi_query") else fused.deal(heads, [d, d, d])
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("c_proj"),
            scale=float(reader.attribute("scaling")),
            dropout=reader.dropout("attn_dropout"),
            mask=reader.causal(),
        )


@dataclass(frozen=True)
class ModernBert:
    """An encoder with rotary positions, in some layers of a window on both sides."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("modernbert",))
        reader.check_no_output_dropout("out_drop")
        reader.check_not_causal()
        config, layer_type = reader.config, reader.layer_type()
        windowed = layer_type == "sliding_attention"
        d = int(reader.attribute("head_dim"))
        fused = reader.rows("Wqkv")
        q, k, v = fused.split([fused.out_features // 3] * 3)
        reader.check_heads("the queries", q.out_features // d, config.num_attention_heads)
        own, side = reader.attribute("sliding_window"), int(config.sliding_window) if windowed else None
        if own != (None if side is None else side + 1):
            raise ValueError(
                f"layer.sliding_window must be what config.layer_types and config.sliding_window say, "
                f"{None if side is None else side + 1}, got {own}"
            )
        return Parts(
            q.out_features // d,
            d,
            q,
            k,
            v,
            reader.rows("Wo"),
            scale=d**-0.5,
            dropout=reader.dropout("attention_dropout"),
            mask=None if side is None else masks.band(side, side),
            positions=rotary(config, layer_type=layer_type),
        )
