"""What the mutants do not show of single properties: the compiler, dropout that evaluation switches off, and more."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import regard
from regard.check import Contract, Unsupported, Violation, properties


def scaled(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, *, scale: float | None = None) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=scale)


@pytest.mark.parametrize("dropped", ["scale", "mask", "order"])
def test_a_compiler_that_drops_something_is_caught(monkeypatch: pytest.MonkeyPatch, dropped: str) -> None:
    def compiler(function: Any) -> Any:
        def compiled(*, q: Tensor, k: Tensor, v: Tensor, mask: Any = None, scale: Any = None) -> Tensor:
            if dropped == "scale":
                return function(q, k, v, mask)
            if dropped == "mask":
                return function(q, k, v, None, scale=scale)
            contiguous = torch.as_strided(k, k.shape, torch.empty(k.shape).stride())  # whatever the strides are
            return function(q, contiguous, v, mask, scale=scale)

        return compiled

    monkeypatch.setattr(torch, "compile", compiler)
    with pytest.raises(Violation, match="output compiled, against eager"):
        properties.check_compiled_equals_eager(scaled)


def test_a_compiler_that_drops_nothing_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", lambda function: function)
    properties.check_compiled_equals_eager(scaled)


@pytest.mark.slow
def test_torch_s_own_compiler_passes() -> None:
    properties.check_compiled_equals_eager(scaled)


class Heads(nn.Module):
    """One head; what ``forward`` does to its dropout is the subject's business."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(16, 16) for _ in range(3))
        self.dropout = nn.Dropout(0.1)

    def forward(self, x: Tensor) -> Tensor:
        weights = (self.q_proj(x) @ self.k_proj(x).mT / 4).softmax(-1)
        return self.dropout(weights) @ self.v_proj(x)


class StuckAtZero(Heads):
    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            self.dropout.p = 0.0  # "it is off in evaluation"; it stays off
        return super().forward(x)


def test_a_rate_that_evaluation_sets_to_0_for_good_is_caught() -> None:
    with pytest.raises(Violation, match="dropout is off after one call in evaluation mode"):
        properties.check_dropout_survives_a_round_trip(StuckAtZero())
    properties.check_dropout_survives_a_round_trip(Heads())


def test_the_module_that_is_checked_is_left_as_it_was() -> None:
    module = Heads().train()
    before = {name: t.clone() for name, t in module.state_dict().items()}
    assert regard.check(module).ok
    assert module.training
    assert module.dropout.p == 0.1
    assert all(torch.equal(t, before[name]) for name, t in module.state_dict().items())
    assert all(p.grad is None for p in module.parameters())


class Rotated(Heads):
    """Adds positions, and says so by the name of a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("rotary_phase", torch.linspace(0, 3, 32)[:, None])

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x + self.rotary_phase[: x.shape[1]])


def test_positions_inside_are_found_by_a_name_or_declared() -> None:
    report = regard.check(Rotated(), suite="attention")
    assert report.contract.positional is True
    skipped = {result.name: result.message for result in report.having("skipped")}
    assert skipped["order_of_keys_changes_nothing"] == "positions are added inside"
    strict = regard.check(Rotated(), Contract(positional=False), suite="attention")
    assert "order_of_keys_changes_nothing" in {result.name for result in strict.failures}


def test_a_module_whose_numbers_cannot_be_compared_is_not_ok() -> None:
    class Gated(Heads):
        def __init__(self) -> None:
            super().__init__()
            self.gate = nn.Parameter(torch.full((16,), 1.5))

        def forward(self, x: Tensor) -> Tensor:
            return self.gate * super().forward(x)

    report = regard.check(Gated())
    assert not report.failures
    assert not report.ok
    assert "gate" in report.untested
    assert "NOT ENOUGH TESTED" in str(report)


def test_what_is_not_implemented_is_skipped_and_other_errors_fail() -> None:
    def refuses(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if scale is not None and scale != 0.5:
            raise NotImplementedError("only half")
        return scaled(q, k, v, scale=scale)

    def breaks(q: Tensor, k: Tensor, v: Tensor, scale: float | None = None) -> Tensor:
        if scale is not None and scale != 0.5:
            raise IndexError("only half")
        return scaled(q, k, v, scale=scale)

    with pytest.raises(Unsupported, match="only half"):
        properties.check_custom_scale(refuses)
    with pytest.raises(Violation, match="raises IndexError: only half"):
        properties.check_custom_scale(breaks)
