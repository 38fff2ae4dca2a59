"""flash_attn under a watch: a stand-in of the same names, layouts and signatures, that computes by definition."""

from __future__ import annotations

import sys
import types

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Attention, by_definition, same

import regard
from regard import reference


def allowed(query_len, key_len, causal, window):
    position = torch.arange(query_len)[:, None] + key_len - query_len
    j = torch.arange(key_len)
    left, right = window[0], 0 if causal else window[1]
    mask = torch.ones(query_len, key_len, dtype=torch.bool)
    if left >= 0:
        mask &= j >= position - left
    if right >= 0:
        mask &= j <= position + right
    return mask


def bias_of(slopes, query_len, key_len):
    position = torch.arange(query_len)[:, None] + key_len - query_len
    return None if slopes is None else -slopes[..., None, None] * (position - torch.arange(key_len)).abs()


def definition(q, k, v, scale, causal, window, softcap, slopes):
    """(H, L, D) layouts, one text."""
    lengths = q.shape[-2], k.shape[-2]
    mask = allowed(*lengths, causal, window)
    q, k, v = (t[None] if t.dim() == 3 else t for t in (q, k, v))
    return reference.attention(q, k, v, mask, bias=bias_of(slopes, *lengths), scale=scale, softcap=softcap or None)


def flash_attn_func(
    q,
    k,
    v,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    softcap=0.0,
    alibi_slopes=None,
    deterministic=False,
    return_attn_probs=False,
    mystery=None,
):
    q, k, v = (t.transpose(1, 2) for t in (q, k, v))
    return definition(q, k, v, softmax_scale, causal, window_size, softcap, alibi_slopes).output.transpose(1, 2)


def flash_attn_qkvpacked_func(qkv, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
    q, k, v = qkv.unbind(2)
    # Under a watch this is what stands in for the function: one call, not two.
    return sys.modules["flash_attn"].flash_attn_func(q, k, v, dropout_p, softmax_scale, causal, window_size)


def flash_attn_kvpacked_func(q, kv, dropout_p=0.0, softmax_scale=None, causal=False):
    return flash_attn_func(q, *kv.unbind(2), dropout_p, softmax_scale, causal)


def flash_attn_varlen_func(
    q,
    k,
    v,
    cu_seqlens_q,
    cu_seqlens_k,
    max_seqlen_q,
    max_seqlen_k,
    dropout_p=0.0,
    softmax_scale=None,
    causal=False,
    window_size=(-1, -1),
    alibi_slopes=None,
    block_table=None,
):
    return q  # what it gives is not looked at


def flash_attn_varlen_qkvpacked_func(qkv, cu_seqlens, max_seqlen, dropout_p=0.0, softmax_scale=None, causal=False):
    return qkv[:, 0]


def flash_attn_with_kvcache(q, k_cache, v_cache, k=None, v=None, cache_seqlens=None):
    return q


FUNCTIONS = [
    flash_attn_func,
    flash_attn_qkvpacked_func,
    flash_attn_kvpacked_func,
    flash_attn_varlen_func,
    flash_attn_varlen_qkvpacked_func,
    flash_attn_with_kvcache,
]


@pytest.fixture
def flash(monkeypatch):
    module = types.ModuleType("flash_attn")
    inner = types.ModuleType("flash_attn.flash_attn_interface")
    user = types.ModuleType("somebodys_model")
    for function in FUNCTIONS:
        setattr(module, function.__name__, function)
        setattr(inner, function.__name__, function)
    user.attend = flash_attn_func
    for each in (module, inner, user):
        monkeypatch.setitem(sys.modules, each.__name__, each)
    return module


def qkv(heads=4, kv_heads=2, query_len=5, key_len=7):
    def random(n, h):
        return torch.randn(2, n, h, 8, dtype=torch.float64)

    return random(query_len, heads), random(key_len, kv_heads), random(key_len, kv_heads)


def swapped(*tensors):
    return [t.transpose(1, 2) for t in tensors]


OPTIONS = [
    {},
    {"causal": True},
    {"window_size": (2, 1)},
    {"window_size": (2, -1)},
    {"window_size": (-1, 1)},
    {"causal": True, "window_size": (2, 2)},
    {"softcap": 1.5, "softmax_scale": 0.9},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_dense_calls(flash, options):
    q, k, v = qkv()
    with regard.watch() as seen:
        output = flash.flash_attn_func(q, k, v, **options)
    assert torch.equal(output, flash_attn_func(q, k, v, **options))
    assert [record.function for record in seen] == ["flash_attn_func"]
    mask = allowed(5, 7, options.get("causal"), options.get("window_size", (-1, -1)))
    q, k = swapped(q, k)
    expected = by_definition(q, k, mask, scale=options.get("softmax_scale"), softcap=options.get("softcap"))
    same(seen[0].weights, expected)


@pytest.mark.parametrize("slopes", [(4,), (2, 4)])
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("softcap", [0.0, 1.5])
def test_alibi(flash, slopes, causal, softcap):
    q, k, v = qkv()
    slopes = torch.rand(slopes)
    with regard.watch() as seen:
        flash.flash_attn_func(q, k, v, causal=causal, alibi_slopes=slopes, softcap=softcap)
    q, k = swapped(q, k)
    expected = by_definition(
        q, k, allowed(5, 7, causal, (-1, -1)), bias=bias_of(slopes.double(), 5, 7), softcap=softcap or None
    )
    same(seen[0].weights, expected, rtol=0, atol=1e-7)  # the slopes are float32


def test_packed_tensors(flash):
    q, k, v = qkv(kv_heads=4, key_len=5)
    with regard.watch() as seen:
        flash.flash_attn_qkvpacked_func(torch.stack([q, k, v], 2), causal=True)
        flash.flash_attn_kvpacked_func(q, torch.stack([k, v], 2), causal=True)
    assert [record.function for record in seen] == ["flash_attn_qkvpacked_func", "flash_attn_kvpacked_func"]
    for record in seen:
        same(record.weights, by_definition(*swapped(q, k), allowed(5, 5, True, (-1, -1))))


@pytest.mark.parametrize("lengths", [((3, 2, 4), (3, 2, 4)), ((1, 2, 2), (3, 2, 4)), ((3, 3, 0), (1, 2, 3))], ids=str)
@pytest.mark.parametrize("options", [{}, {"causal": True}, {"window_size": (1, 1)}], ids=str)
def test_packed_texts(flash, lengths, options):
    (total_q, cuts_q), (total_k, cuts_k) = ((sum(n), torch.tensor([0, *n]).cumsum(0).int()) for n in lengths)
    q = torch.randn(total_q, 4, 8, dtype=torch.float64)
    k, v = torch.randn(2, total_k, 2, 8, dtype=torch.float64)
    with regard.watch() as seen:
        flash.flash_attn_varlen_func(q, k, v, cuts_q, cuts_k, 4, 4, **options)
    mask = torch.block_diag(
        *(
            allowed(a, b, options.get("causal"), options.get("window_size", (-1, -1))).int()
            for a, b in zip(*lengths, strict=True)
        )
    ).bool()
    expected = by_definition(q.transpose(0, 1)[None], k.transpose(0, 1)[None], mask)
    same(seen[0].weights, expected)
    assert ("documents" in seen[0].mask) == (lengths[0] == lengths[1])


def test_packed_texts_in_one_tensor(flash):
    x = torch.randn(9, 3, 4, 8, dtype=torch.float64)
    with regard.watch() as seen:
        flash.flash_attn_varlen_qkvpacked_func(x, torch.tensor([0, 4, 9]).int(), 5, causal=True)
    mask = torch.block_diag(torch.ones(4, 4).tril(), torch.ones(5, 5).tril()).bool()
    same(seen[0].weights, by_definition(x[:, 0].transpose(0, 1)[None], x[:, 1].transpose(0, 1)[None], mask))


def test_what_is_not_understood_is_refused_by_name(flash):
    q, k, v = qkv()
    packed = torch.randn(4, 2, 8)
    cuts = torch.tensor([0, 4]).int()
    with regard.watch() as seen:
        flash.flash_attn_func(q, k, v, mystery=1)
        flash.flash_attn_with_kvcache(q, k, v)
        flash.flash_attn_varlen_func(packed, packed, packed, cuts, cuts, 4, 4, block_table=torch.zeros(1, 1))
        flash.flash_attn_varlen_func(packed, packed[:3], packed[:3], cuts, cuts - 1, 4, 4, alibi_slopes=torch.ones(2))
    reasons = ["flash_attn_func with mystery", "writes to its cache", "with block_table", "with alibi_slopes, and"]
    for record, reason in zip(seen, reasons, strict=True):
        with pytest.raises(RuntimeError, match=reason):
            _ = record.weights


def test_every_binding_is_replaced_and_given_back(flash):
    user = sys.modules["somebodys_model"]
    q, k, v = qkv()
    model = Attention(function=lambda q, k, v: user.attend(*swapped(q, k, v)).transpose(1, 2))
    original = FUNCTIONS[0]
    with regard.watch(model) as seen:
        assert user.attend is flash.flash_attn_func is not original
        model(torch.randn(2, 5, 16))
        user.late = flash.flash_attn_func  # bound while somebody watches
        with regard.watch() as inner:
            user.attend(q, k, v)
    assert seen.names == ["(model)", "(no module)"]
    assert len(inner) == 1
    assert user.attend is user.late is flash.flash_attn_func is original
    with pytest.raises(KeyError, match="from the model"), regard.watch():
        raise KeyError("from the model")
    assert user.attend is flash.flash_attn_func is original


def test_a_question_calls_nothing_that_is_recorded(flash):
    q, k, v = qkv()
    x = torch.randn(1, 2, 3, 4)
    with regard.watch(keep=[lambda weights: F.scaled_dot_product_attention(x, x, x)]) as seen:
        flash.flash_attn_func(q, k, v)
    assert [record.function for record in seen] == ["flash_attn_func"]


def test_torch_functions_inside_are_no_calls_of_their_own(flash, monkeypatch):
    def flash_attn_func(q, k, v, causal=False):
        return F.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v))).transpose(1, 2)

    monkeypatch.setattr(flash, "flash_attn_func", flash_attn_func)
    q, k, v = qkv(kv_heads=4)
    with regard.watch() as seen:
        flash.flash_attn_func(q, k, v)
    assert [record.function for record in seen] == ["flash_attn_func"]
