"""regard's attention, layers and engine paths are asked what everybody is asked, under the conventions it declares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

import regard
from regard import masks
from regard.check import REGARD, Contract, Sizes

DTYPES = ("float32", "float64", "bfloat16", "float16")
CONTRACT = replace(REGARD, float_mask="refused")


def asked(impl: str) -> Any:
    """regard.attention with masks asked for by keyword, as values that compose."""

    def attention(
        q: Tensor,
        k: Tensor,
        v: Tensor,
        mask: Tensor | None = None,
        *,
        key_padding_mask: Tensor | None = None,
        is_causal: bool = False,
        window: int | None = None,
        scale: float | None = None,
        bias: Tensor | None = None,
        softcap: float | None = None,
        dropout: float = 0.0,
        need_weights: bool = False,
    ) -> Any:
        parts = [] if mask is None else [masks.dense(mask)]
        parts += [masks.causal()] if is_causal else []
        parts += [masks.window(window)] if window is not None else []
        parts += [masks.padding(key_padding_mask)] if key_padding_mask is not None else []
        joined = None
        for part in parts:
            joined = part if joined is None else joined & part
        output, weights = regard.attention(
            q, k, v, joined, scale=scale, bias=bias, softcap=softcap, dropout=dropout, impl=impl
        )
        return (output, weights) if need_weights else output

    attention.__name__ = f"attention_{impl}"
    return attention


def by_rows(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, is_causal: bool = False) -> Tensor:
    """A cap that caps nothing sends every question through the blocks of rows."""
    both = masks.dense(mask) if mask is not None else None
    lower = masks.causal() if is_causal else None
    joined = both & lower if both is not None and lower is not None else both or lower
    return regard.attention(q, k, v, joined, softcap=1e9)[0]


def by_rule(q: Tensor, k: Tensor, v: Tensor, *, is_causal: bool = False) -> Tensor:
    """Causal as a function of the positions: tiles that are found by asking."""
    rule = masks.where(lambda b, h, i, j: j <= i + k.shape[-2] - q.shape[-2]) if is_causal else None
    return regard.attention(q, k, v, rule)[0]


def by_columns(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None, bias: Any = None
) -> Tensor:
    """Any bias is of rank S: its rows as columns of q, and those of the identity as columns of k."""
    if bias is not None:
        rows = bias.expand(*bias.shape[:-2], q.shape[-2], k.shape[-2])
        bias = regard.biases.low_rank(rows, torch.eye(k.shape[-2], dtype=q.dtype))
    return regard.attention(q, k, v, mask, scale=scale, bias=bias)[0]


def through_the_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """The product with the matrix that is not stored."""
    _, weights = regard.attention(q, k, torch.zeros_like(v), mask)
    return weights @ v


def through_the_dense_weights(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    _, weights = regard.attention(q, k, v, mask)
    group = q.shape[-3] // v.shape[-3]
    dense = weights.to_dense().to(v.dtype)
    # A weight of 0 times NaN is NaN: what nobody reads is left out, as the operator does.
    read = (dense != 0).any(-2).unsqueeze(-1)
    return dense @ torch.where(read, v.repeat_interleave(group, -3), 0)


FUNCTIONS = {
    f.__name__: f for f in (asked("auto"), asked("reference"), by_rows, by_rule, by_columns, through_the_weights)
}


def holds(subject: Any, **options: Any) -> None:
    report = regard.check(subject, CONTRACT, suite="attention", **options)
    assert report.ok, str(report)
    # The check knows no caches and no offsets: tests/test_cached_layer.py and tests/layer hold them.
    left = "arguments whose use is not known were left at their defaults: cache, lengths, offset"
    assert [warning for warning in report.warnings if warning != left] == []
    # Not by skipping: half of all properties apply to each of these.
    assert len(report.having("passed")) >= 26, str(report)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_is_right_in_every_precision(name: str, dtype: str) -> None:
    holds(FUNCTIONS[name], dtype=getattr(torch, dtype))


def fused(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None, bias: Any = None
) -> Tensor:
    return regard.attention(q, k, v, mask, scale=scale, bias=bias, impl="fused")[0]


def test_fused_is_right_where_there_is_a_fused_op() -> None:
    # The gradient of a bias has none: nothing here asks for it.
    holds(fused)


def test_dense_weights_give_the_output() -> None:
    why = "a weight is exp(score - lse): at scores of 1000 each of the two is rounded by 6e-5 in float32"
    expected = dict.fromkeys(("large_logits", "one_huge_logit", "gradients_match"), why)
    report = regard.check(through_the_dense_weights, CONTRACT, expected=expected)
    assert report.ok, str(report)
    assert len(report.having("passed")) >= 30


@pytest.mark.parametrize("sizes", [Sizes(2, 2, kv_heads=2, query_len=130, width=16), Sizes(1, 1, query_len=2, width=1)])
def test_a_function_is_right_at_other_sizes(sizes: Sizes) -> None:
    report = regard.check(asked("auto"), CONTRACT, suite="attention", sizes=sizes)
    assert not report.failures, str(report)


LAYERS = {
    "heads": lambda: regard.MultiHeadAttention(24, 3),
    "grouped": lambda: regard.MultiHeadAttention(24, 6, num_kv_heads=2),
    "one head": lambda: regard.MultiHeadAttention(24, 1, bias=False),
    "widths": lambda: regard.MultiHeadAttention(24, 4, d_k=32, d_v=16, d_out=20),
    "self": lambda: regard.SelfAttention(24, 16, 8),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_is_right_in_every_precision(name: str, dtype: str) -> None:
    torch.manual_seed(0)
    holds(LAYERS[name]().to(getattr(torch, dtype)))


def test_a_layer_from_heads_and_from_torch_is_right() -> None:
    torch.manual_seed(0)
    heads = [regard.SelfAttention(24, 8, 8) for _ in range(3)]
    holds(regard.MultiHeadAttention.from_heads(heads, torch.nn.Linear(24, 24)))
    holds(regard.MultiHeadAttention.from_torch(torch.nn.MultiheadAttention(24, 3, batch_first=True)))


def test_the_positional_encoding_is_right() -> None:
    report = regard.check(regard.PositionalEncoding)
    assert report.ok, str(report)
    assert report.suite == "positions"
    assert not report.having("skipped")


def test_a_declaration_that_regard_does_not_keep_fails() -> None:
    report = regard.check(asked("auto"), Contract(causal="top-left", empty_row="uniform", mask="deny"))
    failed = {result.name for result in report.failures}
    assert {"causal_alignment", "empty_rows", "mask_polarity"} <= failed
