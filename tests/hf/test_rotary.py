"""Rotary positions of configurations: those of the RotaryEmbedding of every architecture, or refused by name."""

from __future__ import annotations

import importlib
import inspect
import re
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

import regard
from regard.hf.load_rotary import KINDS

LENGTHS = (12, 90)
ORIGINAL = 64
EPS = torch.finfo(torch.float32).eps

SCALINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "linear": {"factor": 4.0},
    "dynamic": {"factor": 4.0},
    "yarn": {"factor": 8.0, "original_max_position_embeddings": ORIGINAL},
    "yarn, all": {
        "factor": 8.0,
        "original_max_position_embeddings": ORIGINAL,
        "beta_fast": 16,
        "beta_slow": 2,
        "mscale": 0.8,
        "mscale_all_dim": 0.6,
        "truncate": False,
    },
    "yarn, null": {"factor": 8.0, "original_max_position_embeddings": ORIGINAL, "truncate": None},
    "llama3": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": ORIGINAL,
    },
    "longrope": {"factor": 4.0, "original_max_position_embeddings": ORIGINAL},
}


def config_of(model_type: str, **fields: Any) -> Any:
    return CONFIG_MAPPING[model_type](**fields)


def embedding_of(config: Any) -> tuple[nn.Module, Any]:
    """The RotaryEmbedding that the architecture's models make of a configuration, and the module it is in."""
    name = type(config).__module__.replace("configuration_", "modeling_")
    modeling = importlib.import_module(name)
    own = type(config).__name__.removesuffix("Config").removesuffix("Text")
    classes = {n: c for n, c in vars(modeling).items() if n.endswith("RotaryEmbedding") and inspect.isclass(c)}
    assert len(classes) == 1, f"{own}: {sorted(classes)}"
    return next(iter(classes.values()))(config=config), modeling


def scores_of_theirs(config: Any, q: Tensor, k: Tensor, layer_type: str | None) -> Tensor:
    """Products of rotated queries and keys, by the functions of the architecture."""
    embedding, modeling = embedding_of(config)
    positions = torch.arange(q.shape[-2])[None]
    cos, sin = embedding(q, positions) if layer_type is None else embedding(q, positions, layer_type=layer_type)
    apply = modeling.apply_rotary_pos_emb
    if getattr(config, "rope_interleave", False):
        apply = modeling.apply_rotary_pos_emb_interleave
    rotated = cos.shape[-1] * (2 if config.model_type == "gpt_oss" else 1)
    ours = apply(q[..., :rotated], k[..., :rotated], cos, sin)
    q, k = (torch.cat([r, t[..., rotated:]], -1) for r, t in zip(ours, (q, k), strict=True))
    return q @ k.mT


def compare(config: Any, layer_type: str | None = None) -> None:
    rotary = regard.hf.rotary(config, layer_type=layer_type)
    for length in LENGTHS:
        torch.manual_seed(0)
        q, k = torch.randn(2, 1, 2, length, rotary.dim).unbind(0)
        expected = scores_of_theirs(config, q, k, layer_type)
        turned = rotary.rotate(q, k)
        # Frequencies in float32 are off by some roundings, and an angle by that times its position.
        size = (q.norm(dim=-1)[..., None] * k.norm(dim=-1)[..., None, :]).max().item()
        scale = expected.abs().max().item() / (q @ k.mT).abs().max().item()
        tolerance = 4 * EPS * length * size * max(scale, 1.0)
        torch.testing.assert_close(turned[0] @ turned[1].mT, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("model_type", sorted(KINDS))
def test_default_configurations(model_type):
    config = config_of(model_type)
    if model_type == "glm4_moe":  # half of a head of 42 columns, of which transformers rotates 22
        with pytest.raises(ValueError, match=r"which rotates 21 of 42 columns; the number must be even"):
            regard.hf.rotary(config)
        return
    for layer_type in sorted(set(config.layer_types)) if KINDS[model_type].by_layer else [None]:
        compare(config, layer_type)


@pytest.mark.parametrize("wrong", [{"factor": "2"}, {"factor": None}, {"factor": 2.0, "rope_theta": None}])
def test_parameters_that_are_no_numbers(wrong):
    config = config_of("llama")
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 1e4, **wrong}
    with pytest.raises(
        ValueError, match=r"config\.rope_parameters must hold numbers, got \{'rope_type': 'linear', .*: "
    ):
        regard.hf.rotary(config)


@pytest.mark.parametrize("model_type", sorted(KINDS))
def test_every_scaling(model_type):
    kind = KINDS[model_type]
    for name, scaling in SCALINGS.items():
        if model_type == "phi3" and name not in ("default", "longrope"):
            continue  # its configuration takes no other
        given = {"rope_type": name.partition(",")[0], "rope_theta": 20000.0, **scaling}
        if kind.partial:
            given["partial_rotary_factor"] = 0.5
        width = 16 // 2 if kind.partial else 16
        if name == "longrope":
            given |= {"short_factor": [1.0 + i / 8 for i in range(width // 2)]}
            given |= {"long_factor": [2.0 + i for i in range(width // 2)]}
        fields: dict[str, Any] = {"head_dim": 16, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4}
        if "qk_rope_head_dim" in dir(CONFIG_MAPPING[model_type]):
            fields = {"qk_rope_head_dim": 16}
        if model_type == "falcon":
            del fields["head_dim"]  # always hidden_size / num_attention_heads
        nested = {"full_attention": given, "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
        fields["rope_parameters"] = nested if kind.by_layer else given
        if model_type == "phi3":
            fields["original_max_position_embeddings"] = ORIGINAL
        config = config_of(model_type, max_position_embeddings=64, **fields)
        compare(config, "full_attention" if kind.by_layer else None)


def test_other_architectures_are_refused_by_name():
    others = sorted(set(CONFIG_MAPPING.keys()) - set(KINDS))
    assert len(others) > 300
    for name in others:
        with pytest.raises(ValueError, match=rf"model_type '{re.escape(name)}'; known are apertus, arcee, "):
            regard.hf.rotary(SimpleNamespace(model_type=name))


def llama(**fields: Any) -> Any:
    return config_of("llama", head_dim=8, **fields)


def test_frequencies_by_hand():
    rotary = regard.hf.rotary(llama(rope_parameters={"rope_type": "linear", "rope_theta": 16.0, "factor": 2.0}))
    # 16^(-i / 4) / 2 for i = 0..3: pairs of columns i and i + 4 turn by 1/2, 1/4, 1/8 and 1/16 a position.
    x = torch.eye(8)[:4].unsqueeze(1)  # (4, 1, 8)
    angles = torch.tensor([1 / 2, 1 / 4, 1 / 8, 1 / 16]) * 3
    turned, _ = rotary.rotate(x, x, offset=3)
    expected = torch.diag(angles.cos()), torch.diag(angles.sin())
    torch.testing.assert_close(turned[:, 0], torch.cat(expected, dim=1), rtol=0, atol=4 * EPS)


def test_scores_depend_on_the_distance_alone():
    rotary = regard.hf.rotary(config_of("glm", head_dim=16))
    torch.manual_seed(0)
    q, k = torch.randn(2, 1, 4, 16).unbind(0)
    first, second = (rotary.rotate(q, k, offset=offset) for offset in (0, 50))
    # An angle of 50 radians carries a rounding of 50 half eps.
    size = (q.norm() * k.norm()).item()
    torch.testing.assert_close(first[0] @ first[1].mT, second[0] @ second[1].mT, rtol=0, atol=50 * EPS * size)


def test_a_configuration_is_left_as_it_was():
    config = config_of("phi3", rope_parameters={"rope_type": "default", "rope_theta": 100.0})
    before = config.to_dict()
    regard.hf.rotary(config)
    assert config.to_dict() == before


def test_the_factor_of_a_part_is_not_that_of_the_rotated_width_of_deepseek():
    given = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.5}
    config = config_of("deepseek_v3", qk_rope_head_dim=16, rope_parameters=given)
    assert regard.hf.rotary(config).rotary_dim == 16
    compare(config)


@pytest.mark.parametrize("alpha", [1000.0, None])
def test_the_alpha_of_hunyuan(alpha):
    given = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0, "alpha": alpha}
    config = config_of("hunyuan_v1_dense", head_dim=16, max_position_embeddings=64, rope_parameters=given)
    assert (regard.hf.rotary(config).scaling is None) == (alpha is not None)
    compare(config)


def test_what_regard_has_not_is_named():
    proportional = {"rope_type": "proportional", "rope_theta": 100.0}
    with pytest.raises(
        ValueError, match="rope_type='proportional', which regard's rotary positions have not; they have"
    ):
        regard.hf.rotary(llama(rope_parameters=proportional))


def test_a_part_of_a_head_where_the_architecture_rotates_all_of_it():
    given = {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0, "partial_rotary_factor": 0.5}
    with pytest.raises(ValueError, match=r"partial_rotary_factor=0\.5, but this architecture rotates whole heads"):
        regard.hf.rotary(llama(rope_parameters=given))


def test_an_odd_number_of_columns():
    given = {"rope_type": "default", "rope_theta": 100.0, "partial_rotary_factor": 0.2}
    with pytest.raises(
        ValueError, match=r"partial_rotary_factor=0\.2, which rotates 3 of 16 columns; the number must be"
    ):
        regard.hf.rotary(config_of("glm", head_dim=16, rope_parameters=given))


def test_a_layer_type_that_is_not_there():
    config = config_of("gemma3_text")
    with pytest.raises(ValueError, match=r"layer_type must be one of .*full_attention.*, got None"):
        regard.hf.rotary(config)


def test_parameters_that_are_missing():
    config = llama()
    config.rope_parameters = None
    with pytest.raises(ValueError, match="rope_parameters must hold rope_theta, got None"):
        regard.hf.rotary(config)
    config.rope_parameters = {"full_attention": {"rope_theta": 100.0}}
    with pytest.raises(
        ValueError, match=r"one set of parameters for all layers of a llama model, got the keys \['full"
    ):
        regard.hf.rotary(config)


def test_parameters_that_a_type_needs():
    config = llama()
    config.rope_parameters = {"rope_type": "linear", "rope_theta": 100.0}
    with pytest.raises(ValueError, match="rope_type='linear' and must have factor"):
        regard.hf.rotary(config)
