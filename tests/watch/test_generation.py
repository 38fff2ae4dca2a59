"""Hugging Face models under a watch, forward and generate; the steps of a generation as one map."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Tower, same
from torch import nn

import regard

transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")
# The models' own eager attention takes its softmax in float32, whatever their dtype: where a row is all padding,
# float64 would make it NaN.
NEAR = {"rtol": 0, "atol": 1e-6}


def llama(**options):
    config = transformers.LlamaConfig(
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=50,
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=None,
        **options,
    )
    torch.manual_seed(0)
    return transformers.LlamaForCausalLM(config).eval()


def eager(model, **inputs):
    """The model's own weights."""
    model.set_attn_implementation("eager")
    with torch.no_grad():
        found = model(**inputs, output_attentions=True).attentions
    model.set_attn_implementation("sdpa")
    return found


def near_in(real, weights, expected):
    """The rows of real tokens; those of padding read something here and nothing there."""
    found = weights.to_dense()
    assert found.isfinite().all()
    torch.testing.assert_close(found.where(real, 0), expected.where(real, 0), **NEAR)


def ids(length, batch=2):
    return torch.randint(1, 50, (batch, length))


@pytest.mark.parametrize("padding", ["none", "left", "right"])
def test_forward(padding):
    model, tokens = llama(), ids(9)
    attention_mask = torch.ones_like(tokens)
    if padding != "none":
        attention_mask[0, slice(0, 3) if padding == "left" else slice(6, 9)] = 0
    inputs = {"input_ids": tokens, "attention_mask": attention_mask}
    with torch.no_grad(), regard.watch(model) as seen:
        model(**inputs)
    assert seen.names == ["model.layers.0.self_attn", "model.layers.1.self_attn"]
    real = attention_mask[:, None, :, None].bool()
    for record, expected in zip(seen, eager(model, **inputs), strict=True):
        assert record.module_type == "LlamaAttention"
        near_in(real, record.weights, expected)


def test_a_model_that_computes_by_hand_is_told_what_to_do():
    model = llama()
    model.set_attn_implementation("eager")
    match = r"no attention call seen in 'model.layers.0.self_attn', .*attn_implementation='sdpa'"
    with torch.no_grad(), pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model):
        model(ids(5))


def test_heads_are_those_of_the_model_and_keys_are_held_once_a_group():
    model, tokens = llama(), ids(6)
    attention_mask = torch.ones_like(tokens)
    attention_mask[0, :2] = 0  # with a mask, one query is folded and several keys are repeated
    with regard.watch(model) as seen:
        generate(model, tokens, attention_mask=attention_mask)
    kept = [record.kept for record in seen]
    assert {tuple(record.shape[1:-1]) for record in seen} == {(4, 6), (4, 1)}
    assert {tuple(each.keys.held.tensor.shape[:2]) for each in kept} == {(2, 2)}


def test_keys_that_were_repeated_are_held_without_the_copies():
    model, tokens = llama(), ids(6)
    attention_mask = torch.ones_like(tokens)
    attention_mask[0, :2] = 0
    with regard.watch(model) as seen:
        model(tokens, attention_mask=attention_mask)
    for record in seen:
        key = record.kept.keys.held.tensor
        assert tuple(key.shape) == (2, 2, 6, 8)
        assert key.untyped_storage().nbytes() == key.numel() * key.element_size()


def generate(model, tokens, **options):
    return model.generate(tokens, max_new_tokens=6, min_new_tokens=6, **{"do_sample": False, **options})


def test_generate_is_one_map():
    model, tokens = llama(), ids(5)
    with regard.watch(model) as seen:
        whole = generate(model, tokens)
    assert [record.step for record in seen.calls("model.layers.1.self_attn")] == list(range(6))
    assert [tuple(record.shape[-2:]) for record in seen.calls("model.layers.1.self_attn")] == [
        (5, 5),
        *((1, n) for n in range(6, 11)),
    ]
    expected = eager(model, input_ids=whole[:, :-1])
    for layer in (0, 1):
        name = f"model.layers.{layer}.self_attn"
        joined = seen.joined(name)
        assert joined.shape == (2, 4, 10, 10)
        assert repr(joined.mask) == "causal()"
        same(joined, expected[layer], **NEAR)
        for record in seen.calls(name):
            _, _, query_len, key_len = record.shape
            rows = slice(key_len - query_len, key_len)
            same(record.weights, expected[layer][:, :, rows, :key_len], **NEAR)


def test_the_keys_of_a_generation_are_held_once():
    model = llama()
    with regard.watch(model) as seen:
        generate(model, ids(5))
    for name in ("model.layers.0.self_attn", "model.layers.1.self_attn"):
        kept = [record.kept for record in seen.calls(name)]
        assert len({id(each.keys) for each in kept}) == 1
        assert kept[0].keys.held.tensor.shape[-2] == 10
        assert len({each.keys.front(n).untyped_storage().data_ptr() for n, each in enumerate(kept, 5)}) == 1


def test_padded_prompts_join_with_their_masks():
    model, tokens = llama(), ids(5)
    attention_mask = torch.ones_like(tokens)
    attention_mask[0, :2] = 0
    with regard.watch(model) as seen:
        whole = generate(model, tokens, attention_mask=attention_mask)
    attention_mask = torch.cat([attention_mask, torch.ones(2, 5, dtype=torch.long)], 1)
    positions = (attention_mask.cumsum(1) - 1).clamp(min=0)
    inputs = {"input_ids": whole[:, :-1], "attention_mask": attention_mask, "position_ids": positions}
    expected = eager(model, **inputs)[1]
    joined = seen.joined("model.layers.1.self_attn")
    real = attention_mask[:, None, :, None].bool()
    near_in(real, joined, expected)


def test_one_call_joins_to_itself():
    model = llama()
    with torch.no_grad(), regard.watch(model) as seen:
        model(ids(5))
    assert seen.joined("model.layers.0.self_attn") is seen[0].weights
    with pytest.raises(KeyError, match=r"no attention call of 'model\.layers\.9"):
        seen.joined("model.layers.9.self_attn")


@pytest.mark.parametrize("inference", [False, True])
def test_calls_that_are_no_generation_do_not_join(inference):
    model = Tower()
    with torch.inference_mode(inference), regard.watch(model) as seen:
        model(torch.randn(1, 5, 16))
        model(torch.randn(1, 6, 16))
    match = (
        r"joined\('layers.0'\): the keys of call 1, 1 x 4 x 6 x 6, do not extend those of call 0, 1 x 4 x 5 x 5, bit"
    )
    with pytest.raises(ValueError, match=match):
        seen.joined("layers.0")


def test_forwards_of_one_text_and_its_beginning_do_not_join():
    q, k = torch.randn(2, 2, 4, 12, 8)
    model = Cached()
    with regard.watch(model) as seen:
        model(q[:, :, :5], k[:, :, :5])
        model(q, k[:, :, 5:])
    match = r"joined\('\(model\)'\): the 12 queries of call 1 are over 12 keys, of which call 0 had 5"
    with pytest.raises(ValueError, match=match):
        seen.joined("(model)")


def test_weights_that_were_asked_for_at_each_step_hold_no_shorter_keys():
    _, _, parts = steps(4, 1, 1, 1)
    model = Cached()
    with regard.watch(model) as seen:
        for q_step, k_step in parts:
            model(q_step, k_step)
            assert seen[-1].weights is seen[-1].weights
        asked = [weakref.ref(record.weights) for record in seen]
        model(k_step, k_step)
        gc.collect()
        assert all(each() is None for each in asked)


def test_a_beam_search_that_reorders_its_cache_does_not_join():
    model = llama()
    with regard.watch(model) as seen:
        generate(model, ids(5), num_beams=3)
    with pytest.raises(ValueError, match="beam search"):
        seen.joined("model.layers.0.self_attn")
    for record in seen:  # each for itself is right
        rows = record.weights.to_dense().sum(-1)
        torch.testing.assert_close(rows, torch.ones_like(rows))


class Cached(nn.Module):
    """One layer with a cache of growing keys, and whatever options of attention."""

    def __init__(self):
        super().__init__()
        self.keys = None

    def forward(self, q, k, function=F.scaled_dot_product_attention, **options):
        self.keys = k if self.keys is None else torch.cat([self.keys, k], -2)
        return function(q, self.keys, self.keys, **options)


def steps(*lengths, batch=2):
    q, k = torch.randn(2, batch, 4, sum(lengths), 8, dtype=torch.float64)
    return q, k, zip(q.split(lengths, -2), k.split(lengths, -2), strict=True)


def test_biases_and_masks_of_all_steps_are_joined():
    q, k, parts = steps(4, 1, 3)
    bias = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    bias = bias.masked_fill(~torch.ones(8, 8).tril().bool(), -torch.inf)
    model, start = Cached(), 0
    with regard.watch(model) as seen:
        for q_step, k_step in parts:
            stop = start + q_step.shape[-2]
            model(q_step, k_step, attn_mask=bias[:, :, start:stop, :stop], scale=0.5)
            start = stop
    expected = torch.softmax(q @ k.mT * 0.5 + bias, -1)
    same(seen.joined("(model)"), expected)


def test_chunks_that_are_causal_at_the_top_left_are_not_taken_for_a_causal_whole():
    _, _, parts = steps(4, 3)
    model = Cached()
    with regard.watch(model) as seen:
        for q_step, k_step in parts:
            model(q_step, k_step, is_causal=True)
    joined = seen.joined("(model)").to_dense()
    assert torch.equal(joined[:, :, 4:] > 0, torch.ones(3, 8)[:, :7].tril().bool().expand(2, 4, 3, 7))
    for record in seen:
        rows = slice(0, 4) if record.call == 0 else slice(4, 7)
        same(record.weights, joined[:, :, rows, : record.shape[-1]])


def test_keys_that_come_without_queries_are_read_by_the_next():
    q, k = torch.randn(2, 1, 4, 7, 8, dtype=torch.float64)
    model = Cached()
    with regard.watch(model) as seen:
        for row, start, stop in ((0, 0, 1), (1, 1, 4), (2, 4, 7)):  # one query to three keys
            model(q[:, :, row : row + 1], k[:, :, start:stop])
    allowed = torch.arange(7) < torch.tensor([1, 4, 7])[:, None]
    expected = torch.softmax((q[:, :, :3] @ k.mT / 8**0.5).masked_fill(~allowed, -torch.inf), -1)
    same(seen.joined("(model)"), expected)


def test_keys_that_were_changed_in_the_middle_do_not_join():
    q, k = torch.randn(2, 1, 4, 5, 8)
    model = Cached()
    with regard.watch(model) as seen:
        model(q[:, :, :3], k[:, :, :3])
        model.keys = torch.cat([model.keys[:, :, :1] + 1, model.keys[:, :, 1:]], -2)
        model(q[:, :, 3:], k[:, :, 3:])
    with pytest.raises(ValueError, match="do not extend those of call 0"):
        seen.joined("(model)")
    same(seen[0].weights, torch.softmax(q[:, :, :3] @ k[:, :, :3].mT / 8**0.5, -1), rtol=0, atol=1e-6)


def test_steps_of_regards_own_attention_are_joined():
    q, k, parts = steps(4, 1, 1)
    model = Cached()
    with regard.watch(model) as seen:
        for q_step, k_step in parts:
            model(q_step, k_step, function=regard.attention, mask=regard.masks.causal())
    causal = torch.ones(6, 6).tril().bool()
    expected = torch.softmax((q @ k.mT / 8**0.5).masked_fill(~causal, -torch.inf), -1)
    same(seen.joined("(model)"), expected)
    same(seen[0].weights, expected[:, :, :4, :4])
    assert [record.kept.call.answer is None for record in seen] == [True, True, False]  # its key is held no more
    assert repr(seen.joined("(model)").mask) == "causal()"


def test_cross_attention_over_the_same_keys_joins():
    q, k, _ = steps(6)
    model = nn.Module()
    model.forward = lambda q: F.scaled_dot_product_attention(q, k, k)
    with regard.watch(model) as seen:
        for row in q.split(2, -2):
            model(row)
    joined = seen.joined("(no module)" if seen.names[0] == "(no module)" else "(model)")
    assert joined.mask is None
    same(joined, torch.softmax(q @ k.mT / 8**0.5, -1))


def test_steps_of_another_scale_do_not_join():
    _, _, parts = steps(4, 1)
    model = Cached()
    with regard.watch(model) as seen:
        for (q_step, k_step), scale in zip(parts, (None, 0.5), strict=True):
            model(q_step, k_step, scale=scale)
    with pytest.raises(ValueError, match=r"scale changes from None in call 0 to 0\.5"):
        seen.joined("(model)")


def test_a_static_cache_says_that_it_was_written_to():
    model = llama()
    with regard.watch(model) as seen:
        generate(model, ids(5), cache_implementation="static", disable_compile=True)
    with pytest.raises(RuntimeError, match="key was written to"):
        _ = seen[0].weights
    with regard.watch(model, hold="copy") as seen:
        generate(model, ids(5), cache_implementation="static", disable_compile=True)
    rows = seen[0].weights.to_dense().sum(-1)
    torch.testing.assert_close(rows, torch.ones_like(rows))


def test_albert_is_one_module_called_often():
    config = transformers.AlbertConfig(
        hidden_size=32,
        embedding_size=16,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        vocab_size=50,
    )
    torch.manual_seed(0)
    model = transformers.AlbertModel(config).double().eval()
    tokens = ids(7)
    with torch.no_grad(), regard.watch(model) as seen:
        model(tokens)
    assert len(set(seen.names)) == 1
    assert [record.call for record in seen] == [0, 1, 2]
    for record, expected in zip(seen, eager(model, input_ids=tokens), strict=True):
        same(record.weights, expected, **NEAR)
