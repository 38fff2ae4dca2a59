"""A sweep over rows that read few keys: in small blocks, with the answers of the whole."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import masks
from regard.engine import stream

LENGTHS = [(40, 40), (23, 31), (31, 23)]
MASKS = {
    "window": masks.causal() & masks.window(3),
    "band": masks.band(2, 4),
    "band and rule": masks.band(3, 1) & masks.where(lambda b, h, q, kv: (q + kv + h + b) % 3 > 0),
    "window and padding": masks.causal() & masks.window(5) & masks.padding(torch.tensor([9, 31])),
    "offset": masks.causal(offset=2) & masks.window(4),
}


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "TALL", 3)
    monkeypatch.setattr(stream, "FEW", 0.6)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("beside_an_output", [True, False])
@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_the_answers_are_those_of_the_definition(name: str, lengths: tuple[int, int], beside_an_output: bool) -> None:
    (query_len, key_len), mask = lengths, MASKS[name]
    if name == "window and padding" and key_len < 31:
        mask = masks.causal() & masks.window(5) & masks.padding(torch.tensor([9, key_len]))
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, query_len, 3, generator=generator, dtype=torch.float64)
    k, v = torch.randn(2, 2, 2, key_len, 3, generator=generator, dtype=torch.float64)
    bias = torch.randn(1, 4, query_len, key_len, generator=generator, dtype=torch.float64)
    options = {"bias": bias, "softcap": 5.0, "sinks": torch.tensor([0.5, -1.0, 2.0, 0.0]).double()}
    made = regard.attention(q, k, v, mask, **options)[1] if beside_an_output else None
    weights = regard.attention_weights(q, k, mask, **options) if made is None else made
    allowed = mask.to_dense(query_len, key_len, batch=2, num_heads=4)
    want = regard.reference.attention(q, k, v, allowed, **options).weights
    entropy, received, mass, mean, most, top = weights.ask(
        "entropy", "received", ("mass", 0), ("pool", query_len, key_len), ("pool", 3, 5, "max"), ("topk", 2)
    )
    torch.testing.assert_close(mean, want)
    torch.testing.assert_close(entropy, torch.special.entr(want).sum(-1))
    torch.testing.assert_close(received, want.sum(-2))
    torch.testing.assert_close(mass, want[..., 0])
    torch.testing.assert_close(top.values, want.topk(2).values)
    rows, cols = ([n * length // cells for n in range(cells + 1)] for length, cells in ((query_len, 3), (key_len, 5)))
    for r in range(3):
        for c in range(5):
            cell = want[..., rows[r] : rows[r + 1], cols[c] : cols[c + 1]]
            torch.testing.assert_close(most[..., r, c], cell.amax((-1, -2)))
