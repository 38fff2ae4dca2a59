"""Attention in blocks of rows: what the fused op cannot do, and the same as the fused op where it can."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given
from tests import properties
from tests.engine.test_problem import problem_of
from tests.strategies import Case, cases, examples

import regard
from regard.engine import problem as problem_module
from regard.engine import rows


@examples(15)
@given(case=cases(ranks=(4,)))
def test_small_blocks_give_what_the_definition_gives(case: Case):
    case = replace(case, options={**case.options, "softcap": 2.0})
    blocks = problem_module.Problem.row_blocks
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(problem_module.Problem, "row_blocks", lambda self, **_: blocks(self, elements=300, most=9))
        properties.matches_the_definition(regard.attention, case)
        properties.gradients_match_the_definition(regard.attention, case, through_lse=True)


@examples(30)
@given(case=cases(ranks=(4,)))
def test_forward_without_options_is_the_definition_too(case: Case):
    case = replace(case, options={})
    out, lse = rows.forward(problem_of(case)[0], case.value, 0)
    truth = case.truth()
    torch.testing.assert_close(out, truth.output, rtol=0, atol=1e-12)
    torch.testing.assert_close(lse, truth.lse, rtol=0, atol=1e-12)


def test_what_is_kept_depends_on_the_seed_and_the_block():
    shape, device = torch.Size((2, 3, 40, 50)), torch.device("cpu")
    kept = rows.keep_block(5, 0, shape, 0.25, device)
    assert torch.equal(kept, rows.keep_block(5, 0, shape, 0.25, device))
    assert not torch.equal(kept, rows.keep_block(6, 0, shape, 0.25, device))
    assert not torch.equal(kept, rows.keep_block(5, 40, shape, 0.25, device))
    # 12,000 draws: a standard deviation of 0.004.
    assert abs(kept.double().mean().item() - 0.75) < 5 * 0.004
    assert rows.keep_block(5, 0, shape, 0.0, device).all()
    assert not rows.keep_block(5, 0, shape, 1.0, device).any()
