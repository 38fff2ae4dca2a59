"""Models with attn_implementation="regard": what a user does with them."""

from __future__ import annotations

import gc
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
import transformers
from tests.allocations import largest_of

import regard
from regard import AttentionWeights, hf

SIZES = {
    "vocab_size": 99, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "head_dim": 8,
}  # fmt: skip
PAIR = {
    "vocab_size": 99, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64,
}  # fmt: skip
TEXT = torch.arange(20, 40).view(2, 10)
LEFT = torch.tensor([[1] * 10, [0] * 3 + [1] * 7])


@pytest.fixture(autouse=True, scope="module")
def _registered():
    hf.register()


def llama(attn: str, **sizes) -> transformers.LlamaForCausalLM:
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZES, **sizes, initializer_range=0.3)
    return transformers.LlamaForCausalLM._from_config(config, attn_implementation=attn).eval()


def test_register_gives_the_name_and_can_be_called_again():
    assert hf.register() == hf.register() == hf.NAME == "regard"
    assert "regard" in transformers.AttentionInterface()
    assert "regard" in transformers.AttentionMaskInterface()


def test_without_transformers_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ImportError, match=r"needs Hugging Face transformers: pip install 'regard\[hf\]'"):
        hf.register()


def test_an_old_transformers_is_refused(monkeypatch):
    old = SimpleNamespace(AttentionInterface=object, __version__="4.50.0")
    monkeypatch.setitem(sys.modules, "transformers", old)
    with pytest.raises(ImportError, match=r"newer transformers: 4.50.0 has no AttentionMaskInterface; pip install"):
        hf.register()


def test_masks_that_are_asked_for_otherwise_are_refused(monkeypatch):
    monkeypatch.setattr("transformers.masking_utils.sdpa_mask", lambda batch_size, cache_position, kv_length: None)
    with pytest.raises(ImportError, match=r"newer transformers: .* has no masks by q_length"):
        hf.register()


def test_importing_it_does_not_import_transformers():
    code = "import sys, regard; regard.hf; assert 'transformers' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_outputs_hold_operators_that_keep_a_layer_alive_only_if_asked_for():
    model = llama("regard")
    gc.collect()
    before = [each for each in gc.get_objects() if type(each) is AttentionWeights]
    with torch.no_grad():
        outputs = model(TEXT, output_attentions=True)
        assert [type(each) for each in outputs.attentions] == [AttentionWeights] * 2
        assert outputs.attentions[0].entropy().shape == (2, 4, 10)
        del outputs
        model(TEXT)
    gc.collect()
    now = [each for each in gc.get_objects() if type(each) is AttentionWeights]
    assert not [each for each in now if not any(each is known for known in before)]


def test_encoder_decoder_and_cross_weights():
    torch.manual_seed(0)
    config = transformers.BartConfig(**PAIR, attn_implementation="eager")
    model = transformers.BartModel(config).eval()
    inputs = {"input_ids": TEXT, "attention_mask": LEFT.flip(1), "decoder_input_ids": TEXT[:, :6]}
    with torch.no_grad():
        true = model(**inputs, output_attentions=True)
        model.set_attn_implementation("regard")
        found = model(**inputs, output_attentions=True)
    real = LEFT.flip(1).bool()
    for name, rows in (("encoder_attentions", real), ("decoder_attentions", None), ("cross_attentions", None)):
        for expected, lazy in zip(true[name], found[name], strict=True):
            kept = slice(None) if rows is None else rows
            got, want = (t.transpose(1, 2)[kept] for t in (lazy.to_dense(), expected))
            torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


def mistral(attn: str, window: int | None) -> transformers.MistralForCausalLM:
    torch.manual_seed(0)
    config = transformers.MistralConfig(**SIZES, sliding_window=window, initializer_range=0.3)
    return transformers.MistralForCausalLM._from_config(config, attn_implementation=attn).eval()


def generated(attn: str, window: int | None, cache: str):
    return mistral(attn, window).generate(
        TEXT, attention_mask=LEFT, max_new_tokens=6, min_new_tokens=6, do_sample=False, pad_token_id=0,
        return_dict_in_generate=True, output_attentions=True, output_logits=True, cache_implementation=cache,
        disable_compile=True,
    )  # fmt: skip


@pytest.mark.parametrize("window", [None, 4])
def test_a_static_cache_gives_the_same_text_and_weights_that_refuse_once_it_is_written_to(window):
    true, found = generated("eager", window, "static"), generated("regard", window, "static")
    assert torch.equal(true.sequences, found.sequences)
    for want, got in zip(true.logits, found.logits, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-4)
    with pytest.raises(RuntimeError, match="key was written to"):
        found.attentions[1][0].to_dense()
    want, got = true.attentions[-1][1], found.attentions[-1][1].to_dense()
    torch.testing.assert_close(got, want, atol=1e-6, rtol=0)


@pytest.mark.parametrize("window", [None, 4])
def test_generate(window):
    true, found = generated("eager", window, "dynamic"), generated("regard", window, "dynamic")
    assert torch.equal(true.sequences, found.sequences)
    assert len(found.attentions) == len(true.attentions) == 6
    for step, (expected, weights) in enumerate(zip(true.attentions, found.attentions, strict=True)):
        for want, got in zip(expected, weights, strict=True):
            assert type(got) is AttentionWeights
            real = LEFT.bool() if step == 0 else torch.ones(2, 1, dtype=torch.bool)
            got, want = (t.transpose(1, 2)[real] for t in (got.to_dense(), want))
            torch.testing.assert_close(got, want, atol=1e-5, rtol=0)


def test_packed_texts_are_apart_without_being_told_so():
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2, 3, 4, 5]])
    with torch.no_grad():
        model = llama("regard")
        packed = model(TEXT[:1], position_ids=positions, use_cache=False, output_attentions=True)
        alone = model(TEXT[:1, 4:], use_cache=False)
    torch.testing.assert_close(packed.logits[:, 4:], alone.logits, atol=1e-5, rtol=0)
    assert "documents" in repr(packed.attentions[0].mask)


def test_a_mask_of_ones_own_is_the_mask():
    own = torch.rand(2, 1, 10, 10) < 0.6
    own |= torch.eye(10, dtype=torch.bool)
    with torch.no_grad():
        weights = llama("regard")(TEXT, attention_mask=own, output_attentions=True).attentions[1].to_dense()
    assert torch.equal(weights > 0, own.expand(2, 4, 10, 10))


@pytest.mark.parametrize("side", ["left", "right"])
def test_training_has_the_gradients_of_eager(side):
    # In float32: eager attention casts its mask to float32, where float64's least is -inf, and a row of padding is NaN.
    mask = LEFT if side == "left" else LEFT.flip(1)
    labels = TEXT.masked_fill(mask == 0, -100)
    if side == "left":
        labels[1, 3] = -100  # what the last token of padding predicts
    grads = {}
    for attn in ("eager", "regard"):
        model = llama(attn).train()
        model(TEXT, attention_mask=mask, labels=labels).loss.backward()
        grads[attn] = {name: p.grad for name, p in model.named_parameters()}
    for name, true in grads["eager"].items():
        torch.testing.assert_close(grads["regard"][name], true, atol=1e-5, rtol=1e-4)
        assert true.abs().max() > 1e-3, name


def test_training_with_dropout_checkpoints_and_a_term_of_the_weights():
    torch.manual_seed(0)
    model = llama("regard", attention_dropout=0.2).train()
    outputs = model(TEXT, output_attentions=True)
    (outputs.logits.square().mean() + outputs.attentions[1].entropy().mean()).backward()
    assert model.model.layers[1].self_attn.q_proj.weight.grad.abs().max() > 0
    plain = {name: p.grad.clone() for name, p in _trained(llama("regard"), checkpoint=False)}
    for name, p in _trained(llama("regard"), checkpoint=True):
        torch.testing.assert_close(p.grad, plain[name], atol=1e-6, rtol=1e-5)


def _trained(model, *, checkpoint: bool):
    model.train()
    if checkpoint:
        model.activation_checkpointing_enable()
    model(TEXT, attention_mask=LEFT, labels=TEXT, use_cache=False).loss.backward()
    return list(model.named_parameters())


def test_compiled_it_gives_what_it_gives():
    model = llama("regard")
    with torch.no_grad():
        plain = model(TEXT, attention_mask=LEFT, use_cache=False).logits
        compiled = torch.compile(model, backend="eager")(TEXT, attention_mask=LEFT, use_cache=False).logits
    torch.testing.assert_close(compiled[LEFT.bool()], plain[LEFT.bool()], atol=1e-5, rtol=0)


def test_a_long_text_under_a_window_makes_nothing_of_length_by_length():
    sizes = {**SIZES, "num_attention_heads": 2, "num_hidden_layers": 1, "num_key_value_heads": 1}
    config = transformers.MistralConfig(**sizes, sliding_window=64, attn_implementation="regard")
    torch.manual_seed(0)
    model = transformers.MistralModel(config).eval()
    length = 4096
    mask = torch.ones(1, length, dtype=torch.long)
    mask[:, :5] = 0

    def run() -> None:
        with torch.no_grad():
            weights = model(torch.arange(length)[None] % 99, attention_mask=mask, output_attentions=True).attentions[0]
        assert weights.plan.share < 0.05

    seen = largest_of(run)
    assert seen.elements < length * length // 8, seen.operation


def test_a_model_that_computes_by_hand_refuses_instead_of_being_wrong():
    torch.manual_seed(0)
    sizes = {key: PAIR[key] for key in ("vocab_size", "d_model", "decoder_layers", "decoder_attention_heads")}
    config = transformers.TrOCRConfig(**sizes, decoder_ffn_dim=48, attn_implementation="regard")
    model = transformers.TrOCRForCausalLM(config).eval()
    with pytest.raises(RuntimeError, match='use attn_implementation="eager" for it'):
        model(TEXT, attention_mask=LEFT)


def test_output_attentions_in_the_configuration_is_not_transformers_wish():
    with pytest.raises(ValueError, match=r"output_attentions.*not supported when using"):
        llama("regard").config.output_attentions = True


def test_watching_records_the_same_weights():
    model = llama("regard")
    with torch.no_grad(), regard.watch(model) as seen:
        outputs = model(TEXT, attention_mask=LEFT, output_attentions=True)
    assert [record.function for record in seen] == ["regard.attention"] * 2
    for record, weights in zip(seen, outputs.attentions, strict=True):
        assert torch.equal(record.weights.to_dense(), weights.to_dense())
