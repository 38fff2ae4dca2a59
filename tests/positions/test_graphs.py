"""Positions in a graph that torch.compile or torch.export makes."""

from __future__ import annotations

import pytest
import torch
from tests.compiling import fresh, whole
from tests.positions.formulas import budget

from regard.positions import (
    ALiBi,
    DynamicNTK,
    LearnedPositions,
    LongRoPE,
    PositionalEncoding,
    RelativeBias,
    Rotary,
    Rotary2d,
    YaRN,
)

__all__ = ["fresh"]

LONG = LongRoPE([1.0] * 4, [1.0, 2.0, 3.0, 4.0], 10, attention_factor=1.0)
DYNAMIC = DynamicNTK(4.0, 10)


def near(one, two) -> bool:
    return bool((one - two).abs().max() <= budget(two))


def test_one_graph_for_any_length_and_offset():
    rotary = Rotary(8)
    compiled = whole(lambda q, k, n: rotary.rotate(q, k, offset=n), dynamic=True)
    for offset, length in ((3, 5), (60, 7)):
        q, k = torch.randn(2, 4, length, 8, requires_grad=True), torch.randn(2, 2, length, 8)
        got, want = compiled(q, k, offset), rotary.rotate(q, k, offset=offset)
        assert near(got[0], want[0])
        assert near(got[1], want[1])
        grads = [torch.autograd.grad(out[0].square().sum(), q)[0] for out in (got, want)]
        assert near(*grads)


@pytest.mark.parametrize("scaling", [YaRN(4.0, 64), LONG, DYNAMIC], ids=lambda scaling: type(scaling).__name__)
def test_scalings_in_a_graph(scaling):
    rotary = Rotary(8, scaling=scaling, pairing="interleaved")
    compiled = whole(lambda x, n: rotary(x, offset=n), dynamic=True)
    for offset, length in ((3, 5), (60, 7)):
        x = torch.randn(2, length, 8)
        assert near(compiled(x, offset), rotary(x, offset=offset))


def test_offsets_in_a_tensor():
    rotary, x = Rotary(8, rotary_dim=6), torch.randn(2, 3, 5, 8)
    compiled = whole(lambda x, n: rotary(x, offset=n))
    for offset in (torch.tensor([3, 9]), torch.tensor([100_000, 0])):
        assert near(compiled(x, offset), rotary(x, offset=offset))


@pytest.mark.parametrize("scaling", [LONG, DYNAMIC], ids=lambda scaling: type(scaling).__name__)
def test_a_length_that_a_tensor_hides_is_never_guessed(scaling):
    rotary, x = Rotary(8, scaling=scaling), torch.randn(2, 3, 5, 8)
    offset = torch.tensor([3, 9])
    with pytest.raises(Exception, match=r"length must be given where offset is a tensor and torch\.compile"):
        whole(lambda x, n: rotary(x, offset=n))(x, offset)
    for strict in (True, False):
        with pytest.raises(Exception, match="length must be given where offset is a tensor"):
            torch.export.export(Module(rotary), (x, offset), strict=strict)
    given = whole(lambda x, n, m: rotary(x, offset=n, length=m))
    assert near(given(x, offset, offset + 5), rotary(x, offset=offset))
    assert near(given(x, offset, torch.tensor(40)), rotary(x, offset=offset, length=40))


class Module(torch.nn.Module):
    def __init__(self, positions):
        super().__init__()
        self.positions = positions

    def forward(self, x, offset):
        return self.positions(x, offset=offset)


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("positions", [Rotary(8), LearnedPositions(20, 8), PositionalEncoding(8, 20)])
def test_export(positions, strict):
    x, offset = torch.randn(2, 5, 8), torch.tensor([3, 9])
    positions(x, offset=3)  # a real table is there already
    program = torch.export.export(Module(positions), (x, offset), strict=strict).module()
    assert near(program(x, offset), positions(x, offset=offset))
    assert near(program(x, offset + 1), positions(x, offset=offset + 1))


@pytest.mark.parametrize("positions", [LearnedPositions(20, 8), PositionalEncoding(8, 20)])
def test_added_positions_with_an_offset_for_each_sequence(positions):
    x = torch.randn(2, 5, 8)
    compiled = whole(lambda x, n: positions(x, offset=n))
    for offset in (torch.tensor([3, 15]), torch.tensor([0, 1]), torch.tensor(7)):
        assert torch.equal(compiled(x, offset), positions(x, offset=offset))
    for offset in (torch.tensor([3, 16]), torch.tensor([-1, 0])):
        with pytest.raises(RuntimeError, match=r"offset must lie in \[0, max_len - L\] = \[0, 20 - L\]"):
            compiled(x, offset)
    number = whole(lambda x, n: positions(x, offset=n), dynamic=True)
    for offset in (3, 4, 15):
        assert torch.equal(number(x, offset), positions(x, offset=offset))


def test_the_others():
    relative, slopes = RelativeBias(2, num_buckets=8, max_distance=20), ALiBi(2)
    sizes = {"num_heads": 2, "device": torch.device("cpu"), "dtype": torch.float32}
    compiled = whole(lambda n, s: relative.bias(n, s, **sizes), dynamic=True)
    for query_len, key_len in ((3, 7), (4, 9), (5, 5)):
        assert torch.equal(compiled(query_len, key_len), relative.bias(query_len, key_len, **sizes))
    dense = whole(lambda x: x + slopes.bias(3, 3, **sizes).to_dense(3, 3))(torch.zeros(3, 3))
    assert torch.equal(dense, slopes.bias(3, 3, **sizes).to_dense(3, 3))
    picture, x = Rotary2d(8, grid=(2, 3)), torch.randn(2, 6, 8)
    assert near(whole(picture)(x), picture(x))
