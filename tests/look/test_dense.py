from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.look import decoded
from torch import Tensor

from regard import AttentionWeights, masks
from regard.look.collect import page_data
from regard.look.dense import DenseWeights
from regard.look.measure import measure

Make = Callable[..., AttentionWeights]


def some(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.softmax(2 * torch.randn(shape, generator=torch.Generator().manual_seed(1)), -1).to(dtype)


QUESTIONS = [
    "entropy",
    "received",
    "distance",
    ("mass", 0),
    ("mass", slice(None)),
    ("diagonal", -1),
    ("diagonal", 2),
    ("pool", 5, 4),
    ("pool", 5, 4, "max"),
    ("pool", 12, 9),
    ("topk", 3),
]


@pytest.mark.parametrize("lengths", [(12, 12), (12, 9), (12, 15)], ids=str)
@pytest.mark.parametrize("question", QUESTIONS, ids=str)
def test_a_dense_twin_answers_as_the_operator_does(some_weights: Make, question: Any, lengths: tuple[int, int]) -> None:
    weights = some_weights(2, 3, *lengths, mask=masks.window(4))
    (want,) = weights.ask(question)
    (found,) = DenseWeights(weights.to_dense().double()).ask(question)
    if isinstance(want, tuple):
        assert torch.equal(found.indices, want.indices)
        found, want = found.values, want.values
    assert found.dtype == torch.float64
    assert torch.allclose(found, want.double(), atol=1e-5)


@pytest.mark.parametrize(
    ("given", "layers", "heads"),
    [
        (some(2, 3, 5, 5), 1, 3),
        (some(3, 5, 5), 1, 3),
        (some(5, 5), 1, 1),
        ((some(1, 3, 5, 5), some(1, 3, 5, 5)), 2, 6),
        (some(4, 1, 3, 5, 5), 4, 12),
        (some(3, 5, 5).numpy(), 1, 3),
        ([some(3, 5, 5).double().numpy()] * 2, 2, 6),
        (some(3, 5, 5, dtype=torch.float16), 1, 3),
        ([some(3, 5, 5, dtype=torch.bfloat16)], 1, 3),
    ],
    ids=["BHLS", "circuitsvis", "one map", "bertviz", "stack", "array", "arrays", "float16", "bfloat16"],
)
def test_the_conventions_of_others_are_understood(given: Any, layers: int, heads: int) -> None:
    page = json.loads(page_data(measure(given, tokens=list("abcde"))).to_json())
    (group,) = page["groups"]
    assert (len(group["layers"]), len(group["heads"]), group["masked"]) == (layers, heads, False)
    first = given[0] if isinstance(given, list | tuple) else given
    first = torch.as_tensor(first).double()
    dense = first.reshape(-1, 5, 5)[0].numpy()
    assert np.allclose(decoded.head(group, 0).mean, dense, rtol=3e-4, atol=1e-8)


def test_a_mask_of_a_dense_tensor_is_shown(some_weights: Make) -> None:
    weights = some_weights(1, 2, 6, 6, mask=masks.causal())
    allowed = masks.causal().to_dense(6)
    for mask in (masks.causal(), allowed, allowed[None, None]):
        page = json.loads(page_data(measure(weights.to_dense(), mask=mask)).to_json())
        (group,) = page["groups"]
        assert group["masked"]
        assert np.array_equal(np.isnan(decoded.head(group, 1).mean), ~allowed.numpy())
    lazy = json.loads(page_data(measure(weights)).to_json())["groups"][0]
    assert np.allclose(decoded.head(lazy, 1).mean, decoded.head(group, 1).mean, rtol=3e-4, equal_nan=True)


def test_nothing_is_written_to() -> None:
    tensor = some(1, 2, 5, 5)
    before = tensor.clone()
    page_data(measure(tensor))
    assert torch.equal(tensor, before)


def test_weights_that_need_gradients_are_read_without_them() -> None:
    assert not DenseWeights(some(2, 5, 5).requires_grad_()).tensor.requires_grad


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0)),
            ValueError,
            r"holds -.*apply softmax over the",
        ),
        (torch.rand(2, 5, 5) + 1, ValueError, r"has a row that sums to .*; expected at most 1 .* Apply softmax"),
        (some(2, 5, 5).mT * 1.5, ValueError, r"has a row that sums to"),
        (torch.full((2, 5, 5), float("nan")), ValueError, r"weights holds NaN or infinities; look at the inputs"),
        (some(5), ValueError, r"weights has shape \(5,\); expected \(B, H, L, S\), \(H, L, S\) or \(L, S\)"),
        (torch.zeros(2, 0, 5), ValueError, r"weights has shape \(2, 0, 5\), which holds no weight"),
        (torch.zeros(2, 5, 5, device="meta"), ValueError, r"weights is on the device meta, which holds no numbers"),
        (torch.zeros(2, 5, 5, dtype=torch.long), TypeError, r"weights holds int64; expected weights, floating point"),
        (np.array(["a"]), TypeError, r"weights is a ndarray that torch cannot read"),
    ],
)
def test_what_is_not_weights_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DenseWeights(given)


def test_rows_that_sum_to_less_than_one_are_weights() -> None:
    # Sinks take a share, a padded query reads nothing, and float16 sums are not exact.
    for tensor in (0.3 * some(2, 5, 5), torch.zeros(2, 5, 5), 1.004 * some(2, 5, 5, dtype=torch.float16)):
        measure(tensor)


@pytest.mark.parametrize(
    ("mask", "error", "message"),
    [
        (torch.ones(3, 3, dtype=torch.bool), ValueError, r"mask has shape \(3, 3\); expected one that broadcasts to"),
        (torch.zeros(5, 5), TypeError, r"mask holds float32; expected a mask of regard.masks or booleans"),
        ("causal", TypeError, r"mask is of type str; expected a mask of regard.masks or booleans"),
    ],
)
def test_what_is_no_mask_is_refused(mask: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        DenseWeights(some(2, 5, 5), mask)
