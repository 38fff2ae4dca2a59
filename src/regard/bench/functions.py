"""`regard.attention` beside `F.scaled_dot_product_attention`, on the same inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard import reference
from regard.bench.case import Bar, Case, Duel
from regard.bench.compare import within_budget
from regard.bench.timing import Subject

__all__ = ["CASES", "attention_duel", "exercise_duel"]

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]
PEER = "F.scaled_dot_product_attention"


def attention_duel(
    query_len: int = 2048,
    *,
    num_heads: int = 8,
    width: int = 64,
    value_width: int | None = None,
    causal: bool = False,
    backward: bool = False,
    dtype: torch.dtype = torch.float32,
) -> Duel:
    """Attention over (1, num_heads, query_len, width), with or without the gradients of q, k and v.

    Args:
        query_len: L, and S.
        num_heads: H.
        width: D.
        value_width: Dv; D if None.
        causal: both with their causal mask.
        backward: with the gradients of q, k and v.
        dtype: of the inputs.
    """
    generator = torch.Generator().manual_seed(0)
    shape = (1, num_heads, query_len)
    q, k = torch.randn(2, *shape, width, generator=generator).to(dtype).unbind()
    v, grad = torch.randn(2, *shape, value_width or width, generator=generator).to(dtype).unbind()
    # Two matrix products forward; five backward, which computes the scores again.
    flops = (
        2.0
        * num_heads
        * query_len
        * query_len
        * (width + v.shape[-1])
        * (0.5 if causal else 1.0)
        * (3.5 if backward else 1.0)
    )

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return regard.attention(q, k, v, regard.masks.causal() if causal else None)[0]

    def torchs(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

    def check() -> str:
        given = grad if backward else None
        truth = _definition(q, k, v, causal=causal, grad=given)
        names = ("output", "gradient of query", "gradient of key", "gradient of value")
        pairs = zip(names, _results(ours, q, k, v, given), _results(torchs, q, k, v, given), truth, strict=False)
        used = max(within_budget(name, got, peer, true) for name, got, peer, true in pairs)
        return f"{'output and gradients' if backward else 'output'} against float64: {used:.2f} of the budget"

    if not backward:
        return Duel(
            Subject("regard.attention", lambda _: ours(q, k, v)), Subject(PEER, lambda _: torchs(q, k, v)), check, flops
        )

    def leaves() -> tuple[Tensor, Tensor, Tensor]:
        return q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_()

    return Duel(
        Subject("regard.attention", lambda given: ours(*given).backward(grad), leaves),
        Subject(PEER, lambda given: torchs(*given).backward(grad), leaves),
        check,
        flops,
    )


def exercise_duel(batch: int = 20, query_len: int = 5, d_k: int = 512, d_v: int = 64) -> Duel:
    """Attention at the size of a classroom exercise, where only the cost of the call counts."""
    generator = torch.Generator().manual_seed(0)
    q, k = torch.randn(2, batch, query_len, d_k, generator=generator).unbind()
    v = torch.randn(batch, query_len, d_v, generator=generator)

    def ours(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return regard.attention(q, k, v)[0]

    def check() -> str:
        truth = reference.attention(q.double(), k.double(), v.double()).output
        used = within_budget("output", ours(q, k, v), F.scaled_dot_product_attention(q, k, v), truth)
        return f"output against float64: {used:.2f} of the budget"

    return Duel(
        Subject("regard.attention", lambda _: ours(q, k, v)),
        Subject(PEER, lambda _: F.scaled_dot_product_attention(q, k, v)),
        check,
    )


def _results(attend: Attend, q: Tensor, k: Tensor, v: Tensor, grad: Tensor | None) -> tuple[Tensor, ...]:
    if grad is None:
        return (attend(q, k, v),)
    q, k, v = (x.detach().clone().requires_grad_() for x in (q, k, v))
    output = attend(q, k, v)
    return (output.detach(), *torch.autograd.grad(output, (q, k, v), grad))


def _definition(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, grad: Tensor | None) -> tuple[Tensor, ...]:
    """The definition's results in float64, head by head: all heads at once would need gigabytes."""
    query_len = q.shape[-2]
    mask = torch.ones(query_len, query_len, dtype=torch.bool).tril() if causal else None

    def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return reference.attention(q, k, v, mask).output

    results = []
    for head in range(q.shape[1]):
        one = (q[:, head].double(), k[:, head].double(), v[:, head].double())
        results.append(_results(attend, *one, None if grad is None else grad[:, head].double()))
    return tuple(torch.stack(parts, dim=1) for parts in zip(*results, strict=True))  # (1, H, L, D) each


def _case(
    name: str,
    what: str,
    bar: Bar,
    *,
    group: str = "attention",
    causal: bool = False,
    backward: bool = False,
    value_width: int | None = None,
    dtype: torch.dtype = torch.float32,
) -> Case:
    return Case(
        name,
        group,
        f"attention() {what}, L 2048, {'forward and backward' if backward else 'forward'}",
        partial(attention_duel, causal=causal, backward=backward, value_width=value_width, dtype=dtype),
        (bar,),
    )


CASES = (
    _case("dense", "dense", Bar("ratio", 1.03)),
    _case("causal", "causal", Bar("ratio", 1.03), causal=True),
    _case("dense-training", "dense", Bar("ratio", 1.05), backward=True),
    _case("causal-training", "causal", Bar("ratio", 1.05), causal=True, backward=True),
    Case("exercise", "attention", "attention() at N 20, L 5, d_k 512, d_v 64", exercise_duel, (Bar("difference", 60),)),
    _case("bfloat16", "causal, bfloat16", Bar("ratio", 1.03), group="half", causal=True, dtype=torch.bfloat16),
    _case("float16", "causal, float16", Bar("ratio", 1.03), group="half", causal=True, dtype=torch.float16),
    _case("narrow-values", "dense, Dv 32", Bar("speedup", at_least=2.5), group="values", value_width=32),
    _case("wide-values", "dense, Dv 128", Bar("speedup", at_least=1.4), group="values", value_width=128),
)
