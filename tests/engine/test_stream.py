"""The weights block by block: every entry that may be read in exactly one block, and what it is there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.engine.test_problem import problem_of
from tests.strategies import Case, cases, examples

from regard.engine import stream
from regard.engine.problem import Problem
from regard.engine.stream import blocks


def assembled(problem: Problem, lse: torch.Tensor | None, cuts: list[int] | None = None) -> torch.Tensor:
    found = torch.full(problem.dims, torch.nan, dtype=torch.float64)
    for block in blocks(problem, lse, cuts):
        at = (block.b, block.h, block.rows, block.keys)
        assert found[at].isnan().all(), "two blocks hold one entry"
        assert block.log.shape == found[at].shape
        found[at] = block.log
    return found.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


@pytest.mark.parametrize("elements", [None, 300], ids=["one block", "small blocks"])
@examples(50)
@given(case=cases(ranks=(4,)))
def test_blocks_hold_every_entry_once(elements: int | None, case: Case):
    problem, scores = problem_of(case)
    lse = torch.logsumexp(scores, -1)
    want = scores - torch.where(lse == -torch.inf, 0, lse)[..., None]
    with pytest.MonkeyPatch.context() as patch:
        if elements is not None:
            patch.setattr(stream, "ELEMENTS_PER_THREAD", elements)
        torch.testing.assert_close(assembled(problem, None), scores, rtol=0, atol=1e-12)
        torch.testing.assert_close(assembled(problem, lse), want, rtol=0, atol=1e-12)
        cuts = [0, problem.dims[2] // 3, problem.dims[2] // 2, problem.dims[2]]
        torch.testing.assert_close(assembled(problem, lse, sorted(set(cuts))), want, rtol=0, atol=1e-12)


def test_a_block_makes_its_weights_in_place():
    problem = Problem(torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 4, 3))
    (block,) = blocks(problem, torch.full((1, 1, 2), 4.0).log())
    assert block.weights() is block.log
    torch.testing.assert_close(block.log, torch.full((1, 1, 2, 4), 0.25))


@pytest.mark.parametrize("dims", [(0, 1, 2, 3), (1, 1, 0, 3), (1, 1, 2, 0)])
def test_nothing_has_no_blocks(dims):
    b, h, query_len, key_len = dims
    assert list(blocks(Problem(torch.zeros(b, h, query_len, 2), torch.zeros(b, h, key_len, 2)), None)) == []
