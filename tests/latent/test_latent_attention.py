"""Latent attention equals its formula, in the expanded form, in the absorbed form, and from one to the other."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.allocations import largest_of
from tests.latent.formula import EXACT, NOPE, ROTARY, VALUE, by_formula, causal, fill, parameters, small, text
from tests.strategies import examples

from regard import LatentAttention, masks
from regard.positions import NoPositions

SCALE = 1 / math.sqrt(NOPE + ROTARY)


def test_by_hand():
    layer = LatentAttention(
        2, 1, kv_rank=1, nope_dim=1, rotary_dim=2, v_dim=1, d_out=1, bias={"q"}, scale=1.0, eps=1e-30,
        dtype=torch.float64,
    )  # fmt: skip
    with torch.no_grad():
        layer.q_proj.weight.zero_()
        layer.q_proj.bias.copy_(torch.tensor([1.0, 0.0, 0.0]))  # every query is 1, and does not ask for positions
        layer.kv_down.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))
        layer.kv_up.weight.copy_(torch.tensor([[math.log(3) / 2], [4.0]], dtype=torch.float64))
        layer.out_proj.weight.fill_(1.0)
        x = torch.tensor([[5.0, 1.0], [-7.0, 2.0]], dtype=torch.float64)
        # The norm leaves the sign: keys +-log(3) / 2, so weights 3/4 and 1/4, of values 4 and -4.
        for out in (layer(x, mask=masks.causal()), layer(x, cache=fill(layer.latent_cache(1, 2)))):
            torch.testing.assert_close(out, torch.tensor([[4.0], [2.0]], dtype=torch.float64), **EXACT)


OPTIONS = {
    "with a latent query": {},
    "a projected query": {"q_rank": None},
    "biases": {"bias": True},
    "one bias": {"q_rank": None, "bias": ("kv",)},
    "another scale and eps": {"scale": 0.7, "eps": 0.1},
}


@pytest.mark.parametrize("name", OPTIONS)
def test_it_is_its_formula_in_both_forms(name, monkeypatch):
    layer, x = small(**OPTIONS[name]), text(2, 9)
    scale, eps = OPTIONS[name].get("scale", SCALE), OPTIONS[name].get("eps", 1e-6)
    out, dense = by_formula(parameters(layer), x, causal(9), scale=scale, eps=eps)
    found, weights = layer(x, mask=masks.causal(), need_weights=True)
    torch.testing.assert_close(found, out, **EXACT)
    torch.testing.assert_close(weights.to_dense(), dense, **EXACT)
    for absorbs in (True, False):
        monkeypatch.setattr(layer, "_absorbs", lambda query_len, key_len, absorbs=absorbs: absorbs)
        cache = fill(layer.latent_cache(2, 12))
        with torch.no_grad():
            first = layer(x[:, :4], cache=cache)
            found, weights = layer(x[:, 4:], cache=cache, need_weights=True)
        torch.testing.assert_close(torch.cat([first, found], 1), out, **EXACT)
        torch.testing.assert_close(weights.to_dense(), dense[:, :, 4:], **EXACT)
        assert weights._problem.k.shape[1] == (1 if absorbs else 3)  # the heads that are read


def test_positions_begin_where_they_are_said_to():
    layer, x = small(), text(2, 5)
    out, _ = by_formula(parameters(layer), x, causal(5), scale=SCALE, start=11)
    both = layer(x, mask=masks.causal(), offset=torch.tensor([11, 0]))
    torch.testing.assert_close(layer(x, mask=masks.causal(), offset=11), out, **EXACT)
    torch.testing.assert_close(both[0], out[0], **EXACT)
    torch.testing.assert_close(both[1], layer(x, mask=masks.causal())[1], **EXACT)


class Asked(NoPositions):
    """Positions that turn nothing and keep what they were asked for: rotations by a common offset leave no trace."""

    def rotate(self, q, k, *, offset=0, key_offset=None, length=None):
        self.last = [t.tolist() if isinstance(t, torch.Tensor) else t for t in (offset, length)]
        assert key_offset is None
        return super().rotate(q, k)


@torch.no_grad()
def test_positions_are_told_where_each_sequence_begins_and_how_long_it_will_be():
    asked = Asked()
    layer, x = small(positions=asked), text(2, 5)
    cache = layer.latent_cache(2, 20)
    layer(x)
    assert asked.last == [0, None]
    layer(x, offset=7)
    assert asked.last == [7, None]
    layer(x, cache=cache)
    assert asked.last == [0, 5]
    layer(x, cache=cache, lengths=[2, 5])
    assert asked.last == [5, [7, 10]]
    layer(x[:, :1], cache=cache)
    assert asked.last == [[7, 10], [8, 11]]


def test_scores_depend_on_distances_alone():
    layer, x = small(), text(1, 6)
    # All positions moved by 1000: an angle is off by 1000 eps, a score by a few times that.
    far = layer(x, offset=1000)
    torch.testing.assert_close(far, layer(x), rtol=0, atol=1e-5)
    assert not torch.allclose(small(positions=NoPositions())(x), layer(x), atol=1e-3)


@given(st.data())
@examples(12)
def test_any_chunks_give_the_whole(data):
    layer, x = small(), text(2, 14)
    cache, parts, done = fill(layer.latent_cache(2, 14)), [], 0
    rule = data.draw(st.sampled_from([None, masks.window(5), masks.documents(torch.arange(14) // 4)]))
    with torch.no_grad():
        whole = layer(x, mask=masks.causal() if rule is None else masks.causal() & rule)
        while done < 14:
            n = min(14 - done, data.draw(st.integers(1, 6)))
            narrow = masks.documents(torch.arange(done + n) // 4) if isinstance(rule, masks.Documents) else rule
            parts.append(layer(x[:, done : done + n], cache=cache, mask=narrow))
            done += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, **EXACT)


@given(st.data())
@examples(8)
@torch.no_grad()
def test_each_sequence_has_its_own_length(data):
    layer, x = small(), text(3, 14)
    causal_out = layer(x, mask=masks.causal())
    cache, done = fill(layer.latent_cache(3, 14)), [0, 0, 0]
    for _ in range(data.draw(st.integers(1, 3))):
        n = data.draw(st.integers(1, 4))
        counts = [data.draw(st.integers(0, n)) for _ in done]
        rows = [slice(start, start + count) for start, count in zip(done, counts, strict=True)]
        given_x = torch.full((3, n, 10), torch.nan, dtype=torch.float64)
        for b, (row, count) in enumerate(zip(rows, counts, strict=True)):
            given_x[b, :count] = x[b, row]
        out = layer(given_x, cache=cache, lengths=counts)
        for b, (row, count) in enumerate(zip(rows, counts, strict=True)):
            torch.testing.assert_close(out[b, :count], causal_out[b, row], **EXACT)
        done = [row.stop for row in rows]
    assert cache.lengths.tolist() == done


@torch.no_grad()
def test_what_comes_later_does_not_matter():
    layer, x = small(), text(1, 8)
    other = torch.cat([x[:, :5], 100 * text(1, 3)], 1)
    assert torch.equal(layer(x, mask=masks.causal())[:, :5], layer(other, mask=masks.causal())[:, :5])


@torch.no_grad()
def test_shapes():
    layer, x = small(mask=masks.causal()), text(2, 3, 5)
    out = layer(x)
    assert out.shape == (2, 3, 5, 7)
    torch.testing.assert_close(layer(x[1, 2]), out[1, 2], **EXACT)
    _, weights = layer(x[1, 2], need_weights=True)
    assert weights.shape == (3, 5, 5)
    cache = fill(layer.latent_cache(1, 9))
    torch.testing.assert_close(layer(x[1, 2], cache=cache), out[1, 2], **EXACT)
    assert layer(x[1, 2, :0], cache=cache).shape == (0, 7)
    assert layer(x[:, :, :0]).shape == (2, 3, 0, 7)
    assert cache.lengths.tolist() == [5]


@torch.no_grad()
def test_odd_widths_token_by_token():
    layer = LatentAttention(10, 3, kv_rank=7, nope_dim=3, rotary_dim=2, v_dim=5, mask=masks.causal(), d_out=9).double()
    cache, x = fill(layer.latent_cache(1, 6)), text(1, 6)
    torch.testing.assert_close(torch.cat([layer(p, cache=cache) for p in x.split(1, 1)], 1), layer(x), **EXACT)


@torch.no_grad()
def test_a_mask_of_the_layer_is_that_of_every_call():
    x = text(2, 8)
    layer, plain = small(mask=masks.window(3)), small()
    torch.testing.assert_close(layer(x), plain(x, mask=masks.window(3)), **EXACT)
    own = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.7
    torch.testing.assert_close(layer(x, mask=own), plain(x, mask=masks.window(3) & masks.dense(own)), **EXACT)
    cache = fill(layer.latent_cache(2, 8))
    parts = [layer(part, cache=cache) for part in x.split([4, 1, 3], 1)]
    torch.testing.assert_close(torch.cat(parts, 1), layer(x), **EXACT)


@torch.no_grad()
def test_decoding_keeps_and_makes_nothing_for_each_head():
    layer = LatentAttention(16, 8, kv_rank=16, nope_dim=16, rotary_dim=8, v_dim=16).eval()
    cache, x = layer.latent_cache(1, 1024), torch.randn(1, 1000, 16)
    layer(x, cache=cache)
    held = cache._store._whole
    assert held.numel() == 1024 * (16 + 8)
    seen = largest_of(lambda: layer(x[:, :1], cache=cache))
    assert seen.elements <= held.numel(), seen.operation  # keys and values of the heads would be ten times as much
    assert cache._store._whole is held


@torch.no_grad()
def test_the_form_with_fewer_multiplications_is_taken():
    layer = LatentAttention(16, 2, kv_rank=64, nope_dim=32, rotary_dim=8, v_dim=32)
    assert layer._absorbs(1, 100)
    assert not layer._absorbs(100, 100)
    # One query, two keys: 64 * 64 + 2 * 136 = 4368 in the absorbed form, 2 * 64 * 64 + 2 * 72 = 8336 in the other.
    assert layer._absorbs(1, 2)
    assert not layer._absorbs(1, 1)


class Adapted(torch.nn.Module):
    """A layer that somebody put in the place of kv_up: its weight is not all of it."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.weight = inner.weight

    def forward(self, c):
        return 2 * self.inner(c)


def replaced(layer):
    layer.kv_up = Adapted(layer.kv_up)


def hooked(layer):
    layer.kv_up.register_forward_hook(lambda module, args, output: 2 * output)


def patched(layer):
    inner = layer.kv_up.forward
    layer.kv_up.forward = lambda c: 2 * inner(c)


@pytest.mark.parametrize("change", [replaced, hooked, patched])
@torch.no_grad()
def test_a_kv_up_that_is_more_than_its_weight_is_called(change):
    layer, x = small(mask=masks.causal()), text(1, 6)
    before = layer(x)
    change(layer)
    whole = layer(x)
    assert not torch.allclose(before, whole)
    cache = fill(layer.latent_cache(1, 6))
    torch.testing.assert_close(torch.cat([layer(p, cache=cache) for p in x.split(1, 1)], 1), whole, **EXACT)


def test_nothing_that_a_layer_gave_is_written_to():
    layer, x = small(mask=masks.causal()), text(1, 6)
    kept = {}
    for name in ("kv_down", "q_up", "kv_norm", "kv_up"):
        module = getattr(layer, name)
        module.register_forward_hook(lambda m, a, out, name=name: kept.update({name: (out, out.detach().clone())}))
    layer(x)
    with torch.no_grad():
        layer(x, cache=layer.latent_cache(1, 6))
    for name, (now, before) in kept.items():
        assert torch.equal(now, before), name


def test_dropout_is_for_training():
    layer, x = small(dropout=0.5), text(1, 6)
    assert not torch.allclose(layer(x), layer(x))
    layer.eval()
    assert torch.equal(layer(x), layer(x))


def test_widths_of_weights():
    layer = small(q_rank=None)
    assert layer.q_proj.weight.shape == (3 * (NOPE + ROTARY), 10)
    assert layer.kv_up.weight.shape == (3 * (NOPE + VALUE), 8)
