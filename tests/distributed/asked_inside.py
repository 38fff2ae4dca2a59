"""What the processes of the tests of a context run: whatever else attends inside of it."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from tests.distributed.asked import difference, inputs
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention
from torch.utils.checkpoint import checkpoint

import regard
from regard import masks
from regard.distributed import context_parallel

WIDTH = 32


def heads(parallel: Any) -> tuple[list[Tensor], list[Tensor]]:
    """query, key and value of 8 heads, whole and this rank's share."""
    q, k, v = inputs(torch.float64)[:3]
    whole = [q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)]
    return whole, [parallel.shard(t, 2) for t in whole]


def sdpa(some: Any, causal: bool, way: str) -> float:
    """torch's own function in a context beside the same on the whole."""
    parallel = context_parallel(some, strategy=way)
    whole, mine = heads(parallel)
    truth = F.scaled_dot_product_attention(*whole, is_causal=causal)
    with parallel:
        found = F.scaled_dot_product_attention(*mine, is_causal=causal)
        again = torch.ops.aten.scaled_dot_product_attention(*mine, is_causal=causal)
    return max(difference(parallel.unshard(t, 2), truth) for t in (found, again))


def weights_alone(some: Any) -> tuple[str, float]:
    parallel = context_parallel(some)
    (q, k, _), (my_q, my_k, _) = heads(parallel)
    with parallel:
        mine = regard.attention_weights(my_q, my_k, masks.causal())
    truth = regard.attention_weights(q, k, masks.causal())
    return type(mine).__name__, difference(mine.received(), truth.received())


def asked_for_itself(some: Any, way: str) -> float:
    """The method, called in a context of the same kind."""
    parallel = context_parallel(some, strategy=way)
    whole, mine = heads(parallel)
    with parallel:
        out, _ = parallel.attention(*mine, masks.causal())
    return difference(parallel.unshard(out, 2), regard.attention(*whole, masks.causal())[0])


def compiled(some: Any) -> float:
    parallel = context_parallel(some)
    whole, mine = heads(parallel)
    attend = torch.compile(lambda q, k, v: regard.attention(q, k, v, masks.causal())[0], backend="eager")
    attend(*mine)  # a graph is there, and must not be used
    with parallel:
        out = attend(*mine)
    return difference(parallel.unshard(out, 2), regard.attention(*whole, masks.causal())[0])


def checkpointed(some: Any, inside: bool) -> float:
    """The gradient through a checkpoint that computes again over the ranks."""
    parallel = context_parallel(some)
    layer = _layer()
    x = torch.randn(1, 16, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    (truth,) = torch.autograd.grad(layer(x, mask=masks.causal()).square().sum(), x)
    with parallel:
        context: Callable[[], Any] = lambda: (nullcontext(), parallel)  # noqa: E731
        given = parallel.shard(x, 1)
        out = checkpoint(lambda t: layer(t, mask=masks.causal()), given, use_reentrant=False, context_fn=context)
        if inside:
            out.square().sum().backward()
    if not inside:
        out.square().sum().backward()
    torch.distributed.all_reduce(x.grad, group=some)
    return difference(x.grad, truth)


def _layer() -> regard.MultiHeadAttention:
    torch.manual_seed(0)
    return regard.MultiHeadAttention(WIDTH, 4).double()


def _mha(x: Tensor, q: Tensor) -> Any:
    return nn.MultiheadAttention(WIDTH, 4, batch_first=True).double()(x, x, x)


@torch.no_grad()
def _mha_fast(x: Tensor, q: Tensor) -> Any:
    return nn.MultiheadAttention(WIDTH, 4, batch_first=True).double().eval()(x, x, x, need_weights=False)


@torch.no_grad()
def _encoder(x: Tensor, q: Tensor) -> Any:
    return nn.TransformerEncoderLayer(WIDTH, 4, batch_first=True).double().eval()(x)


@torch.no_grad()
def _cache(x: Tensor, q: Tensor) -> Any:
    layer = _layer()
    cache = layer.kv_cache(x.shape[0], 64)
    try:
        layer(x, cache=cache)
    finally:
        assert not cache.lengths.any()


@torch.no_grad()
def _latent(x: Tensor, q: Tensor) -> Any:
    layer = regard.LatentAttention(WIDTH, 4, kv_rank=6, nope_dim=4, rotary_dim=2, v_dim=4).double()
    layer(x, cache=layer.latent_cache(x.shape[0], 64))


def _reentrant(x: Tensor, q: Tensor) -> Any:
    layer = _layer()
    checkpoint(lambda t: layer(t, mask=masks.causal()), x.requires_grad_(), use_reentrant=True)


REFUSED: dict[str, Callable[[Tensor, Tensor], Any]] = {
    "mask": lambda x, q: F.scaled_dot_product_attention(q, q, q, torch.ones(8, 8, dtype=torch.bool)),
    "grouped": lambda x, q: F.scaled_dot_product_attention(q, q[:, :2], q[:, :2]),
    "dropout": lambda x, q: F.scaled_dot_product_attention(q, q, q, dropout_p=0.5),
    "mha": _mha,
    "mha fast": _mha_fast,
    "encoder": _encoder,
    "flex": lambda x, q: flex_attention(q, q, q),
    "cache": _cache,
    "latent cache": _latent,
    "reentrant": _reentrant,
}


def refused(some: Any, what: str) -> str:
    x, q = torch.randn(2, 8, WIDTH, dtype=torch.float64), torch.randn(2, 8, 8, 4, dtype=torch.float64)
    with context_parallel(some):
        try:
            REFUSED[what](x, q)
        except ValueError as error:
            return f"ValueError: {error}"
    return "nothing"


class _Torchs(nn.Module):
    def forward(self, q: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, q, q)


def watched(some: Any) -> str:
    """What a watch says of torch's own function in a context, which is given a share and attends to the whole."""
    model, q = _Torchs(), torch.randn(2, 8, 8, 4)
    with context_parallel(some), regard.watch(model) as seen:
        model(q)
    try:
        return f"weights {tuple(seen[0].weights.shape)}"
    except RuntimeError as error:
        return f"{type(error).__name__}: {error}"
