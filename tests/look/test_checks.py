"""What is read from anybody's arguments, and what is refused by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from regard import PositionalEncoding, masks
from regard.look import checks, head_table
from regard.look.plain import encoding_data


@pytest.mark.parametrize(
    "three", [3, np.int64(3), np.uint8(3), torch.tensor(3)], ids=lambda given: type(given).__name__
)
def test_integers_are_of_any_kind(three: Any) -> None:
    found = checks.whole("which", three, "the number of a head")
    assert (found, type(found)) == (3, int)


@pytest.mark.parametrize(
    "given", ["3", 3.0, True, np.True_, torch.tensor(True), torch.tensor([1, 2]), None, [3]], ids=repr
)
def test_what_is_no_integer_is_refused(given: Any) -> None:
    with pytest.raises(TypeError, match=r"which is .*; expected the number of a head"):
        checks.whole("which", given, "the number of a head")


def test_an_integer_has_a_least() -> None:
    with pytest.raises(ValueError, match=r"k is 0; expected at least 1"):
        checks.whole("k", 0, "at least 1", least=1)


@pytest.mark.parametrize(
    ("given", "error"), [("3.5", TypeError), (True, TypeError), (None, TypeError), (0, ValueError)]
)
def test_a_width_is_a_number_above_0(given: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"width is .*; expected inches"):
        checks.positive("width", given, "inches")
    for endless in (float("inf"), float("nan")):
        with pytest.raises(ValueError, match=r"width is (inf|nan); expected inches"):
            checks.positive("width", endless, "inches")


def arrays() -> dict[str, Callable[[np.ndarray], np.ndarray]]:
    def read_only(array: np.ndarray) -> np.ndarray:
        array = array.copy()
        array.flags.writeable = False
        return array

    return {
        "read-only": read_only,
        "negative strides": lambda array: array[::-1, ::-1].copy()[::-1, ::-1],
        "big-endian": lambda array: array.astype(array.dtype.newbyteorder(">")),
        "columns first": np.asfortranarray,
    }


@pytest.mark.parametrize("kind", arrays())
def test_arrays_of_every_layout_are_copied_without_a_warning(kind: str) -> None:
    plain = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    given = arrays()[kind](plain)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = checks.numbers_of(given, "weights", "an array")
        mask = checks.mask_of(arrays()[kind](plain > 2))
    assert np.array_equal(found.numpy(), plain)
    assert np.array_equal(mask.numpy(), plain > 2)  # type: ignore[union-attr]
    assert not np.shares_memory(found.numpy(), given)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: torch.eye(3).to_sparse(),
            r"weights is stored as sparse_coo; expected a dense tensor: pass its .to_de",
        ),
        (
            lambda: torch.eye(3).to(torch.float8_e4m3fn),
            r"weights holds float8_e4m3fn, which torch only stores; expected numbers: pass its .float\(\)",
        ),
        (lambda: torch.eye(3).cfloat(), r"weights holds complex64; expected numbers"),
        (lambda: torch.eye(3).int(), r"weights holds int32; expected numbers"),
        (lambda: "weights", r"weights is of type str; expected a tensor"),
        (lambda: np.array([["a"]]), r"weights is a ndarray that torch cannot read"),
        (lambda: np.eye(2, dtype=np.longdouble), r"weights is a ndarray that torch cannot read"),
    ],
)
def test_what_holds_no_numbers_is_refused(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checks.numbers_of(make(), "weights", "a tensor")


@pytest.mark.filterwarnings("ignore:.*quantize:UserWarning", "ignore:.*nested tensors:UserWarning")
def test_quantised_and_nested_weights_are_refused() -> None:
    quantised = torch.quantize_per_tensor(torch.eye(3), 0.1, 0, torch.quint8)
    with pytest.raises(TypeError, match=r"weights is quantised \(quint8\); expected numbers: pass its .dequantize\(\)"):
        checks.numbers_of(quantised, "weights", "a tensor")
    nested = torch.nested.nested_tensor([torch.eye(2), torch.eye(3)])
    with pytest.raises(
        TypeError, match=r"weights is nested; expected a dense tensor: pass .*, or a list of dense ones"
    ):
        checks.numbers_of(nested, "weights", "a tensor")


def test_booleans_are_a_tensor_or_an_array() -> None:
    causal = np.tril(np.ones((4, 4), dtype=bool))
    found = checks.mask_of(causal)
    assert isinstance(found, torch.Tensor)
    causal[:] = False
    assert int(found.sum()) == 10
    assert checks.mask_of(masks.causal()) == masks.causal()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (np.ones((2, 2)), "holds float64"),
        (torch.ones(2, 2).int(), "holds int32"),
        ("x", "is of type str"),
        ([[True]], "is of type list"),
        (torch.eye(2).bool().to_sparse(), "is stored as torch.sparse_coo"),
    ],
)
def test_what_is_no_mask_is_refused(given: Any, told: str) -> None:
    with pytest.raises(TypeError, match=rf"mask {told}; expected a mask of regard.masks or booleans"):
        checks.mask_of(given)


class Learned(nn.Module):
    """As torch's tutorial keeps it: (L, 1, D) in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("pe", torch.arange(12.0).reshape(6, 1, 2))


def test_a_module_with_one_table_is_an_encoding() -> None:
    embedding = nn.Embedding(20, 8)
    assert torch.equal(checks.encoding_table(embedding), embedding.weight.detach().double())
    assert checks.encoding_table(Learned())[:, 0].tolist() == [0, 2, 4, 6, 8, 10]
    assert checks.encoding_table(PositionalEncoding(4, 9)).shape == (9, 4)
    assert encoding_data(embedding).encoding["length"] == 20  # type: ignore[index]
    for shape in ((1, 6, 2), (6, 1, 2), (6, 2)):
        assert checks.encoding_table(np.arange(12).reshape(shape)).shape == (6, 2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (
            nn.LayerNorm(4),
            TypeError,
            r"encoding is a LayerNorm that holds no table \(L, D\); expected .*: pass the tensor",
        ),
        (nn.Bilinear(2, 2, 2), TypeError, r"encoding is a Bilinear that holds no table"),
        (
            nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)),
            TypeError,
            r"encoding is a Sequential that holds 2 tables \(0.weight, 1.weight\); expected a tensor or an array",
        ),
        (
            None,
            TypeError,
            r"encoding is of type NoneType; expected a tensor or an array \(L, D\), or a module that holds",
        ),
        (torch.eye(3).cfloat(), TypeError, r"encoding holds complex64; expected numbers"),
        (torch.zeros(0, 4), ValueError, r"encoding has shape \(0, 4\); expected \(L, D\), a value at least"),
        (torch.zeros(2, 3, 4), ValueError, r"encoding has shape \(2, 3, 4\); expected \(L, D\)"),
        (np.full((2, 2), np.nan), ValueError, r"encoding holds NaN or infinities"),
    ],
)
def test_what_is_no_encoding_is_refused(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checks.encoding_table(given)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("abc", r"tokens is one text; expected a list of texts, one a token"),
        (iter(["a"]), r"tokens is of type list_iterator; expected a list of texts, one a token"),
        (5, r"tokens is of type int; expected a list of texts"),
        ({"a": 1}, r"tokens is of type dict; expected a list of texts"),
        ([1, 2], r"tokens holds int; expected texts, such as tokenizer.convert_ids_to_tokens"),
        (torch.tensor([1, 2]), r"tokens holds Tensor; expected texts"),
    ],
)
def test_tokens_are_a_list_of_texts(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        checks.check_tokens("tokens", given)
    with pytest.raises(TypeError, match=message):
        head_table(torch.eye(2), tokens=given)
    checks.check_tokens("tokens", np.array(["a", "b"]))


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (["a"], TypeError, r"token_ids is \['a'\]; expected a list of integers, one a token"),
        (iter([1]), TypeError, r"token_ids is of type list_iterator; expected a list of integers"),
        (5, TypeError, r"token_ids is of type int; expected a list of integers"),
        ([0.5, 1], TypeError, r"token_ids holds float32; expected a list of integers"),
        ([True, False], TypeError, r"token_ids holds bool; expected a list of integers"),
        (torch.ones(1, 2).long(), ValueError, r"token_ids has shape \(1, 2\); expected a list of integers"),
    ],
)
def test_token_ids_are_a_list_of_integers(given: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        checks.integers_of(given, "token_ids")
    with pytest.raises(error, match=message):
        head_table(torch.eye(2), token_ids=given)


@pytest.mark.parametrize(
    "given", [[3, 4], (3, 4), range(3, 5), np.array([3, 4], ">u2"), torch.tensor([3, 4])], ids=repr
)
def test_token_ids_are_of_any_kind(given: Any) -> None:
    found = checks.integers_of(given, "token_ids")
    assert (found.tolist(), found.dtype) == ([3, 4], torch.int64)
