"""A small causal model whose queries and keys are at hand, and what should be logged of them, densely in float64."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from regard import reference

HEADS, KV_HEADS, WIDTH = 4, 2, 8


class Attention(nn.Module):
    """Grouped heads, causal, through torch's own op; ``calls`` of it in one forward."""

    def __init__(self, calls: int = 1) -> None:
        super().__init__()
        self.q = nn.Linear(16, HEADS * WIDTH)
        self.kv = nn.Linear(16, KV_HEADS * WIDTH)
        self.out = nn.Linear(HEADS * WIDTH, 16)
        self.calls = calls
        self.was_given: list[tuple[Tensor, Tensor, Tensor | None]] = []

    def forward(self, x: Tensor, allowed: Tensor | None) -> Tensor:
        for _ in range(self.calls):
            q = 3 * self.q(x).unflatten(-1, (HEADS, WIDTH)).transpose(1, 2)  # (B, H, L, D)
            k = 3 * self.kv(x).unflatten(-1, (KV_HEADS, WIDTH)).transpose(1, 2)  # (B, Hkv, L, D)
            if not torch.compiler.is_compiling() and torch._C._current_graph_task_id() == -1:
                self.was_given.append((q.detach().double(), k.detach().double(), allowed))
            read = F.scaled_dot_product_attention(
                q, k, k, attn_mask=allowed, is_causal=allowed is None, enable_gqa=True, dropout_p=0.0
            )
            x = x + self.out(read.transpose(1, 2).flatten(-2))  # (B, L, 16)
        return x


class Model(nn.Module):
    def __init__(self, layers: int = 2, calls: int = 1) -> None:
        super().__init__()
        self.layers = nn.ModuleList(Attention(calls) for _ in range(layers))

    def forward(self, x: Tensor, allowed: Tensor | None = None) -> Tensor:
        for layer in self.layers:
            x = layer(x, allowed)
        return x.square().mean()

    def forget(self) -> None:
        for layer in self.layers:
            layer.was_given.clear()


def expected(layer: Attention) -> dict[str, Tensor]:
    """Entropy, largest logit and first-token mass of each head over all that the layer was given, (H,) float64."""
    entropies, logits, firsts = [], [], []
    for q, k, allowed in layer.was_given:
        length = q.shape[-2]
        if allowed is None:
            allowed = torch.ones(length, length, dtype=torch.bool).tril()
        allowed = allowed.expand(q.shape[0], HEADS, length, length)
        weights = reference.attention(q, k, k, allowed).weights
        rows = allowed.any(-1)
        entropy = -torch.special.xlogy(weights, weights).sum(-1)  # (B, H, L)
        scores = q @ k.repeat_interleave(HEADS // KV_HEADS, 1).mT / WIDTH**0.5
        largest = scores.masked_fill(~allowed, -torch.inf).amax(-1)
        for head in range(HEADS):
            real = rows[:, head]
            entropies.append((head, entropy[:, head][real]))
            logits.append((head, largest[:, head][real]))
            firsts.append((head, weights[:, head, :, 0][real]))

    def over(parts: list[tuple[int, Tensor]], head: int) -> Tensor:
        return torch.cat([t for at, t in parts if at == head])

    heads = range(HEADS)
    return {
        "entropy": torch.stack([over(entropies, head).mean() for head in heads]),
        "max_logit": torch.stack([over(logits, head).max() for head in heads]),
        "first_token": torch.stack([over(firsts, head).mean() for head in heads]),
    }
