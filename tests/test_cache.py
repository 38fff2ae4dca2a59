"""Caches: any way of cutting a text into chunks gives what the whole text gives."""

from __future__ import annotations

import math
import re

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import examples
from torch import Tensor

import regard
from regard import KVCache, RollingCache, masks, reference
from regard.masks import Mask
from regard.masks.algebra import Sizes

EXACT = {"rtol": 0, "atol": 1e-12}  # float64, another order of summing


def fill(cache: KVCache | RollingCache) -> KVCache | RollingCache:
    """NaN wherever nothing has been written: reading it shows."""
    cache._keys.fill_(torch.nan)
    cache._values.fill_(torch.nan)
    return cache


def texts(seed: int, b: int, heads: int, kv_heads: int, length: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(b, h, length, w, generator=generator, dtype=torch.float64)
        for h, w in ((heads, 4), (kv_heads, 4), (kv_heads, 3))
    )  # type: ignore[return-value]


def make(kind: str, b: int, heads: int, size: int, **more: int) -> KVCache | RollingCache:
    cls = {"whole": KVCache, "rolling": RollingCache}[kind]
    return fill(cls(b, heads, size, 4, 3, dtype=torch.float64, **more))


def run(cache: KVCache | RollingCache, q: Tensor, k: Tensor, v: Tensor, chunks: list[int], mask: Mask | None) -> Tensor:
    outs, start = [], 0
    for n in chunks:
        part = slice(start, start + n)
        cached = cache.append(k[:, :, part], v[:, :, part], mask=mask)
        outs.append(regard.attention(q[:, :, part], *cached)[0])
        start += n
    return torch.cat(outs, dim=2)


def cut(data: st.DataObject, length: int) -> list[int]:
    """Chunks that add up to a length, often of one token."""
    chunks: list[int] = []
    while sum(chunks) < length:
        left = length - sum(chunks)
        chunks.append(min(left, data.draw(st.one_of(st.just(1), st.integers(0, 9)))))
    return chunks


def test_by_hand() -> None:
    cache = KVCache(1, 1, 4, 1)
    k, v = torch.tensor([0.0, math.log(3)]).view(1, 1, 2, 1), torch.tensor([4.0, 8.0]).view(1, 1, 2, 1)
    one = torch.ones(1, 1, 1, 1)
    first, _ = regard.attention(one, *cache.append(k[:, :, :1], v[:, :, :1]), scale=1.0)
    second, _ = regard.attention(one, *cache.append(k[:, :, 1:], v[:, :, 1:]), scale=1.0)
    assert first.item() == 4.0
    torch.testing.assert_close(second.item(), 7.0)  # weights 1/4 and 3/4
    assert cache.lengths.tolist() == [2]


MASKS = {
    "none": None,
    "window": masks.window(3),
    "band and prefix": masks.band(2, 0) | masks.prefix(2),
    "documents": masks.documents(torch.arange(30) // 4),
    "not": ~masks.band(1, 1),
}


def narrowed(name: str, stop: int) -> Mask | None:
    """The mask over the first ``stop`` tokens of the text."""
    return masks.documents(torch.arange(stop) // 4) if name == "documents" else MASKS[name]


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("kind", ["whole", "rolling"])
@given(st.data())
@examples(8)
def test_any_chunks_give_the_whole(kind: str, name: str, data: st.DataObject) -> None:
    length, window = data.draw(st.integers(1, 30)), data.draw(st.integers(1, 12))
    b, kv_heads, group = data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 2))
    q, k, v = texts(data.draw(st.integers(0, 99)), b, kv_heads * group, kv_heads, length)
    base = masks.causal() if kind == "whole" else masks.window(window)
    user = narrowed(name, length)
    allowed = (base if user is None else base & user).to_dense(length)
    expected = reference.attention(q, k, v, allowed).output
    cache = make(kind, b, kv_heads, length if kind == "whole" else window)
    outs, start = [], 0
    for n in cut(data, length):
        part = slice(start, start + n)
        cached = cache.append(k[:, :, part], v[:, :, part], mask=narrowed(name, start + n))
        outs.append(regard.attention(q[:, :, part], *cached)[0])
        start += n
    torch.testing.assert_close(torch.cat(outs, dim=2), expected, **EXACT)


@pytest.mark.parametrize("name", ["none", "window", "band and prefix", "documents"])
@pytest.mark.parametrize("kind", ["whole", "rolling"])
@given(st.data())
@examples(12)
def test_each_sequence_has_its_own_length(kind: str, name: str, data: st.DataObject) -> None:
    """Each sequence through the padded batch equals itself alone, uncached."""
    b, kv_heads, window = data.draw(st.integers(2, 3)), data.draw(st.integers(1, 2)), data.draw(st.integers(1, 6))
    q, k, v = texts(data.draw(st.integers(0, 99)), b, 2 * kv_heads, kv_heads, 30)
    base = masks.causal() if kind == "whole" else masks.window(window)
    cache = make(kind, b, kv_heads, 30 if kind == "whole" else window)
    done = [0] * b
    for _ in range(data.draw(st.integers(1, 6))):
        n = data.draw(st.integers(1, 5))
        counts = [data.draw(st.integers(0, n)) for _ in range(b)]
        rows = [torch.arange(start, start + n) for start in done]  # what stands past counts is padding
        new = [torch.stack([t[i, :, r] for i, r in enumerate(rows)]) for t in (q, k, v)]
        for i, count in enumerate(counts):
            new[1][i, :, count:] = torch.nan
            new[2][i, :, count:] = torch.nan
        done = [start + count for start, count in zip(done, counts, strict=True)]
        lengths = torch.tensor(counts) if data.draw(st.booleans()) else counts
        cached = cache.append(new[1], new[2], lengths, mask=narrowed(name, max(done)))
        out, _ = regard.attention(new[0], *cached)
        for i, (count, stop) in enumerate(zip(counts, done, strict=True)):
            user = narrowed(name, stop)
            allowed = (base if user is None else base & user).to_dense(stop)
            alone = reference.attention(*(t[i : i + 1, :, :stop] for t in (q, k, v)), allowed)
            torch.testing.assert_close(out[i, :, :count], alone.output[0, :, stop - count :], **EXACT)
    assert cache.lengths.tolist() == done


def test_equal_lengths_need_no_mask_of_their_own() -> None:
    _, k, v = texts(0, 2, 1, 1, 8)
    cache = make("whole", 2, 1, 8)
    assert cache.append(k[:, :, :4], v[:, :, :4]).mask == masks.causal()
    cached = cache.append(k[:, :, 4:5], v[:, :, 4:5])
    assert cached.mask is None
    assert cached.key.data_ptr() == cache._keys.data_ptr()  # a view, no copy
    rolling = make("rolling", 2, 1, 3)
    assert rolling.append(k[:, :, :2], v[:, :, :2]).mask == masks.causal()
    assert rolling.append(k[:, :, 2:4], v[:, :, 2:4]).mask == masks.window(3)
    cached = rolling.append(k[:, :, 4:5], v[:, :, 4:5])
    assert cached.mask is None
    assert cached.key.shape == (2, 1, 3, 4)
    assert cached.key.untyped_storage().data_ptr() == rolling._keys.untyped_storage().data_ptr()


def test_a_rolling_cache_stays_small() -> None:
    cache = make("rolling", 1, 1, 4)
    _, k, v = texts(0, 1, 1, 1, 100)
    before = cache._keys.data_ptr()
    for i in range(100):
        cache.append(k[:, :, i : i + 1], v[:, :, i : i + 1])
    assert cache._keys.shape[2] == 8
    assert cache._keys.data_ptr() == before


def test_the_mask_lies_in_its_key_range_and_its_intervals() -> None:
    cache = make("rolling", 3, 1, 4)
    _, k, v = texts(0, 3, 1, 1, 5)
    cache.append(k, v, [5, 2, 0])
    cached = cache.append(k[:, :, :3], v[:, :, :3], [1, 3, 2])
    mask, key_len = cached.mask, cached.key.shape[2]
    assert mask is not None
    dense = mask.to_dense(3, key_len)  # (3, 1, 3, S)
    sizes = Sizes((3,), 1, 3, key_len)
    for r in range(3):
        low, high = mask.key_range(r, r + 1, sizes)
        assert not dense[:, :, r, :low].any()
        assert not dense[:, :, r, high:].any()
    found = mask.intervals(sizes)
    at = torch.arange(key_len).view(1, 1, 1, -1, 1)
    assert torch.equal(((at >= found.lo[..., None, :]) & (at < found.hi[..., None, :])).any(-1), dense)
    assert repr(mask) == "cached(lengths (3,), window 4)"


@pytest.mark.parametrize("kind", ["whole", "rolling"])
def test_reset_crop_and_reorder(kind: str) -> None:
    q, k, v = texts(0, 2, 1, 1, 12)
    base = masks.causal() if kind == "whole" else masks.window(4)
    expected = reference.attention(q, k, v, base.to_dense(12)).output
    more = {} if kind == "whole" else {"spare": 3}
    cache = make(kind, 2, 1, 12 if kind == "whole" else 4, **more)
    run(cache, q, k, v, [12], None)
    cache.reset()
    assert cache.lengths.tolist() == [0, 0]
    out = run(cache, q, k, v, [7, 1, 1], None)
    torch.testing.assert_close(out, expected[:, :, :9], **EXACT)
    wrong = torch.full((2, 1, 3, 4), torch.nan, dtype=torch.float64)
    cache.append(wrong, wrong[..., :3])  # three that were drafted and rejected
    cache.crop(9)
    assert cache.lengths.tolist() == [9, 9]
    rest = run(cache, q[:, :, 9:], k[:, :, 9:], v[:, :, 9:], [2], None)
    torch.testing.assert_close(rest, expected[:, :, 9:11], **EXACT)
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.batch_size == 3
    last = run(cache, *(t[[1, 1, 0], :, 11:] for t in (q, k, v)), [1], None)
    torch.testing.assert_close(last, expected[[1, 1, 0], :, 11:], **EXACT)


def test_crop_each_its_own() -> None:
    q, k, v = texts(0, 2, 1, 1, 6)
    cache = make("whole", 2, 1, 6)
    cache.append(k[:, :, :5], v[:, :, :5])
    cache.crop([3, 5])
    assert cache.lengths.tolist() == [3, 5]
    new = [torch.stack([t[0, :, 3:4], t[1, :, 5:6]]) for t in (q, k, v)]
    out, _ = regard.attention(new[0], *cache.append(new[1], new[2]))
    expected = reference.attention(q, k, v, masks.causal().to_dense(6)).output
    torch.testing.assert_close(out, torch.stack([expected[0, :, 3:4], expected[1, :, 5:6]]), **EXACT)


def test_repr() -> None:
    cache = KVCache(2, 8, 16, 64, 32, dtype=torch.bfloat16)
    assert repr(cache) == "KVCache(max_len=16, B=2, Hkv=8, D=64, Dv=32, bfloat16; length 0)"
    cache.append(torch.zeros(2, 8, 3, 64).bfloat16(), torch.zeros(2, 8, 3, 32).bfloat16(), [1, 3])
    assert "lengths 1 to 3" in repr(cache)


def test_inference_mode_and_none() -> None:
    with torch.inference_mode():
        cache = KVCache(1, 1, 4, 2)
        cache.append(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    cache.append(torch.ones(1, 1, 1, 2), torch.ones(1, 1, 1, 2))
    assert cache.lengths.tolist() == [2]


def test_weights_of_an_earlier_call_refuse_to_answer() -> None:
    q, k, v = texts(0, 1, 1, 1, 4)
    cache = make("whole", 1, 1, 4)
    _, weights = regard.attention(q[:, :, :2], *cache.append(k[:, :, :2], v[:, :, :2]))
    assert weights.entropy().isfinite().all()
    cache.append(k[:, :, 2:], v[:, :, 2:])
    with pytest.raises(RuntimeError, match=r"key was written to .* ask before the write"):
        weights.entropy()


ONE = torch.zeros(2, 1, 1, 4)
BAD = {
    "past the limit max_len=3; make the cache longer: max_len=4": ((ONE, ONE[..., :3]), {}),
    "key must have shape (B, Hkv, n, width) = (2, 1, n, 4), got (1, 1, 1, 4)": ((ONE[:1], ONE[..., :3]), {}),
    "value must have shape (B, Hkv, n, width) = (2, 1, n, 3), got (2, 1, 1, 4)": ((ONE, ONE), {}),
    "key must have the cache's dtype float32, got float64; make the cache with dtype=torch.float64": (
        (ONE.double(), ONE[..., :3]),
        {},
    ),
    "key must be a torch.Tensor, got list": (([1], ONE), {}),
    "key must be on the cache's device cpu, got meta": ((ONE.to("meta"), ONE[..., :3]), {}),
    "the same number n of tokens (axis -2), got 1 and 0": ((ONE, ONE[:, :, :0, :3]), {}),
    "key requires grad, and no gradient passes through a cache": ((ONE.clone().requires_grad_(), ONE[..., :3]), {}),
    "each must lie in 0..n = 0..1, got 2": ((ONE, ONE[..., :3], [0, 2]), {}),
    "must hold one integer a sequence, (B,) = (2,), got shape (1,)": ((ONE, ONE[..., :3], [1]), {}),
    "must be integers, got float32": ((ONE, ONE[..., :3], torch.ones(2)), {}),
    "mask must be boolean": ((ONE, ONE[..., :3]), {"mask": torch.zeros(1, 1)}),
}


@pytest.mark.parametrize("message", BAD)
def test_a_failed_append_says_why_and_leaves_the_cache_as_it_was(message: str) -> None:
    cache = KVCache(2, 1, 3, 4, 3)
    full = message.startswith("past the limit")
    cache.append(torch.ones(2, 1, 3 if full else 2, 4), torch.ones(2, 1, 3 if full else 2, 3))
    before = cache._keys.clone(), cache._values.clone(), cache.lengths
    args, options = BAD[message]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        cache.append(*args, **options)
    torch.testing.assert_close((cache._keys, cache._values, cache.lengths), before, rtol=0, atol=0, equal_nan=True)


def test_errors_of_the_rest() -> None:
    with pytest.raises(ValueError, match=r"max_len: a size of the cache must be at least 1, got 0"):
        KVCache(1, 1, 0, 4)
    with pytest.raises(TypeError, match=r"window: a size of the cache must be an integer, got float"):
        RollingCache(1, 1, 2.0, 4)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"spare: .* at least 0, got -1"):
        RollingCache(1, 1, 2, 4, spare=-1)
    cache = make("rolling", 1, 1, 4)
    _, k, v = texts(0, 1, 1, 1, 20)
    cache.append(k, v)
    with pytest.raises(ValueError, match=r"leaves 1 of the 3 keys .* window=4: the others are gone; .* spare=2"):
        cache.crop(18)
    assert cache.lengths.tolist() == [20]
    with pytest.raises(ValueError, match=r"length must be at least 0, got -1"):
        cache.crop(-1)
    with pytest.raises(ValueError, match=r"each must be a sequence in 0..0, got 1"):
        cache.reorder([0, 1])
    with pytest.raises(ValueError, match=r"at least one sequence must be kept"):
        cache.reorder([])
    cache.crop(0)
    assert cache.lengths.tolist() == [0]


def test_what_a_cache_is_made_with_can_be_read_from_it():
    cache = regard.RollingCache(3, 2, window=4, head_dim=6, value_dim=5, dtype=torch.float64)
    assert (cache.batch_size, cache.num_kv_heads, cache.head_dim, cache.value_dim) == (3, 2, 6, 5)
    assert (cache.dtype, cache.device) == (torch.float64, torch.device("cpu"))
    assert regard.KVCache(1, 2, 4, 6).value_dim == 6
