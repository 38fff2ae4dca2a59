"""A layer with positions, norms and biases decodes as it reads, and a call that fails leaves its cache as it was."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.layer.definition import drawn
from tests.strategies import examples
from tests.test_cache import cut
from torch import Tensor

from regard import MultiHeadAttention, QKNorm, RollingCache, masks
from regard.biases import alibi
from regard.positions import ALiBi, DynamicNTK, Positions, RelativeBias, Rotary

D = torch.float64
CLOSE = {"rtol": 0, "atol": 1e-11}


class ByKey(Positions):
    """A key is worth its place in the text: a bias that does not depend on distance alone."""

    def bias(self, query_len, key_len, *, num_heads, device, dtype):
        return torch.arange(key_len, device=device, dtype=dtype).sin().expand(num_heads, query_len, key_len)


class ByQuery(Positions):
    """A bias of low rank and of one column, which broadcasts."""

    def bias(self, query_len, key_len, *, num_heads, device, dtype):
        return torch.arange(key_len - query_len, key_len, device=device, dtype=dtype)[:, None]


POSITIONS = {
    "rotary": lambda: Rotary(4),
    "alibi": lambda: ALiBi(4),
    "relative": lambda: RelativeBias(4, num_buckets=4, max_distance=5, two_sided=False, dtype=D),
    "by key": ByKey,
    "by query": ByQuery,
}


def made(name: str, **options: object) -> MultiHeadAttention:
    options = {"norm": QKNorm.rms(4, dtype=D), "sinks": True, "gate": "headwise", "mask": masks.causal(), **options}
    return drawn(MultiHeadAttention(16, 4, num_kv_heads=2, positions=POSITIONS[name](), dtype=D, **options))


@pytest.mark.parametrize("kind", ["whole", "rolling"])
@pytest.mark.parametrize("name", POSITIONS)
@given(data=st.data())
@examples(4)
@torch.no_grad()
def test_the_layer_decodes_as_it_reads(name: str, kind: str, data: st.DataObject):
    layer = made(name, mask=masks.causal() if kind == "whole" else masks.window(5))
    x = torch.randn(2, 20, 16, dtype=D, generator=torch.Generator().manual_seed(0))
    cache = layer.kv_cache(2, 20) if kind == "whole" else layer.rolling_cache(2, 5)
    parts = [layer(part, cache=cache) for part in x.split(cut(data, 20), dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), layer(x), **CLOSE)


@pytest.mark.parametrize("kind", ["whole", "rolling"])
@pytest.mark.parametrize("name", POSITIONS)
@torch.no_grad()
def test_sequences_of_unequal_lengths(name: str, kind: str):
    layer = made(name, mask=masks.causal() if kind == "whole" else masks.window(4))
    x = torch.randn(2, 12, 16, dtype=D, generator=torch.Generator().manual_seed(0))
    cache = layer.kv_cache(2, 12) if kind == "whole" else layer.rolling_cache(2, 4)
    whole, done = layer(x), [0, 0]
    for counts in ([2, 5], [1, 1], [3, 1], [1, 1], [0, 2], [1, 1]):
        n = max(counts)
        new = torch.full((2, n, 16), 7.0, dtype=D)  # what padding holds
        for b, count in enumerate(counts):
            new[b, :count] = x[b, done[b] : done[b] + count]
        out, weights = layer(new, cache=cache, lengths=counts, need_weights=True)
        assert weights.shape[2] == n
        for b, count in enumerate(counts):
            torch.testing.assert_close(out[b, :count], whole[b, done[b] : done[b] + count], **CLOSE)
            done[b] += count


@pytest.mark.parametrize("name", POSITIONS)
@torch.no_grad()
def test_after_crop_and_reorder_and_without_a_batch(name: str):
    layer = made(name)
    x = torch.randn(2, 9, 16, dtype=D, generator=torch.Generator().manual_seed(0))
    cache, whole = layer.kv_cache(2, 9), layer(x)
    layer(x[:, :6], cache=cache)
    cache.crop([3, 5])
    step = torch.stack([x[0, 3:5], x[1, 5:7]])
    got = layer(step, cache=cache)
    torch.testing.assert_close(got, torch.stack([whole[0, 3:5], whole[1, 5:7]]), **CLOSE)
    cache.reorder([1, 1, 0])
    step = torch.stack([x[1, 7:8], x[1, 7:8], x[0, 5:6]])
    wanted = torch.stack([whole[1, 7:8], whole[1, 7:8], whole[0, 5:6]])
    torch.testing.assert_close(layer(step, cache=cache), wanted, **CLOSE)
    one = layer.kv_cache(1, 9)
    parts = [layer(part, cache=one) for part in x[0].split([4, 5])]
    torch.testing.assert_close(torch.cat(parts), whole[0], **CLOSE)


@torch.no_grad()
def test_a_dynamic_scaling_hears_how_long_the_text_is():
    class Heard(Rotary):
        def rotate(self, q, k, **where):
            self.where = where
            return super().rotate(q, k, **where)

    positions = Heard(4, scaling=DynamicNTK(2.0, original_len=4))
    layer = MultiHeadAttention(16, 4, positions=positions, dtype=D)
    cache = layer.kv_cache(2, 12)
    layer(torch.randn(2, 3, 16, dtype=D), cache=cache)
    assert positions.where == {"offset": 0, "length": 3}
    layer(torch.randn(2, 3, 16, dtype=D), cache=cache, lengths=[1, 3])
    assert positions.where["offset"] == 3
    assert positions.where["length"].tolist() == [4, 6]
    layer(torch.randn(2, 1, 16, dtype=D), cache=cache)
    assert {k: v.tolist() for k, v in positions.where.items()} == {"offset": [4, 6], "length": [5, 7]}


@torch.no_grad()
def test_the_mask_of_a_layer_holds_with_a_cache():
    layer, x = made("rotary", mask=masks.causal() & masks.window(3)), torch.randn(2, 9, 16, dtype=D)
    cache, rows = layer.kv_cache(2, 9), []
    for part in x.split([4, 1, 1, 3], dim=1):
        out, weights = layer(part, cache=cache, mask=masks.window(2), need_weights=True)
        rows.append(out)
        assert int((weights.to_dense() > 0).sum(-1).max()) == 2
    torch.testing.assert_close(torch.cat(rows, dim=1), layer(x, mask=masks.window(2)), **CLOSE)


class Wrong(Positions):
    def __init__(self, answer: object) -> None:
        super().__init__()
        self.answer = answer

    def bias(self, query_len, key_len, **options):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class Refusing(Positions):
    def rotate(self, q, k, **where):
        raise ValueError("not today")


X = torch.zeros(2, 3, 16, dtype=D)
FAILING = {
    "a bias of another shape": ({"positions": Wrong(torch.zeros(3, 2, dtype=D))}, {}, r"must broadcast to"),
    "a bias of another dtype": ({"positions": Wrong(torch.zeros(3, 5, dtype=torch.half))}, {}, r"bias must be float64"),
    "a bias that raises": ({"positions": Wrong(ValueError("no bias"))}, {}, "no bias"),
    "a rotation that raises": ({"positions": Refusing()}, {}, "not today"),
    "alibi under a cap": ({"positions": Wrong(alibi(4)), "softcap": 2.0}, {}, "the cap comes before the bias"),
    "a mask of another shape": ({"mask": masks.dense(torch.ones(2, 7).bool())}, {}, "must broadcast to"),
    "a mask with two meanings": (
        {"mask": masks.dense(torch.ones(2, 3, 5).bool()), "num_heads": 2},
        {},
        "one a sequence or one a head",
    ),
    "a mask of a call": ({"mask": masks.window(2)}, {"mask": torch.ones(2, 7).bool()}, "must broadcast to"),
    "lengths": ({"positions": Rotary(4)}, {"lengths": [1, 4]}, r"each must lie in 0..n = 0..3, got 4"),
    "an offset": ({"positions": Rotary(4)}, {"offset": 2}, "offset is given with a cache, which knows"),
    "an input of another batch": ({"positions": Rotary(4)}, {"x": X[:1]}, r"must have shape \(B, Hkv, n, width\)"),
    "an input of another width": ({"positions": Rotary(4)}, {"x": X[..., 1:]}, "x must have the width d_in=16"),
    "too many tokens": ({"positions": Rotary(4)}, {"x": X.repeat(1, 5, 1)}, "15 more are past the limit"),
}


@pytest.mark.parametrize("rolling", [False, True], ids=["all", "window"])
@pytest.mark.parametrize("name", FAILING)
@torch.no_grad()
def test_a_call_that_fails_leaves_the_cache_as_it_was(name: str, rolling: bool):
    options, call, message = FAILING[name]
    if rolling and name == "too many tokens":
        pytest.skip("a window has room for any number")
    options = {"num_heads": 4, **options}
    good = MultiHeadAttention(16, dtype=D, **{k: v for k, v in options.items() if k == "num_heads"})
    bad = MultiHeadAttention(16, dtype=D, **options)
    cache = good.rolling_cache(2, 3) if rolling else good.kv_cache(2, 9)
    good(torch.randn(2, 2, 16, dtype=D), cache=cache)
    before = copy.deepcopy(cache.__dict__)
    with pytest.raises((TypeError, ValueError), match=message):
        bad(**{"x": X, **call}, cache=cache)
    assert cache.lengths.tolist() == [2, 2]
    assert all(
        torch.equal(a[:, :, :2], before[n][:, :, :2]) for n, a in cache.__dict__.items() if n in ("_keys", "_values")
    )
    x = torch.randn(2, 1, 16, dtype=D)
    twin = copy.deepcopy(cache)
    twin.__dict__.update(before)
    assert torch.equal(good(x, cache=cache), good(x, cache=twin))


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_cache_of_half_precision(dtype: torch.dtype):
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, positions=Rotary(4), norm=QKNorm.rms(4), gate="elementwise")
    x = torch.randn(2, 6, 16)
    cache = layer.kv_cache(2, 6, dtype=dtype)
    parts = [layer(part, cache=cache) for part in x.split([4, 1, 1], dim=1)]
    assert parts[0].dtype == torch.float32
    assert cache.append(*torch.zeros(2, 2, 4, 0, 4, dtype=dtype)).key.dtype == dtype
    # Numbers of order 1 rounded to that many bits, a few times.
    torch.testing.assert_close(
        torch.cat(parts, dim=1), layer(x, mask=masks.causal()), rtol=0, atol=8 * torch.finfo(dtype).eps
    )
    rolling = layer.rolling_cache(2, 3, dtype=dtype, spare=1)
    assert isinstance(rolling, RollingCache)
    assert layer(x, cache=rolling).dtype == torch.float32
    with pytest.raises(TypeError, match=r"must have the cache's dtype float64, got float32"):
        layer(x, cache=layer.kv_cache(2, 6, dtype=D))


@torch.no_grad()
def test_a_cache_under_autocast():
    torch.manual_seed(0)
    layer = MultiHeadAttention(16, 4, positions=Rotary(4), norm=QKNorm.rms(4), sinks=True, gate="headwise")
    x, cache = torch.randn(2, 6, 16), layer.kv_cache(2, 6, dtype=torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        parts = [layer(part, cache=cache) for part in x.split([4, 1, 1], dim=1)]
        whole = layer(x, mask=masks.causal())
        with pytest.raises(TypeError, match=r"make the cache with dtype=torch.bfloat16"):
            layer(x, cache=layer.kv_cache(2, 6, dtype=torch.float32))
    out = torch.cat(parts, dim=1)
    assert out.dtype == whole.dtype == torch.bfloat16
    torch.testing.assert_close(out.float(), layer(x, mask=masks.causal()), rtol=0, atol=0.03)  # bfloat16 has 8 bits


def test_what_a_hook_keeps_is_not_written_to():
    layer, kept = made("rotary"), []
    for module in (layer.in_proj, layer.norm.q, layer.norm.k, layer.norm):
        module.register_forward_hook(lambda module, args, out: kept.append((out, copy.deepcopy(out))))
    x = torch.randn(2, 6, 16, dtype=D)
    with torch.no_grad():
        layer(x)
        layer(x, cache=layer.kv_cache(2, 6))
    assert len(kept) == 8

    def same(a: Tensor | tuple, b: Tensor | tuple) -> bool:
        return torch.equal(a, b) if isinstance(a, Tensor) else all(map(same, a, b))

    assert all(same(*pair) for pair in kept)
