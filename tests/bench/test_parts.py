"""The cases of the layer and of rotary positions, small: they agree, and what is wrong is refused."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

import regard
from regard.bench import parts
from regard.bench.case import Disagreement, Duel
from regard.bench.timing import interleave

SMALL: dict[str, Callable[[], Duel]] = {
    "forward": lambda: parts.forward_duel(12, 32, 4, 2),
    "decode": lambda: parts.decode_duel(12, 32, 4, 2),
    "rotary": lambda: parts.rotary_duel(12, 8, 4, 2),
}


@pytest.fixture(params=SMALL)
def name(request: pytest.FixtureRequest) -> str:
    if request.param != "rotary":
        pytest.importorskip("transformers")
    return str(request.param)


def test_a_small_one_agrees_and_can_be_timed(name: str):
    duel = SMALL[name]()
    assert "float64" in duel.check()
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)
    assert "float64" in duel.check()  # what a step adds to a cache is dropped again


def test_float32_that_turns_by_other_angles_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    right = regard.positions.Rotary.rotate

    def wrong(self: regard.positions.Rotary, q: torch.Tensor, k: torch.Tensor, **where: object) -> object:
        turned = right(self, q, k, **where)
        return turned if q.dtype == torch.float64 else (turned[0], right(self, q, k)[1].roll(1, dims=-2))

    duel = SMALL[name]()
    monkeypatch.setattr(regard.positions.Rotary, "rotate", wrong)
    with pytest.raises(Disagreement, match="off by"):
        duel.check()
