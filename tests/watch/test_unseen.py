"""What a watch says of modules that compute their softmax by hand, and where nothing was seen at all."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from tests.watch.attending import Tower
from torch import nn

import regard


@pytest.fixture
def model():
    return Tower(3).double()


@pytest.fixture
def x():
    return torch.randn(2, 6, 16, dtype=torch.float64)


class ByHand(nn.Module):
    def __init__(self, softmax, dim=4):
        super().__init__()
        self.softmax, self.dim = softmax, dim

    def forward(self, x):
        return self.softmax(x[(None,) * (self.dim - x.dim())])


class OwnAttention(ByHand):
    pass


SOFTMAXES = {
    "F": lambda s: F.softmax(s, dim=-1),
    "torch": lambda s: torch.softmax(s, -1),
    "method": lambda s: s.softmax(s.dim() - 1),
    "module": nn.Softmax(dim=-1),
}


@pytest.mark.parametrize("name", SOFTMAXES)
def test_a_softmax_by_hand_is_named(x, name):
    model = nn.ModuleDict({"own": ByHand(SOFTMAXES[name])})
    match = r"no attention call seen in 'own': these modules compute a softmax by hand; .*attn_implementation='sdpa'"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model):
        model["own"](x)


def test_a_softmax_that_is_not_of_attention(x):
    by_hand = lambda axis: ByHand(lambda s: s.softmax(axis))  # noqa: E731
    model = nn.ModuleDict(
        {"classes": ByHand(SOFTMAXES["F"], 3), "channels": by_hand(1), "att": OwnAttention(SOFTMAXES["F"], 3)}
    )
    with regard.watch(model) as seen:
        model["classes"](x)
        model["channels"](x)
        F.scaled_dot_product_attention(x, x, x)
    assert seen.unseen == []
    with pytest.raises(regard.watch.NoAttentionSeen, match="no attention call seen in 'att'"), regard.watch(model):
        model["att"](x)


def test_unseen_modules_are_told_beside_those_that_were_seen(model, x):
    both = nn.Sequential(model, ByHand(SOFTMAXES["F"])).double()
    with regard.watch(both) as seen:
        both(x)
    assert seen.unseen == ["1"]
    assert "unseen: a softmax by hand in 1" in repr(seen)


def test_nothing_ran(model):
    match = "nothing ran inside the block; call the model inside"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model):
        pass
    linear = nn.Linear(4, 4)
    with (
        pytest.raises(
            RuntimeError, match="no attention call seen, and no softmax of attention's shape; a Hugging Face"
        ),
        regard.watch(linear),
    ):
        linear(torch.ones(4))


def test_something_ran_that_is_no_attention(model, x):
    with (
        pytest.raises(regard.watch.NoAttentionSeen, match="no attention call seen, and no softmax of attention's"),
        regard.watch(),
    ):
        torch.relu(x)
    match = "the model was not called inside the block, and what ran there called no attention"
    with pytest.raises(regard.watch.NoAttentionSeen, match=match), regard.watch(model):
        torch.relu(x)
