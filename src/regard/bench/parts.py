"""The layer of a language model beside that of Hugging Face, with the same weights, and what rotary positions cost."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import regard
from regard.bench.case import Bar, Case, Duel
from regard.bench.compare import within_budget
from regard.bench.peers import _module, _quiet
from regard.bench.timing import Subject
from regard.positions import Rotary

__all__ = ["CASES", "decode_duel", "forward_duel", "rotary_duel"]

# Products of a thousand terms may sum in parts or in one run, which is off by up to twice as much, two of them in a
# layer; what is twice that is wrong.
ORDERS = 8


def forward_duel(query_len: int = 2048, d_in: int = 1024, num_heads: int = 16, num_kv_heads: int = 4) -> Duel:
    """Causal self-attention with rotary positions over (1, query_len, d_in) in float32, without gradients.

    Args:
        query_len: L.
        d_in: the width of the input.
        num_heads: H.
        num_kv_heads: Hkv.

    Raises:
        Missing: transformers is not installed.
    """
    theirs, rotary = _llama_attention(d_in, num_heads, num_kv_heads, query_len)
    ours = _as_ours(theirs, d_in, num_heads, num_kv_heads)
    x = torch.randn(1, query_len, d_in, generator=torch.Generator().manual_seed(0))
    turns = rotary(x, torch.arange(query_len)[None])  # theirs are made once for all layers of a model

    @torch.inference_mode()
    def run_ours(_: object) -> Tensor:
        out: Tensor = ours(x)
        return out

    @torch.inference_mode()
    def run_theirs(_: object) -> Tensor:
        out: Tensor = theirs(x, turns, attention_mask=None)[0]
        return out

    def check() -> str:
        truth = ours.double()(x.double()).detach()
        ours.float()
        used = within_budget("output", run_ours(None), run_theirs(None), truth, times=ORDERS)
        return f"output against the layer in float64: {used:.2f} of the budget"

    return Duel(Subject("regard.MultiHeadAttention", run_ours), Subject("LlamaAttention, sdpa", run_theirs), check)


def decode_duel(key_len: int = 4096, d_in: int = 1024, num_heads: int = 16, num_kv_heads: int = 4) -> Duel:
    """One token (1, 1, d_in) after key_len - 1 others in a cache; what the last call added is dropped first.

    Args:
        key_len: S, with the token.
        d_in: the width of the input.
        num_heads: H.
        num_kv_heads: Hkv.

    Raises:
        Missing: transformers is not installed.
    """
    theirs, rotary = _llama_attention(d_in, num_heads, num_kv_heads, key_len)
    ours = _as_ours(theirs, d_in, num_heads, num_kv_heads)
    generator = torch.Generator().manual_seed(0)
    before, x = torch.randn(1, key_len - 1, d_in, generator=generator), torch.randn(1, 1, d_in, generator=generator)
    positions = torch.arange(key_len)[None]
    theirs_cache, cache = _module("transformers").DynamicCache(), ours.kv_cache(1, key_len)
    with torch.inference_mode():
        ours(before, cache=cache)
        theirs(before, rotary(before, positions[:, :-1]), attention_mask=None, past_key_values=theirs_cache)
    turns = rotary(x, positions[:, -1:])

    @torch.inference_mode()
    def run_ours(_: object) -> Tensor:
        cache.crop(key_len - 1)
        out: Tensor = ours(x, cache=cache)
        return out

    @torch.inference_mode()
    def run_theirs(_: object) -> Tensor:
        more = theirs_cache.get_seq_length() - (key_len - 1)
        if more:
            theirs_cache.crop(-more)
        out: Tensor = theirs(x, turns, attention_mask=None, past_key_values=theirs_cache)[0]
        return out

    def check() -> str:
        truth = ours.double()(torch.cat([before, x], dim=1).double())[:, -1:].detach()
        ours.float()
        used = within_budget("output", run_ours(None), run_theirs(None), truth, times=ORDERS)
        return f"output against the layer over the whole text in float64: {used:.2f} of the budget"

    return Duel(
        Subject("regard.MultiHeadAttention", run_ours),
        Subject("LlamaAttention, sdpa, DynamicCache", run_theirs),
        check,
    )


def rotary_duel(query_len: int = 2048, width: int = 64, num_heads: int = 16, num_kv_heads: int = 4) -> Duel:
    """Rotary positions of q (1, num_heads, query_len, width) and k, beside a copy of each.

    Args:
        query_len: L.
        width: D.
        num_heads: H.
        num_kv_heads: Hkv.
    """
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(1, num_heads, query_len, width, generator=generator)
    k = torch.randn(1, num_kv_heads, query_len, width, generator=generator)
    positions = Rotary(width)

    @torch.inference_mode()
    def turn(_: object) -> tuple[Tensor, Tensor]:
        return positions.rotate(q, k)

    def copy(_: object) -> tuple[Tensor, Tensor]:
        return q.clone(), k.clone()

    def check() -> str:
        used = 0.0
        for name, t, got in zip("qk", (q, k), turn(None), strict=True):
            truth = _turned(t.double())
            used = max(used, within_budget(name, got, truth.float(), truth, times=ORDERS))
        return f"both against complex numbers in float64: {used:.2f} of the budget"

    return Duel(Subject("Rotary.rotate", turn), Subject("a copy of q and of k", copy), check)


def _turned(t: Tensor, base: float = 10000.0) -> Tensor:
    """``(a + ib) e^(i p theta)`` for the pairs (a, b) of the two halves of each row."""
    length, width = t.shape[-2:]
    theta = base ** -(torch.arange(0, width, 2, dtype=torch.float64) / width)  # (D / 2,)
    angles = torch.arange(length, dtype=torch.float64)[:, None] * theta  # (L, D / 2)
    turned = torch.complex(*t.chunk(2, dim=-1)) * torch.polar(torch.ones_like(angles), angles)
    return torch.cat([turned.real, turned.imag], dim=-1)


def _llama_attention(d_in: int, num_heads: int, num_kv_heads: int, max_len: int) -> tuple[nn.Module, nn.Module]:
    """Hugging Face's layer with random weights, and what makes its cos and sin."""
    llama = _module("transformers.models.llama.modeling_llama")
    config: Any = _module("transformers").LlamaConfig(
        hidden_size=d_in,
        num_attention_heads=num_heads,
        num_key_value_heads=num_kv_heads,
        max_position_embeddings=max_len,
        num_hidden_layers=1,
        attn_implementation="sdpa",
    )
    with torch.random.fork_rng(devices=[]), _quiet():
        torch.manual_seed(0)
        return llama.LlamaAttention(config, 0).eval(), llama.LlamaRotaryEmbedding(config)


def _as_ours(theirs: Any, d_in: int, num_heads: int, num_kv_heads: int) -> regard.MultiHeadAttention:
    """Regard's layer with the weights of Hugging Face's."""
    ours = regard.MultiHeadAttention(
        d_in,
        num_heads,
        num_kv_heads=num_kv_heads,
        bias=False,
        mask=regard.masks.causal(),
        positions=Rotary(d_in // num_heads),
    ).eval()
    with torch.no_grad():
        ours.in_proj.weight.copy_(torch.cat([theirs.q_proj.weight, theirs.k_proj.weight, theirs.v_proj.weight]))
        ours.out_proj.weight.copy_(theirs.o_proj.weight)
    return ours


SIZES = "d_in 1024, 16 heads over 4, rotary"
CASES = (
    Case(
        "layer-forward-hf",
        "parts",
        f"MultiHeadAttention (1, 2048, 1024), {SIZES}, beside LlamaAttention",
        forward_duel,
        (Bar("speedup", at_least=1),),
    ),
    Case(
        "layer-decode-hf",
        "parts",
        f"MultiHeadAttention, one token after 4095, {SIZES}, beside LlamaAttention",
        decode_duel,
        (Bar("speedup", at_least=2),),
    ),
    Case(
        "rotary",
        "parts",
        "Rotary of (1, 16, 2048, 64) and (1, 4, 2048, 64), beside copying them",
        rotary_duel,
        (Bar("ratio", 2),),
    ),
)
