"""The weights block by block: every entry that may be read in exactly one block, and what it is there."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from tests.engine.test_problem import problem_of
from tests.strategies import Case, cases, examples

import regard
from regard import masks
from regard.engine import stream
from regard.engine.problem import Problem
from regard.engine.stream import blocks


def assembled(problem: Problem, lse: torch.Tensor | None, cuts: list[int] | None = None) -> torch.Tensor:
    found = torch.full(problem.dims, torch.nan, dtype=torch.float64)
    most = stream.ELEMENTS_PER_THREAD * torch.get_num_threads()
    for block in blocks(problem, lse, cuts):
        start, stop = block.rows.start, block.rows.stop
        assert block.log.numel() <= most or stop == start + 1, "a block that does not fit"
        assert cuts is None or stop in cuts or not any(start < cut <= stop for cut in cuts), "a cut is passed over"
        at = (block.b, block.h, block.rows, block.keys)
        assert found[at].isnan().all(), "two blocks hold one entry"
        assert block.log.shape == found[at].shape
        found[at] = block.log
    return found.nan_to_num(nan=-torch.inf, neginf=-torch.inf)


SIZES = {
    "one block": {},
    "small blocks": {"ELEMENTS_PER_THREAD": 300, "TALL": 4},
    "few keys": {"TALL": 2, "FEW": 0.6, "FEW_ROWS": 2},
}


@pytest.mark.parametrize("sizes", SIZES)
@examples(35)
@given(case=cases(ranks=(4,)))
def test_blocks_hold_every_entry_once(sizes: str, case: Case):
    problem, scores = problem_of(case)
    lse = torch.logsumexp(scores, -1)
    want = scores - torch.where(lse == -torch.inf, 0, lse)[..., None]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in SIZES[sizes].items():
            patch.setattr(stream, name, value)
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


def test_a_window_makes_blocks_of_rows_that_are_no_wider_than_it_and_they():
    weights = regard.attention_weights(torch.randn(4096, 1), torch.randn(4096, 1), masks.causal() & masks.window(65))
    made = []
    with pytest.MonkeyPatch.context() as patch:
        original = stream._finish
        patch.setattr(stream, "_finish", lambda *given: made.append(given[-1]) or original(*given))
        weights.max_logit()
    assert [at.rows for at in made] == [slice(n, n + 128) for n in range(0, 4096, 128)]
    assert [at.keys for at in made] == [slice(max(0, n - 64), n + 128) for n in range(0, 4096, 128)]


QUESTIONS = {
    "received": lambda w: w.received(),
    "weights.mT @ y": lambda w: w.mT @ torch.ones(w.shape[-2]),
    "max_logit": lambda w: w.max_logit(),
    "distance": lambda w: w.distance(),
    "ask": lambda w: w.ask("received", "entropy", ("topk", 2)),
    "pool": lambda w: w.pool(60, 60),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_work_in_a_window_grows_with_the_text_alone(question: str):
    made: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        original = stream._finish
        patch.setattr(stream, "_finish", lambda *given: made.append(given[2].numel()) or original(*given))
        totals = []
        for length in (8192, 65_536):
            weights = regard.attention_weights(
                torch.randn(length, 1), torch.randn(length, 1), masks.causal() & masks.window(64)
            )
            made.clear()
            QUESTIONS[question](weights)
            totals.append((len(made), sum(made)))
    (few, short), (many, long) = totals
    # A pair in 3 is read, and there are no more blocks than a row in 64: a cell of a pooled map may end within one.
    assert length * 64 <= long <= length * 64 * 3
    assert length / 128 <= many <= length / 64
    assert many <= 8 * few
    assert long <= 8.25 * short  # the first blocks are narrower, and cells end elsewhere
