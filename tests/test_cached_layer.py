"""A layer with a cache decodes as it reads the whole text."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import examples
from tests.test_cache import EXACT, cut, fill

from regard import MultiHeadAttention, masks


@pytest.fixture
def layer() -> MultiHeadAttention:
    torch.manual_seed(0)
    return MultiHeadAttention(12, 4, num_kv_heads=2, d_v=8, dtype=torch.float64)


@pytest.mark.parametrize("kind", ["whole", "rolling"])
@given(st.data())
@examples(8)
def test_the_layer_decodes_as_it_reads(kind: str, data: st.DataObject) -> None:
    torch.manual_seed(data.draw(st.integers(0, 99)))
    layer = MultiHeadAttention(12, 4, num_kv_heads=2, d_v=8, dtype=torch.float64)
    x = torch.randn(2, 20, 12, dtype=torch.float64)
    with torch.no_grad():
        cache = fill(layer.kv_cache(2, 20) if kind == "whole" else layer.rolling_cache(2, 5))
        parts = [layer(part, cache=cache) for part in x.split(cut(data, 20), dim=1)]
        expected = layer(x, mask=masks.causal() if kind == "whole" else masks.window(5))
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, **EXACT)


@torch.no_grad()
def test_the_layer_with_weights_a_mask_lengths_and_no_batch(layer: MultiHeadAttention) -> None:
    x = torch.randn(2, 6, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    cache = fill(layer.kv_cache(2, 6))
    layer(x[:, :4], cache=cache)
    out, weights = layer(x[:, 4:], cache=cache, mask=masks.window(3), need_weights=True)
    whole, all_weights = layer(x, mask=masks.causal() & masks.window(3), need_weights=True)
    torch.testing.assert_close(out, whole[:, 4:], **EXACT)
    torch.testing.assert_close(weights.to_dense(), all_weights[:, :, 4:], **EXACT)
    one = fill(layer.kv_cache(1, 6))
    torch.testing.assert_close(layer(x[0], cache=one), layer(x[0], mask=masks.causal()), **EXACT)
    ragged = fill(layer.kv_cache(2, 6))
    layer(x[:, :3], cache=ragged, lengths=[1, 3])
    step = torch.stack([x[0, 1:2], x[1, 3:4]])
    causal = layer(x, mask=masks.causal())
    expected = torch.stack([causal[0, 1:2], causal[1, 3:4]])
    torch.testing.assert_close(layer(step, cache=ragged), expected, **EXACT)


def test_a_layer_call_that_fails_leaves_the_cache_as_it_was(layer: MultiHeadAttention) -> None:
    cache, x = layer.kv_cache(2, 6), torch.zeros(2, 2, 12, dtype=torch.float64)
    with pytest.raises(ValueError, match="requires grad"):
        layer(x, cache=cache)
    with torch.no_grad():
        with pytest.raises(ValueError, match="must broadcast to"):
            layer(x, cache=cache, mask=torch.ones(2, 7, dtype=torch.bool))
        with pytest.raises(ValueError, match=r"\(B, Hkv, n, width\) = \(2, 2, n, 3\)"):
            layer(x[:1], cache=cache)
        with pytest.raises(ValueError, match="context brings its own"):
            layer(x, x, cache=cache)
        with pytest.raises(ValueError, match="cache is None"):
            layer(x, lengths=[1, 2])
        with pytest.raises(TypeError, match=r"cache must be a regard.KVCache .* got dict; .* layer.kv_cache"):
            layer(x, cache={})  # type: ignore[call-overload]
        with pytest.raises(ValueError, match=r"x must be \(B, L, d_in\) or \(L, d_in\) with a cache"):
            layer(x[None], cache=cache)
    assert cache.lengths.tolist() == [0, 0]


BY_ROW = {
    "where": masks.where(lambda b, h, q, kv: (q - kv) % 3 != 1),
    "an offset": masks.causal(offset=-1),
    "both": masks.where(lambda b, h, q, kv: kv > q - 3) & ~masks.causal(offset=-2),
}


@pytest.mark.parametrize("rolling", [False, True], ids=["all", "window"])
@pytest.mark.parametrize("name", BY_ROW)
def test_masks_that_count_rows_stand_in_the_text(name, rolling):
    torch.manual_seed(0)
    layer = MultiHeadAttention(8, 2, dtype=torch.float64).eval()
    x, mask = torch.randn(2, 9, 8, dtype=torch.float64), BY_ROW[name]
    cache = layer.rolling_cache(2, 4) if rolling else layer.kv_cache(2, 9)
    with torch.no_grad():
        parts = [layer(part, cache=cache, mask=mask) for part in x.split([4, 1, 1, 3], dim=1)]
        whole = layer(x, mask=mask & (masks.window(4) if rolling else masks.causal()))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "mask",
    [
        torch.ones(7, 7, dtype=torch.bool),
        masks.documents(torch.zeros(50).int()),
        masks.where(lambda b, h, q, kv: q + kv),
    ],
    ids=["shape", "documents", "no booleans"],
)
def test_a_mask_that_does_not_fit_leaves_the_cache_as_it_was(mask):
    layer = MultiHeadAttention(8, 2).eval()
    cache = layer.kv_cache(2, 9)
    with torch.no_grad():
        layer(torch.randn(2, 3, 8), cache=cache)
        with pytest.raises((TypeError, ValueError), match=r"mask|documents|rule"):
            layer(torch.randn(2, 2, 8), cache=cache, mask=mask)
    assert cache.lengths.tolist() == [3, 3]
