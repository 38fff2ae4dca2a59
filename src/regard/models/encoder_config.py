"""What an encoder is made of."""

from __future__ import annotations

from dataclasses import dataclass

from regard.models import checks
from regard.models.feed_forward import ACTIVATIONS, Activation

__all__ = ["EncoderConfig"]


@dataclass(frozen=True)
class EncoderConfig:
    """The sizes and parts of a :class:`regard.models.Encoder`. The defaults are those of BERT (base).

    >>> EncoderConfig(vocab_size=30522).d_model
    768

    Args:
        vocab_size: tokens in the vocabulary, V.
        d_model: width of the residual stream; a multiple of num_heads.
        num_layers: how many layers.
        num_heads: attention heads of each layer, H.
        d_mlp: width of the hidden layer of each feed-forward part.
        max_len: the most tokens of a text: rows of the learned positions.
        pad_token: a token that has no position: positions then count the other tokens of a text alone, wherever padding
            stands, as RoBERTa's do, and padding has a row of its own. Every token has its place in the row if None.
        num_token_types: kinds of token: first and second sentence.
        activation: "silu", "gelu", "gelu_tanh" or "relu".
        norm_eps: added to the variance in every norm.
        dropout: the probability of zeroing an element of what is added to the stream, in training only.
        attention_dropout: the probability of dropping an attention weight, in training only.
        pooler: a projection and tanh of the first token: see :meth:`Encoder.pool`.
        masked_head: scores of the vocabulary at every token: see :meth:`Encoder.score`.

    Raises:
        TypeError: a size that is not an integer, a flag that is not True or False.
        ValueError: sizes that do not fit each other, an unknown word.
    """

    vocab_size: int
    d_model: int = 768
    num_layers: int = 12
    num_heads: int = 12
    d_mlp: int = 3072
    max_len: int = 512
    num_token_types: int = 2
    activation: Activation = "gelu"
    norm_eps: float = 1e-12
    dropout: float = 0.1
    attention_dropout: float = 0.1
    pooler: bool = False
    masked_head: bool = False
    pad_token: int | None = None

    def __post_init__(self) -> None:
        me = type(self).__name__
        sizes = ("vocab_size", "d_model", "num_layers", "num_heads", "d_mlp", "max_len", "num_token_types")
        checks.check_sizes(me, **{name: getattr(self, name) for name in sizes})
        checks.check_positive(me, norm_eps=self.norm_eps)
        checks.check_probability(me, dropout=self.dropout, attention_dropout=self.attention_dropout)
        checks.check_flags(me, pooler=self.pooler, masked_head=self.masked_head)
        checks.check_choice(me, "activation", self.activation, ACTIVATIONS)
        pad = self.pad_token
        if pad is not None and (isinstance(pad, bool) or not isinstance(pad, int)):
            raise TypeError(f"{me}: pad_token must be an integer or None, got {pad!r}")
        if pad is not None and not 0 <= pad < self.vocab_size:
            raise ValueError(
                f"{me}: pad_token must be a token of the vocabulary, 0 to {self.vocab_size - 1}, got {pad}"
            )
        if self.d_model % self.num_heads:
            raise ValueError(f"{me}: d_model {self.d_model} is not a multiple of num_heads {self.num_heads}")
