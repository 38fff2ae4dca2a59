"""The score matrix as a rule: blocks, single entries and ranges of it, against the definition."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.strategies import Case, cases, examples

import regard
from regard import masks
from regard.engine.problem import Options, Problem, compute_dtype, crop, pick
from regard.masks import Sizes
from regard.masks.lowering import lower


def problem_of(case: Case) -> tuple[Problem, torch.Tensor]:
    """The problem of a case with axes (B, H, L, S), and its scores by the definition, -inf where masked."""
    options = {name: o for name, o in case.options.items() if name not in ("bias", "sinks")}
    sizes = Sizes(case.shape.batch, case.shape.heads, case.shape.query_len, case.shape.key_len, torch.device("cpu"))
    mask = masks.dense(case.mask) if isinstance(case.mask, torch.Tensor) else case.mask
    scale = options.get("scale", case.shape.width**-0.5)
    bias = case.options.get("bias")
    explicit = None if bias is None else bias.view((1,) * (4 - bias.dim()) + tuple(bias.shape))
    lowered = lower(None if mask is None else mask.bind(sizes), sizes)
    problem = Problem(case.query, case.key, explicit, None, Options(scale, options.get("softcap"), **lowered))
    k = case.key.repeat_interleave(case.shape.heads // case.shape.kv_heads, 1)
    scores = case.query @ k.mT * scale
    if "softcap" in options:
        scores = options["softcap"] * torch.tanh(scores / options["softcap"])
    scores = scores if bias is None else scores + bias
    return problem, scores if case.allowed is None else torch.where(case.allowed, scores, -torch.inf)


@examples(60)
@given(cases(ranks=(4,)), st.data())
def test_a_block_is_a_part_of_the_scores(case: Case, data):
    problem, scores = problem_of(case)
    ends = []
    for n in scores.shape[2:]:
        start = data.draw(st.integers(0, n - 1))
        ends.append(slice(start, data.draw(st.integers(start + 1, n))))
    torch.testing.assert_close(problem.block(*ends), scores[:, :, ends[0], ends[1]], rtol=0, atol=1e-12)
    additive = problem.additive(*ends)
    if additive is not None:
        forbidden = (additive == -torch.inf).expand_as(scores[:, :, ends[0], ends[1]])
        assert torch.equal(forbidden, scores[:, :, ends[0], ends[1]] == -torch.inf)


@examples(60)
@given(cases(ranks=(4,)))
def test_blocks_of_rows_hold_every_score(case: Case):
    problem, scores = problem_of(case)
    found = torch.full_like(scores, -torch.inf)
    for rows, keys in problem.row_blocks(elements=300, most=9):
        assert rows.stop - rows.start <= 9
        found[:, :, rows, keys] = problem.block(rows, keys)
    torch.testing.assert_close(found, scores, rtol=0, atol=1e-12)


def test_blocks_of_rows_are_bounded():
    problem = Problem(torch.zeros(2, 3, 1000, 1), torch.zeros(2, 3, 50, 1))
    blocks = list(problem.row_blocks(elements=3000))
    assert all((r.stop - r.start) * 2 * 3 * 50 <= 3000 for r, _ in blocks)
    assert [r.start for r, _ in blocks] == list(range(0, 1000, 10))
    # One row is the least there is, however many heads.
    assert len(list(problem.row_blocks(elements=1))) == 1000


def test_axes_of_one_stand_for_any_index():
    t = torch.arange(6.0).view(1, 2, 1, 3)
    assert crop(t, slice(5, 9), slice(1, 3)).shape == (1, 2, 1, 2)
    index = [torch.tensor(i) for i in (4, 1, 7, 2)]
    assert pick(t, *index).item() == 5.0


def test_half_precision_is_computed_in_float32():
    wide = {dtype: compute_dtype(dtype) for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)}
    assert list(wide.values()) == [torch.float32, torch.float32, torch.float32, torch.float64]
    problem = Problem(torch.zeros(1, 1, 2, 3).half(), torch.zeros(1, 1, 2, 3).half())
    assert problem.block(slice(0, 2), slice(0, 2)).dtype == torch.float32


def test_detached_problems_are_outside_of_autograd():
    q, k = (torch.zeros(1, 1, 2, 3, requires_grad=True) for _ in range(2))
    problem = Problem(q, k).detach()
    assert not problem.q.requires_grad
    assert not problem.k.requires_grad
    assert regard.attention(q, k, k)[0].requires_grad
