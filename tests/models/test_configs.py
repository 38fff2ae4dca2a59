from __future__ import annotations

from typing import Any

import pytest

from regard.models import DecoderConfig, EncoderConfig
from regard.positions import LinearScaling

DECODER: dict[str, Any] = {"vocab_size": 13, "d_model": 16, "num_layers": 3, "num_heads": 4, "d_mlp": 24}
ENCODER: dict[str, Any] = {"vocab_size": 13, "d_model": 16, "num_layers": 3, "num_heads": 4, "d_mlp": 24}


def test_what_follows_from_the_sizes():
    config = DecoderConfig(**DECODER)
    assert (config.head_width, config.windows) == (4, (None, None, None))
    assert DecoderConfig(**DECODER, window=5, head_dim=6).windows == (5, 5, 5)
    assert DecoderConfig(**DECODER, head_dim=6).head_width == 6
    assert DecoderConfig(**DECODER) == DecoderConfig(**DECODER)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        (
            {"d_model": 18},
            ValueError,
            "d_model 18 is not a multiple of num_heads 4; heads of another width .* head_dim",
        ),
        ({"num_layers": 0}, ValueError, "num_layers must be at least 1, got 0"),
        ({"d_mlp": 4.0}, TypeError, "d_mlp must be an integer, got 4.0"),
        ({"vocab_size": True}, TypeError, "vocab_size must be an integer, got True"),
        ({"num_kv_heads": 3}, ValueError, "num_heads 4 is not a multiple of num_kv_heads 3"),
        ({"head_dim": 5}, ValueError, "the width of a head must be even for rotary positions, got 5"),
        ({"positions": "learned"}, ValueError, "positions must be one of 'rotary', 'sinusoidal', got 'learned'"),
        ({"positions": "sinusoidal"}, ValueError, "max_len must be given for sinusoidal positions"),
        (
            {"positions": "sinusoidal", "max_len": 9, "rotary_scaling": LinearScaling(2.0)},
            ValueError,
            "rotary_scaling is of rotary positions, and positions are 'sinusoidal'",
        ),
        ({"norm": "batch"}, ValueError, "norm must be one of 'rms', 'layer', got 'batch'"),
        ({"norm_eps": 0}, ValueError, "norm_eps must be a positive finite number, got 0"),
        ({"rotary_base": "large"}, TypeError, "rotary_base must be a number, got 'large'"),
        ({"activation": "tanh"}, ValueError, "activation must be one of 'silu', 'gelu', 'gelu_tanh', 'relu', got"),
        ({"gated": 1}, TypeError, "gated must be True or False, got 1"),
        ({"attention_bias": ("q", "o")}, ValueError, "attention_bias must be one of 'q', 'k', 'v', 'out', got 'o'"),
        ({"window": (1, 2)}, ValueError, "window must be one number .* each of the num_layers=3, got 2 of them"),
        ({"attention_bias": 1}, TypeError, "attention_bias must be True, False or a tuple of names, got 1"),
        ({"attention_bias": "q"}, TypeError, "attention_bias must be True, False or a tuple of names, got 'q'"),
        ({"attention_bias": ["q"]}, TypeError, r"attention_bias must be True, False or a tuple of names, got \['q'\]"),
        (
            {"window": [None, 4, 3]},
            TypeError,
            r"window must be an integer, None, or a tuple of one a layer, got \[None",
        ),
        (
            {"positions": "sinusoidal", "max_len": 9, "rotary_base": 5.0},
            ValueError,
            "rotary_base is of rotary positions, and positions are 'sinusoidal'",
        ),
        ({"window": 0}, ValueError, r"window\[0\] must be at least 1, got 0"),
        ({"window": (None, 2, -1)}, ValueError, r"window\[2\] must be at least 1, got -1"),
        ({"dropout": 1.0}, ValueError, r"dropout must lie in \[0, 1\), got 1.0"),
    ],
)
def test_what_does_not_fit_a_decoder_is_named(options: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=f"DecoderConfig: {words}"):
        DecoderConfig(**(DECODER | options))


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"d_model": 18}, ValueError, "d_model 18 is not a multiple of num_heads 4"),
        ({"max_len": 0}, ValueError, "max_len must be at least 1, got 0"),
        ({"num_token_types": None}, TypeError, "num_token_types must be an integer, got None"),
        ({"norm_eps": float("inf")}, ValueError, "norm_eps must be a positive finite number, got inf"),
        ({"dropout": -0.1}, ValueError, r"dropout must lie in \[0, 1\), got -0.1"),
        ({"attention_dropout": "no"}, TypeError, "attention_dropout must be a number, got 'no'"),
        ({"pad_token": 13}, ValueError, "pad_token must be a token of the vocabulary, 0 to 12, got 13"),
        ({"pad_token": True}, TypeError, "pad_token must be an integer or None, got True"),
        ({"pooler": "yes"}, TypeError, "pooler must be True or False, got 'yes'"),
        ({"activation": "tanh"}, ValueError, "activation must be one of"),
    ],
)
def test_what_does_not_fit_an_encoder_is_named(options: dict[str, Any], error: type[Exception], words: str):
    with pytest.raises(error, match=f"EncoderConfig: {words}"):
        EncoderConfig(**(ENCODER | options))
