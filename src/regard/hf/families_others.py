"""Attention without rotary positions: encoders, decoders with learned positions, T5."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from regard.hf.load_parts import Parts
from regard.hf.load_reader import Reader
from regard.masks import Mask
from regard.positions import Positions, RelativeBias

__all__ = ["T5", "Bert", "Gpt2", "Plain"]


@dataclass(frozen=True)
class Plain:
    """Four projections of one width, with no positions of its own; it may be given a context."""

    projections: tuple[str, str, str] = ("q_proj", "k_proj", "v_proj")
    out: str = "out_proj"
    scale: str = "scaling"
    dropout: str = "dropout"
    heads: str = "num_heads"
    head_dim: str = "head_dim"
    causal: Literal["never", "always", "as it says"] = "as it says"
    texts: tuple[str, ...] = ()
    """The model_type of texts whose layers are causal although their attribute says that they are not."""
    images: tuple[str, ...] = ()
    """That of images with layers of the same class, which are not causal."""
    outside: str | None = None
    """A module of the layer that is not part of what regard's layer computes."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        q, k, v = (reader.rows(name) for name in self.projections)
        if self.outside is not None:
            reader.leave(self.outside)
        d, heads = int(reader.attribute(self.head_dim)), int(reader.attribute(self.heads))
        reader.check_heads("the queries", q.out_features // d, heads)
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows(self.out),
            scale=float(reader.attribute(self.scale)),
            dropout=reader.dropout(self.dropout),
            mask=self._mask(reader),
        )

    def _mask(self, reader: Reader) -> Mask | None:
        if self.causal == "always":
            return reader.causal()
        if self.causal == "as it says" and reader.attribute("is_causal"):
            return reader.causal()
        if self.causal == "never" and reader.attribute("is_causal"):
            raise ValueError(
                f"layer.is_causal is True in a {type(reader.layer).__name__}, whose model masks nothing by it: what "
                "the layer masks then depends on attn_implementation; set it to False"
            )
        if self.texts:
            reader.check_model(self.texts + self.images)
            if reader.config.model_type in self.texts:
                return reader.causal(attribute=None)
        reader.check_not_causal()
        return None


@dataclass(frozen=True)
class Bert:
    """Three projections in ``self`` and the fourth in ``output``, whose residual and norm stay outside."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        inner = reader.layer.get_submodule("self")
        heads, d = int(inner.num_attention_heads), int(inner.attention_head_size)  # type: ignore[arg-type]
        q, k, v = (reader.rows(f"self.{name}") for name in ("query", "key", "value"))
        reader.check_heads("the queries", q.out_features // d, heads)
        reader.leave("output.LayerNorm")
        causal = bool(getattr(inner, "is_causal", False))
        cross = bool(getattr(reader.layer, "is_cross_attention", False))
        decoder = bool(getattr(reader.given_config, "is_decoder", causal))
        if causal != (decoder and not cross):
            raise ValueError(
                f"layer.self.is_causal is {causal}, but config.is_decoder is {decoder}: what the layer masks "
                "depends on which of the two is followed; make them agree"
            )
        if not causal:
            reader.check_not_causal()
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("output.dense"),
            scale=float(getattr(inner, "scaling", d**-0.5)),
            dropout=float(inner.dropout.p),  # type: ignore[union-attr, arg-type]
            mask=reader.causal(attribute="self.is_causal") if causal else None,
        )


@dataclass(frozen=True)
class Gpt2:
    """Weights of (width, rows), fused, scaled by the layer's index where the configuration says so."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_no_output_dropout("resid_dropout")
        heads, d = int(reader.attribute("num_heads")), int(reader.attribute("head_dim"))
        width = heads * d
        cross = bool(reader.attribute("is_cross_attention"))
        if cross:
            q, (k, v) = reader.rows("q_attn"), reader.rows("c_attn").split([width, width])
        else:
            q, k, v = reader.rows("c_attn").split([width, width, width])
        if cross:
            reader.check_not_causal()
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("c_proj"),
            scale=float(reader.attribute("scaling")),
            dropout=reader.dropout("attn_dropout"),
            mask=None if cross else reader.causal(),
        )


@dataclass(frozen=True)
class T5:
    """Scores that are not scaled, with a bias by distance that the first layer of a stack owns."""

    def read(self, reader: Reader, positions: Positions | None = None) -> Parts:
        """The parts of a layer; positions are those of the layer that owns the bias."""
        decoder, causal = bool(reader.attribute("is_decoder")), bool(reader.attribute("is_causal"))
        if positions is not None and not isinstance(positions, RelativeBias):
            raise TypeError(
                "positions must be the RelativeBias of the loaded first layer of the stack, got "
                f"{type(positions).__name__}"
            )
        more: dict[str, Tensor] = {}
        if reader.attribute("has_relative_attention_bias"):
            if positions is not None:
                raise ValueError("positions must be None for a layer that has a relative bias of its own")
            positions = RelativeBias(
                int(reader.attribute("n_heads")),
                num_buckets=int(reader.attribute("relative_attention_num_buckets")),
                max_distance=int(reader.attribute("relative_attention_max_distance")),
                two_sided=not decoder,
                device="meta",
            )
            more = {"positions.weight": reader.parameter("relative_attention_bias.weight")}
        elif positions is None and (causal or not decoder):
            raise ValueError(
                "positions must be given for a T5 layer without a relative bias of its own: it adds that of the first "
                "layer of its stack; pass positions=first.positions, where first is regard.hf.load() of that layer"
            )
        elif positions is not None and decoder and not causal:
            raise ValueError("positions must be None for a layer that reads the encoder, which has no relative bias")
        elif positions is not None and positions.two_sided == decoder:
            raise ValueError(
                "positions must be those of the same stack: a decoder's layers have a relative bias of one side, an "
                f"encoder's of both, got two_sided={positions.two_sided}"
            )
        if not causal:
            reader.check_not_causal()
        q, k, v = (reader.rows(name) for name in ("q", "k", "v"))
        d = int(reader.attribute("key_value_proj_dim"))
        return Parts(
            int(reader.attribute("n_heads")),
            d,
            q,
            k,
            v,
            reader.rows("o"),
            scale=float(reader.attribute("scaling")),
            dropout=reader.dropout("dropout"),
            mask=reader.causal() if causal else None,
            positions=positions,
            more=more,
        )
