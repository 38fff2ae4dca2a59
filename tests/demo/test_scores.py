"""What the heads table claims of the shipped model, and that an untrained one does not show it."""

from __future__ import annotations

import inspect
import json
import textwrap

import pytest
import torch

import regard
from regard.demo import Decoder, load
from regard.demo.scores import head_scores, induction, previous_token, repeat_twice
from regard.demo.store import SHIPPED

PERIOD = 64
# Mean of 1 / (i + 1) over the second half: what a head without any preference would score.
CHANCE = sum(1 / (i + 1) for i in range(PERIOD, 2 * PERIOD)) / PERIOD


def _scores(model: Decoder, tokenizer) -> dict[str, torch.Tensor]:
    text = torch.tensor([tokenizer.encode(inspect.getsource(textwrap))[:256]])
    repeated = repeat_twice(len(tokenizer), PERIOD, count=4, generator=torch.Generator().manual_seed(3))
    return head_scores(model, text, repeated)


@pytest.fixture(scope="module")
def trained() -> dict[str, torch.Tensor]:
    return _scores(*load())


@pytest.fixture(scope="module")
def untrained() -> dict[str, torch.Tensor]:
    model, tokenizer = load()
    torch.manual_seed(0)
    return _scores(Decoder(model.config).eval(), tokenizer)


def test_an_induction_head_has_formed(trained: dict[str, torch.Tensor]) -> None:
    best = trained["induction"].max().item()
    assert best > 0.3
    assert best > 20 * CHANCE


def test_a_previous_token_head_has_formed(trained: dict[str, torch.Tensor]) -> None:
    assert trained["previous_token"].max().item() > 0.3


def test_induction_heads_stand_above_a_previous_token_head(trained: dict[str, torch.Tensor]) -> None:
    first_previous = (trained["previous_token"].amax(1) > 0.3).nonzero()[0].item()
    best_induction = trained["induction"].amax(1).argmax().item()
    assert first_previous < best_induction


def test_an_untrained_model_has_neither(untrained: dict[str, torch.Tensor]) -> None:
    assert untrained["induction"].max().item() < 3 * CHANCE
    assert untrained["previous_token"].max().item() < 0.1


@torch.no_grad()
def test_the_trained_model_predicts_the_repetition() -> None:
    model, tokenizer = load()
    repeated = repeat_twice(len(tokenizer), PERIOD, count=4, generator=torch.Generator().manual_seed(4))
    right = (model(repeated).argmax(-1)[:, :-1] == repeated[:, 1:]).float()
    assert right[:, PERIOD:].mean().item() > 0.8
    assert right[:, : PERIOD - 1].mean().item() < 0.1


@torch.no_grad()
def test_the_trained_model_predicts_code() -> None:
    model, tokenizer = load()
    tokens = torch.tensor([tokenizer.encode("import os\nimport sys\n\n\nclass Thing:\n    def __init__(self")])
    assert tokenizer.pieces([model(tokens)[0, -1].argmax().item()])[0][:1] in {",", "):", ")"}


def test_the_recorded_scores_are_those_of_the_shipped_heads(trained: dict[str, torch.Tensor]) -> None:
    recorded = json.loads((SHIPPED / "training.json").read_text())["head_scores"]
    # Other tokens than those measured while training, the same heads.
    difference = torch.tensor(recorded["induction"]) - trained["induction"]
    assert difference.abs().max().item() < 0.1


@torch.no_grad()
def test_scores_agree_with_the_dense_definition() -> None:
    q, k, v = torch.randn(3, 2, 3, 8, 4).unbind()
    _, weights = regard.attention(q, k, v, regard.masks.causal())
    dense = weights.to_dense()
    before = torch.stack([dense[..., i, i - 1] for i in range(1, 8)]).mean((0, 1))
    after_last = torch.stack([dense[..., i, i - 3 + 1] for i in range(3, 8)]).mean((0, 1))
    torch.testing.assert_close(previous_token(weights), before)
    torch.testing.assert_close(induction(weights, period=3), after_last)
