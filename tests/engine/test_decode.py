"""A few rows over many keys: equal to the definition for any strides, dtype, group and mask."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import LAYOUTS, examples, strided
from torch import Tensor

from regard import reference
from regard.engine import decode as module
from regard.engine.decode import decode, worthwhile


def cropped(b: int, heads: int, length: int, width: int, dtype: torch.dtype, seed: int = 0) -> Tensor:
    """A view of a longer buffer whose rest is NaN, as of a cache."""
    t = torch.randn(b, heads, length, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    buffer = torch.full((b, heads, length + 7, width), torch.nan, dtype=dtype)
    buffer[:, :, :length] = t
    return buffer[:, :, :length]


def truth(q: Tensor, k: Tensor, v: Tensor, additive: Tensor | None, scale: float) -> reference.Definition:
    bias = None if additive is None else additive.double()
    return reference.attention(q.double(), k.double(), v.double(), bias=bias, scale=scale)


def test_by_hand() -> None:
    q, k = torch.tensor([[[[1.0]]]]), torch.tensor([[[[0.0], [math.log(3)]]]])
    out, lse = decode(q, k, torch.tensor([[[[4.0], [8.0]]]]), scale=1.0)
    torch.testing.assert_close(out, torch.tensor([[[[7.0]]]]))  # weights 1/4 and 3/4
    torch.testing.assert_close(lse, torch.tensor([[[math.log(4)]]]))


@given(st.data())
@examples(60)
def test_equal_to_the_definition(data: st.DataObject) -> None:
    b, kv_heads, group = data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 3))
    rows, length = data.draw(st.integers(1, 4)), data.draw(st.integers(1, 40))
    d, dv = data.draw(st.integers(1, 9)), data.draw(st.integers(1, 9))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 1 << 31)))
    heads = kv_heads * group
    shapes = (b, heads, rows, d), (b, kv_heads, length, d), (b, kv_heads, length, dv)
    q, k, v = (strided(s, data.draw(st.sampled_from(LAYOUTS)), generator, torch.float64) for s in shapes)
    additive = None
    if data.draw(st.booleans()):
        shape = (*(data.draw(st.sampled_from((n, 1))) for n in (b, heads, rows)), length)
        additive = torch.randn(shape, generator=generator, dtype=torch.float64)
        additive.masked_fill_(torch.rand(shape, generator=generator) > 0.6, -torch.inf)
    scale = data.draw(st.sampled_from((-1.0, 0.0, 0.3, 2.0)))
    out, lse = decode(q, k, v, additive, scale=scale)
    expected = truth(q, k, v, additive, scale)
    torch.testing.assert_close(out, expected.output, rtol=1e-13, atol=1e-14)
    torch.testing.assert_close(lse, expected.lse, rtol=1e-13, atol=1e-14)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("pieces", ["one", "many"])
def test_every_dtype_in_one_block_and_in_many(dtype: torch.dtype, pieces: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if pieces == "many":
        monkeypatch.setattr(module, "LEAST_KEYS", 4)
        monkeypatch.setattr(module, "WIDENED_ELEMENTS", 200)
    q, k, v = cropped(2, 6, 2, 16, dtype), cropped(2, 3, 50, 16, dtype, 1), cropped(2, 3, 50, 12, dtype, 2)
    out, lse = decode(q, k, v, scale=0.25)
    expected = truth(q, k, v, None, 0.25)
    assert out.dtype == dtype
    assert lse.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert out.shape == (2, 6, 2, 12)
    # Accumulated in float32 at least: half precision loses no more than its own last rounding, half a unit.
    unit = torch.finfo(dtype).eps
    torch.testing.assert_close(
        out.double(),
        expected.output,
        rtol=0.51 * unit if unit > 1e-4 else 20 * unit,
        atol=1e-6 if unit > 1e-10 else 1e-15,
    )
    torch.testing.assert_close(lse.double(), expected.lse, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("layout", ["sequence first", "expanded"])
def test_batch_and_heads_that_no_view_joins(layout: str) -> None:
    generator = torch.Generator().manual_seed(3)
    q = torch.randn(2, 4, 1, 8, generator=generator, dtype=torch.float64)
    if layout == "expanded":
        k = v = torch.randn(1, 2, 9, 8, generator=generator, dtype=torch.float64).expand(2, -1, -1, -1)
    else:
        k, v = torch.randn(2, 2, 9, 2, 8, generator=generator, dtype=torch.float64).transpose(2, 3)
    out, _ = decode(q, k, v, scale=1.0)
    torch.testing.assert_close(out, truth(q, k, v, None, 1.0).output, rtol=1e-13, atol=1e-14)


def test_a_row_that_reads_nothing_is_zero_and_its_lse_minus_infinity() -> None:
    q, k = cropped(1, 2, 2, 4, torch.float32), cropped(1, 1, 5, 4, torch.float32, 1)
    additive = torch.zeros(1, 1, 2, 5)
    additive[:, :, 0] = -torch.inf
    out, lse = decode(q, k, k, additive, scale=1.0)
    assert torch.equal(out[:, :, 0], torch.zeros(1, 2, 4))
    assert torch.equal(lse[:, :, 0], torch.full((1, 2), -torch.inf))
    torch.testing.assert_close(out[:, :, 1:].double(), truth(q[:, :, 1:], k, k, None, 1.0).output, rtol=1e-5, atol=1e-6)


def test_no_keys() -> None:
    out, lse = decode(torch.ones(1, 2, 1, 4), torch.ones(1, 1, 0, 4), torch.ones(1, 1, 0, 3), scale=1.0)
    assert torch.equal(out, torch.zeros(1, 2, 1, 3))
    assert torch.equal(lse, torch.full((1, 2, 1), -torch.inf))


def test_scores_as_large_as_float32_holds() -> None:
    q, k = torch.full((1, 1, 1, 1), 3e4), torch.tensor([3e4, -3e4, 3e4]).view(1, 1, 3, 1)
    out, lse = decode(q, k, torch.tensor([1.0, 5.0, 3.0]).view(1, 1, 3, 1), scale=1.0)
    assert out.item() == 2.0
    torch.testing.assert_close(lse, torch.full((1, 1, 1), 9e8))


def test_inputs_are_not_written_to() -> None:
    q, k, additive = cropped(1, 1, 1, 4, torch.float32), cropped(1, 1, 6, 4, torch.float32, 1), torch.ones(1, 1, 1, 6)
    versions = [t._version for t in (q, k, additive)]
    decode(q, k, k, additive, scale=1.0)
    assert versions == [t._version for t in (q, k, additive)]


def test_worthwhile_is_for_few_rows_and_many_keys() -> None:
    def ask(dtype: torch.dtype, *, group: int = 1, rows: int = 1, key_len: int = 1 << 14, device: str = "cpu") -> bool:
        k = torch.empty(1, 8, key_len, 128, dtype=dtype, device="meta" if device == "meta" else None)
        return worthwhile(k.new_empty(1, 8 * group, rows, 128), k)

    assert ask(torch.float32)
    assert ask(torch.float32, group=4)
    assert not ask(torch.float32, group=4, rows=2)
    assert not ask(torch.float32, key_len=1 << 10)
    assert ask(torch.float16, group=4, rows=4, key_len=1 << 10)
    assert not ask(torch.float16, key_len=16)
    assert ask(torch.bfloat16)
    assert not ask(torch.bfloat16, rows=2)
    assert not ask(torch.float32, device="meta")
    assert not ask(torch.float32, key_len=0)
