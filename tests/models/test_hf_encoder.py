"""BERT and RoBERTa beside transformers itself: small ones with random weights, written to a folder and read."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from regard import masks
from regard.models import Encoder
from regard.models.hf_encoder import configuration

transformers = pytest.importorskip("transformers")

SIZES: dict[str, Any] = {
    "vocab_size": 61, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "max_position_embeddings": 40, "type_vocab_size": 2, "pad_token_id": 1,
}  # fmt: skip
CLASSES = ["BertModel", "BertForMaskedLM", "BertForPreTraining", "RobertaModel", "RobertaForMaskedLM"]
NEAR = {"rtol": 1e-4, "atol": 2e-5}


def theirs_of(name: str, **options: Any) -> Any:
    config = getattr(transformers, f"{name.partition('Model')[0].partition('For')[0]}Config")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = getattr(transformers, name)(config(**(SIZES | options), initializer_range=0.2)).eval()
    with torch.no_grad():  # norms of 1 and biases of 0 would hide a mistake
        for parameter in model.parameters():
            if parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.3)
    return model


def saved(model: Any, folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.save_pretrained(folder)
    return folder


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(2, 61, (2, 11))


@torch.no_grad()
@pytest.mark.parametrize("name", CLASSES)
def test_numbers_are_those_of_transformers(name: str, tokens: Tensor, tmp_path: Path):
    theirs = theirs_of(name)
    ours = Encoder.from_huggingface(saved(theirs, tmp_path))
    assert not ours.training
    tokens[1, 5:] = 1  # padding
    types = (torch.arange(11) > 4).long().expand(2, 11)
    wanted = theirs(tokens, token_type_ids=types, attention_mask=(tokens != 1).long(), output_hidden_states=True)
    got = ours(tokens, token_types=types, mask=masks.padding(torch.tensor([11, 5])))
    last = wanted.hidden_states[-1]
    for row, length in enumerate((11, 5)):
        torch.testing.assert_close(got[row, :length], last[row, :length], **NEAR)
    if "pooler_output" in wanted:
        torch.testing.assert_close(ours.pool(got), wanted.pooler_output, **NEAR)
    logits = wanted.get("logits", wanted.get("prediction_logits"))
    if logits is None:
        assert ours.head is None
    else:
        torch.testing.assert_close(ours.score(got)[0], logits[0], **NEAR)


@torch.no_grad()
def test_another_activation_and_all_types_of_zero(tokens: Tensor, tmp_path: Path):
    theirs = theirs_of("BertForMaskedLM", hidden_act="relu", layer_norm_eps=1e-3)
    ours = Encoder.from_huggingface(saved(theirs, tmp_path))
    torch.testing.assert_close(ours.score(ours(tokens)), theirs(tokens).logits, **NEAR)


@torch.no_grad()
def test_old_names_of_norms(tokens: Tensor, tmp_path: Path):
    from safetensors.torch import load_file, save_file

    theirs = theirs_of("BertForMaskedLM")
    path = saved(theirs, tmp_path) / "model.safetensors"
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in load_file(path).items()
    }
    renamed["bert.embeddings.position_ids"] = torch.arange(40)[None]
    save_file(renamed, path)
    ours = Encoder.from_huggingface(tmp_path)
    torch.testing.assert_close(ours.score(ours(tokens)), theirs(tokens).logits, **NEAR)


BASE = {"model_type": "bert", **SIZES}


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"model_type": "electra"}, "model_type='electra'; an Encoder can be bert, roberta"),
        ({"is_decoder": True}, "has is_decoder=True, which is not supported; False is"),
        ({"add_cross_attention": True}, "has add_cross_attention=True, which is not supported"),
        ({"position_embedding_type": "relative_key"}, "has position_embedding_type='relative_key', which is not"),
        ({"tie_word_embeddings": False}, "has tie_word_embeddings=False, which is not supported; True is"),
        ({"hidden_act": "mish"}, "has hidden_act='mish', which is not supported"),
        ({"embedding_size": 8}, "has embedding_size=8, which regard does not know: it may change what a bert computes"),
        ({"hidden_size": "32"}, "has hidden_size='32'; expected an integer of at least 1"),
        ({"hidden_dropout_prob": [0]}, r"has hidden_dropout_prob=\[0\]; expected a number"),
        ({"is_causal": True}, "has is_causal=True, which is not supported; False is"),
    ],
)
def test_what_would_change_the_numbers_is_refused_by_name(settings: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=words):
        configuration(BASE | settings)


@torch.no_grad()
def test_a_roberta_counts_the_tokens_that_are_not_padding(tokens: Tensor, tmp_path: Path):
    theirs = theirs_of("RobertaModel")
    ours = Encoder.from_huggingface(saved(theirs, tmp_path))
    assert ours.config.pad_token == 1
    tokens[:, 5] = 1
    torch.testing.assert_close(ours(tokens), theirs(tokens).last_hidden_state, **NEAR)
    tokens[1, :4] = 1  # padded on the left
    real = tokens != 1
    wanted = theirs(tokens, attention_mask=real.long()).last_hidden_state
    torch.testing.assert_close(ours(tokens, mask=masks.padding(real))[real], wanted[real], **NEAR)


@pytest.mark.parametrize("given", [None, -1, "1"])
def test_a_roberta_needs_its_padding_token(given: object):
    with pytest.raises(
        ValueError, match=f"has pad_token_id={given!r}, after which a roberta counts its positions; exp"
    ):
        configuration(BASE | {"model_type": "roberta", "pad_token_id": given})


def test_the_head_of_a_roberta_has_gelu_alone():
    raw = BASE | {"model_type": "roberta", "hidden_act": "relu"}
    assert configuration(raw).activation == "relu"
    with pytest.raises(ValueError, match="hidden_act='relu', and a roberta's head always has 'gelu'"):
        configuration(raw, masked_head=True)


def test_what_is_absent_is_what_transformers_takes_for_it():
    for kind, config in (("bert", transformers.BertConfig()), ("roberta", transformers.RobertaConfig())):
        named = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
        least = {name: getattr(config, name) for name in named}
        assert configuration({"model_type": kind, **least}) == configuration(config.to_dict() | {"model_type": kind})


def test_a_classifier_is_refused_by_the_names_of_its_tensors(tmp_path: Path):
    saved(theirs_of("BertForSequenceClassification"), tmp_path)
    with pytest.raises(ValueError, match=r"the files hold 'classifier.bias', 'classifier.weight', for which the model"):
        Encoder.from_huggingface(tmp_path)


def test_a_decoder_is_no_encoder(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(ValueError, match="model_type='llama'; an Encoder can be bert, roberta"):
        Encoder.from_huggingface(tmp_path)
