"""Scalings and positions of one's own, and offsets of every integer dtype."""

from __future__ import annotations

import gc
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

from regard import MultiHeadAttention
from regard.positions import (
    DynamicNTK,
    LearnedPositions,
    LongRoPE,
    PositionalEncoding,
    Positions,
    RelativeBias,
    Rotary,
    Rotary2d,
    Scaling,
)

INTEGERS = [torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64]


@dataclass(frozen=True)
class Stretched(Scaling):
    """Turns slow down by the length; what it was asked with is kept."""

    needs_length = True

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        assert isinstance(length, int)
        return torch.ones(dim // 2, dtype=torch.float64, device=device) / length


@dataclass(frozen=True)
class Deaf(Scaling):
    """Says nothing of lengths, and so gets none."""

    def frequencies(
        self, dim: int, base: float, length: int | Tensor | None = None, *, device: torch.device | None = None
    ) -> Tensor:
        assert length is None
        return torch.ones(dim // 2, dtype=torch.float64, device=device)


class Late(Positions):
    """A bias that depends on where the keys stand."""

    def bias(self, query_len: int, key_len: int, *, num_heads: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        return torch.arange(key_len, device=device, dtype=dtype) ** 2


def test_a_scaling_of_ones_own_has_no_history() -> None:
    x = torch.randn(1, 100, 4, generator=torch.Generator().manual_seed(0))
    rotary = Rotary(4, scaling=Stretched())
    rotary(x, length=100)
    short = rotary(x[:, :3], length=5)
    long = rotary(x[:, :3], length=100)
    del rotary
    gc.collect()  # and with it the tables
    assert torch.equal(short, Rotary(4, scaling=Stretched())(x[:, :3], length=5))
    a, b = x[:, :3].double().split(2, dim=-1)
    for found, length in ((short, 5), (long, 100)):
        angle = torch.arange(3, dtype=torch.float64)[:, None] / length
        wanted = torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], dim=-1)
        # Two products of float32, cos and sin rounded to it: 4 roundings of numbers of at most twice the largest.
        assert (found - wanted).abs().max() <= 8 * torch.finfo(torch.float32).eps * x.abs().max()


def test_a_scaling_that_needs_no_length_gets_none() -> None:
    x = torch.ones(1, 3, 4)
    assert torch.equal(Rotary(4, scaling=Deaf())(x, length=100), Rotary(4, scaling=Deaf())(x))


def test_scalings_with_a_table_for_each_regime_say_so() -> None:
    assert Deaf().regime(7) is None
    assert Deaf().fits_table(7)
    assert Stretched().regime(7) == 7
    assert not Stretched().fits_table(7)
    assert LongRoPE([1.0], [2.0], 10, factor=2.0).fits_table(11)


@pytest.mark.parametrize("dtype", INTEGERS)
@pytest.mark.parametrize("scaling", [None, DynamicNTK(2.0, 64), LongRoPE([1.0] * 4, [2.0] * 4, 150, factor=2.0)])
def test_offsets_of_every_integer_dtype_are_the_same_offset(scaling: Scaling | None, dtype: torch.dtype) -> None:
    rotary = Rotary(8, scaling=scaling)
    x = torch.randn(2, 1, 100, 8, generator=torch.Generator().manual_seed(0))
    wanted = rotary(x, offset=100)
    for offset in (torch.tensor(100, dtype=dtype), torch.tensor([100], dtype=dtype), torch.tensor([100] * 2).to(dtype)):
        assert torch.equal(rotary(x, offset=offset), wanted)
    assert torch.equal(rotary(x, length=torch.tensor([100, 100]).to(dtype)), rotary(x, length=100))
    learned = LearnedPositions(400, 4)
    assert torch.equal(learned(x[..., :4], offset=torch.tensor(100, dtype=dtype)), learned(x[..., :4], offset=100))


def test_small_offsets_of_a_graph_do_not_overflow() -> None:
    learned = LearnedPositions(400, 4)
    compiled = torch.compile(learned, fullgraph=True, backend="aot_eager")
    x, offset = torch.zeros(1, 50, 4), torch.tensor([100], dtype=torch.int8)
    assert torch.equal(compiled(x, offset=offset), learned(x, offset=100))


@pytest.mark.parametrize("offset", [7, torch.tensor(7), torch.tensor([7, 0])])
def test_a_bias_of_ones_own_refuses_an_offset_that_it_would_not_see(offset: int | Tensor) -> None:
    layer, x = MultiHeadAttention(16, 4, positions=Late()), torch.rand(2, 5, 16)
    with pytest.raises(
        ValueError, match=r"offset must be 0 .* positions=Late, .* got .*; with a cache of layer.kv_cache"
    ):
        layer(x, offset=offset)
    for zero in (0, torch.tensor(0), torch.tensor([0, 0])):
        assert torch.equal(layer(x, offset=zero), layer(x))
    by_distance = MultiHeadAttention(16, 4, positions=RelativeBias(4))
    assert torch.equal(by_distance(x, offset=offset), by_distance(x))


def test_an_offset_of_zero_is_zero_for_a_picture() -> None:
    layer, x = MultiHeadAttention(16, 4, positions=Rotary2d(4, grid=(2, 3))), torch.rand(2, 6, 16)
    for zero in (0, torch.tensor(0), torch.tensor([0, 0], dtype=torch.int8)):
        assert torch.equal(layer(x, offset=zero), layer(x))
    with pytest.raises(ValueError, match="offset must be 0"):
        layer(x, offset=torch.tensor([0, 1]))


@pytest.mark.parametrize("pairing", ["halves", "interleaved"])
def test_gradients_of_many_cotangents_at_once(pairing: str) -> None:
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    rotary = Rotary(8, pairing=pairing, rotary_dim=4)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda z: rotary(z, offset=3), (x,), check_batched_grad=True)
    whole = Rotary(8, pairing=pairing)  # type: ignore[arg-type]
    assert torch.autograd.gradcheck(lambda z: whole(z, offset=3), (x,), check_batched_grad=True)


def test_a_relative_bias_makes_one_graph_for_all_lengths() -> None:
    layer = MultiHeadAttention(16, 4, positions=RelativeBias(4))
    made: list[int] = []

    def count(graph: torch.fx.GraphModule, inputs: object) -> object:
        made.append(1)
        return graph.forward

    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend=count)
    for length in range(3, 15):
        x = torch.rand(2, length, 16)
        assert torch.equal(compiled(x), layer(x))
    assert len(made) == 1


def test_positions_that_float64_cannot_count_are_refused() -> None:
    with pytest.raises(ValueError, match=r"offset must be at most 2\*\*53 in size, .* got 1180591620717411303424"):
        Rotary(4)(torch.rand(1, 3, 4), offset=2**70)
    assert Rotary(4)(torch.rand(1, 3, 4), offset=-(2**53)).isfinite().all()


def test_eight_bits_are_refused() -> None:
    with pytest.raises(TypeError, match="x must be of float16, bfloat16, float32 or float64, got float8_e4m3fn"):
        Rotary(4)(torch.rand(1, 3, 4).to(torch.float8_e4m3fn))


def test_a_graph_says_that_an_offset_is_past_the_end() -> None:
    encoding = PositionalEncoding(16, 64)
    compiled = torch.compile(encoding, fullgraph=True, dynamic=True, backend="eager")
    x = torch.zeros(2, 5, 16)
    assert torch.equal(compiled(x, offset=3), encoding(x, offset=3))
    with pytest.raises(Exception, match=r"offset must lie in \[0, max_len - L\]"):  # torch's own kind, around ours
        compiled(torch.zeros(2, 7, 16), offset=60)


def test_one_program_for_short_texts_and_long() -> None:
    rotary = Rotary(4, scaling=LongRoPE([1.0, 2.0], [3.0, 4.0], 6, factor=4.0))
    layer = MultiHeadAttention(16, 4, positions=rotary)
    shapes = ({1: torch.export.Dim("L", min=2, max=100)},)
    program = torch.export.export(layer, (torch.rand(2, 7, 16),), dynamic_shapes=shapes).module()
    for length in (3, 6, 7, 20):
        x = torch.rand(2, length, 16)
        torch.testing.assert_close(program(x), layer(x))


def test_a_relative_bias_is_exported_for_all_lengths() -> None:
    layer = MultiHeadAttention(16, 4, positions=RelativeBias(4))
    shapes = ({1: torch.export.Dim("L", min=2, max=100)},)
    program = torch.export.export(layer, (torch.rand(2, 7, 16),), dynamic_shapes=shapes).module()
    for length in (3, 40):
        x = torch.rand(2, length, 16)
        torch.testing.assert_close(program(x), layer(x))
