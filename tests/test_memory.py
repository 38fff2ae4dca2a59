"""No L x S tensor: the largest result of any operation, forward and backward, for every option and every question."""

from __future__ import annotations

import pytest
import torch
from tests.allocations import Largest, largest_of
from torch import Tensor

import regard
from regard import masks

LENGTH, HEADS, WIDTH = 4096, 1, 8
SCORES = HEADS * LENGTH * LENGTH  # 16.8 million
# The engine works in blocks of at most 2^22 scores (or gathered elements, or entries of a mask) however long the
# sequence; inputs and outputs are 2^15 elements. Half as much again leaves room for a column of rows beside.
LIMIT = 3 * (1 << 21)

# Those of tiles are below.
MASKS = {
    "none": None,
    "long documents": masks.documents(torch.arange(LENGTH) // 1000),
    "where": masks.where(lambda b, h, q, kv: (q - kv) % (h + 2) == 0),
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


# Masks of tiles, for texts of any length: (query_len, key_len) of a text of length n, and the mask.
TILES = {
    "causal": (1, 1, lambda n: masks.causal()),
    "causal, after a cache": (0.5, 1, lambda n: masks.causal()),
    "window": (1, 1, lambda n: masks.window(100)),
    "wide window": (1, 1, lambda n: masks.window(1500)),
    "window both ways": (1, 1, lambda n: masks.band(200, 100)),
    "sink and window": (1, 1, lambda n: masks.prefix(4) | masks.window(100)),
    "documents of one length": (1, 1, lambda n: masks.causal() & masks.documents(torch.arange(n) // 128)),
    "documents": (1, 1, lambda n: masks.causal() & masks.documents(uneven(n))),
    "short documents": (1, 1, lambda n: masks.documents(torch.arange(n) // 9)),
    "documents of two streams": (1, 1, lambda n: masks.documents(torch.arange(n) // 300 % 2)),
    "prefix": (1, 1, lambda n: masks.prefix(n // 4) | masks.causal()),
    "the future": (1, 1, lambda n: ~masks.causal()),
    "padding": (1, 1, lambda n: masks.causal() & masks.padding(torch.tensor([n - 5]))),
    "half padding": (1, 1, lambda n: masks.padding(torch.tensor([n // 2]))),
    "decoding": (0, 1, lambda n: masks.causal() & masks.padding(torch.tensor([n - 5]))),
    "decoding in a window": (0, 1, lambda n: masks.window(100)),
}


def uneven(n: int) -> Tensor:
    """Document ids of lengths from 20 to 400."""
    lengths = torch.randint(20, 400, (n // 20,), generator=torch.Generator().manual_seed(1))
    return torch.repeat_interleave(torch.arange(len(lengths)), lengths)[:n]


def over_tiles(name: str, length: int) -> Largest:
    """The largest result of a forward and backward pass; that it ran over tiles."""
    queries, keys, mask = TILES[name]
    torch.manual_seed(0)
    sizes = [max(8, int(length * part)) for part in (queries, keys, keys)]
    q, k, v = (torch.randn(1, HEADS, n, WIDTH, requires_grad=True) for n in sizes)

    def both() -> None:
        output, weights = regard.attention(q, k, v, mask(length))
        assert weights.plan.units, weights.plan
        (output.sum() + weights.lse.clamp_min(-1e3).sum()).backward()

    return largest_of(both)


@pytest.mark.parametrize("name", TILES)
def test_tiles_stay_small_and_grow_with_the_text_alone(name):
    half, whole = over_tiles(name, LENGTH // 2), over_tiles(name, LENGTH)
    assert whole.elements <= LIMIT, whole.operation
    # Twice the text, twice the memory, and a quarter more since the first rows of a window are no part of its band.
    # What grows with L x S grows fourfold.
    assert whole.elements <= 2.5 * half.elements, (half.operation, whole.operation)


@pytest.mark.parametrize("name", TILES)
def test_a_plan_is_made_without_the_map(name):
    queries, _, mask = TILES[name]
    seen = largest_of(lambda: str(mask(LENGTH).plan(max(8, int(LENGTH * queries)), LENGTH)))
    assert seen.elements <= LIMIT, seen.operation


@pytest.fixture(scope="module", autouse=True)
def two_threads():
    """Blocks grow with the number of threads, each of which has a cache: many would hold all of this map."""
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", params=["plain", "every option"])
def weights(request, two_threads):
    options = {} if request.param == "plain" else {"softcap": 5.0, "sinks": (HEADS,), "bias": (1, HEADS, 1, LENGTH)}
    given = inputs(**options)
    # The window makes for little work; whoever made all of the map or of the mask would still be seen.
    mask = masks.causal() if request.param == "plain" else masks.window(300) & masks.where(lambda b, h, q, kv: kv != 7)
    given = {name: x.detach() if isinstance(x, Tensor) else x for name, x in given.items()}
    return regard.attention(mask=mask, **given)[1]


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
    "entries": lambda w: w[0, 0, [17, 18], [3, 4]],
    "repr": repr,
    "rollout": lambda w: regard.rollout([w]) @ torch.ones(LENGTH),
    "rollout, a row": lambda w: regard.rollout([w])[-1],
}


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions(name, weights):
    seen = largest_of(lambda: QUESTIONS[name](weights))
    assert seen.elements <= LIMIT, seen.operation


def test_gradients_through_questions():
    for name in ("weights @ x", "entropy", "a row", "entries"):
        weights = regard.attention(mask=masks.window(300), **inputs(sinks=(HEADS,)))[1]
        seen = largest_of(lambda name=name, weights=weights: QUESTIONS[name](weights).sum().backward())
        assert seen.elements <= LIMIT, f"{name}: {seen.operation}"


def test_the_limit_can_be_exceeded(weights):
    assert largest_of(weights.to_dense).elements >= SCORES > LIMIT
