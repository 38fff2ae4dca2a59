"""Decoders whose rows are fused head by head: Falcon, and with linear biases BLOOM and MPT."""

from __future__ import annotations

from dataclasses import dataclass

from regard.hf.load_parts import Parts
from regard.hf.load_reader import Reader
from regard.hf.load_rotary import rotary
from regard.positions import ALiBi

__all__ = ["Bloom", "Falcon", "Mpt"]


@dataclass(frozen=True)
class Bloom:
    """Linear biases; the residual is added inside the class and stays outside here."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("bloom",))
        heads, d = int(reader.attribute("num_heads")), int(reader.attribute("head_dim"))
        q, k, v = reader.rows("query_key_value").deal(heads, [d, d, d])
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("dense"),
            scale=float(reader.attribute("inv_norm_factor")),
            dropout=reader.dropout("attention_dropout"),
            mask=reader.causal(),
            positions=ALiBi(heads),
        )


@dataclass(frozen=True)
class Mpt:
    """Linear biases; transformers adds those of the paper whatever attn_config says of them."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("mpt",))
        clip = reader.attribute("clip_qkv")
        if clip:
            raise ValueError(
                f"layer clips queries, keys and values to clip_qkv={clip}, which regard's layer does not; there is no "
                "such option to set"
            )
        heads, d = int(reader.attribute("n_heads")), int(reader.attribute("head_dim"))
        q, k, v = reader.rows("Wqkv").split([heads * d] * 3)
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("out_proj"),
            scale=float(reader.attribute("softmax_scale")),
            dropout=reader.dropout("attn_dropout_p"),
            mask=reader.causal(),
            positions=ALiBi(heads),
        )


@dataclass(frozen=True)
class Falcon:
    """Rotary positions, and one head of keys for all queries or one for each group."""

    def read(self, reader: Reader) -> Parts:
        """The parts of a layer."""
        reader.check_model(("falcon",))
        if reader.config.alibi:
            raise ValueError(
                "config.alibi is True: Falcon rounds its biases to bfloat16, which past 256 tokens are no longer "
                "linear in the distance, as regard's ALiBi is"
            )
        heads, d = int(reader.attribute("num_heads")), int(reader.attribute("head_dim"))
        fused = reader.rows("query_key_value")
        if reader.attribute("new_decoder_architecture"):
            groups = int(reader.attribute("num_kv_heads"))
            q, k, v = fused.deal(groups, [heads // groups * d, d, d])
        elif reader.attribute("multi_query"):
            q, k, v = fused.split([heads * d, d, d])
        else:
            q, k, v = fused.deal(heads, [d, d, d])
        return Parts(
            heads,
            d,
            q,
            k,
            v,
            reader.rows("dense"),
            scale=float(reader.attribute("inv_norm_factor")),
            dropout=0.0,  # transformers drops no weight where positions are rotary
            mask=reader.causal(),
            positions=rotary(reader.config),
        )
