"""What must hold of AttentionWeights: each question, against the same one put to the dense matrix of the definition."""

from __future__ import annotations

import torch
from tests.properties import Attention, assert_near, check, largest
from tests.strategies import HALVES, Case
from torch import Tensor


def tolerance(dtype: torch.dtype) -> float:
    """How far a weight, or a sum of weights times numbers of size 1, may be from the truth.

    float64 and float32: exp(s - lse) with scores up to 50 is off by 50 eps, and a row sums up to 70 of them. Half
    precision: weights are exp(s - lse) in float32 with an lse good to 2^-14 of its size of about 10 (see
    properties.matches_the_definition).
    """
    return 2**-9 if dtype in HALVES else 4000 * torch.finfo(dtype).eps


def rounding(dtype: torch.dtype) -> float:
    """One more rounding, of weights up to 1 that are given back in the dtype of query."""
    return torch.finfo(dtype).eps if dtype in HALVES else 0.0


def weights_match_the_definition(attention: Attention, case: Case) -> None:
    """lse, the whole matrix, single rows, and products from both sides."""
    weights, dense = case.run(attention)[1], case.truth().weights
    near, dtype = tolerance(case.query.dtype), case.query.dtype
    check(weights.shape == dense.shape, f"shape {tuple(weights.shape)}, expected {tuple(dense.shape)}")
    check(weights.dtype == dtype == weights.to_dense().dtype, f"dtype {weights.dtype}, expected {dtype}")
    assert_near("to_dense", weights.to_dense(), dense, near + rounding(dtype))
    assert_near("a row", weights[..., -1, :], dense[..., -1, :], near + rounding(dtype))
    for offset in {1 - dense.shape[-2], 0, dense.shape[-1] - 1}:
        got, want = weights.diagonal(offset), dense.diagonal(offset, -2, -1)
        assert_near(f"diagonal({offset})", got, want, near + rounding(dtype))


def products_match_the_definition(attention: Attention, case: Case) -> None:
    """A @ x and A.mT @ y, for x of every shape that broadcasts."""
    weights, dense = case.run(attention)[1], case.truth().weights
    *lead, query_len, key_len = dense.shape
    wide = torch.float32 if case.query.dtype in HALVES else case.query.dtype
    near = 4 * tolerance(case.query.dtype)  # numbers of size 4
    generator = torch.Generator().manual_seed(9)
    for n, transposed in ((key_len, False), (query_len, True)):
        operator, matrix = (weights.mT, dense.mT) if transposed else (weights, dense)
        check(operator.shape == matrix.shape, f"shape {tuple(operator.shape)}, expected {tuple(matrix.shape)}")
        # A column sum of a row of queries grows with their number.
        within = near * (query_len if transposed else 1)
        for sizes in ((n,), (*lead, n, 2), (*(1 for _ in lead), n, 20)):
            x = torch.randn(sizes, generator=generator).to(wide)
            want = matrix @ (x.double() if len(sizes) > 1 else x.double()[:, None])
            want = want if len(sizes) > 1 else want[..., 0]
            assert_near(f"{'mT' if transposed else 'A'} @ {sizes}", operator @ x, want, within)
    value, group = case.value.to(wide), (case.shape.heads or 1) // case.shape.kv_heads
    want = dense @ (value.double().repeat_interleave(group, -3) if group > 1 else value.double())
    assert_near("A @ value", weights @ value, want, near * largest(value))


def statistics_match_the_definition(attention: Attention, case: Case) -> None:
    """Everything that is summed up over rows or columns."""
    weights, truth = case.run(attention)[1], case.truth()
    dense, near = truth.weights, tolerance(case.query.dtype)
    query_len, key_len = dense.shape[-2:]
    # An entropy is lse minus a mean score: both of size |lse|, whose rounding is what is left.
    assert_near("entropy", weights.entropy(), torch.special.entr(dense).sum(-1), near * 8 * largest(truth.lse))
    assert_near("received", weights.received(), dense.sum(-2), near * query_len)
    position = torch.arange(query_len)[:, None] + key_len - query_len
    apart = (position - torch.arange(key_len)).abs()
    assert_near("distance", weights.distance(), (dense * apart).sum(-1), near * largest(apart.double()))
    for keys in (slice(0, None, 2), [0, -1], torch.arange(key_len) % 3 == 0, 0, []):
        columns = [keys] if isinstance(keys, int) else keys
        assert_near(
            f"mass({keys})",
            weights.mass(keys),
            dense[..., columns].sum(-1) if columns != [0, -1] or key_len > 1 else dense.sum(-1),
            near,
        )


def max_logit_matches_the_definition(attention: Attention, case: Case) -> None:
    """The largest score is lse plus the log of the largest weight."""
    weights, truth = case.run(attention)[1], case.truth()
    largest_weight = truth.weights.amax(-1)
    read = largest_weight > 0
    want = torch.where(read, truth.lse + largest_weight.log(), -torch.inf)
    assert_near("max_logit", weights.max_logit(), want, tolerance(case.query.dtype) * largest(want))


def pooled(dense: Tensor, rows: int, cols: int, reduce: str) -> Tensor:
    """The map in cells, by the docstring: cell r holds the queries r * L // rows up to (r + 1) * L // rows."""
    query_len, key_len = dense.shape[-2:]
    edges = [[c * n // m for c in range(m + 1)] for n, m in ((query_len, rows), (key_len, cols))]
    cells = [
        [dense[..., a:b, c:d] for c, d in zip(edges[1], edges[1][1:], strict=False)]
        for a, b in zip(edges[0], edges[0][1:], strict=False)
    ]
    one = (lambda t: t.sum(-1).mean(-1)) if reduce == "mean" else (lambda t: t.amax((-1, -2)))
    return torch.stack([torch.stack([one(cell) for cell in row], -1) for row in cells], -2)


def pool_matches_the_definition(attention: Attention, case: Case, rows: int, cols: int) -> None:
    weights, dense = case.run(attention)[1], case.truth().weights
    rows, cols = min(rows, dense.shape[-2]), min(cols, dense.shape[-1])
    for reduce in ("mean", "max"):
        want = pooled(dense, rows, cols, reduce)
        assert_near(
            f"pool({rows}, {cols}, {reduce})", weights.pool(rows, cols, reduce), want, tolerance(case.query.dtype)
        )


def topk_matches_the_definition(attention: Attention, case: Case, k: int) -> None:
    """Values as torch.topk's; each index holds its value; no index twice; -1 where a row has no further key."""
    weights, dense = case.run(attention)[1], case.truth().weights
    k, near = min(k, dense.shape[-1]), tolerance(case.query.dtype)
    values, indices = weights.topk(k)
    assert_near("topk values", values, dense.topk(k, -1).values, near)
    held = dense.gather(-1, indices.clamp(min=0))
    assert_near("weights at topk indices", torch.where(indices < 0, 0, held), values, near)
    check((values[indices < 0] == 0).all(), "an index of -1 has a weight")
    spread = torch.where(indices < 0, -1 - torch.arange(k), indices).sort(-1).values
    check((spread.diff(dim=-1) != 0).all(), "an index appears twice")
    if case.allowed is not None:
        read = case.allowed.expand(dense.shape).gather(-1, indices.clamp(min=0)) | (indices < 0)
        check(read.all(), "topk names a key that the row may not read")
