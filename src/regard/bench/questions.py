"""What is asked of the weights afterwards, beside one fused causal forward at the same length."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard import reference
from regard.bench.case import Bar, Case, Disagreement, Duel
from regard.bench.compare import ULPS, close_to
from regard.bench.timing import Subject

__all__ = ["CASES", "QUESTIONS", "question_duel"]

QUERY_LEN = 8192
ROW = 4000
TOP = 8
CELLS = 512

Ask = Callable[[regard.AttentionWeights], Any]
Check = Callable[[Any, Tensor, Tensor], str]


def question_duel(name: str, query_len: int = QUERY_LEN, *, num_heads: int = 8, width: int = 64) -> Duel:
    """One question asked of causal weights (1, num_heads, query_len, query_len), beside their forward pass.

    The weights are made anew for each call, off the clock: nothing that an answer caches helps the next one.

    Args:
        name: a key of :data:`QUESTIONS`.
        query_len: L, and S.
        num_heads: H.
        width: D.
    """
    ask, check = QUESTIONS[name](query_len)
    generator = torch.Generator().manual_seed(0)
    q, k, v = torch.randn(3, 1, num_heads, query_len, width, generator=generator).unbind()

    def weights() -> regard.AttentionWeights:
        return regard.attention(q, k, v, regard.masks.causal())[1]

    return Duel(
        Subject(f"weights.{name}" if name != "row" else "weights[row]", ask, weights),
        Subject("one fused causal forward", lambda _: F.scaled_dot_product_attention(q, k, v, is_causal=True)),
        lambda: check(ask(weights()), q, k),
        flops=2.0 * num_heads * query_len * query_len * width,
    )


def _blocks(q: Tensor, k: Tensor, *, heads: range, starts: range, rows: int) -> Iterator[tuple[int, int, Tensor]]:
    """(head, first row, weights (rows, S) in float64) by the definition, a block at a time."""
    key_positions = torch.arange(k.shape[-2])
    for head in heads:
        keys = k[0, head].double()
        for start in starts:
            queries = q[0, head, start : start + rows].double()
            mask = key_positions <= torch.arange(start, start + len(queries))[:, None]
            yield head, start, reference.attention(queries, keys, keys[:, :1], mask).weights


def _rowwise(q: Tensor, k: Tensor) -> Iterator[tuple[int, int, Tensor]]:
    """Three blocks of rows, at the start, in the middle and at the end, of every head."""
    query_len = q.shape[-2]
    rows = min(128, query_len)
    middle = max(1, (query_len - rows) // 2)
    return _blocks(q, k, heads=range(q.shape[1]), starts=range(0, query_len - rows + 1, middle), rows=rows)


def _whole(q: Tensor, k: Tensor, head: int) -> Iterator[tuple[int, Tensor]]:
    """All rows of one head."""
    for _, start, weights in _blocks(q, k, heads=range(head, head + 1), starts=range(0, q.shape[-2], 512), rows=512):
        yield start, weights


def _two_heads(q: Tensor) -> tuple[int, ...]:
    return tuple(sorted({0, q.shape[1] - 1}))


def _entropy(query_len: int) -> tuple[Ask, Check]:
    def check(answer: Tensor, q: Tensor, k: Tensor) -> str:
        worst = 0.0
        for head, start, weights in _rowwise(q, k):
            truth = torch.special.entr(weights).sum(-1)
            got = answer[0, head, start : start + len(truth)]
            worst = max(worst, close_to(f"entropy of head {head}, rows from {start}", got, truth, ulps=ULPS))
        return f"384 rows of each head against float64: within {worst:.1e} nats"

    return lambda weights: weights.entropy(), check


def _received(query_len: int) -> tuple[Ask, Check]:
    def check(answer: Tensor, q: Tensor, k: Tensor) -> str:
        worst = 0.0
        for head in _two_heads(q):
            truth = torch.stack([weights.sum(0) for _, weights in _whole(q, k, head)]).sum(0)
            worst = max(worst, close_to(f"received of head {head}", answer[0, head], truth, ulps=ULPS))
        return f"two heads against float64: within {worst:.1e}"

    return lambda weights: weights.received(), check


def _pool(query_len: int) -> tuple[Ask, Check]:
    cells = min(CELLS, query_len // 2)
    if query_len % cells or 512 % (query_len // cells):
        raise ValueError(
            f"query_len: got {query_len}; expected a power of two, so that blocks of rows hold whole cells"
        )

    def check(answer: Tensor, q: Tensor, k: Tensor) -> str:
        size = query_len // cells
        worst = 0.0
        for head in _two_heads(q):
            rows = [
                w.unflatten(-1, (cells, size)).sum(-1).unflatten(0, (-1, size)).mean(1) for _, w in _whole(q, k, head)
            ]
            worst = max(worst, close_to(f"pool of head {head}", answer[0, head], torch.cat(rows), ulps=ULPS))
        return f"two heads against float64: within {worst:.1e}"

    return lambda weights: weights.pool(cells, cells), check


def _topk(query_len: int) -> tuple[Ask, Check]:
    def check(answer: Any, q: Tensor, k: Tensor) -> str:
        values, indices = answer
        worst = 0.0
        for head, start, weights in _rowwise(q, k):
            rows = slice(start, start + len(weights))
            what = f"of head {head}, rows from {start}"
            truth = weights.topk(TOP).values
            worst = max(worst, close_to(f"topk values {what}", values[0, head, rows], truth, ulps=ULPS))
            keys = indices[0, head, rows]
            # Equal weights have no order, so a key is right if its weight is. Where there is no key left it is -1.
            found = torch.where(keys < 0, 0, weights.gather(-1, keys.clamp(min=0)))
            close_to(f"weights at the topk indices {what}", values[0, head, rows], found, ulps=ULPS)
            if bool((keys.sort(-1).values.diff(dim=-1).eq(0) & (truth[:, -1:] > 0)).any()):
                raise Disagreement(f"topk indices {what}: a key is named twice")
        return f"384 rows of each head against float64: within {worst:.1e}"

    return lambda weights: weights.topk(TOP), check


def _row(query_len: int) -> tuple[Ask, Check]:
    row = min(ROW, query_len - 1)

    def check(answer: Tensor, q: Tensor, k: Tensor) -> str:
        worst = 0.0
        for head, _, weights in _blocks(q, k, heads=range(q.shape[1]), starts=range(row, row + 1), rows=1):
            worst = max(worst, close_to(f"row {row} of head {head}", answer[0, head], weights[0], ulps=ULPS))
        return f"every head against float64: within {worst:.1e}"

    return lambda weights: weights[..., row, :], check


QUESTIONS: dict[str, Callable[[int], tuple[Ask, Check]]] = {
    "entropy": _entropy,
    "received": _received,
    "pool": _pool,
    "topk": _topk,
    "row": _row,
}
LIMITS = {"entropy": 1.3, "received": 1.4, "pool": 2.2, "topk": 4.0, "row": 0.02}
WORDS = {
    "entropy": "entropy()",
    "received": "received()",
    "pool": "pool(512, 512)",
    "topk": "topk(8)",
    "row": "one row of every head",
}

CASES = tuple(
    Case(
        name,
        "weights",
        f"{WORDS[name]}, causal, L {QUERY_LEN}",
        partial(question_duel, name),
        (Bar("ratio", LIMITS[name]), Bar("memory", 300)),
        memory=True,
    )
    for name in QUESTIONS
)
