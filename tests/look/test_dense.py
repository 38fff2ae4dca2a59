from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from tests.look import decoded
from torch import Tensor

import regard
from regard import AttentionWeights, masks
from regard.look import dense_checks
from regard.look.collect import page_data
from regard.look.dense import DenseWeights, layered
from regard.look.measure import measure
from regard.look.tiles import Place, tile

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


WRITTEN = r" was written to since it was given: .*; ask before the write, or give its .clone\(\)"


def test_weights_that_were_written_to_since_are_not_shown_as_those_that_were_given() -> None:
    tensor, allowed = some(2, 5, 5), torch.ones(5, 5, dtype=torch.bool)
    weights = DenseWeights(tensor, allowed, name="layer 3")
    asked: list[Callable[[], Any]] = [
        lambda: weights.ask("entropy"),
        lambda: weights[0, 1],
        lambda: weights.topk(2),
        lambda: weights.mask,
    ]
    for ask in asked:
        ask()
    allowed[0, 1] = False
    for ask in asked:
        with pytest.raises(RuntimeError, match="mask" + WRITTEN):
            ask()
    tensor.mul_(0.5)
    for ask in asked:
        with pytest.raises(RuntimeError, match="layer 3" + WRITTEN):
            ask()
    assert weights.shape == (2, 5, 5)


def test_a_copy_and_what_counts_no_writes_can_be_asked() -> None:
    tensor = some(2, 5, 5)
    for _ in range(5):
        tensor.mul_(0.9)
    copy.deepcopy(DenseWeights(tensor)).entropy()
    with torch.inference_mode():
        kept = DenseWeights(some(2, 5, 5))
    kept.entropy()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_an_array_that_is_written_to_since_does_not_change_what_is_shown(dtype: Any) -> None:
    array, allowed = some(2, 5, 5).numpy().astype(dtype), np.ones((5, 5), dtype=bool)
    weights = DenseWeights(array, allowed)
    before = weights.tensor.clone()
    array[:], allowed[:] = 0, False
    assert torch.equal(weights.tensor, before)
    assert weights.mask is not None
    assert bool(weights.mask.to_dense(5).all())


def test_the_live_page_says_that_weights_were_written_to() -> None:
    tensor = some(1, 2, 5, 5)
    page = regard.look(tensor)
    (layers,) = page.layers
    tile(Place(layers[0], 0, 1), queries=range(5), keys=range(5), cells=(5, 5))
    tensor[0, 1, 2] = 0.2
    with pytest.raises(RuntimeError, match="layer 0" + WRITTEN):
        tile(Place(layers[0], 0, 1), queries=range(5), keys=range(5), cells=(5, 5))


def test_tiny_numbers_below_0_are_rounding() -> None:
    tensor = torch.tensor([[0.5, 0.5, -1e-7]])
    assert DenseWeights(tensor).tensor.tolist() == [[0.5, 0.5, 0.0]]
    assert float(tensor[0, 2]) < 0
    assert bool(DenseWeights(tensor).entropy().isfinite().all())
    with pytest.raises(ValueError, match=r"weights holds -2e-06; expected weights, 0 to 1"):
        DenseWeights(torch.tensor([[1.0, -2e-6]]))


@pytest.mark.parametrize("mask", [masks.causal(), torch.ones(4, 4).tril().bool(), np.tril(np.ones((4, 4), dtype=bool))])
def test_a_mask_that_forbids_what_holds_weight_is_refused(mask: Any) -> None:
    even = torch.full((4, 4), 0.25)
    even[0, 1] = 0
    place = r"mask forbids pairs that hold weight \(query 0, key 2: 0.25\)"
    with pytest.raises(ValueError, match=place + r"; expected the mask that .* pass ~mask"):
        DenseWeights(even, mask)
    stack = torch.eye(4).expand(2, 3, 4, 4).clone()
    DenseWeights(stack, mask)
    stack[1, 2] = even
    with pytest.raises(ValueError, match=place + r" in head 2 of sequence 1; expected"):
        regard.look(stack, mask=mask)
    stack[1, 2] = torch.eye(4)
    stack[1, 2, 0, 2] = 1e-7
    DenseWeights(stack, mask)


def test_a_mask_is_compared_with_all_rows_in_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dense_checks, "LOOKED_AT", 2 * 3 * 9 * 4)
    weights = torch.eye(9).expand(2, 3, 9, 9).clone()
    valid = torch.tensor([9, 5])
    weights[1, :, 5:] = 0
    DenseWeights(weights, masks.causal() & masks.padding(valid))
    weights[1, 1, 8, 6] = 0.5
    with pytest.raises(ValueError, match=r"\(query 8, key 6: 0.5\) in head 1 of sequence 1"):
        DenseWeights(weights, masks.causal() & masks.padding(valid))
    weights[1, 1, 8, 6] = float("nan")
    with pytest.raises(ValueError, match=r"weights holds NaN"):
        DenseWeights(weights)


def test_sequences_without_heads_have_masks_of_their_own() -> None:
    lengths = masks.padding(torch.tensor([2, 4]))
    weights = torch.zeros(2, 5, 5)
    weights[0, :, 1] = weights[1, :, 3] = 1
    DenseWeights(weights, lengths)
    weights[1, 0, 3], weights[1, 0, 4] = 0, 1
    with pytest.raises(ValueError, match=r"\(query 0, key 4: 1\) in head 0 of sequence 1"):
        DenseWeights(weights, lengths)


def test_layers_are_what_the_page_takes(some_weights: Make) -> None:
    lazy = some_weights(1, 2, 5, 5)
    assert layered(lazy) == layered([lazy]) == [lazy]
    assert [layer.shape for layer in layered(some(4, 1, 2, 5, 5))] == [(1, 2, 5, 5)] * 4
    assert [type(layer) for layer in layered([lazy, some(2, 5, 5).numpy()])] == [AttentionWeights, DenseWeights]
