"""Which configurations regard.hf.Cache is for: every decoder of transformers, or an error that says what it has."""

from __future__ import annotations

import re

import pytest
import torch
import transformers
from tests.hf.overrides import CONFIGS
from tests.hf.tiny_configs import tiny_config
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from regard import hf
from regard.hf.cache_layers import AttentionLayer


def test_layers_without_keys_are_those_of_transformers():
    config = transformers.Qwen3NextConfig(num_hidden_layers=4)
    cache = hf.Cache(config)
    assert [type(layer).__name__ for layer in cache.layers] == ["LinearAttentionLayer"] * 3 + ["AttentionLayer"]
    assert cache.is_linear == [True, True, True, False]


REFUSED = {
    "rwkv": (transformers.RwkvConfig, "no attention layers: RwkvConfig (rwkv) keeps a state"),
    "xlstm": (transformers.xLSTMConfig, "no attention layers: xLSTMConfig (xlstm) keeps a state"),
    "mamba": (transformers.MambaConfig, "no attention layers: MambaConfig (mamba) keeps a state"),
    "bert": (
        transformers.BertConfig,
        "reads its text at once and keeps nothing, as encoders do: BertConfig (bert); as a decoder it",
    ),
    "vit": (transformers.ViTConfig, "as encoders do: ViTConfig (vit)"),
    "eurobert": (transformers.EuroBertConfig, "as encoders do: EuroBertConfig (eurobert)"),
    "t5": (transformers.T5Config, "an encoder-decoder, T5Config (t5)"),
    "zamba": (transformers.ZambaConfig, "layers that regard.hf.Cache cannot keep: hybrid"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_it_is_not_for(name):
    config_class, message = REFUSED[name]
    with pytest.raises(ValueError, match=re.escape(message)):
        hf.Cache(config_class())


def test_arguments_that_do_not_fit():
    assert len(hf.Cache(transformers.BertConfig(is_decoder=True))) == 12
    assert len(hf.Cache(transformers.GPTNeoXConfig(num_hidden_layers=3))) == 3
    config = transformers.LlamaConfig(num_hidden_layers=2)
    with pytest.raises(TypeError, match=r"config must be a configuration of transformers, got int; .*model.config"):
        hf.Cache(3)
    with pytest.raises(ValueError, match="max_len must be at least 1, got 0"):
        hf.Cache(config, max_len=0)
    with pytest.raises(TypeError, match="spare must be an integer, got float"):
        hf.Cache(config, spare=1.0)
    with pytest.raises(ValueError, match=r"layer_idx must be one of the 2 layers .* got 2; .*hf.Cache\(model.config\)"):
        hf.Cache(config).update(torch.zeros(1, 2, 1, 4), torch.zeros(1, 2, 1, 4), 2)
    with pytest.raises(NotImplementedError, match="cannot be offloaded"):
        AttentionLayer().offload()


TEXT = torch.arange(20, 44).view(2, 12)
LEFT = torch.tensor([[1] * 12, [0] * 4 + [1] * 8])


def generated(model, **options) -> torch.Tensor:
    given = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False, "pad_token_id": 0, **options}
    return model.generate(TEXT, attention_mask=LEFT, **given)


@pytest.mark.thorough
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES))
def test_every_decoder_writes_the_same_text(name):
    found = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[name]
    torch.manual_seed(0)
    try:
        model_class = getattr(transformers, found if isinstance(found, str) else found[0])
        config = tiny_config(CONFIG_MAPPING[name], CONFIGS.get(name))
        model = model_class._from_config(config, attn_implementation="eager").eval()
        true = generated(model)
    except Exception as error:
        pytest.skip(f"no tiny model of this architecture writes a text: {error!r:.80}")
    try:
        cache = hf.Cache(model.config)
    except ValueError as error:
        pytest.skip(f"refused: {error}")
    if name == "minimax":
        with pytest.raises(ValueError, match="cache of its own"):  # the model says so
            generated(model, past_key_values=cache)
        return
    assert torch.equal(generated(model, past_key_values=cache), true)
