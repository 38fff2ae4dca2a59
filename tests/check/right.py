"""Right attentions, in the ways in which people write them."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard


def sdpa() -> Any:
    return F.scaled_dot_product_attention


def einsum_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    scores = torch.einsum("bhld,bhsd->bhls", q, k) / math.sqrt(q.shape[-1])
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return torch.einsum("bhls,bhsd->bhld", scores.softmax(-1), v)


def bmm_attention(Q: Tensor, K: Tensor, V: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    scores = torch.bmm(Q, K.transpose(1, 2)) / Q.shape[-1] ** 0.5
    if mask is not None:
        scores = scores.masked_fill(mask == 0, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1)
    return torch.bmm(weights, V), weights


def numpy_attention(q: Any, k: Any, v: Any, mask: Any = None) -> Any:
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    if mask is not None:
        scores = np.where(mask, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v


def online_softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Keys in blocks of 16, as the fused kernels read them; a row without keys gives 0."""
    shape = (*q.shape[:-1], k.shape[-2])
    top = q.new_full((*q.shape[:-1], 1), -math.inf)
    total, output = torch.zeros_like(top), q.new_zeros(*q.shape[:-1], v.shape[-1])
    for start in range(0, k.shape[-2], 16):
        part = slice(start, start + 16)
        scores = q @ k[..., part, :].mT / math.sqrt(q.shape[-1])
        if mask is not None:
            scores = scores.masked_fill(~mask.expand(shape)[..., part], -math.inf)
        new = torch.maximum(top, scores.amax(-1, keepdim=True)).detach()
        safe = torch.where(new == -math.inf, 0, new)
        weights, old = torch.exp(scores - safe), torch.exp(top - safe)
        total = total * old + weights.sum(-1, keepdim=True)
        output = output * old + weights @ v[..., part, :]
        top = new
    return output / torch.where(total == 0, 1, total)


def length_first(query: Tensor, key: Tensor, value: Tensor, *, causal: bool = False) -> Tensor:
    """(B, L, H, D) and causal from the bottom right, as flash-attn has it."""
    q, k, v = (t.transpose(1, 2) for t in (query, key, value))
    scores = q @ k.mT * q.shape[-1] ** -0.5
    if causal:
        lower = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(k.shape[-2] - q.shape[-2])
        scores = scores.masked_fill(~lower, -math.inf)
    return torch.nan_to_num(scores.softmax(-1)).matmul(v).transpose(1, 2)


class HeadByHead(nn.Module):
    """As the course has it: a list of heads and W^O."""

    def __init__(self, d_model: int, num_heads: int) -> None:
        super().__init__()
        self.heads = nn.ModuleList(Head(d_model, d_model // num_heads) for _ in range(num_heads))
        self.W_o = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return self.W_o(torch.cat([head(x, mask) for head in self.heads], dim=-1))


class Head(nn.Module):
    def __init__(self, d_in: int, d_k: int) -> None:
        super().__init__()
        self.W_q, self.W_k, self.W_v = nn.Linear(d_in, d_k), nn.Linear(d_in, d_k), nn.Linear(d_in, d_k)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        scores = self.W_q(x) @ self.W_k(x).mT / self.W_q(x).shape[-1] ** 0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf"))
        return scores.softmax(-1) @ self.W_v(x)


class CausalSelfAttention(nn.Module):
    """A small decoder's: a configuration, one fused projection, always causal, dropout."""

    def __init__(self, config: Any) -> None:
        super().__init__()
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.n_head, self.dropout = config.n_head, config.dropout
        self.resid_dropout = nn.Dropout(config.dropout)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = (t.unflatten(-1, (self.n_head, -1)).transpose(1, 2) for t in self.c_attn(x).chunk(3, -1))
        p = self.dropout if self.training else 0.0
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=True)
        return self.resid_dropout(self.c_proj(y.transpose(1, 2).flatten(2)))


def flex() -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return flex_attention


def hugging_face_eager() -> Any:
    from transformers.models.llama.modeling_llama import eager_attention_forward

    return eager_attention_forward


def hugging_face_sdpa() -> Any:
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    return sdpa_attention_forward


def x_transformers() -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it uses torch.jit.script, which is deprecated
        from x_transformers.x_transformers import Attention
    torch.manual_seed(0)
    return Attention(24, heads=3, dim_head=8)


def torch_module(*, batch_first: bool, training: bool) -> Any:
    torch.manual_seed(0)
    return nn.MultiheadAttention(24, 3, batch_first=batch_first).train(training)


def regard_layer() -> Any:
    torch.manual_seed(0)
    return regard.MultiHeadAttention(24, 6, num_kv_heads=2)


RIGHT: dict[str, Callable[[], Any]] = {
    "sdpa": sdpa,
    "einsum": lambda: einsum_attention,
    "bmm": lambda: bmm_attention,
    "numpy": lambda: numpy_attention,
    "online softmax": lambda: online_softmax,
    "length first": lambda: length_first,
    "flex": flex,
    "nn.MultiheadAttention": lambda: torch_module(batch_first=True, training=False),
    "nn.MultiheadAttention, training": lambda: torch_module(batch_first=True, training=True),
    "nn.MultiheadAttention, length first": lambda: torch_module(batch_first=False, training=False),
    "Hugging Face eager": hugging_face_eager,
    "Hugging Face sdpa": hugging_face_sdpa,
    "x-transformers": x_transformers,
    "head by head": lambda: HeadByHead(24, 3),
    "always causal": lambda: CausalSelfAttention,
    "regard": lambda: regard.attention,
    "regard's layer": regard_layer,
}
NEEDS = {"Hugging Face eager": "transformers", "Hugging Face sdpa": "transformers", "x-transformers": "x_transformers"}
