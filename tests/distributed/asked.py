"""What the processes of the tests run: functions of a module, so that they can be named to another process."""

from __future__ import annotations

import functools
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

import regard
from regard import masks
from regard.distributed import ContextParallel, context_parallel
from regard.masks import Mask

LENGTH, WIDTH, VALUE_WIDTH, HEADS, KV_HEADS, BATCH = 32, 16, 12, 8, 4, 2


@functools.cache
def group(world: int) -> Any:
    """The first ``world`` processes; every process makes it."""
    return dist.new_group(list(range(world)))


def on(world: int, function: Any, *args: Any) -> Any:
    """``function(group, *args)`` on the first ``world`` processes; None on the others."""
    some = group(world)
    return function(some, *args) if dist.get_rank() < world else None


def inputs(dtype: torch.dtype, seed: int = 0) -> list[Tensor]:
    """query, key, value, the gradient of the output, sinks: the same on every process."""
    generator = torch.Generator().manual_seed(seed)
    shapes = [
        (BATCH, HEADS, LENGTH, WIDTH),
        (BATCH, KV_HEADS, LENGTH, WIDTH),
        (BATCH, KV_HEADS, LENGTH, VALUE_WIDTH),
        (BATCH, HEADS, LENGTH, VALUE_WIDTH),
        (HEADS,),
    ]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in shapes]


def attended(attention: Any, q: Tensor, k: Tensor, v: Tensor, sinks: Tensor, g: Tensor, mask: Any, given: dict) -> Any:
    """The output, the weights, and a function of the loss whose gradients are compared: of output and lse."""
    options = {**given, "sinks": sinks} if given.get("sinks") else given
    out, weights = attention(q, k, v, mask, **options)
    return out, weights, (out * g).sum()


def errors(some: Any, strategy: str, order: str, mask: Mask | Tensor | None, given: dict) -> dict[str, float]:
    """The largest difference of output and gradients between these processes and one, by dtype."""
    parallel = context_parallel(some, strategy=strategy, order=order)
    found = {}
    for dtype in (torch.float64, torch.float32):
        q, k, v, g, sinks = inputs(dtype)
        leaves = [t.requires_grad_() for t in (q, k, v, sinks)]
        # One process in float64 is the truth; what is wrong with regard on one process is not asked here.
        exact = [t.detach().double().requires_grad_() for t in leaves]
        out, _, loss = attended(regard.attention, *exact, g.double(), mask, given)
        loss.backward()
        ours, _, loss = attended(
            parallel.attention, *(parallel.shard(t, 2) for t in leaves[:3]), sinks, parallel.shard(g, 2), mask, given
        )
        loss.backward()
        worst = (parallel.unshard(ours, 2) - out).abs().max().item()
        for mine, truth in zip(leaves, exact, strict=True):
            if truth.grad is not None:
                total = mine.grad.double()  # each process has the gradient of its share
                dist.all_reduce(total, group=some)
                worst = max(worst, (total - truth.grad).abs().max().item())
        found[str(dtype)[6:]] = worst
    return found


QUESTIONS = (
    "entropy",
    "max_logit",
    "distance",
    ("mass", [0, 3, 30]),
    ("topk", 5),
    "received",
    ("pool", 5, 7),
    ("pool", 5, 7, "max"),
)


def statistics(some: Any, strategy: str, order: str, mask: Mask | None, given: dict) -> dict[str, float]:
    """The largest difference between the answers of sharded and of whole weights, in float64."""
    parallel = context_parallel(some, strategy=strategy, order=order)
    q, k, v, g, sinks = inputs(torch.float64)
    _, theirs, _ = attended(regard.attention, q, k, v, sinks, g, mask, given)
    _, ours, _ = attended(
        parallel.attention, *(parallel.shard(t, 2) for t in (q, k, v)), sinks, parallel.shard(g, 2), mask, given
    )
    found = {"lse": difference(parallel.unshard(ours.lse, 2), theirs.lse)}
    answers = zip(QUESTIONS, ours.ask(*QUESTIONS), theirs.ask(*QUESTIONS), strict=True)
    for question, mine, truth in answers:
        name = question if isinstance(question, str) else "-".join(map(str, question))
        if name == "topk-5":
            values, keys = (parallel.unshard(t, 2) for t in mine)
            # Weights that are alike may come in any order: their keys are told by what they weigh.
            told = torch.where(keys < 0, 0, theirs.to_dense().gather(-1, keys.clamp(min=0)))
            found[name] = max(difference(values, truth.values), difference(told, values))
            found["keys"] = float(((keys < 0) != (truth.indices < 0)).sum())
        else:
            by_row = mine.shape[2:] == (LENGTH // parallel.world,)
            found[name] = difference(parallel.unshard(mine, 2) if by_row and name != "received" else mine, truth)
    found["rows"] = difference(ours.rows([0, 5, 31]), theirs[:, :, [0, 5, 31]])
    return found


def difference(a: Tensor, b: Tensor) -> float:
    """The largest difference, where -inf is equal to -inf."""
    assert a.shape == b.shape, (a.shape, b.shape)
    return torch.where(a == b, 0, (a - b).abs()).max().item()


def traffic(some: Any, strategy: str, order: str, mask: Mask | None) -> tuple[int, int, int]:
    """Bytes sent in the forward and the backward pass, and the hops."""
    parallel = context_parallel(some, strategy=strategy, order=order)
    q, k, v, _, _ = inputs(torch.float32)
    v = torch.cat([v, v], -1)[..., :WIDTH]
    mine = [parallel.shard(t, 2).requires_grad_() for t in (q, k, v)]
    out, weights = parallel.attention(*mine, mask)
    forward = parallel.sent
    out.sum().backward()
    return forward, parallel.sent - forward, weights._sharding.hops


def layer(some: Any, order: str) -> tuple[float, float]:
    """A MultiHeadAttention on shares beside the same layer on the whole: output and gradients of parameters."""
    torch.manual_seed(0)
    whole = regard.MultiHeadAttention(16, 4, num_kv_heads=2).double()
    x = torch.randn(BATCH, LENGTH, 16, dtype=torch.float64)
    mask = masks.causal() & masks.documents(torch.arange(LENGTH) // 10)
    truth = whole(x, mask=mask)
    truth.square().sum().backward()
    wanted = [p.grad.clone() for p in whole.parameters()]
    whole.zero_grad()
    parallel = context_parallel(some, order=order)
    with parallel:
        out, weights = whole(parallel.shard(x, 1), mask=mask, need_weights=True)
    out.square().sum().backward()
    worst = 0.0
    for p, truth_grad in zip(whole.parameters(), wanted, strict=True):
        dist.all_reduce(p.grad, group=some)
        worst = max(worst, difference(p.grad, truth_grad))
    assert type(weights).__name__ == "ShardedWeights"
    return difference(parallel.unshard(out.detach(), 1), truth.detach()), worst


def alibi(some: Any, strategy: str) -> float:
    """A bias of low rank for the whole text."""
    parallel = context_parallel(some, strategy=strategy)
    q, k, v, _, _ = inputs(torch.float64)
    bias = regard.biases.alibi(HEADS)
    truth, _ = regard.attention(q, k, v, masks.causal(), bias=bias)
    out, _ = parallel.attention(*(parallel.shard(t, 2) for t in (q, k, v)), masks.causal(), bias=bias)
    return difference(parallel.unshard(out, 2), truth)


def raised(some: Any, what: str) -> str:
    """The error that arguments of one process, or of all, raise on this one."""
    parallel = context_parallel(some)
    q, k, v, _, _ = inputs(torch.float32)
    q, k, v = (parallel.shard(t, 2) for t in (q, k, v))
    last = parallel.rank == parallel.world - 1
    try:
        WRONG[what](parallel, q, k, v, last)
    except (ValueError, TypeError, RuntimeError, IndexError) as error:
        return f"{type(error).__name__}: {error}"
    return "nothing"


def _write_between(parallel: ContextParallel, q: Tensor, k: Tensor, v: Tensor, last: bool) -> None:
    ids = torch.zeros(LENGTH, dtype=torch.long)
    out, _ = parallel.attention(q.requires_grad_(), k, v, masks.documents(ids))
    ids[0] = 1
    out.sum().backward()


def _write_key(parallel: ContextParallel, q: Tensor, k: Tensor, v: Tensor, last: bool) -> None:
    _, weights = parallel.attention(q, k, v)
    k[0] = 0
    weights.entropy()


WRONG = {
    "shape": lambda p, q, k, v, last: p.attention(q, k[:, :, :4] if last else k, v[:, :, :4] if last else v),
    "dtype": lambda p, q, k, v, last: p.attention(*((t.double() if last else t) for t in (q, k, v))),
    "mask": lambda p, q, k, v, last: p.attention(q, k, v, masks.causal() if last else masks.window(3)),
    "refused": lambda p, q, k, v, last: p.attention(q, k, v, scale=float("nan") if last else 1.0),
    "dropout": lambda p, q, k, v, last: p.attention(q, k, v, dropout=0.1),
    "bias": lambda p, q, k, v, last: p.attention(q, k, v, bias=torch.zeros(8, 8)),
    "impl": lambda p, q, k, v, last: p.attention(q, k, v, impl="reference"),
    "length": lambda p, q, k, v, last: p.attention(q[:, :, :3], k, v),
    "shard": lambda p, q, k, v, last: p.shard(torch.zeros(1, 30), 1),
    "rows": lambda p, q, k, v, last: p.attention(q, k, v)[1].rows([40]),
    "diagonal": lambda p, q, k, v, last: p.attention(q, k, v)[1].ask("diagonal"),
    "between": _write_between,
    "key": _write_key,
}


def heads_that_do_not_divide(some: Any) -> str:
    parallel = context_parallel(some, strategy="heads")
    q = torch.randn(1, 6, 8, 4)
    try:
        parallel.attention(q, q, q)
    except ValueError as error:
        return str(error)
    return "nothing"


def odd(b: Tensor, h: Tensor, q: Tensor, kv: Tensor) -> Tensor:
    return (q + kv + h) % 3 != 0


IDS = torch.tensor([[0] * 5 + [1] * 9 + [2] * 18, [3] * 20 + [4] * 12])
MASKS: dict[str, Mask | Tensor | None] = {
    "none": None,
    "causal": masks.causal(),
    "window": masks.causal() & masks.window(5),
    "band": masks.band(2, 3),
    "documents": masks.causal() & masks.documents(IDS),
    "scattered documents": masks.documents(torch.arange(LENGTH) % 3),
    "padding": masks.padding(torch.tensor([20, 32])),
    "valid keys": masks.causal() & masks.padding(torch.arange(LENGTH) % 5 > 0),
    "where": masks.causal() & masks.where(odd),
    "prefix": masks.causal() | masks.prefix(6),
    "not": ~masks.window(4),
    "dense": torch.rand(BATCH, HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1)) > 0.5,
    "rows without keys": masks.causal(offset=-3),
}
GIVEN: tuple[dict[str, Any], ...] = ({}, {"softcap": 2.0}, {"sinks": True}, {"scale": -0.3})


def watched(some: Any, hold: str) -> dict[str, Any]:
    """What a watch inside the context records, beside the watch of the whole."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(regard.MultiHeadAttention(16, 4).double())
    x = torch.randn(BATCH, LENGTH, 16, dtype=torch.float64)
    with regard.watch(model) as whole:
        model(x)
    parallel = context_parallel(some)
    with parallel, regard.watch(model, hold=hold) as seen:
        model(parallel.shard(x, 1))
    with parallel, regard.watch(model, keep=["entropy", "received"]) as kept:
        model(parallel.shard(x, 1))
    truth, weights = whole[0].weights, seen[0].weights
    answers = kept[0].statistics
    return {
        "name": seen[0].name,
        "shape": tuple(seen[0].shape),
        "entropy": difference(parallel.unshard(weights.entropy(), 2), truth.entropy()),
        "received": difference(weights.received(), truth.received()),
        "kept": difference(answers["received"], truth.received()),
        "kept entropy": difference(parallel.unshard(answers["entropy"], 2), truth.entropy()),
    }
