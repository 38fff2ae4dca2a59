"""Attention with a bug that shipped somewhere, one small function a bug.

Each takes a monkeypatch, puts the bug into regard or around it, and returns the attention that has it.
"""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from tests.properties import Attention
from torch import Tensor

import regard
from regard import folds, products
from regard.engine import execute, rows
from regard.masks import Mask, lowering, rules

Patch = pytest.MonkeyPatch


class Stored:
    """What naive attention returns as its weights: a matrix."""

    def __init__(self, dense: Tensor, lse: Tensor) -> None:
        self.dense, self.lse = dense, lse

    def to_dense(self) -> Tensor:
        return self.dense

    def __getitem__(self, index: Any) -> Tensor:
        return self.dense[index]


def naive(
    q: Tensor, k: Tensor, v: Tensor, mask: Any = None, *, bias: Any = None, softcap: Any = None,
    fill: float = -math.inf, dim: int = -1, order: str = "cap, bias",
) -> tuple[Tensor, Stored]:  # fmt: skip
    """Attention as it is written in a hurry; one head of keys for each of queries, or as many fewer as broadcast."""
    scores = q @ k.repeat_interleave(q.shape[-3] // k.shape[-3], -3).mT / math.sqrt(q.shape[-1])
    steps = {
        "cap": lambda s: softcap * torch.tanh(s / softcap) if softcap else s,
        "bias": lambda s: s if bias is None else s + bias,
    }
    for step in order.split(", "):
        scores = steps[step](scores)
    if mask is not None:
        dense = mask
        if isinstance(mask, Mask):
            dense = mask.to_dense(q.shape[-2], k.shape[-2], batch=q.shape[0], num_heads=q.shape[-3])
        scores = torch.where(dense, scores, scores + fill)
    weights = torch.softmax(scores, dim)
    return weights @ v.repeat_interleave(q.shape[-3] // v.shape[-3], -3), Stored(weights, torch.logsumexp(scores, -1))


def changed(change: Any) -> Attention:
    """regard.attention whose keyword arguments pass through ``change`` first."""

    def wrong(query: Tensor, key: Tensor, value: Tensor, mask: Any = None, **options: Any) -> Any:
        return regard.attention(**change({"query": query, "key": key, "value": value, "mask": mask, **options}))

    return wrong


def nan_on_empty_rows(patch: Patch) -> Attention:
    return naive


def nan_gradients_behind_a_fine_output(patch: Patch) -> Attention:
    def wrong(q: Tensor, k: Tensor, v: Tensor, mask: Any = None) -> Any:
        output, weights = naive(q, k, v, mask)
        dense = torch.where(weights.dense.isnan(), 0, weights.dense)
        return torch.where(output.isnan(), 0, output), Stored(dense, weights.lse)

    return wrong


def finite_fill(patch: Patch) -> Attention:
    return lambda *args: naive(*args, fill=-1e4)


def causal_from_the_top_left(patch: Patch) -> Attention:
    patch.setattr(rules.Causal, "resolved", lambda self, sizes: 0 if self.offset is None else self.offset)
    return regard.attention


def polarity_inverted(patch: Patch) -> Attention:
    return changed(lambda given: given | {"mask": ~given["mask"]})


def mask_added_as_zeros_and_ones(patch: Patch) -> Attention:
    return changed(lambda given: given | {"mask": None, "bias": given["mask"].to(given["query"])})


def causal_dropped_with_dropout(patch: Patch) -> Attention:
    return changed(lambda given: given | ({"mask": None} if given.get("dropout") else {}))


def mask_ignored_by_one_backend(patch: Patch) -> Attention:
    return changed(lambda given: given | ({"mask": None} if given.get("softcap") else {}))


def causal_off_beside_padding(patch: Patch) -> Attention:
    def lower(mask: Any, sizes: Any) -> dict[str, Any]:
        found = lowering.lower(mask, sizes)
        return {name: part for name, part in found.items() if name != "causal" or "valid" not in found}

    patch.setattr("regard.functional.lower", lower)
    return regard.attention


def padding_ignored(patch: Patch) -> Attention:
    def lower(mask: Any, sizes: Any) -> dict[str, Any]:
        return {name: part for name, part in lowering.lower(mask, sizes).items() if name != "valid"}

    patch.setattr("regard.functional.lower", lower)
    return regard.attention


def window_off_by_one(patch: Patch) -> Attention:
    right = rules.Band.allowed
    wider = lambda self, *index: right(rules.Band(self.left + 1, self.right, self.name), *index)  # noqa: E731
    patch.setattr(rules.Band, "allowed", wider)
    patch.setattr(rules.Band, "key_range", Mask.key_range)
    return regard.attention


def mask_of_another_sequence(patch: Patch) -> Attention:
    return changed(lambda given: given | {"mask": given["mask"].roll(1, 0)})


def scale_of_the_whole_width(patch: Patch) -> Attention:
    return changed(lambda given: given | {"scale": (given["query"].shape[-1] * given["query"].shape[-3]) ** -0.5})


def scale_inverted(patch: Patch) -> Attention:
    return changed(lambda given: given | {"scale": given["query"].shape[-1] ** 0.5})


def scale_dropped(patch: Patch) -> Attention:
    return changed(lambda given: given | {"scale": None})


def softmax_over_queries(patch: Patch) -> Attention:
    return lambda *args: naive(*args, dim=-2)


def bias_before_the_cap(patch: Patch) -> Attention:
    return lambda *args, **options: naive(*args, **options, order="bias, cap")


def bias_subtracted(patch: Patch) -> Attention:
    return changed(lambda given: given | {"bias": -given["bias"]})


def sinks_forgotten(patch: Patch) -> Attention:
    return changed(lambda given: given | {"sinks": None})


def heads_viewed_without_transpose(patch: Patch) -> Attention:
    def scrambled(t: Tensor) -> Tensor:
        return t.transpose(1, 2).reshape(t.shape)

    return changed(lambda given: given | {name: scrambled(given[name]) for name in ("key", "value")})


def grouped_heads_tiled(patch: Patch) -> Attention:
    def tiled(given: dict[str, Any], name: str) -> Tensor:
        return given[name].repeat(1, given["query"].shape[1] // given[name].shape[1], 1, 1)

    return changed(lambda given: given | {name: tiled(given, name) for name in ("key", "value")})


def stride_of_the_last_axis_ignored(patch: Patch) -> Attention:
    def dense(t: Tensor) -> Tensor:
        return t.as_strided(t.shape, (*t.stride()[:-1], 1))

    return changed(lambda given: given | {name: dense(given[name]) for name in ("query", "key", "value")})


def query_scaled_in_place(patch: Patch) -> Attention:
    def change(given: dict[str, Any]) -> dict[str, Any]:
        given["query"].mul_(given["query"].shape[-1] ** -0.5)
        return given | {"scale": 1.0}

    return changed(change)


def dropout_never_off(patch: Patch) -> Attention:
    return changed(lambda given: given | {"dropout": max(0.1, given.get("dropout", 0.0))})


def dropout_unscaled(patch: Patch) -> Attention:
    def wrong(*args: Any, dropout: float = 0.0) -> Any:
        output, weights = regard.attention(*args, dropout=dropout)
        return output * (1 - dropout), weights

    return wrong


def dropout_differs_in_the_backward_pass(patch: Patch) -> Attention:
    right, calls = rows.keep_block, itertools.count()
    patch.setattr(rows, "keep_block", lambda seed, *rest: right(seed + next(calls), *rest))
    return regard.attention


def nan_leaks_from_keys_that_nobody_may_read(patch: Patch) -> Attention:
    patch.setattr("regard.functional.sanitize", lambda problem, v: (problem, v))
    return regard.attention


def lse_of_an_empty_row_is_zero(patch: Patch) -> Attention:
    def wrong(*args: Any) -> Any:
        output, weights = regard.attention(*args)
        weights._known_lse = torch.where(weights._lse == -torch.inf, 0, weights._lse)
        return output, weights

    return wrong


def lse_without_gradient(patch: Patch) -> Attention:
    def wrong(*args: Any, **options: Any) -> Any:
        output, weights = regard.attention(*args, **options)
        weights._known_lse = weights._lse.detach()
        return output, weights

    return wrong


def parts_averaged(patch: Patch) -> Attention:
    patch.setattr(execute, "merge", lambda a, lse_a, b, lse_b: ((a + b) / 2, torch.logaddexp(lse_a, lse_b)))
    return regard.attention


def half_precision_throughout(patch: Patch) -> Attention:
    return naive


def received_without_lse(patch: Patch) -> Attention:
    right = products.blocks
    patch.setattr(products, "blocks", lambda problem, lse, *rest: right(problem, torch.zeros_like(lse), *rest))
    return regard.attention


def cells_of_the_pool_shifted(patch: Patch) -> Attention:
    right = folds.edges
    shifted = lambda length, cells: [0, *(e - 1 for e in right(length, cells)[1:-1]), length]  # noqa: E731
    patch.setattr(folds, "edges", shifted)
    return regard.attention
