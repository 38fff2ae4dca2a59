from __future__ import annotations

import pytest
import torch

import regard
from regard.bench import masked, rules
from regard.bench.case import Disagreement
from regard.bench.timing import interleave

RULES = {
    "window": lambda: rules.window(5),
    "documents": lambda: rules.documents(torch.tensor([10, 7, 31])),
    "prefix": lambda: rules.prefix(9),
}
DUELS = {
    **{
        f"{name}, {peer}, backward={backward}": lambda name=name, peer=peer, backward=backward: masked.masked_duel(
            RULES[name](), 48, peer, backward=backward, num_heads=2, width=8
        )
        for name in RULES
        for peer in ("causal", "mask")
        for backward in (False, True)
    },
    "peak": lambda: masked.masked_duel(rules.window(5), 48, "peak", num_heads=2, width=8),
    "padding": lambda: masked.padding_duel(3, 48, num_heads=2, width=8),
}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_says_the_same_twice(name: str):
    rule = RULES[name]()
    by_hand = rule.allowed(torch.arange(48)[:, None], torch.arange(48))
    assert torch.equal(rule.mask().to_dense(48, 48).expand(1, 1, 48, 48)[0, 0], by_hand)
    assert rule.mask() is not rule.mask()


def test_random_lengths_fill_the_text_within_their_limits():
    lengths = rules.random_lengths()
    assert int(lengths.sum()) == 8192
    assert len(lengths) == 16
    assert 256 <= int(lengths.min()) < int(lengths.max()) <= 768
    assert torch.equal(lengths, rules.random_lengths())
    assert rules.random_lengths(6, 3, 2, 9).tolist() == [2, 2, 2]
    assert rules.random_lengths(27, 3, 2, 9).tolist() == [9, 9, 9]


@pytest.mark.parametrize("total", [5, 28])
def test_lengths_that_cannot_fill_the_text_are_refused(total: int):
    with pytest.raises(ValueError, match=f"total: got {total}; expected 6 to 27, for 3 lengths"):
        rules.random_lengths(total, 3, 2, 9)


@pytest.mark.parametrize("name", DUELS)
def test_every_case_agrees_and_can_be_timed_when_it_is_small(name: str):
    duel = DUELS[name]()
    assert "float64" in duel.check()
    samples = interleave((duel.subject, duel.peer), repeats=1)
    assert all(seconds > 0 for of_one in samples.values() for seconds in of_one)


@pytest.mark.parametrize("name", DUELS)
def test_a_mask_that_is_ignored_is_refused(monkeypatch: pytest.MonkeyPatch, name: str):
    right = regard.attention
    duel = DUELS[name]()
    monkeypatch.setattr(regard, "attention", lambda q, k, v, mask: right(q, k, v))
    with pytest.raises(Disagreement, match=r"output of regard\.attention.*: off by"):
        duel.check()


def test_a_wrong_gradient_is_refused(monkeypatch: pytest.MonkeyPatch):
    class Halved(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, grad):
            return grad * 0.999

    right = regard.attention
    duel = DUELS["window, mask, backward=True"]()
    monkeypatch.setattr(regard, "attention", lambda q, k, v, mask: right(q, Halved.apply(k), v, mask))
    with pytest.raises(Disagreement, match=r"gradient of key of regard\.attention: off by"):
        duel.check()


def test_a_peer_that_computes_the_same_is_compared_too(monkeypatch: pytest.MonkeyPatch):
    duel = DUELS["window, mask, backward=False"]()
    right = torch.nn.functional.scaled_dot_product_attention
    wrong = lambda *given, **options: right(*given, **options) * 1.001  # noqa: E731
    monkeypatch.setattr(masked.F, "scaled_dot_product_attention", wrong)
    with pytest.raises(Disagreement, match="output of SDPA, dense mask"):
        duel.check()


def test_the_bound_is_a_product_of_as_many_operations(monkeypatch: pytest.MonkeyPatch):
    seen = []
    monkeypatch.setattr(masked, "_product", lambda operations: seen.append(operations))
    masked.masked_duel(rules.window(5), 48, "peak", num_heads=2, width=8)
    # 5 pairs a row, fewer in the first four rows; 2 products of 2 * 8 operations a pair, 2 heads.
    assert seen == [(48 * 5 - 10) * 4 * 8 * 2]


def test_every_mask_case_has_a_bar_of_at_least():
    assert [case.bars[0].at_least for case in masked.CASES] == [7, 20, 6, 15, 0.5, 10, 10, 10, 10, 1.7, 1.4]
