"""No L x S tensor: the largest result of any operation, forward and backward, for every option and every question."""

from __future__ import annotations

import pytest
import torch
from tests.allocations import largest_of
from torch import Tensor

import regard
from regard import masks

LENGTH, HEADS, WIDTH = 4096, 2, 8
SCORES = HEADS * LENGTH * LENGTH  # 33.5 million
# The engine works in blocks of at most 2^22 scores (or 2^22 gathered elements, or 2^22 entries of a mask): an eighth of the
# map, and constant as it grows; inputs and outputs are 65,536 elements. Twice that leaves room for a column or two beside.
# A map of one head alone has 2^24 elements and is caught as well.
LIMIT = 2 * (1 << 22)

MASKS = {
    "none": None,
    "causal": masks.causal(),
    "window": masks.window(100),
    "band": masks.band(3, 4),
    "padding": masks.padding(torch.tensor([LENGTH - 5])),
    "documents": masks.documents(torch.arange(LENGTH) // 1000),
    "prefix": masks.prefix(40) | masks.causal(),
    "where": masks.where(lambda b, h, q, kv: (q - kv) % (h + 2) == 0),
    "not": ~masks.causal(),
    "and": masks.causal() & masks.window(300) & masks.padding(torch.tensor([LENGTH - 5])),
}
OPTIONS = {
    "bias": {"bias": (1, HEADS, 1, LENGTH)},
    "bias of the queries": {"bias": (LENGTH, 1)},
    "softcap": {"softcap": 5.0},
    "dropout": {"dropout": 0.3},
    "sinks": {"sinks": (HEADS,)},
}


def inputs(**options: object) -> dict[str, object]:
    torch.manual_seed(0)
    made = {name: torch.randn(x) if isinstance(x, tuple) else x for name, x in options.items()}
    made |= {name: torch.randn(1, HEADS, LENGTH, WIDTH) for name in ("query", "key", "value")}
    for t in made.values():
        if isinstance(t, Tensor):
            t.requires_grad_()
    return made


def forward_and_backward(mask: masks.Mask | None, given: dict[str, object]) -> None:
    output, weights = regard.attention(mask=mask, **given)
    (output.sum() + weights.lse.clamp_min(-1e3).sum()).backward()


@pytest.mark.parametrize("name", MASKS)
def test_masks(name):
    seen = largest_of(lambda: forward_and_backward(MASKS[name], inputs()))
    assert seen.elements <= LIMIT, seen.operation


@pytest.mark.parametrize("name", OPTIONS)
def test_options(name):
    seen = largest_of(lambda: forward_and_backward(masks.causal(), inputs(**OPTIONS[name])))
    assert seen.elements <= LIMIT, seen.operation


@pytest.fixture(scope="module", params=["plain", "every option"])
def weights(request):
    options = {} if request.param == "plain" else {"softcap": 5.0, "sinks": (HEADS,), "bias": (1, HEADS, 1, LENGTH)}
    given = inputs(**options)
    mask = masks.causal() if request.param == "plain" else masks.causal() & masks.documents(torch.arange(LENGTH) // 1000)
    with torch.no_grad():
        yield regard.attention(mask=mask, **given)[1]


QUESTIONS = {
    "weights @ x": lambda w: w @ torch.ones(LENGTH, 3),
    "weights.mT @ y": lambda w: w.mT @ torch.ones(LENGTH, 3),
    "lse": lambda w: w.lse,
    "entropy": lambda w: w.entropy(),
    "received": lambda w: w.received(),
    "pool, mean": lambda w: w.pool(64, 64),
    "pool, max": lambda w: w.pool(50, 70, reduce="max"),
    "topk": lambda w: w.topk(4),
    "diagonal": lambda w: w.diagonal(-1),
    "distance": lambda w: w.distance(),
    "mass of a few": lambda w: w.mass([0, 5]),
    "mass of many": lambda w: w.mass(slice(0, None, 2)),
    "max_logit": lambda w: w.max_logit(),
    "a row": lambda w: w[0, 0, 17],
    "a block": lambda w: w[..., 100:200, 50:150],
    "entries": lambda w: w[0, [0, 1], [17, 18], [3, 4]],
    "repr": repr,
    "rollout": lambda w: regard.rollout([w, w]) @ torch.ones(LENGTH),
    "rollout, a row": lambda w: regard.rollout([w, w])[-1],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(name, weights):
    seen = largest_of(lambda: QUESTIONS[name](weights))
    assert seen.elements <= LIMIT, seen.operation


def test_the_limit_can_be_exceeded(weights):
    assert largest_of(weights.to_dense).elements >= SCORES > LIMIT
