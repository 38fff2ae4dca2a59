"""What the processes of the tests of extremes run: odd shapes, half precision, NaN, gradients of some, groups."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from tests.distributed.asked import difference
from torch import Tensor

import regard
from regard import masks
from regard.distributed import attend, context_parallel
from regard.masks import Mask


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def beside(
    some: Any, q: Tensor, k: Tensor, v: Tensor, mask: Mask | Tensor | None, way: str, order: str = "zigzag"
) -> float:
    """The largest difference of output, lse and gradients between these processes and one."""
    whole = [t.clone().requires_grad_() for t in (q, k, v)]
    out, weights = regard.attention(*whole, mask)
    grad = drawn(*out.shape, seed=3)
    wanted = torch.autograd.grad((out * grad).sum(), whole)
    parallel = context_parallel(some, strategy=way, order=order)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    ours, mine = parallel.attention(*(parallel.shard(t, -2) for t in leaves), mask)
    found = torch.autograd.grad((ours * parallel.shard(grad, -2)).sum(), leaves)
    worst = max(difference(parallel.unshard(ours, -2), out), difference(parallel.unshard(mine.lse, -1), weights.lse))
    for got, truth in zip(found, wanted, strict=True):
        total = got.clone()
        dist.all_reduce(total, group=some)
        worst = max(worst, difference(total, truth))
    return worst


def by_head(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (q + kv + h + b) % 3 != 0


def lengths(some: Any, way: str) -> dict[str, float]:
    """Queries and keys of different lengths, down to one token a piece."""
    found = {}
    for n, (query_len, key_len) in enumerate(((8, 32), (32, 8), (8, 8))):
        allowed = {
            "causal": masks.causal(),
            "band": masks.band(2, 3),
            "documents": masks.causal() & masks.documents(torch.arange(key_len) // 5),
            "prefix": masks.causal() | masks.prefix(3),
            "padding": masks.padding(torch.tensor([key_len // 2, key_len - 1])),
            "where": masks.where(by_head),
        }
        given = drawn(2, 4, query_len, 8), drawn(2, 4, key_len, 8, seed=1), drawn(2, 4, key_len, 6, seed=2)
        for m, (name, mask) in enumerate(allowed.items()):
            order = ("zigzag", "contiguous")[(n + m) % 2]
            found[f"{query_len} x {key_len} {name} {order}"] = beside(some, *given, mask, way, order)
    return found


def axes(some: Any, way: str) -> dict[str, float]:
    """Several batch axes, none, and no axis of heads."""
    q, k, v = drawn(2, 3, 4, 16, 8), drawn(2, 3, 4, 16, 8, seed=1), drawn(2, 3, 4, 16, 5, seed=2)
    coin = torch.rand(2, 3, 4, 16, 16, generator=torch.Generator().manual_seed(1)) > 0.5
    documents = masks.causal() & masks.documents(torch.arange(96).view(6, 16) // 5)
    found = {
        "documents": beside(some, q, k, v, documents, way),
        "dense": beside(some, q, k, v, coin, way),
        "dense, a batch axis": beside(some, q, k, v, coin[0, :, :1], way),
        "keys": beside(some, q, k, v, coin[0, 0, 0, 0], way),
        "rows": beside(some, q, k, v, coin[0, 0, 0, 0][:, None], way),
    }
    if way != "heads":
        found["(L, D)"] = beside(some, q[0, 0, 0], k[0, 0, 0], v[0, 0, 0], masks.causal(), way)
        found["(N, L, D)"] = beside(some, q[0, 0], k[0, 0], v[0, 0], coin[0, 0], way)
    return found


def none_at_all(some: Any, way: str) -> tuple[Any, ...]:
    """No queries, no keys, no sequences."""
    parallel = context_parallel(some, strategy=way)
    no_rows, _ = parallel.attention(drawn(1, 4, 0, 8), drawn(1, 4, 8, 8), drawn(1, 4, 8, 8))
    no_keys, weights = parallel.attention(drawn(1, 4, 8, 8), drawn(1, 4, 0, 8), drawn(1, 4, 0, 8))
    no_batch, _ = parallel.attention(*[drawn(0, 4, 8, 8)] * 3, masks.causal())
    counts = weights.entropy().count_nonzero().item(), no_keys.count_nonzero().item(), weights.lse.max().item()
    return tuple(no_rows.shape), tuple(no_batch.shape), *counts


def groups(some: Any, way: str, size: int) -> dict[str, float]:
    """Messages so small that key heads go out one or two at a time, under masks that differ by head."""
    before, attend.MESSAGE = attend.MESSAGE, size
    q, k, v = drawn(2, 8, 32, 8), drawn(2, 4, 32, 8, seed=1), drawn(2, 4, 32, 6, seed=2)
    allowed = {
        "where": masks.where(by_head),
        "not where": masks.causal() & ~masks.where(by_head),
        "dense": torch.rand(2, 8, 32, 32, generator=torch.Generator().manual_seed(1)) > 0.5,
    }
    try:
        return {name: beside(some, q, k, v, mask, way) for name, mask in allowed.items()}
    finally:
        attend.MESSAGE = before


def nothing_leaks(some: Any, way: str) -> dict[str, float]:
    """NaN and inf in keys nobody may read, and NaN in queries that read nothing."""
    q, k, v = drawn(2, 4, 32, 8), drawn(2, 4, 32, 8, seed=1), drawn(2, 4, 32, 8, seed=2)
    spoilt_q, spoilt_k, spoilt_v = q.clone(), k.clone(), v.clone()
    spoilt_q[:, :, :3], spoilt_k[1, :, 20:], spoilt_v[1, :, 20:] = torch.nan, torch.nan, torch.inf
    padded = masks.causal() & masks.padding(torch.tensor([32, 20]))
    found = {
        "keys": beside(some, q, spoilt_k, spoilt_v, padded, way),
        "rows": beside(some, spoilt_q, k, v, masks.causal(offset=-3), way),
    }
    parallel = context_parallel(some, strategy=way)
    _, mine = parallel.attention(*(parallel.shard(t, 2) for t in (q, spoilt_k, spoilt_v)), padded)
    truth = regard.attention(q, k, v, padded)[1]
    found["received"] = difference(mine.received(), truth.received())
    found["entropy"] = difference(parallel.unshard(mine.entropy(), 2), truth.entropy())
    found["some rows"] = difference(mine.rows([0, 31]), truth[:, :, [0, 31]])
    return found


def half(some: Any, way: str, dtype: torch.dtype, order: str) -> dict[str, float]:
    """The error in half precision, in errors of the truth when it is rounded once."""
    mask = masks.causal() & masks.window(9)
    given = [drawn(2, 4, 128, 16, seed=n, dtype=dtype) for n in range(4)]
    exact = [t.double().requires_grad_() for t in given[:3]]
    out, _ = regard.attention(*exact, mask)
    truths = [out, *torch.autograd.grad((out * given[3].double()).sum(), exact)]
    parallel = context_parallel(some, strategy=way, order=order)
    mine = [parallel.shard(t, 2).requires_grad_() for t in given[:3]]
    ours, _ = parallel.attention(*mine, mask)
    found = [ours, *torch.autograd.grad((ours * parallel.shard(given[3], 2)).sum(), mine)]
    return {
        name: (difference(parallel.unshard(got, 2).double(), truth) / difference(truth.to(dtype).double(), truth))
        for name, got, truth in zip(("output", "dq", "dk", "dv"), found, truths, strict=True)
    }


def autocast(some: Any, way: str) -> dict[str, Any]:
    parallel = context_parallel(some, strategy=way)
    q, k, v = (drawn(1, 4, 32, 8, seed=n, dtype=torch.float32) for n in range(3))
    out, weights = regard.attention(q.double(), k.double(), v.double(), masks.causal(), softcap=2.0)
    mine = [parallel.shard(t, 2).requires_grad_() for t in (q, k, v)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, seen = parallel.attention(*mine, masks.causal(), softcap=2.0)
        entropy, rows = seen.entropy(), seen.rows([0, 31])
        mixed, _ = parallel.attention(mine[0].bfloat16(), *mine[1:], masks.causal())
    return {
        "mixed": str(mixed.dtype),
        "output": difference(parallel.unshard(ours, 2).double(), out),
        "entropy": difference(parallel.unshard(entropy, 2).double(), weights.entropy()),
        "rows": difference(rows.double(), weights[:, :, [0, 31]]),
    }


def gradients(some: Any, way: str) -> list[Any]:
    """Which leaves have a gradient where only one asks for it, and what is without a graph."""
    parallel, found = context_parallel(some, strategy=way), []
    for which in range(3):
        mine = [parallel.shard(drawn(1, 4, 16, 8, seed=n), 2) for n in range(3)]
        mine[which].requires_grad_()
        parallel.attention(*mine, masks.causal())[0].sum().backward()
        found.append([t.grad is not None for t in mine])
    with torch.no_grad():
        found.append(parallel.attention(*mine, masks.causal())[0].requires_grad)
    with torch.inference_mode():
        mine = [parallel.shard(drawn(1, 4, 16, 8, seed=n), 2) for n in range(3)]
        out, weights = parallel.attention(*mine, masks.causal())
        found += [out.requires_grad, round(weights.received().sum().item(), 9)]
    return found


def gradients_on_one(some: Any) -> str:
    parallel = context_parallel(some)
    mine = [parallel.shard(drawn(1, 4, 16, 8, seed=n), 2) for n in range(3)]
    mine[0].requires_grad_(parallel.rank == 0)
    try:
        parallel.attention(*mine, masks.causal())
    except ValueError as error:
        return f"ValueError: {error}"
    return "nothing"


def unheard_of(some: Any) -> str:
    """An error of one process that is neither of the two that arguments have."""
    parallel = context_parallel(some)
    mine = [parallel.shard(drawn(1, 4, 16, 8, seed=n), 2) for n in range(3)]
    mask = masks.causal() & _Broken() if parallel.rank == 0 else masks.causal()
    try:
        parallel.attention(*mine, mask)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


class _Broken(masks.Mask):
    def allowed(self, *at: Any) -> Any:
        raise NotImplementedError

    def bind(self, sizes: Any) -> Any:
        raise OSError("the ids are on a disk that is not there")


def twice(some: Any, way: str) -> list[str]:
    """What a second derivative says, of a loss that is linear in the output and of one that is not."""
    parallel = context_parallel(some, strategy=way)
    mine = [parallel.shard(drawn(1, 4, 32, 8, seed=n), 2).requires_grad_() for n in range(3)]
    out, _ = parallel.attention(*mine, masks.causal())
    said = []
    for loss in (out.sum(), out.square().sum()):
        (first,) = torch.autograd.grad(loss, mine[:1], create_graph=True)
        try:
            first.square().sum().backward(retain_graph=True)
        except RuntimeError as error:
            said.append(str(error))
        else:
            said.append("nothing")
    return said


def odd_ranks(way: str) -> float:
    """A group that is not of the first processes."""
    some = dist.new_group([1, 3])
    if dist.get_rank() not in (1, 3):
        return 0.0
    return beside(some, drawn(1, 4, 16, 8), drawn(1, 4, 16, 8, seed=1), drawn(1, 4, 16, 8, seed=2), masks.causal(), way)


def two_at_once(some: Any) -> list[float]:
    """Two ways whose forward and backward passes alternate."""
    whole = [drawn(1, 4, 32, 8, seed=n) for n in range(3)]
    truth, _ = regard.attention(*whole, masks.causal())
    ways = context_parallel(some, strategy="ring"), context_parallel(some, strategy="gather", order="contiguous")
    mine = [[p.shard(t, 2).requires_grad_() for t in whole] for p in ways]
    outs = [p.attention(*given, masks.causal())[0] for p, given in zip(ways, mine, strict=True)]
    (outs[0].sum() + outs[1].sum()).backward()
    grads = [p.unshard(given[0].grad, 2) for p, given in zip(ways, mine, strict=True)]
    return [*(difference(p.unshard(o, 2), truth) for p, o in zip(ways, outs, strict=True)), difference(*grads)]
