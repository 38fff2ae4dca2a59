"""What the processes of the tests of positions run: layers and embeddings over a text that is cut."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.asked import BATCH, LENGTH, difference
from torch import Tensor, nn

import regard
from regard import masks, positions
from regard.distributed import context_parallel

WIDTH = 16

POSITIONS: dict[str, Callable[[], positions.Positions]] = {
    "rotary": lambda: positions.Rotary(4),
    "interleaved": lambda: positions.Rotary(4, pairing="interleaved"),
    "by length": lambda: positions.Rotary(4, scaling=positions.DynamicNTK(2.0, LENGTH // 2)),
    "alibi": lambda: positions.ALiBi(4),
}


def positioned(some: Any, name: str, order: str) -> tuple[float, float]:
    """A layer with positions on shares beside the same layer on the whole: output, and gradients of parameters."""
    torch.manual_seed(0)
    layer = regard.MultiHeadAttention(WIDTH, 4, num_kv_heads=2, positions=POSITIONS[name](), mask=masks.causal())
    offset = None if name == "alibi" else torch.tensor([0, 5]) if name == "rotary" else 3
    return _beside(some, order, layer.double(), {"offset": offset})


def added(some: Any, name: str, order: str) -> tuple[float, float]:
    """Embeddings with positions added, on shares beside the whole."""
    torch.manual_seed(0)
    made = regard.PositionalEncoding(WIDTH, LENGTH + 3), positions.LearnedPositions(LENGTH + 3, WIDTH).double()
    return _beside(some, order, made[name == "learned"], {"offset": 3})


def latent(some: Any, order: str) -> tuple[float, float]:
    """A layer of latent attention on shares beside the whole."""
    torch.manual_seed(0)
    layer = regard.LatentAttention(WIDTH, 4, kv_rank=6, nope_dim=4, rotary_dim=2, v_dim=4).double()
    return _beside(some, order, layer, {"mask": masks.causal()})


def _beside(some: Any, order: str, layer: nn.Module, given: dict[str, Any]) -> tuple[float, float]:
    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
    leaves = [x, *layer.parameters()]
    truth: Tensor = layer(x, **given)
    wanted = torch.autograd.grad(truth.square().sum(), leaves)
    parallel = context_parallel(some, order=order)
    with parallel:
        out = layer(parallel.shard(x, 1), **given)
    worst = 0.0
    for gradient, share in zip(wanted, torch.autograd.grad(out.square().sum(), leaves), strict=True):
        dist.all_reduce(share, group=some)
        worst = max(worst, difference(share, gradient))
    return difference(parallel.unshard(out.detach(), 1), truth.detach()), worst
