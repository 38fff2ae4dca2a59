"""regard.hf.Cache in the place of transformers' DynamicCache: the same texts, in memory that is written in place."""

from __future__ import annotations

import copy

import pytest
import torch
import transformers
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from regard import hf
from regard.hf.cache_layers import AttentionLayer

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8, "initializer_range": 0.3, "pad_token_id": 0, "eos_token_id": None,
    "bos_token_id": None,
}  # fmt: skip
MODELS = {
    "llama": (transformers.LlamaConfig, {}),
    "mistral": (transformers.MistralConfig, {"sliding_window": 6}),
    "gemma2": (transformers.Gemma2Config, {"sliding_window": 6}),
    "gemma3": (transformers.Gemma3TextConfig, {"sliding_window": 6, "num_hidden_layers": 3, "layer_types": [
        "sliding_attention", "full_attention", "sliding_attention"]}),
}  # fmt: skip
TEXT = torch.arange(20, 40).view(2, 10)
LEFT = torch.tensor([[1] * 10, [0] * 4 + [1] * 6])
GREEDY = {"max_new_tokens": 12, "do_sample": False}
SAMPLED = {"max_new_tokens": 8, "do_sample": True, "top_k": 20}
BEAMS = {"max_new_tokens": 8, "num_beams": 3, "do_sample": False}


@pytest.fixture(autouse=True, scope="module")
def _registered():
    hf.register()


def model_of(name: str, attn: str = "sdpa") -> transformers.PreTrainedModel:
    config_class, more = MODELS[name]
    torch.manual_seed(0)
    config = config_class(**{**SIZES, **more})
    return transformers.AutoModelForCausalLM.from_config(config, attn_implementation=attn).eval()


def generated(model, cache, **options) -> torch.Tensor:
    torch.manual_seed(1)
    given = {"attention_mask": LEFT, "pad_token_id": 0, "past_key_values": cache, **options}
    return model.generate(TEXT, **given)


BOTH = [(name, attn) for name in MODELS for attn in ("sdpa", "eager", "regard")]
BOTH.remove(("gemma2", "sdpa"))  # transformers has none, for the sake of its cap of the scores


@pytest.mark.parametrize(("name", "attn"), BOTH)
def test_the_same_texts(name, attn):
    model = model_of(name, attn)
    for options in (GREEDY, SAMPLED, BEAMS):
        cache = hf.Cache(model.config)
        true = generated(model, DynamicCache(config=model.config), **options)
        assert torch.equal(generated(model, cache, **options), true), options
        assert cache.get_seq_length() == true.shape[1] - 1


@pytest.mark.parametrize("name", ["llama", "gemma3"])
@torch.no_grad()
def test_the_same_logits_step_by_step(name):
    model = model_of(name)
    ours, theirs = hf.Cache(model.config, max_len=20), DynamicCache(config=model.config)
    done = 0
    for n in (5, 1, 4, 1, 7, 1):  # in all, several windows
        part = torch.randint(20, 90, (2, n), generator=torch.Generator().manual_seed(done))
        mask = torch.cat([LEFT, torch.ones(2, 20, dtype=torch.long)], 1)[:, : done + n]
        true, found = (model(part, attention_mask=mask, past_key_values=cache).logits for cache in (theirs, ours))
        torch.testing.assert_close(found, true, rtol=0, atol=0)  # the same numbers in another place
        done += n
        assert ours.get_seq_length() == theirs.get_seq_length() == done
        for i in range(len(ours)):
            assert ours.get_mask_sizes(3, i) == theirs.get_mask_sizes(3, i)
    assert ours.is_sliding == theirs.is_sliding


def pair(*, window: int | None = None, **options) -> tuple[AttentionLayer, DynamicLayer]:
    theirs = DynamicLayer() if window is None else DynamicSlidingWindowLayer(window)
    return AttentionLayer(window=window, **options), theirs


@pytest.mark.parametrize("options", [{}, {"window": 3}, {"max_len": 99}, {"max_len": 99, "window": 3}], ids=str)
def test_each_update_gives_the_same_keys_and_values(options):
    ours, theirs = pair(**{"window": None, **options})
    for step, n in enumerate((1, 1, 4, 1, 1, 2, 70, 1, 1)):
        k = torch.randn(2, 2, n, 5, generator=torch.Generator().manual_seed(step))
        v = torch.randn(2, 2, n, 3, generator=torch.Generator().manual_seed(step + 100))
        assert ours.get_mask_sizes(n) == theirs.get_mask_sizes(n)
        sizes = ours.get_mask_sizes(n)
        found, true = ours.update(k, v), theirs.update(k, v)
        assert torch.equal(found[0], true[0])
        assert torch.equal(found[1], true[1])
        assert found[0].shape[2] == sizes[0]
        assert ours.get_seq_length() == theirs.get_seq_length()
    order = torch.tensor([1, 1, 0])
    ours.reorder_cache(order)
    theirs.reorder_cache(order)
    k = torch.randn(3, 2, 1, 5)
    assert torch.equal(ours.update(k, k[..., :3])[0], theirs.update(k, k[..., :3])[0])
    assert ours.batch_size == 3


def buffer(layer: AttentionLayer) -> int:
    return layer.keys.untyped_storage().nbytes() // (4 * 5 * 2)  # slots, of float32 keys of two heads of width 5


def one(n: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(1, 2, n, 5), torch.randn(1, 2, n, 5)


def test_memory_is_fixed_grows_by_doubling_or_is_that_of_the_window():
    fixed, growing, window = AttentionLayer(max_len=500), AttentionLayer(), AttentionLayer(window=10)
    slots: dict[str, list[int]] = {"fixed": [], "growing": [], "window": []}
    for _ in range(300):
        for name, layer in (("fixed", fixed), ("growing", growing), ("window", window)):
            layer.update(*one())
            if buffer(layer) not in slots[name]:
                slots[name].append(buffer(layer))
    assert slots == {"fixed": [500], "growing": [64, 128, 256, 512], "window": [64, 20]}
    assert AttentionLayer(window=10, max_len=8).update(*one())[0].untyped_storage().nbytes() == 8 * 40


def test_nothing_is_copied_but_the_new():
    layer = AttentionLayer(max_len=99)
    before, _ = layer.update(*one(50))
    after, _ = layer.update(*one())
    assert after.data_ptr() == before.data_ptr()


@pytest.mark.parametrize("window", [None, 3])
def test_crop_with_a_past_that_is_recorded(window):
    ours, theirs = pair(window=window)
    for layer in (ours, theirs):
        if window is not None:
            layer.activate_past_recording()
    for step, (n, dropped) in enumerate([(4, 0), (5, 3), (1, 0), (6, 6), (2, 1), (3, 0)]):
        k = torch.randn(1, 2, n, 5, generator=torch.Generator().manual_seed(step))
        found, true = ours.update(k, k)[0], theirs.update(k, k)[0]
        assert torch.equal(found, true)
        ours.crop(-dropped)
        theirs.crop(-dropped)
        assert ours.get_seq_length() == theirs.get_seq_length()
        assert ours.get_mask_sizes(2) == theirs.get_mask_sizes(2)


def test_growth_after_a_crop():
    ours, theirs = pair()
    for step, (n, dropped) in enumerate([(60, 5), (20, 0)]):  # 75 of 64 slots, of which 5 hold what was dropped
        k = torch.randn(1, 2, n, 5, generator=torch.Generator().manual_seed(step))
        assert torch.equal(ours.update(k, k)[0], theirs.update(k, k)[0])
        ours.crop(-dropped)
        theirs.crop(-dropped)


def test_a_first_update_that_fails_decides_nothing():
    layer, k = AttentionLayer(), torch.randn(2, 2, 3, 5)
    with pytest.raises(ValueError, match="requires grad"):
        layer.update(k.clone().requires_grad_(), k)
    with torch.no_grad():
        found, _ = layer.update(k[:1], k[:1])
    assert torch.equal(found, k[:1])


def test_a_past_that_is_recorded_from_the_middle_on():
    layer, (k, v) = AttentionLayer(window=4), one(30)
    layer.update(k[:, :, :20], v[:, :, :20])
    with pytest.raises(ValueError, match=r"others are gone|leaves"):
        layer.crop(-18)
    layer.activate_past_recording()
    with pytest.raises(ValueError, match=r"window of 4 keys before token 19 is gone; make the cache with spare=1"):
        layer.crop(-1)
    layer.update(k[:, :, 20:26], v[:, :, 20:26])
    layer.crop(-6)
    assert layer.get_seq_length() == 20
    found, _ = layer.update(k[:, :, 20:21], v[:, :, 20:21])
    assert torch.equal(found, k[:, :, 17:21])
    with pytest.raises(ValueError, match=r"given as a negative one, as transformers does: crop\(-2\)"):
        layer.crop(2)


@pytest.mark.parametrize("name", ["llama", "mistral"])
def test_assisted_decoding(name):
    model, assistant = model_of(name), model_of("llama")
    options = {"assistant_model": assistant, "attention_mask": LEFT[:1], "pad_token_id": 0, **GREEDY}
    true = model.generate(TEXT[:1], attention_mask=LEFT[:1], pad_token_id=0, **GREEDY)
    cache = hf.Cache(model.config)
    assert torch.equal(model.generate(TEXT[:1], past_key_values=cache, **options), true)


def test_a_crop_that_one_layer_refuses_drops_nothing():
    model = model_of("gemma3")
    cache = hf.Cache(model.config)
    with torch.no_grad():
        model(TEXT.repeat(1, 3), past_key_values=cache)
    with pytest.raises(ValueError, match="window"):
        cache.crop(-29)
    assert [layer.get_seq_length() for layer in cache.layers] == [30] * 3
    cache.crop(-30)
    assert cache.get_seq_length() == 0


def test_a_reset_cache_takes_another_batch():
    model = model_of("gemma2", "eager")
    cache = hf.Cache(model.config)
    first = generated(model, cache, **GREEDY)
    memory = cache.layers[1]._store
    assert cache.batch_size == 2
    with torch.no_grad(), pytest.raises(ValueError, match=r"= \(2, 2, n, 8\), got \(1, .* made for one batch size"):
        model(TEXT[:1], past_key_values=cache)
    cache.reset()
    assert cache.get_seq_length() == 0
    assert cache.batch_size == -1
    assert torch.equal(generated(model, cache, **GREEDY), first)
    assert cache.layers[1]._store is memory
    cache.reset()
    alone = model.generate(TEXT[:1], past_key_values=cache, pad_token_id=0, **GREEDY)
    assert torch.equal(alone, model.generate(TEXT[:1], pad_token_id=0, **GREEDY))


def test_a_copied_prompt_goes_on_by_itself():
    model, prompt = model_of("mistral"), TEXT[:1]
    cache = hf.Cache(model.config)
    with torch.no_grad():
        model(prompt[:, :-1], past_key_values=cache)
    for _ in range(2):
        found = model.generate(prompt, past_key_values=copy.deepcopy(cache), pad_token_id=0, **GREEDY)
        assert torch.equal(found, model.generate(prompt, pad_token_id=0, **GREEDY))
    assert cache.get_seq_length() == 9


def test_sequences_are_repeated_and_chosen():
    layer, (k, v) = AttentionLayer(), (torch.randn(2, 2, 3, 5), torch.randn(2, 2, 3, 5))
    layer.batch_repeat_interleave(2)  # nothing yet
    layer.update(k, v)
    layer.batch_repeat_interleave(2)
    assert torch.equal(layer.keys, k.repeat_interleave(2, 0))
    layer.batch_select_indices(torch.tensor([False, True, True, False]))
    assert torch.equal(layer.values, v)
    layer.batch_select_indices(torch.tensor([1]))
    assert torch.equal(layer.keys, k[1:])


def test_room_that_is_made_early():
    model = model_of("llama")
    cache = hf.Cache(model.config, max_len=30)
    cache.early_initialization(batch_size=2, num_heads=2, head_dim=8, dtype=torch.float32, device="cpu")
    assert cache.is_initialized
    assert torch.equal(generated(model, cache, **GREEDY), generated(model, None, **GREEDY))


def test_a_full_cache_is_left_as_it_was():
    model = model_of("gemma3")
    cache = hf.Cache(model.config, max_len=10)
    with torch.no_grad():
        model(TEXT, past_key_values=cache)
        with pytest.raises(ValueError, match=r"max_len=10\) holds 10 tokens, and 1 more .* with max_len=11 or more"):
            model(TEXT[:, :1], past_key_values=cache)
    assert [layer.get_seq_length() for layer in cache.layers] == [10, 10, 10]
    assert cache.get_max_length() == 10


def test_weights_of_an_earlier_token_refuse_to_answer():
    model = model_of("llama", "regard")
    found = generated(
        model, hf.Cache(model.config), **GREEDY, return_dict_in_generate=True, output_attentions=True
    ).attentions
    assert found[-1][1].to_dense().sum(-1).allclose(torch.ones(()))
    with pytest.raises(RuntimeError, match="key was written to"):
        found[0][0].to_dense()


def test_gradients_are_refused():
    model = model_of("llama")
    with pytest.raises(ValueError, match=r"requires grad, and no gradient passes through a cache"):
        model(TEXT, past_key_values=hf.Cache(model.config))
