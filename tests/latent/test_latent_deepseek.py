"""Latent attention is the attention of transformers' DeepSeek-V3, with its weights put in by hand."""

from __future__ import annotations

import pytest
import torch
import transformers
from tests.latent.formula import HEADS, NOPE, RANK, ROTARY, VALUE, by_formula, causal, parameters
from transformers.models.deepseek_v3.modeling_deepseek_v3 import DeepseekV3Attention, DeepseekV3RotaryEmbedding

from regard import LatentAttention, masks
from regard.positions import Rotary

NAMES = {
    "q_proj": "q_proj", "q_a_proj": "q_down", "q_a_layernorm": "q_norm", "q_b_proj": "q_up",
    "kv_a_proj_with_mqa": "kv_down", "kv_a_layernorm": "kv_norm", "kv_b_proj": "kv_up", "o_proj": "out_proj",
}  # fmt: skip


def pair(*, q_rank: int | None, interleaved: bool) -> tuple[DeepseekV3Attention, LatentAttention, torch.Tensor]:
    """Their layer, ours, and the cosines and sines that theirs is handed, for 9 positions."""
    config = transformers.DeepseekV3Config(
        hidden_size=10, num_attention_heads=HEADS, num_key_value_heads=HEADS, q_lora_rank=q_rank, kv_lora_rank=RANK,
        qk_nope_head_dim=NOPE, qk_rope_head_dim=ROTARY, v_head_dim=VALUE, head_dim=ROTARY, attention_bias=True,
        rope_interleave=interleaved, attn_implementation="eager",
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = DeepseekV3Attention(config, 0).eval()
    for name, p in theirs.named_parameters():
        torch.nn.init.uniform_(p, 0.5, 1.5) if "norm" in name else torch.nn.init.normal_(p, std=0.5)
    positions = Rotary(ROTARY, pairing="interleaved" if interleaved else "halves")
    ours = LatentAttention(
        10, HEADS, q_rank=q_rank, kv_rank=RANK, nope_dim=NOPE, rotary_dim=ROTARY, v_dim=VALUE,
        bias=True if q_rank else ("kv", "out"), positions=positions,
    )  # fmt: skip
    state = {}
    for name, tensor in theirs.state_dict().items():
        part, kind = name.split(".")
        state[f"{NAMES[part]}.{kind}"] = tensor
    ours.load_state_dict(state)
    return theirs, ours, DeepseekV3RotaryEmbedding(config)(torch.zeros(1), torch.arange(9)[None])


@pytest.mark.parametrize("interleaved", [True, False])
@pytest.mark.parametrize("q_rank", [None, 9])
def test_it_is_deepseek_v3(q_rank, interleaved):
    theirs, ours, places = pair(q_rank=q_rank, interleaved=interleaved)
    x = torch.randn(2, 9, 10, requires_grad=True)
    added = torch.zeros(1, 1, 9, 9).masked_fill(~causal(9), torch.finfo(torch.float32).min)
    true, true_weights = theirs(x, places, added)
    found, weights = ours(x, mask=masks.causal(), need_weights=True)
    # Both round in float32, in another order: a chain of six products whose sums are below ten.
    near = {"rtol": 0, "atol": 6 * 10 * torch.finfo(torch.float32).eps}
    torch.testing.assert_close(found, true, **near)
    torch.testing.assert_close(weights.to_dense(), true_weights, **near)
    (true_grad,) = torch.autograd.grad(true.sum(), x)
    (found_grad,) = torch.autograd.grad(found.sum(), x)
    torch.testing.assert_close(found_grad, true_grad, rtol=0, atol=10 * near["atol"])
    cache = ours.latent_cache(2, 9)
    with torch.no_grad():
        parts = torch.cat([ours(part, cache=cache) for part in x.split([5, 1, 1, 2], 1)], 1)
    torch.testing.assert_close(parts, true, **near)
    if interleaved:
        exact, _ = by_formula(parameters(ours), x.double(), causal(9), scale=(NOPE + ROTARY) ** -0.5)
        error, theirs_off = ((out - exact).abs().max() for out in (parts, true))
        assert error <= 4 * theirs_off + 4 * torch.finfo(torch.float32).eps * exact.abs().max()
