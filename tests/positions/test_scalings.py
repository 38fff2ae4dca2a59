"""Scalings: by hand, against the formulas in Python's floats, and against transformers' own functions."""

from __future__ import annotations

import math

import pytest
import torch
from tests.positions.formulas import EPS, plain, turned
from torch import Tensor

from regard.positions import DynamicNTK, LinearScaling, Llama3Scaling, LongRoPE, Rotary, Scaling, YaRN

# transformers computes frequencies in float32: the exponent's rounding is multiplied by log(base), the power is
# rounded, and so are two or three steps after it.
LOOSE = {"rtol": 40 * EPS, "atol": 0.0}


def test_linear_by_hand():
    assert LinearScaling(4).frequencies(4, 100.0).tolist() == [0.25, 0.025]


def test_dynamic_by_hand():
    # Twice the length and a factor of 3: the base is 4^(4 / 2) = 16 times as large, its power -1/2 a quarter.
    scaling = DynamicNTK(3.0, 50)
    torch.testing.assert_close(scaling.frequencies(4, 100.0, 100), torch.tensor([1, 0.025]).double())
    for length in (None, 1, 50):
        assert torch.equal(scaling.frequencies(4, 100.0, length), plain(4, 100.0))


def test_dynamic_with_one_pair_keeps_it():
    for length in (100, torch.tensor([10, 100])):
        assert DynamicNTK(3.0, 50).frequencies(2, 100.0, length).unique().tolist() == [1.0]


def test_llama3_by_hand():
    # 1, 0.1 and 0.01 turn 100, 10 and 1 times within 628: kept from 18 on, divided up to 2, and half of each at 10.
    got = Llama3Scaling(4.0, 2.0, 18.0, 628).frequencies(6, 1000.0).tolist()
    share = (628 * 0.1 / (2 * math.pi) - 2) / 16
    assert abs(share - 0.5) < 0.001
    for one, wanted in zip(got, (1.0, (1 - share) * 0.025 + share * 0.1, 0.0025), strict=True):
        assert math.isclose(one, wanted, rel_tol=1e-12)


def test_yarn_by_hand():
    # base e: pair i of 8 turns original_len / (2 pi) e^(-i / 4) times. 32 turns at pair 0, one at pair 4 log 32.
    scaling = YaRN(2.0, round(64 * math.pi), truncate=False)
    low = 8 * math.log(round(64 * math.pi) / (64 * math.pi)) / 2
    high = min(8 * math.log(round(64 * math.pi) / (2 * math.pi)) / 2, 7)
    for i, got in enumerate(scaling.frequencies(8, math.e).tolist()):
        ramp = min(max((i - max(low, 0)) / (high - max(low, 0)), 0), 1)
        assert math.isclose(got, math.exp(-i / 4) * (1 - ramp / 2), rel_tol=1e-12)
    assert scaling.attention_factor == 0.1 * math.log(2) + 1


def test_yarn_factor_of_attention():
    assert YaRN(40.0, 4096, mscale=1.0, mscale_all_dim=1.0).attention_factor == 1.0
    wanted = (0.1 * 0.707 * math.log(40) + 1) / (0.1 * 0.5 * math.log(40) + 1)
    assert YaRN(40.0, 4096, mscale=0.707, mscale_all_dim=0.5).attention_factor == wanted
    assert YaRN(40.0, 4096, attention_factor=1.25).attention_factor == 1.25
    assert YaRN(0.5, 4096).attention_factor == 1.0


def test_longrope_by_hand():
    scaling = LongRoPE([1.0, 2.0], [4.0, 8.0], 100, factor=10.0)
    for length, wanted in ((None, [1, 0.05]), (100, [1, 0.05]), (101, [0.25, 0.0125])):
        torch.testing.assert_close(scaling.frequencies(4, 100.0, length), torch.tensor(wanted).double())
    each = scaling.frequencies(4, 100.0, torch.tensor([100, 101]))
    torch.testing.assert_close(each, torch.tensor([[1, 0.05], [0.25, 0.0125]]).double())
    assert scaling.attention_factor == math.sqrt(1.5)
    assert LongRoPE([1.0], [1.0], 100, factor=0.5).attention_factor == 1.0


@pytest.mark.parametrize("scaling", [DynamicNTK(3.0, 50), LongRoPE([1.0] * 4, [4.0] * 4, 50, attention_factor=1.0)])
def test_lengths_in_a_tensor_are_those_one_by_one(scaling: Scaling):
    lengths = [1, 50, 51, 400]
    each = scaling.frequencies(8, 10000.0, torch.tensor(lengths))
    torch.testing.assert_close(each, torch.stack([scaling.frequencies(8, 10000.0, n) for n in lengths]))


def test_the_factor_of_attention_is_in_cos_and_sin():
    rotary = Rotary(8, scaling=YaRN(8.0, 64))
    x = torch.randn(3, 8)
    out = rotary(x, offset=5)
    factor = 0.1 * math.log(8) + 1
    want = turned(x, torch.arange(5, 8), YaRN(8.0, 64).frequencies(8, 10000.0), factor=factor)
    assert (out.double() - want).abs().max() <= 4 * EPS * factor * x.abs().max()


def test_a_scaling_is_a_value():
    assert LongRoPE([1, 2], (3.0, 4.0), 9, factor=2) == LongRoPE((1.0, 2.0), [3, 4], 9, factor=2.0)
    assert hash(YaRN(2, 10)) == hash(YaRN(2.0, 10))
    assert LongRoPE(torch.tensor([1.0, 2.0]), [3.0, 4.0], 9, factor=2).short == (1.0, 2.0)
    with pytest.raises(AttributeError):
        LinearScaling(2.0).factor = 3.0


def theirs(kind: str, head_dim: int, base: float, max_len: int, length: int | None, **options) -> tuple[Tensor, float]:
    """Frequencies and factor that transformers gives."""
    transformers = pytest.importorskip("transformers")
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = transformers.LlamaConfig(
        hidden_size=4 * head_dim,
        num_attention_heads=4,
        max_position_embeddings=max_len,
        rope_parameters={"rope_type": kind, "rope_theta": base, **options},
    )
    return ROPE_INIT_FUNCTIONS[kind](config, torch.device("cpu"), seq_len=length)


HALF = {"partial_rotary_factor": 0.5}
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
OURS_LLAMA3 = Llama3Scaling(8.0, 1.0, 4.0, 8192)
YARN = {"factor": 4.0, "original_max_position_embeddings": 4096}
DEEPSEEK = {**YARN, "factor": 40.0, "mscale": 0.707, "mscale_all_dim": 0.5}
SHORT, LONG = [1.0 + 0.01 * i for i in range(32)], [1.0 + 0.5 * i for i in range(32)]
LISTS = {"short_factor": SHORT, "long_factor": LONG, "original_max_position_embeddings": 4096}
FEW = {"short_factor": SHORT[:16], "long_factor": LONG[:16], "original_max_position_embeddings": 4096}
OURS_LONG = LongRoPE(SHORT, LONG, 4096, factor=32.0)


@pytest.mark.parametrize(
    ("kind", "head_dim", "base", "max_len", "length", "options", "ours"),
    [
        ("linear", 64, 1e4, 8192, None, {"factor": 4.0}, LinearScaling(4.0)),
        ("linear", 128, 5e5, 8192, None, {"factor": 2.5, **HALF}, LinearScaling(2.5)),
        ("dynamic", 64, 1e4, 2048, None, {"factor": 2.0}, DynamicNTK(2.0, 2048)),
        ("dynamic", 64, 1e4, 2048, 1000, {"factor": 2.0}, DynamicNTK(2.0, 2048)),
        ("dynamic", 64, 1e4, 2048, 9000, {"factor": 2.0}, DynamicNTK(2.0, 2048)),
        ("dynamic", 128, 5e5, 2048, 2049, {"factor": 8.0, **HALF}, DynamicNTK(8.0, 2048)),
        ("yarn", 64, 1e4, 16384, None, YARN, YaRN(4.0, 4096)),
        ("yarn", 128, 1e6, 16384, None, {**YARN, **HALF}, YaRN(4.0, 4096)),
        ("yarn", 64, 1e4, 16384, None, {**YARN, "truncate": False}, YaRN(4.0, 4096, truncate=False)),
        (
            "yarn",
            64,
            150000.0,
            131072,
            None,
            {"factor": 32.0, "original_max_position_embeddings": 4096, "beta_fast": 16.0, "beta_slow": 2.0},
            YaRN(32.0, 4096, beta_fast=16, beta_slow=2),
        ),
        ("yarn", 64, 1e4, 163840, None, DEEPSEEK, YaRN(40.0, 4096, mscale=0.707, mscale_all_dim=0.5)),
        ("yarn", 64, 1e4, 99, None, {**YARN, "attention_factor": 1.3}, YaRN(4.0, 4096, attention_factor=1.3)),
        ("llama3", 64, 5e5, 131072, None, LLAMA3, OURS_LLAMA3),
        ("llama3", 128, 5e5, 131072, None, {**LLAMA3, **HALF}, OURS_LLAMA3),
        ("llama3", 128, 1e4, 131072, None, {**LLAMA3, "factor": 32.0}, Llama3Scaling(32.0, 1.0, 4.0, 8192)),
        ("longrope", 64, 1e4, 131072, None, {**LISTS, "factor": 32.0}, OURS_LONG),
        ("longrope", 64, 1e4, 131072, 4096, {**LISTS, "factor": 32.0}, OURS_LONG),
        ("longrope", 64, 1e4, 131072, 4097, {**LISTS, "factor": 32.0}, OURS_LONG),
        (
            "longrope",
            64,
            1e4,
            131072,
            9999,
            {**FEW, **HALF, "attention_factor": 1.2},
            LongRoPE(SHORT[:16], LONG[:16], 4096, attention_factor=1.2),
        ),
    ],
)
def test_frequencies_of_transformers(kind, head_dim, base, max_len, length, options, ours: Scaling):
    want, factor = theirs(kind, head_dim, base, max_len, length, **options)
    got = ours.frequencies(2 * len(want), base, length)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got.float(), want, **LOOSE)
    assert math.isclose(ours.attention_factor, factor, rel_tol=1e-12)


@pytest.mark.parametrize("kind", ["default", "llama3", "yarn"])
def test_rotated_as_llama_of_transformers_rotates(kind):
    transformers = pytest.importorskip("transformers")
    from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

    options, ours = {"default": ({}, None), "llama3": (LLAMA3, OURS_LLAMA3), "yarn": (YARN, YaRN(4.0, 4096))}[kind]
    config = transformers.LlamaConfig(
        hidden_size=256,
        num_attention_heads=4,
        max_position_embeddings=16384,
        rope_parameters={"rope_type": kind, "rope_theta": 5e5, **options},
    )
    q, k = torch.randn(2, 4, 30, 64), torch.randn(2, 2, 30, 64)
    cos, sin = LlamaRotaryEmbedding(config)(q, torch.arange(70, 100)[None])
    want = apply_rotary_pos_emb(q, k, cos, sin)
    got = Rotary(64, base=5e5, scaling=ours).rotate(q, k, offset=70)
    for ours_is, theirs_is in zip(got, want, strict=True):
        # Their angles are off by up to 100 * 40 eps.
        torch.testing.assert_close(ours_is, theirs_is, rtol=0, atol=100 * 40 * EPS * 5)


ONE = [1.0, 1.0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: LinearScaling(0), ValueError, "factor must be a positive finite number, got 0; it is what positions"),
        (lambda: LinearScaling(-2.0), ValueError, "factor must be a positive finite number, got -2.0"),
        (lambda: LinearScaling(math.nan), ValueError, "factor must be a positive finite number, got nan"),
        (lambda: LinearScaling(math.inf), ValueError, "factor must be a positive finite number, got inf"),
        (lambda: LinearScaling("4"), TypeError, "factor must be a number, got str"),
        (lambda: LinearScaling(True), TypeError, "factor must be a number, got bool"),
        (lambda: DynamicNTK(0.0, 10), ValueError, "factor must be a positive finite number, got 0.0; it is how fast"),
        (
            lambda: DynamicNTK(2.0, 0),
            ValueError,
            "original_len must be at least 1, got 0; it is the length of the texts",
        ),
        (lambda: DynamicNTK(2.0, 9.5), TypeError, "original_len must be an integer, got float"),
        (lambda: YaRN(-1.0, 10), ValueError, "factor must be a positive finite number, got -1.0"),
        (lambda: YaRN(2.0, -1), ValueError, "original_len must be at least 1, got -1"),
        (lambda: YaRN(2.0, 10, beta_fast=math.nan), ValueError, "beta_fast must be a positive finite number, got nan"),
        (lambda: YaRN(2.0, 10, beta_slow=0), ValueError, "beta_slow must be a positive finite number, got 0"),
        (
            lambda: YaRN(2.0, 10, beta_slow=32),
            ValueError,
            "beta_slow must be below beta_fast, got 32.0 and 32.0; the pap",
        ),
        (
            lambda: YaRN(2.0, 10, mscale=1.0),
            ValueError,
            "mscale and mscale_all_dim must both be given or neither, got 1.0",
        ),
        (
            lambda: YaRN(2.0, 10, mscale=0, mscale_all_dim=1),
            ValueError,
            "mscale must be a positive finite number, got 0",
        ),
        (
            lambda: YaRN(2.0, 10, mscale=1, mscale_all_dim=-1),
            ValueError,
            "mscale_all_dim must be a positive finite num",
        ),
        (
            lambda: YaRN(2.0, 10, attention_factor=0),
            ValueError,
            "attention_factor must be a positive finite number, got 0",
        ),
        (lambda: YaRN(2.0, 10, truncate=1), TypeError, "truncate must be True or False, got int"),
        (lambda: Rotary(8, base=1.0, scaling=YaRN(2.0, 10)), ValueError, r"base must be above 1 with scaling=YaRN\("),
        (
            lambda: Llama3Scaling(8, 4, 1, 10),
            ValueError,
            "low_freq_factor must be below high_freq_factor, got 4.0 and 1.0",
        ),
        (
            lambda: Llama3Scaling(8, 4, 4, 10),
            ValueError,
            "low_freq_factor must be below high_freq_factor, got 4.0 and 4.0",
        ),
        (lambda: Llama3Scaling(0, 1, 4, 10), ValueError, "factor must be a positive finite number, got 0"),
        (lambda: Llama3Scaling(8, -1, 4, 10), ValueError, "low_freq_factor must be a positive finite number, got -1"),
        (lambda: Llama3Scaling(8, 1, math.inf, 10), ValueError, "high_freq_factor must be a positive finite number"),
        (lambda: Llama3Scaling(8, 1, 4, 0), ValueError, "original_len must be at least 1, got 0"),
        (
            lambda: LongRoPE(ONE, [1.0], 10, factor=2),
            ValueError,
            "short and long must have one number a pair of columns e",
        ),
        (
            lambda: LongRoPE([], [], 10, factor=2),
            ValueError,
            "short must be a list of numbers, one a pair of col.*got none",
        ),
        (
            lambda: LongRoPE(2.0, ONE, 10, factor=2),
            TypeError,
            "short must be a list of numbers, one a pair of col.*float",
        ),
        (
            lambda: LongRoPE(ONE, "ab", 10, factor=2),
            TypeError,
            "long must be a list of numbers, one a pair of colu.*str",
        ),
        (
            lambda: LongRoPE(ONE, [1.0, 0.0], 10, factor=2),
            ValueError,
            r"long\[1\] must be a positive finite number, got 0",
        ),
        (
            lambda: LongRoPE([math.nan, 1], ONE, 10, factor=2),
            ValueError,
            r"short\[0\] must be a positive finite number",
        ),
        (lambda: LongRoPE(ONE, ONE, 1, factor=2), ValueError, "original_len must be at least 2, got 1"),
        (
            lambda: LongRoPE(ONE, ONE, 10),
            ValueError,
            "factor or attention_factor must be given, got neither; factor is",
        ),
        (lambda: LongRoPE(ONE, ONE, 10, factor=-2), ValueError, "factor must be a positive finite number, got -2"),
        (lambda: LongRoPE(ONE, ONE, 10, attention_factor=-2), ValueError, "attention_factor must be a positive finite"),
        (
            lambda: Rotary(8, scaling=LongRoPE(ONE, ONE, 10, factor=2)),
            ValueError,
            "short and long must have one number a pair, 4 for 8 columns that turn, got 2",
        ),
    ],
)
def test_bad_numbers(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_plot_of_wavelengths():
    pytest.importorskip("matplotlib")
    (axes,) = Rotary(8, scaling=LinearScaling(4.0)).plot().axes
    trained, scaled = (line.get_data()[1] for line in axes.lines)
    assert trained[0] == pytest.approx(2 * math.pi)
    assert scaled.tolist() == pytest.approx((4 * trained).tolist())
    assert axes.get_yscale() == "log"
    (axes,) = Rotary(8, scaling=DynamicNTK(4.0, 100)).plot().axes
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    assert labels == ["as trained", "DynamicNTK at 800 tokens", "original_len = 100"]
