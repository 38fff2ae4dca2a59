"""Tables: what is shared, how large they grow, and that no call leaves a trace in the next."""

from __future__ import annotations

import copy
import gc
import io

import pytest
import torch
from tests.positions.formulas import budget, plain, turned
from torch._subclasses import FakeTensorMode

from regard.positions import DynamicNTK, LongRoPE, Rotary, Rotary2d, YaRN
from regard.positions import tables as module
from regard.positions.tables import MOST_ROWS, tables_for


def kept(rotary: Rotary) -> int:
    """The rows of all tables of a value."""
    return sum(table[0].shape[0] for table in rotary._tables._kept.values())


def test_equal_modules_share_their_tables():
    a, b = (Rotary(16, base=123.0, scaling=YaRN(2.0, 64)) for _ in range(2))
    assert a._tables is b._tables
    for other in (Rotary(16, base=124.0), Rotary(16, base=123.0, pairing="interleaved"), Rotary(18, base=123.0)):
        assert other._tables is not a._tables
    assert Rotary(18, base=123.0, rotary_dim=16, scaling=YaRN(2.0, 64))._tables is a._tables


def test_copies_share_them_too():
    rotary = Rotary(16, base=125.0)
    rotary(torch.randn(2000, 16))
    assert copy.deepcopy(rotary)._tables is rotary._tables
    file = io.BytesIO()
    torch.save(rotary, file)
    assert file.tell() < 10_000
    file.seek(0)
    again = torch.load(file, weights_only=False)
    assert again._tables is rotary._tables
    picture = Rotary2d(16, grid=(9, 7))
    assert copy.deepcopy(picture)._table is picture._table


def test_tables_go_with_the_last_module():
    rotary = Rotary(16, base=126.0)
    rotary(torch.randn(5, 16))
    key = (16, 126.0, None, "halves")
    assert key in module._ALL
    del rotary
    gc.collect()
    assert key not in module._ALL


def test_a_table_doubles_and_stops():
    rotary, x = Rotary(4, base=127.0), torch.randn(3, 4)
    rotary(x)
    assert kept(rotary) == 512
    rotary(x, offset=510)
    assert kept(rotary) == 1024
    rotary(x, offset=MOST_ROWS - 3)
    assert kept(rotary) == MOST_ROWS
    for offset in (MOST_ROWS - 2, 1_000_000, 10_000_000, torch.tensor([10_000_000])):
        rotary(x, offset=offset)
        assert kept(rotary) == MOST_ROWS


def test_far_positions_make_no_table():
    rotary = Rotary(4, base=128.0)
    rotary(torch.randn(3, 4), offset=10_000_000)
    assert kept(rotary) == 0


def test_a_text_that_grows_makes_no_table_for_each_length():
    rotary, x = Rotary(8, base=129.0, scaling=DynamicNTK(2.0, 64)), torch.randn(1, 8)
    for offset in range(60, 90):
        out = rotary(x, offset=offset)
        want = turned(x, torch.tensor([offset]), DynamicNTK(2.0, 64).frequencies(8, 129.0, offset + 1))
        assert (out.double() - want).abs().max() <= budget(x)
    assert kept(rotary) == 512


@pytest.mark.parametrize(
    "scaling", [None, DynamicNTK(4.0, 50), LongRoPE([1.0] * 4, [1.0, 2.0, 4.0, 8.0], 50, attention_factor=1.1)]
)
def test_no_call_leaves_a_trace(scaling):
    def calls(rotary, order):
        x = torch.arange(24.0).view(3, 8)
        return {i: rotary(x, **where[i]) for i in order}

    where = [{}, {"offset": 40}, {"offset": 60}, {"offset": 3, "length": 300}, {"offset": 900}, {"offset": 40}]
    first = calls(Rotary(8, base=130.0, scaling=scaling), range(6))
    gc.collect()
    again = calls(Rotary(8, base=130.0, scaling=scaling), reversed(range(6)))
    assert all(torch.equal(first[i], again[i]) for i in range(6))


def test_an_answer_is_not_the_table():
    rotary = Rotary(4, base=131.0)
    x = torch.ones(1, 4)
    before = rotary(x, offset=3).clone()
    rotary(x, offset=3).zero_()
    assert torch.equal(rotary(x, offset=3), before)


def test_each_dtype_has_its_own():
    rotary, x = Rotary(4, base=132.0), torch.randn(3, 4)
    first = rotary(x.double(), offset=7)
    rotary(x, offset=7)
    assert torch.equal(rotary(x.double(), offset=7), first)
    torch.testing.assert_close(first, turned(x, torch.arange(7, 10), plain(4, 132.0)), rtol=0, atol=1e-13)


def test_inference_first_then_training():
    rotary, x = Rotary(4, base=133.0), torch.randn(3, 4)
    picture = Rotary2d(4, grid=(1, 3), base=133.0)
    with torch.inference_mode():
        rotary(x, offset=1)
        rotary(x, offset=5_000_000)
        picture(x)
    for turn in (lambda x: rotary(x, offset=1), lambda x: rotary(x, offset=5_000_000), picture):
        leaf = x.clone().requires_grad_()
        turn(leaf).sum().backward()
        assert leaf.grad is not None


def test_under_autocast_as_without():
    rotary, x = Rotary(4, base=134.0), torch.randn(2, 3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        first = rotary(x, offset=torch.tensor([1, 90_000]))
        near = rotary(x, offset=1)
    assert torch.equal(first, rotary(x, offset=torch.tensor([1, 90_000])))
    assert torch.equal(near, rotary(x, offset=1))


def test_the_meta_device():
    with torch.device("meta"):
        rotary, picture = Rotary(8, scaling=LongRoPE([1.0] * 4, [2.0] * 4, 8, factor=2)), Rotary2d(8, grid=(2, 3))
        q = torch.randn(2, 4, 6, 8)
        assert rotary(q, offset=7).is_meta
        assert picture(q).shape == q.shape
        x = torch.randn(2, 4, 6, 8, device="cpu")
        # A table that is made while another device is the default is where x is.
        assert rotary(x, offset=torch.tensor([1, 2], device="cpu")).device == x.device
        assert picture(x).device == x.device
    assert torch.equal(rotary(x, offset=3), Rotary(8, scaling=rotary.scaling)(x, offset=3))
    assert rotary.to_empty(device="cpu")(x).shape == x.shape


@pytest.mark.parametrize("pairing", ["halves", "interleaved"])
def test_fake_tensors_and_real_ones_do_not_meet(pairing):
    rotary, picture = Rotary(8, base=135.0, pairing=pairing), Rotary2d(8, grid=(2, 3), pairing=pairing)
    x = torch.randn(2, 6, 8)

    def run(x):
        return rotary(x), rotary(x, offset=70_000), rotary.rotate(x, x, offset=3)[1], picture(x)

    with FakeTensorMode():
        for out in run(torch.randn(2, 6, 8)):
            assert out.shape == (2, 6, 8)
    real = run(x)
    with FakeTensorMode() as mode:
        for out in (*run(torch.randn(2, 6, 8)), *run(mode.from_tensor(x))):
            assert type(out).__name__ == "FakeTensor"
    for one, two in zip(real, run(x), strict=True):
        assert type(two) is torch.Tensor
        assert torch.equal(one, two)


def test_the_table_of_a_value_is_found_again():
    value = (6, 77.0, None, "halves")
    assert tables_for(*value) is not None
    rotary = Rotary(6, base=77.0)
    assert tables_for(*value) is rotary._tables
