"""Decoders with rotary positions: Llama and those that differ from it by a few lines."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from regard import masks
from regard.hf.families_norms import Norm
from regard.hf.load_parts import Parts, Rows
from regard.hf.load_reader import Reader
from regard.hf.load_rotary import KINDS, rotary
from regard.masks import Mask
from regard.positions import Rotary

__all__ = ["Decoder"]


@dataclass(frozen=True)
class Decoder:
    """How the attention of a decoder differs from Llama's, which is causal, with rotary positions and nothing else."""

    models: tuple[str, ...]
    """The model_type of configurations that it comes with."""
    window: Literal["never", "always", "by layer"] = "never"
    """Whether config.sliding_window holds for no layer, for all, or for those that config.layer_types names."""
    rotates: Literal["always", "in windows", "in windows, if any", "as use_rope says"] = "always"
    """Which layers rotate: all; those with a window, or all of a model that has no windows; as layer.use_rope says."""
    projections: Literal["three", "fused", "fused by head", "gated"] = "three"
    fused: str = "query_key_value"
    out: str = "o_proj"
    norm: Norm | None = None
    softcap: str | None = None
    sinks: str | None = None
    dropout: str | None = "attention_dropout"
    output_dropout: str | None = None
    head_dim: str = "head_dim"
    both_ways: bool = False
    """Whether config.use_bidirectional_attention is followed by the masks of the model, windows on both sides."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        config = reader.config
        reader.check_model(self.models)
        if getattr(config, "clip_qkv", None) is not None:
            raise ValueError(
                f"layer clips queries, keys and values to config.clip_qkv={config.clip_qkv}, which regard's layer does "
                "not; there is no such option to set"
            )
        if self.output_dropout is not None:
            reader.check_no_output_dropout(self.output_dropout)
        layer_type = self._layer_type(reader)
        window = self._window(reader, layer_type)
        d = int(reader.attribute(self.head_dim))
        q, k, v, gate = self._projections(reader, d)
        heads = q.out_features // d
        reader.check_heads("the queries", heads, config.num_attention_heads)
        reader.check_heads("the keys", k.out_features // d, getattr(config, "num_key_value_heads", None) or heads)
        norm, more = (None, {}) if self.norm is None else self.norm.read(reader)
        softcap = None if self.softcap is None else reader.attribute(self.softcap)
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows(self.out),
            scale=float(reader.attribute("scaling")),
            dropout=0.0 if self.dropout is None else reader.dropout(self.dropout),
            mask=self._mask(reader, window),
            positions=self._positions(reader, config, layer_type, window),
            norm=norm,
            softcap=None if softcap is None else float(softcap),
            sinks=None if self.sinks is None else reader.parameter(self.sinks),
            gate=gate,
            more=more,
        )

    def _layer_type(self, reader: Reader) -> str | None:
        types = getattr(reader.config, "layer_types", None)
        by_layer = self.window == "by layer" or KINDS[reader.config.model_type].by_layer
        return reader.layer_type() if by_layer and types is not None else None

    def _window(self, reader: Reader, layer_type: str | None) -> int | None:
        window = getattr(reader.config, "sliding_window", None)
        if self.window == "always":
            return None if window is None else int(window)
        if self.window == "never" or layer_type != "sliding_attention":
            return None
        own = getattr(reader.layer, "sliding_window", window)
        if own is None or own != window:
            raise ValueError(
                f"layer.sliding_window must be config.sliding_window in a layer of sliding_attention, got {own} and "
                f"{window}"
            )
        return int(own)

    def _mask(self, reader: Reader, window: int | None) -> Mask | None:
        if self.both_ways and getattr(reader.config, "use_bidirectional_attention", False):
            reader.check_not_causal()
            return None if window is None else masks.band(window - 1, window - 1)
        return reader.causal(window=window)

    def _positions(self, reader: Reader, config: Any, layer_type: str | None, window: int | None) -> Rotary | None:
        windows = self.rotates == "in windows" or (self.rotates == "in windows, if any" and config.sliding_window)
        if windows and window is None:
            return None
        if self.rotates == "as use_rope says" and not reader.attribute("use_rope"):
            return None
        return rotary(config, layer_type=layer_type if KINDS[config.model_type].by_layer else None)

    def _projections(self, reader: Reader, d: int) -> tuple[Rows, Rows, Rows, Rows | None]:
        config = reader.config
        if self.projections == "fused":
            h, hkv = config.num_attention_heads, config.num_key_value_heads
            q, k, v = reader.rows(self.fused).split([h * d, hkv * d, hkv * d])
            return q, k, v, None
        if self.projections == "fused by head":
            fused = reader.rows(self.fused)
            q, k, v = fused.deal(fused.out_features // (3 * d), [d, d, d])
            return q, k, v, None
        q, gate = reader.rows("q_proj"), None
        if self.projections == "gated":
            q, gate = q.deal(q.out_features // (2 * d), [d, d])
        return q, reader.rows("k_proj"), reader.rows("v_proj"), gate
