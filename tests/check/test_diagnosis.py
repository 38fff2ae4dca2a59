"""What people really write wrong, in their own style, and the likely bug that is named; none is built on mutants."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import regard
from regard.check import Contract, Sizes


def plain(q: Tensor, k: Tensor, v: Tensor, scores: Callable[[Tensor], Tensor], weights: Any = None) -> Tensor:
    w = scores(q @ k.transpose(-2, -1))
    return (torch.softmax(w, dim=-1) if weights is None else weights(w)) @ v


def unscaled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k, v, lambda s: s)


def scaled_by_d(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    return plain(query, key, value, lambda s: s / query.size(-1))


def multiplied(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k, v, lambda s: s * math.sqrt(q.size(-1)))


def wrong_axis(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return plain(q, k, v, lambda s: s / q.size(-1) ** 0.5, lambda s: s.softmax(-2))


def over_heads(Q: Tensor, K: Tensor, V: Tensor) -> Tensor:
    scores = torch.einsum("bhqd,bhkd->bhqk", Q, K) / Q.shape[-1] ** 0.5
    return torch.einsum("bhqk,bhkd->bhqd", torch.softmax(scores, dim=1), V)


def inverted(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    s = q @ k.mT / q.shape[-1] ** 0.5
    if mask is not None:
        s[mask.expand_as(s)] = -1e30
    return s.softmax(-1) @ v


def added(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    s = q @ k.mT / q.shape[-1] ** 0.5
    return (s if mask is None else s + mask).softmax(-1) @ v


def after_softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    w = (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1)
    return (w if mask is None else w * mask) @ v


def multiplied_by_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    s = q @ k.mT / q.shape[-1] ** 0.5
    return (s if mask is None else s * mask).softmax(-1) @ v


def ignores_mask(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def next_seen(q: Tensor, k: Tensor, v: Tensor, *, causal: bool = False) -> Tensor:
    s = q @ k.mT / q.shape[-1] ** 0.5
    if causal:
        s = s + torch.triu(torch.full(s.shape[-2:], -math.inf), diagonal=2)
    return s.softmax(-1) @ v


def tiled(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    group = q.shape[1] // k.shape[1]
    k, v = k.repeat(1, group, 1, 1), v.repeat(1, group, 1, 1)
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def scale_lost(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
    return (q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v


def unstable(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    w = torch.exp(q @ k.mT / q.shape[-1] ** 0.5)
    return w / w.sum(-1, keepdim=True) @ v


class Layer(nn.Module):
    """Multi-head attention with the mistakes that its arguments name."""

    def __init__(self, *, wide: bool = False, viewed: bool = False, eval_dropout: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.num_heads, self.wide, self.viewed, self.eval_dropout = 4, wide, viewed, eval_dropout
        self.to_q, self.to_k, self.to_v, self.to_out = (nn.Linear(32, 32) for _ in range(4))
        self.dropout = 0.0

    def heads(self, t: Tensor) -> Tensor:
        if self.viewed:
            return t.view(t.shape[0], self.num_heads, -1, 8)
        return t.view(t.shape[0], -1, self.num_heads, 8).transpose(1, 2)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.heads(self.to_q(x)), self.heads(self.to_k(x)), self.heads(self.to_v(x))
        w = (q @ k.mT / (32 if self.wide else 8) ** 0.5).softmax(-1)
        w = torch.dropout(w, self.dropout, self.training or self.eval_dropout)
        return self.to_out((w @ v).transpose(1, 2).reshape(x.shape))


ALLOW = Contract(mask="allow")
WILD: dict[str, tuple[Any, Contract | None, set[str]]] = {
    "unscaled": (unscaled, None, {"scale_missing"}),
    "scaled by d": (scaled_by_d, None, {"scale_by_width"}),
    "multiplied": (multiplied, None, {"scale_inverted"}),
    "wrong axis": (wrong_axis, None, {"softmax_over_queries"}),
    "over heads": (over_heads, None, {"softmax_over_heads"}),
    "inverted": (inverted, ALLOW, {"mask_polarity_inverted"}),
    "added": (added, ALLOW, {"mask_added_as_zeros_and_ones"}),
    "after softmax": (after_softmax, ALLOW, {"mask_after_the_softmax"}),
    "multiplied by the mask": (multiplied_by_mask, ALLOW, {"mask_zeroes_the_scores"}),
    "ignores the mask": (ignores_mask, ALLOW, {"mask_ignored"}),
    "next seen": (next_seen, None, {"causal_sees_the_next"}),
    "tiled": (tiled, Contract(grouped="interleaved"), {"grouped_heads_tiled"}),
    "scale lost": (scale_lost, None, {"custom_scale_ignored"}),
    "unstable": (unstable, None, {"softmax_without_stabilisation"}),
    "layer, scale": (Layer(wide=True), None, {"scale_of_the_model_width"}),
    "layer, view": (Layer(viewed=True), None, {"view_without_transpose"}),
    "layer, dropout": (Layer(eval_dropout=True), None, {"dropout_active_in_eval"}),
}


@pytest.fixture(scope="module")
def reports() -> dict[str, Any]:
    return {name: regard.check(subject, contract) for name, (subject, contract, _) in WILD.items()}


@pytest.mark.parametrize("name", WILD)
def test_it_is_not_ok(reports: dict[str, Any], name: str) -> None:
    assert reports[name].failures, str(reports[name])


def test_at_least_8_in_10_likely_bugs_are_the_true_ones(reports: dict[str, Any]) -> None:
    named = {n: next((r.likely_name for r in reports[n].failures if r.likely_name), "") for n in WILD}
    wrong = {n: got for n, got in named.items() if got not in WILD[n][2]}
    assert len(wrong) <= 0.2 * len(WILD), wrong


def test_the_likely_bug_is_a_sentence_and_stands_above_the_verdict(reports: dict[str, Any]) -> None:
    lines = str(reports["unscaled"]).splitlines()
    assert lines[-2] == "likely bug: this is what you get from leaving the scores unscaled"
    assert lines[-1].endswith("FAILED")


def test_a_failure_is_shrunk_and_shows_where(reports: dict[str, Any]) -> None:
    (first, *_) = reports["unscaled"].failures
    assert first.name == "matches_definition"
    assert first.sizes == "B 1, H 1, L 2, D 2"
    assert first.index is not None
    assert first.got != pytest.approx(first.wanted)


@pytest.mark.parametrize("name", ["unscaled", "added", "next seen", "tiled", "layer, scale"])
def test_the_snippet_reproduces_the_failure(reports: dict[str, Any], name: str) -> None:
    subject, _, _ = WILD[name]
    for result in reports[name].failures[:3]:
        given = {reports[name].subject: subject}
        with pytest.raises(AssertionError) as error:
            exec(compile(result.repro.replace("print(output)", "str(output)"), "snippet", "exec"), given)
        assert isinstance(error.value, regard.check.Violation)


def test_a_single_head_hides_bugs_and_the_report_says_which() -> None:
    def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
        if q.shape[:2] != (1, 1):
            raise ValueError("one sequence and one head")
        s = q @ k.mT / q.shape[-1] ** 0.5
        return (s if mask is None else s.masked_fill(~mask, -math.inf)).softmax(-1) @ v

    blind = regard.check(attention, sizes=Sizes(1, 1, query_len=4, width=8)).blind
    assert any("first head" in bug for bug in blind), blind
    assert any("the width of all heads" in bug for bug in blind), blind


def test_halves_are_graded() -> None:
    grades = regard.check(torch.nn.functional.scaled_dot_product_attention).grades
    own, naive = grades["bfloat16"]
    assert 1.0 <= own < 1.5 < naive
