"""What a decoder is made of: sizes, norms, positions, windows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

from regard.models import checks
from regard.models.feed_forward import ACTIVATIONS, Activation

if TYPE_CHECKING:
    from regard.positions import Scaling

__all__ = ["DecoderConfig"]

Projections = Literal["q", "k", "v", "out"]


@dataclass(frozen=True)
class DecoderConfig:
    """The sizes and parts of a :class:`regard.models.Decoder`. The defaults are Llama's.

    >>> config = DecoderConfig(vocab_size=100, d_model=64, num_layers=2, num_heads=4, d_mlp=128, window=(None, 8))
    >>> config.head_width, config.windows
    (16, (None, 8))

    Args:
        vocab_size: tokens in the vocabulary, V.
        d_model: width of the residual stream.
        num_layers: how many layers.
        num_heads: query heads of each layer, H.
        d_mlp: width of the hidden layer of each feed-forward part.
        num_kv_heads: key/value heads, Hkv, of which num_heads is a multiple; num_heads if None.
        head_dim: width of one head, D; d_model // num_heads if None.
        max_len: the most tokens of a text; None where nothing limits them. Sinusoidal positions need it.
        positions: "rotary", or "sinusoidal", which are added to the embeddings.
        rotary_base: of rotary positions.
        rotary_scaling: of rotary positions: one of the scalings of :mod:`regard.positions`.
        norm: "rms" or "layer", before attention, before the feed-forward part and at the end.
        norm_eps: added to the variance in every norm.
        qk_norm: an RMS norm over the width of each head of queries and keys, before they are rotated.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        gated: ``down(activation(gate(x)) * up(x))`` in place of ``down(activation(up(x)))``.
        attention_bias: whether the projections of attention add a bias, or the names of those that do, of "q", "k",
            "v" and "out".
        mlp_bias: whether the projections of the feed-forward part add one.
        window: how many of the latest tokens, its own included, a token reads; all if None. A tuple has one for each
            layer.
        tied: the embeddings are the output projection too.
        embedding_scale: multiplies the embeddings where they are the input.
        dropout: the probability of dropping an attention weight, in training only.

    Raises:
        TypeError: a size that is not an integer, a flag that is not True or False.
        ValueError: sizes that do not fit each other, an unknown word.
    """

    vocab_size: int
    d_model: int
    num_layers: int
    num_heads: int
    d_mlp: int
    num_kv_heads: int | None = None
    head_dim: int | None = None
    max_len: int | None = None
    positions: Literal["rotary", "sinusoidal"] = "rotary"
    rotary_base: float = 10000.0
    rotary_scaling: Scaling | None = None
    norm: Literal["rms", "layer"] = "rms"
    norm_eps: float = 1e-6
    qk_norm: bool = False
    activation: Activation = "silu"
    gated: bool = True
    attention_bias: bool | tuple[Projections, ...] = False
    mlp_bias: bool = False
    window: int | tuple[int | None, ...] | None = None
    tied: bool = False
    embedding_scale: float = 1.0
    dropout: float = 0.0

    def __post_init__(self) -> None:
        me = type(self).__name__
        sizes = {name: getattr(self, name) for name in ("vocab_size", "d_model", "num_layers", "num_heads", "d_mlp")}
        optional = {name: getattr(self, name) for name in ("num_kv_heads", "head_dim", "max_len")}
        checks.check_sizes(me, **sizes, **{name: size for name, size in optional.items() if size is not None})
        checks.check_positive(
            me, rotary_base=self.rotary_base, norm_eps=self.norm_eps, embedding_scale=self.embedding_scale
        )
        checks.check_flags(me, qk_norm=self.qk_norm, gated=self.gated, mlp_bias=self.mlp_bias, tied=self.tied)
        checks.check_probability(me, dropout=self.dropout)
        checks.check_choice(me, "positions", self.positions, ("rotary", "sinusoidal"))
        checks.check_choice(me, "norm", self.norm, ("rms", "layer"))
        checks.check_choice(me, "activation", self.activation, ACTIVATIONS)
        self._check_heads(me)
        self._check_positions(me)
        if not isinstance(self.attention_bias, bool | tuple):
            raise TypeError(
                f"{me}: attention_bias must be True, False or a tuple of names, got {self.attention_bias!r}"
            )
        for name in self.attention_bias if isinstance(self.attention_bias, tuple) else ():
            checks.check_choice(me, "attention_bias", name, get_args(Projections))
        if not isinstance(self.window, int | tuple | None):
            raise TypeError(f"{me}: window must be an integer, None, or a tuple of one a layer, got {self.window!r}")
        if isinstance(self.window, tuple) and len(self.window) != self.num_layers:
            raise ValueError(
                f"{me}: window must be one number for all layers or one for each of the num_layers={self.num_layers}, "
                f"got {len(self.window)} of them"
            )
        checks.check_sizes(me, **{f"window[{i}]": size for i, size in enumerate(self.windows) if size is not None})

    @property
    def head_width(self) -> int:
        """D, the width of one head."""
        return self.d_model // self.num_heads if self.head_dim is None else self.head_dim

    @property
    def windows(self) -> tuple[int | None, ...]:
        """The window of each layer, None for one that reads every earlier token."""
        return self.window if isinstance(self.window, tuple) else (self.window,) * self.num_layers

    def _check_heads(self, me: str) -> None:
        if self.head_dim is None and self.d_model % self.num_heads:
            raise ValueError(
                f"{me}: d_model {self.d_model} is not a multiple of num_heads {self.num_heads}; "
                "heads of another width are asked for by head_dim"
            )
        if self.num_kv_heads is not None and self.num_heads % self.num_kv_heads:
            raise ValueError(
                f"{me}: num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}; "
                "each key/value head serves the same number of query heads"
            )

    def _check_positions(self, me: str) -> None:
        if self.positions == "sinusoidal":
            if self.max_len is None:
                raise ValueError(f"{me}: max_len must be given for sinusoidal positions, which are rows of a table")
            if self.rotary_scaling is not None:
                raise ValueError(f"{me}: rotary_scaling is of rotary positions, and positions are 'sinusoidal'")
            if self.rotary_base != 10000.0:
                raise ValueError(f"{me}: rotary_base is of rotary positions, and positions are 'sinusoidal'")
        elif self.head_width % 2:
            raise ValueError(f"{me}: the width of a head must be even for rotary positions, got {self.head_width}")
