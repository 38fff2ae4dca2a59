"""The attention function alone: every option, against regard.reference in float64."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from regard import masks, reference
from regard.hf.attention import attention_forward
from regard.hf.mask_tensor import MaskTensor

B, H, HKV, L, S, D, DV = 2, 4, 2, 7, 7, 8, 6
CAUSAL = torch.ones(L, S, dtype=torch.bool).tril()


class Layer(nn.Module):
    """What an attention function reads of its module."""

    def __init__(self, is_causal: bool | None = None) -> None:
        super().__init__()
        if is_causal is not None:
            self.is_causal = is_causal
        self.eval()


@pytest.fixture
def qkv() -> tuple[Tensor, Tensor, Tensor]:
    made = (torch.randn(B, h, n, d, dtype=torch.float64) for h, n, d in ((H, L, D), (HKV, S, D), (HKV, S, DV)))
    return tuple(made)


def hold(qkv, mask, given, layer=None, *, bias=None, sinks=None, softcap=None, **options) -> None:
    """What the function returns is what the definition says."""
    q, k, v = qkv
    group = q.shape[1] // k.shape[1]
    expected = reference.attention(
        q, k.repeat_interleave(group, 1), v.repeat_interleave(group, 1), mask,
        bias=bias, sinks=sinks, softcap=softcap, scale=options.get("scaling") or q.shape[-1] ** -0.5,
    )  # fmt: skip
    if softcap is not None:
        options["softcap"] = softcap
    output, weights = attention_forward(layer or Layer(), q, k, v, given, **options)
    assert output.shape == (q.shape[0], q.shape[2], q.shape[1], v.shape[-1])
    assert output.is_contiguous()
    torch.testing.assert_close(output.transpose(1, 2), expected.output, atol=1e-12, rtol=0)
    torch.testing.assert_close(weights.to_dense(), expected.weights, atol=1e-12, rtol=0)


def test_grouped_heads_and_a_scale(qkv):
    hold(qkv, CAUSAL, CAUSAL, scaling=0.3)


def test_without_a_mask_the_layer_says_whether_it_is_causal(qkv):
    hold(qkv, CAUSAL, None, Layer())  # as sdpa takes a layer that does not say
    hold(qkv, CAUSAL, None, Layer(is_causal=True))
    hold(qkv, None, None, Layer(is_causal=False))
    hold(qkv, None, None, Layer(is_causal=True), is_causal=False)
    hold(qkv, CAUSAL, None, Layer(is_causal=False), is_causal=True)
    q, k, v = qkv
    hold((q[:, :, -1:], k, v), None, None, Layer(is_causal=True))  # a step of decoding
    hold((q[:, :, :4], k, v), CAUSAL[:4], None, Layer(is_causal=True))  # a static cache with room


def test_a_window_without_a_mask(qkv):
    window = CAUSAL & ~torch.ones(L, S, dtype=torch.bool).tril(-3)
    hold(qkv, window, None, Layer(is_causal=True), sliding_window=3)
    hold(qkv, CAUSAL, None, Layer(is_causal=True), sliding_window=L)


def test_a_mask_is_all_that_counts_where_there_is_one(qkv):
    mask = torch.rand(B, 1, L, S) < 0.7
    hold(qkv, mask, mask, Layer(is_causal=True), sliding_window=2, is_causal=True)
    rule = MaskTensor(masks.window(3), (B, 1, L, S), torch.device("cpu"))
    hold(qkv, rule.dense(), rule, Layer(is_causal=False))
    hold(qkv, None, MaskTensor(None, (B, 1, L, S), torch.device("cpu")), Layer(is_causal=True))


def test_rows_of_padding_read_nothing(qkv):
    mask = CAUSAL.repeat(B, 1, 1, 1)
    mask[1, :, :, :3] = False
    output, weights = attention_forward(Layer(), *qkv, mask)
    assert (output[1, :3] == 0).all()
    assert (weights.to_dense()[1, :, :3] == 0).all()
    hold(qkv, mask, mask)


@pytest.mark.parametrize("least", [torch.finfo(torch.float64).min, 0.75 * torch.finfo(torch.float64).min, -torch.inf])
def test_masks_of_numbers(qkv, least):
    forbidden = torch.zeros(B, 1, L, S, dtype=torch.float64).masked_fill(~CAUSAL, least)
    hold(qkv, CAUSAL, forbidden)
    empty = CAUSAL.clone()
    empty[2] = False  # a row of padding: nothing, and not the mean of all
    hold(qkv, empty, torch.zeros(B, 1, L, S, dtype=torch.float64).masked_fill(~empty, least))
    bias = torch.randn(B, H, L, S, dtype=torch.float64)
    hold(qkv, CAUSAL, bias.masked_fill(~CAUSAL, least), bias=bias)
    hold(qkv, None, bias, bias=bias)


def test_a_mask_of_numbers_that_is_written_to_is_read_again(qkv):
    numbers = torch.zeros(1, 1, L, S, dtype=torch.float64).masked_fill(~CAUSAL, -torch.inf)
    hold(qkv, CAUSAL, numbers)
    numbers.zero_()
    hold(qkv, None, numbers)


def test_integers_are_no_mask(qkv):
    with pytest.raises(ValueError, match=r"attention_mask must be boolean .* got int64; pass attention_mask.bool"):
        attention_forward(Layer(), *qkv, CAUSAL.long())


def test_softcap_and_sinks_and_positions(qkv):
    bias, sinks = torch.randn(1, H, L, S, dtype=torch.float64), torch.randn(H, dtype=torch.float64)
    hold(qkv, CAUSAL, CAUSAL, softcap=0.7)
    hold(qkv, CAUSAL, CAUSAL, sinks=sinks, s_aux=sinks)
    hold(qkv, CAUSAL, CAUSAL, bias=bias, position_bias=bias)
    numbers = torch.randn(B, 1, L, S, dtype=torch.float64)
    hold(qkv, None, numbers, bias=bias + numbers, position_bias=bias)
    hold(qkv, CAUSAL, CAUSAL, s_aux=None, softcap=None, position_bias=None)


def test_a_sink_for_each_query(qkv):
    q, k, _ = qkv
    sinks = torch.randn(B, H, L, 1, dtype=torch.float64)
    bias = torch.randn(1, H, L, S, dtype=torch.float64)
    scores = q @ k.repeat_interleave(2, 1).mT * D**-0.5 + bias
    scores = torch.cat([scores.masked_fill(~CAUSAL, -torch.inf), sinks], -1)
    _, weights = attention_forward(Layer(), *qkv, CAUSAL, sinks=sinks, position_bias=bias)
    torch.testing.assert_close(weights.to_dense(), scores.softmax(-1)[..., :-1], atol=1e-12, rtol=0)
    with pytest.raises(ValueError, match="both s_aux and sinks"):
        attention_forward(Layer(), *qkv, CAUSAL, sinks=sinks, s_aux=sinks[0, :, 0, 0])


def test_keys_that_an_indexer_chose(qkv):
    indices = torch.stack([torch.randperm(S)[:3] for _ in range(B * L)]).view(B, L, 3)
    chosen = torch.zeros(B, L, S, dtype=torch.bool).scatter(-1, indices, True)[:, None]
    hold(qkv, chosen & CAUSAL, CAUSAL, indices=indices)
    hold(qkv, chosen & CAUSAL, MaskTensor(masks.causal(), (B, 1, L, S), torch.device("cpu")), indices=indices)
    hold(qkv, chosen, None, Layer(is_causal=False), indices=indices)
    with pytest.raises(ValueError, match=r"Layer chose block_indices, and has no indexer.build_block_mask"):
        attention_forward(Layer(), *qkv, CAUSAL, block_indices=indices)


def test_packed_texts_by_their_ends(qkv):
    one = tuple(t[:1] for t in qkv)
    ids = torch.tensor([0, 0, 0, 1, 1, 1, 1])
    same = ids[:, None] == ids
    ends = torch.tensor([0, 3, 7], dtype=torch.int32)
    hold(one, same & CAUSAL, None, Layer(is_causal=True), cu_seq_lens_q=ends, cu_seq_lens_k=ends)
    hold(one, same, None, Layer(is_causal=False), cu_seq_lens_q=ends)
    with pytest.raises(ValueError, match=r"cu_seq_lens_q packs 7 tokens, expected one sequence .* pass position_ids"):
        attention_forward(Layer(), *qkv, None, cu_seq_lens_q=ends)


def test_dropout_in_training_alone(qkv):
    layer = Layer()
    plain, _ = attention_forward(layer, *qkv, CAUSAL)
    still, _ = attention_forward(layer, *qkv, CAUSAL, dropout=0.5)
    assert torch.equal(plain, still)
    dropped, weights = attention_forward(layer.train(), *qkv, CAUSAL, dropout=0.5)
    assert not torch.allclose(plain, dropped)
    assert torch.allclose(weights.to_dense().sum(-1), torch.ones(B, H, L, dtype=torch.float64))  # those before dropout


def test_queries_that_are_learned_come_once_for_the_batch(qkv):
    q, k, v = qkv
    hold((q[:1].expand(B, -1, -1, -1), k, v), None, None, Layer(is_causal=False))
    output, _ = attention_forward(Layer(is_causal=False), q[:1], k, v, None)
    again, _ = attention_forward(Layer(is_causal=False), q[:1].expand(B, -1, -1, -1), k, v, None)
    assert torch.equal(output, again)


def test_paged_caches_are_refused_by_name(qkv):
    with pytest.raises(ValueError, match=r"paged caches .* got cache=SimpleNamespace; use .sdpa. there"):
        attention_forward(Layer(), *qkv, CAUSAL, cache=SimpleNamespace())


def test_what_models_hand_on_besides_means_nothing(qkv):
    hold(qkv, CAUSAL, CAUSAL, output_attentions=True, use_cache=False, position_ids=torch.arange(L)[None])


def test_gradients_reach_what_the_model_learns(qkv):
    qkv = tuple(t.requires_grad_() for t in qkv)
    sinks = torch.randn(H, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, H, L, S, dtype=torch.float64, requires_grad=True)
    output, weights = attention_forward(Layer().train(), *qkv, CAUSAL, s_aux=sinks, position_bias=bias)
    q, k, v = qkv
    expected = reference.attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), CAUSAL, bias=bias, sinks=sinks, scale=D**-0.5
    )
    into = torch.randn_like(output)
    learned = (*qkv, sinks, bias)
    found = torch.autograd.grad(output, learned, into)
    true = torch.autograd.grad(expected.output, learned, into.transpose(1, 2))
    for got, want in zip(found, true, strict=True):
        torch.testing.assert_close(got, want, atol=1e-11, rtol=0)
    assert weights.to_dense().requires_grad
