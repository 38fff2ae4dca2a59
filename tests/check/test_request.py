from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from regard.check.request import Request, Sizes, restride


def test_sizes_default_to_square_and_ungrouped():
    assert str(Sizes()) == "B 2, H 3, L 5, D 8"
    assert (
        str(Sizes(1, 4, kv_heads=2, query_len=3, key_len=7, width=8, value_width=6))
        == "B 1, H 4/2, L 3, S 7, D 8, Dv 6"
    )


@pytest.mark.parametrize(
    ("given", "kind", "message"),
    [
        ({"batch": 0}, ValueError, "Sizes(batch=): expected at least 1, got 0"),
        ({"width": 8.0}, TypeError, "Sizes(width=): expected an integer, got float"),
        ({"heads": True}, TypeError, "Sizes(heads=): expected an integer, got bool"),
    ],
)
def test_bad_sizes_are_named(given, kind, message):
    with pytest.raises(kind) as error:
        Sizes(**given)
    assert str(error.value) == message


def request(*, tied: str = "none") -> Request:
    q, k, v = torch.randn(3, 2, 3, 5, 4)
    return {"none": Request(q, k, v), "kv": Request(q, k, k), "qkv": Request(q, q, q)}[tied]


@pytest.mark.parametrize("tied", ["none", "kv", "qkv"])
def test_moving_keys_moves_what_is_tied_to_them_and_nothing_else(tied):
    asked = request(tied=tied)
    moved = asked.moved([1, 3], times=2.0, plus=1.0)
    assert moved.tied == asked.tied == tied
    want = asked.key.clone()
    want[:, :, [1, 3]] = want[:, :, [1, 3]] * 2 + 1
    assert torch.equal(moved.key, want)
    assert torch.equal(moved.query, want if tied == "qkv" else asked.query)
    assert len(moved.code) == {"none": 2, "kv": 1, "qkv": 1}[tied]


def test_moving_values_alone_leaves_the_keys():
    asked = request()
    moved = asked.moved(2, plus=5.0, only="v", batch=1)
    assert torch.equal(moved.key, asked.key)
    assert (moved.value != asked.value).nonzero()[:, [0, 2]].unique(dim=0).tolist() == [[1, 2]]


def test_the_code_of_a_request_makes_its_tensors():
    asked = request()
    names: dict[str, object] = {"q": asked.query.clone(), "k": asked.key.clone(), "v": asked.value.clone()}
    moved = asked.moved(slice(3, None), times=-2.0, plus=0.5)
    exec("\n".join(moved.code), {}, names)
    assert torch.equal(names["k"], moved.key)
    assert torch.equal(names["v"], moved.value)


def test_mask_and_padding_are_one_and():
    asked = request()
    assert asked.allowed(3) is None
    lower = torch.ones(5, 5).tril().bool()[None, None]
    valid = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    both = asked.but(mask=lower, padding=valid).allowed(3)
    assert both.shape == (2, 3, 5, 5)
    assert torch.equal(both[0, 2], lower[0, 0] & valid[0])


@given(st.sampled_from(["columns", "every other"]), st.integers(1, 4), st.integers(1, 5))
def test_another_arrangement_in_memory_holds_the_same_values_and_gradients(how, length, width):
    t = torch.randn(2, 3, length, width, requires_grad=True)
    other = restride(t, how)
    assert torch.equal(other, t)
    (gradient,) = torch.autograd.grad((other * torch.arange(width)).sum(), t)
    assert torch.equal(gradient, torch.arange(width).expand(t.shape).to(gradient))


def test_arrangements_are_what_they_say():
    t = torch.randn(2, 3, 4, 5)
    assert restride(t, "columns").stride(-2) == 1
    assert restride(t, "every other").stride(-1) == 2
    assert restride(t, "expanded").stride(0) == 0
    assert torch.equal(restride(t, "expanded"), restride(t, "repeated"))
    with pytest.raises(ValueError, match="no such arrangement: diagonal"):
        restride(t, "diagonal")
