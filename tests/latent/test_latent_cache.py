"""The cache of latents: one buffer, written in place, that a bad call leaves as it was."""

from __future__ import annotations

import re

import pytest
import torch
from tests.latent.formula import EXACT, fill, small, text

import regard
from regard import LatentCache, masks


def test_append_gives_views_of_one_buffer():
    cache = LatentCache(2, 8, 4, 3)
    latent, rotary = torch.randn(2, 5, 4), torch.randn(2, 5, 3)
    key, value, mask = cache.append(latent, rotary)
    assert torch.equal(key, torch.cat([latent, rotary], -1)[:, None])
    assert torch.equal(value, latent[:, None])
    assert mask == masks.causal()
    again, value, mask = cache.append(latent[:, :1], rotary[:, :1])
    assert mask is None
    assert again.shape == (2, 1, 6, 7)
    assert again.data_ptr() == key.data_ptr() == value.data_ptr()
    assert cache.lengths.tolist() == [6, 6]
    assert repr(cache) == "LatentCache(max_len=8, B=2, kv_rank=4, rotary_dim=3, float32; length 6)"
    cache.crop([2, 6])
    assert "lengths 2 to 6" in repr(cache)


@torch.no_grad()
def test_reset_crop_and_reorder():
    layer, x = small(mask=masks.causal()), text(2, 8)
    whole = layer(x)
    cache = fill(layer.latent_cache(2, 8))
    layer(x, cache=cache)
    cache.reset()
    layer(x[:, :3], cache=cache)
    layer(torch.full_like(x[:, :4], 3.0), cache=cache)  # four that were drafted and rejected
    cache.crop(3)
    torch.testing.assert_close(layer(x[:, 3:5], cache=cache), whole[:, 3:5], **EXACT)
    cache.reorder(torch.tensor([1, 1, 0]))
    assert cache.batch_size == 3
    at = [1, 1, 0]
    torch.testing.assert_close(layer(x[at, 5:7], cache=cache), whole[at, 5:7], **EXACT)
    assert cache.append(torch.zeros(3, 1, 8).double(), torch.zeros(3, 1, 6).double()).value.shape == (3, 1, 8, 8)
    assert cache._store._values.untyped_storage().data_ptr() == cache._store._whole.untyped_storage().data_ptr()


@torch.no_grad()
def test_weights_of_an_earlier_call_refuse_to_answer():
    layer, x = small(), text(1, 4)
    cache = layer.latent_cache(1, 4)
    layer(x[:, :2], cache=cache)
    _, weights = layer(x[:, 2:3], cache=cache, need_weights=True)
    assert weights.entropy().isfinite().all()
    layer(x[:, 3:], cache=cache)
    with pytest.raises(RuntimeError, match=r"key was written to .* ask before the write"):
        weights.entropy()


def test_inference_mode_and_none():
    layer, x = small(), text(1, 4)
    with torch.inference_mode():
        cache = layer.latent_cache(1, 4)
        layer(x[:, :2], cache=cache)
        cache.reorder([0])
    with torch.no_grad():
        layer(x[:, 2:], cache=cache)
    assert cache.lengths.tolist() == [4]


C, R = torch.zeros(2, 1, 4), torch.zeros(2, 1, 3)
BAD = {
    "past the limit max_len=3; make the cache longer: max_len=5": ((C.repeat(1, 3, 1), R.repeat(1, 3, 1)), {}),
    "latent must have shape (B, n, width) = (2, n, 4), got (1, 1, 4); a cache is made for one batch": ((C[:1], R), {}),
    "rotary_key must have shape (B, n, width) = (2, n, 3), got (2, 1, 1, 3)": ((C, R[:, None]), {}),
    "latent must have the cache's dtype float32, got float64; make the cache with dtype=torch.float64": (
        (C.double(), R),
        {},
    ),
    "rotary_key must be a torch.Tensor, got list": ((C, [1]), {}),
    "rotary_key must be on the cache's device cpu, got meta": ((C, R.to("meta")), {}),
    "the same number n of tokens (axis 1), got 1 and 0": ((C, R[:, :0]), {}),
    "latent requires grad, and no gradient passes through a cache": ((C.clone().requires_grad_(), R), {}),
    "each must lie in 0..n = 0..1, got 2": ((C, R, [0, 2]), {}),
    "mask must be boolean": ((C, R), {"mask": torch.zeros(1, 1)}),
}


@pytest.mark.parametrize("message", BAD)
def test_a_failed_append_says_why_and_leaves_the_cache_as_it_was(message):
    cache = LatentCache(2, 3, 4, 3)
    cache.append(torch.ones(2, 2, 4), torch.ones(2, 2, 3))
    before = cache._store._whole.clone(), cache.lengths
    args, options = BAD[message]
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        cache.append(*args, **options)
    torch.testing.assert_close((cache._store._whole, cache.lengths), before, rtol=0, atol=0, equal_nan=True)


X = text(2, 1)
CALLS = {
    "cache must be a regard.LatentCache, got KVCache; make one with layer.latent_cache": {
        "cache": lambda layer: regard.KVCache(2, 1, 4, 8)
    },
    "cache must have the layer's (kv_rank, rotary_dim) = (8, 6), got (8, 4)": {
        "cache": lambda layer: LatentCache(2, 4, 8, 4, dtype=torch.float64)
    },
    "x must hold the 1 sequences of the cache, got 2": {"cache": lambda layer: layer.latent_cache(1, 4)},
    "latent must have the cache's dtype float32, got float64": {
        "cache": lambda layer: layer.latent_cache(2, 4, dtype=torch.float32)
    },
    "offset is given with a cache, which knows where its tokens stand: pass one of the two": {"offset": 3},
    "must broadcast to (..., H, L, S) = (2, 3, 1, 3), got (7, 7)": {"mask": torch.ones(7, 7, dtype=torch.bool)},
    "mask must be boolean": {"mask": torch.zeros(1, 1)},
    "each must lie in 0..n = 0..1, got 5": {"lengths": [1, 5]},
    "x must have the width d_in=10": {"x": torch.zeros(2, 1, 3, dtype=torch.float64)},
    "x must be (B, L, d_in) or (L, d_in) with a cache, got shape (2, 1, 1, 10)": {"x": X[:, None]},
    "x must have the layer's dtype float64, got float32": {"x": X.float()},
    "past the limit max_len=4": {"x": text(2, 3)},
}


@pytest.mark.parametrize("message", CALLS)
@torch.no_grad()
def test_a_failed_call_says_why_and_leaves_the_cache_as_it_was(message):
    layer = small()
    options = dict(CALLS[message])
    cache = options.pop("cache")(layer) if "cache" in options else layer.latent_cache(2, 4)
    if isinstance(cache, LatentCache) and cache.batch_size == 2 and "cache" not in CALLS[message]:
        layer(text(2, 2), cache=cache)
    lengths = cache.lengths.tolist()
    with pytest.raises((TypeError, ValueError), match=re.escape(message)):
        layer(options.pop("x", X), cache=cache, **options)
    assert cache.lengths.tolist() == lengths


@torch.no_grad()
def test_a_mask_that_may_mean_two_things_leaves_the_cache_as_it_was():
    layer, x = small(), text(3, 2)
    cache, mask = layer.latent_cache(3, 4), torch.ones(3, 2, 2, dtype=torch.bool)
    for options in ({"cache": cache}, {}):
        with pytest.raises(ValueError, match=r"may mean one a sequence or one a head, B = H = 3; pass mask\[:, None\]"):
            layer(x, mask=mask, **options)
    assert cache.lengths.tolist() == [0, 0, 0]


def test_gradients_and_lengths_without_a_cache_are_refused():
    layer = small()
    cache = layer.latent_cache(2, 4)
    with pytest.raises(ValueError, match="latent requires grad"):
        layer(X, cache=cache)
    with pytest.raises(ValueError, match="cache is None; pass cache="):
        layer(X, lengths=[1, 1])
    with pytest.raises(ValueError, match=r"max_len: a size of the cache must be at least 1, got 0"):
        layer.latent_cache(1, 0)
    assert cache.lengths.tolist() == [0, 0]
