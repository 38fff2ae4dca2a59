from __future__ import annotations

import pytest
import torch

from regard.bench import models
from regard.bench.case import Disagreement
from regard.bench.timing import interleave

pytest.importorskip("transformers")
SMALL = (32, 48, 4, 2, 61)


def test_a_small_model_agrees_and_can_be_timed():
    duel = models.generate_duel(SMALL, num_layers=2, prompt_len=4, new_tokens=6)
    assert duel.check().startswith("all 6 tokens are the same")
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


def test_another_text_is_refused(monkeypatch: pytest.MonkeyPatch):
    duel = models.generate_duel(SMALL, num_layers=1, prompt_len=4, new_tokens=6)
    right = models.generate
    monkeypatch.setattr(models, "generate", lambda *given: (right(*given) + torch.tensor([0, 0, 0, 1, 0, 0])) % 61)
    with pytest.raises(Disagreement, match="the texts differ from new token 3"):
        duel.check()


def test_the_sizes_are_what_the_cases_say():
    for name, millions in (("25m", 25.6), ("100m", 98.9)):
        d_model, d_mlp, heads, kv_heads, vocab = models.SIZES[name]
        layer = 2 * d_model**2 + 2 * d_model * d_model // heads * kv_heads + 3 * d_model * d_mlp + 2 * d_model
        assert (12 * layer + d_model + vocab * d_model) / 1e6 == pytest.approx(millions, abs=0.2)
