"""Many small rectangles at once, against the definition and autograd through it."""

from __future__ import annotations

import math
from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.properties import assert_near
from tests.small_tiles import engine_of
from tests.strategies import examples, numbers
from torch import Tensor

from regard import reference
from regard.engine import blocks


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with engine_of({}):
        yield


def rectangles(generator: torch.Generator, x: int, y: int, rows: int, keys: int, width: int) -> list[Tensor]:
    """q, k and v (x, y, ..., width) in float64."""
    sizes = (x, y, rows, width), (x, y, keys, width), (x, y, keys, width)
    return [torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes]


def room(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output and lse that hold nonsense, rows before heads in memory as the engine has them."""
    x, y, rows = q.shape[:3]
    out, lse = (q.new_full((y, rows, x, width), torch.nan).permute(2, 0, 1, 3) for width in (v.shape[3], 1))
    return out, lse


def test_by_hand():
    # Scores log 1, log 2 and log 5, of which the mask takes the last: weights 1/3 and 2/3.
    q, k = torch.ones(1, 1, 1, 1), torch.tensor([1.0, 2.0, 5.0]).log().view(1, 1, 3, 1)
    v = torch.tensor([3.0, 6.0, 100.0]).view(1, 1, 3, 1)
    out, lse = room(q, v)
    blocks.forward(q, k, v, torch.tensor([[True, True, False]]), 1.0, out, lse)
    assert out.item() == pytest.approx(5.0, abs=1e-6)
    assert lse.item() == pytest.approx(math.log(3), abs=1e-6)


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], Tensor | None, float, dict]:
    generator = numbers(draw)
    x, y, rows, keys, width = (draw(st.integers(1, n)) for n in (3, 5, 6, 7, 4))
    allowed = None
    if draw(st.booleans()):
        allowed = torch.rand(rows, keys, generator=generator) > 0.4
        allowed[:, draw(st.integers(0, keys - 1))] = True  # no empty row: there are none where this module is used
    q, k, v = rectangles(generator, x, y, rows, keys, width)
    if draw(st.booleans()):  # overlapping keys, as of a band; every other row
        k, v = (t.flatten()[: t[:1, :1].numel()].view(1, 1, keys, width).expand(x, y, -1, -1) for t in (k, v))
        q = torch.cat([q, q], -1)[..., ::2]
    chosen = {(blocks, "ELEMENTS_PER_THREAD"): draw(st.sampled_from((1, 50, 1 << 20)))}
    return [q, k, v], allowed, draw(st.sampled_from((0.3, 1.0))), chosen


@examples(80)
@given(problems())
def test_forward_is_the_definition(problem):
    (q, k, v), allowed, scale, chosen = problem
    want = reference.attention(q, k, v, allowed, scale=scale)
    out, lse = room(q, v)
    with engine_of(chosen):
        blocks.forward(q, k, v, allowed, scale, out, lse)
    assert_near("output", out, want.output, 1e-13)
    assert_near("lse", lse[..., 0], want.lse, 1e-13)


@examples(80)
@given(problems())
def test_backward_is_that_of_the_definition(problem):
    (q, k, v), allowed, scale, chosen = problem
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    want = reference.attention(*leaves, allowed, scale=scale)
    grad = torch.randn(want.output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad(want.output, leaves, grad)
    delta = (grad * want.output.detach()).sum(-1, keepdim=True)
    with engine_of(chosen):
        found = blocks.backward(grad, q, k, v, want.lse.detach()[..., None], delta, allowed, scale)
    for name, got, expected in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        assert_near(name, got, expected, 1e-12)


@pytest.mark.parametrize("size", [100.0, -100.0, math.inf, math.nan])
def test_rows_whose_exponentials_do_not_hold_are_told_and_spoil_no_other(size):
    q, k, v = rectangles(torch.Generator().manual_seed(0), 1, 4, 3, 5, 2)
    k[0, 2] = 1.0
    calm, calm_lse = room(q, v)
    blocks.forward(q, k, v, None, 1.0, calm, calm_lse)
    assert blocks.unsafe(calm_lse) is None
    q[0, 2, 1] = size  # one row of one block
    out, lse = room(q, v)
    blocks.forward(q, k, v, None, 1.0, out, lse)
    assert blocks.unsafe(lse).nonzero().tolist() == [[0, 2, 1, 0]]
    others = torch.ones(4, 3, dtype=torch.bool)
    others[2, 1] = False
    assert torch.equal(out[0, others], calm[0, others])


def test_forbidden_scores_may_be_of_any_size_forward():
    # exp(800) is inf, and inf * 0 would be NaN.
    q, k, v = rectangles(torch.Generator().manual_seed(0), 1, 1, 2, 3, 2)
    allowed = torch.tensor([[True, True, False], [True, True, True]])
    calm, calm_lse = room(q, v)
    blocks.forward(q, k, v, allowed, 1.0, calm, calm_lse)
    k[..., 2, :] = torch.where(q[0, 0, 0] > 0, 1e5, -1e5)
    out, lse = room(q, v)
    blocks.forward(q, k, v, allowed, 1.0, out, lse)
    assert torch.equal(out[0, 0, 0], calm[0, 0, 0])
    assert torch.equal(lse[0, 0, 0], calm_lse[0, 0, 0])


def test_forbidden_scores_may_be_of_any_size_backward():
    # exp(800) is inf, and inf * 0 would be NaN.
    q, k, v = rectangles(torch.Generator().manual_seed(0), 1, 1, 2, 3, 2)
    k[..., 2, :] = torch.where(q[0, 0, 0] > 0, 1e5, -1e5)
    allowed = torch.tensor([[True, True, False], [True, True, False]])
    want = reference.attention(q, k, v, allowed, scale=1.0)
    grad = torch.ones_like(want.output)
    delta = (grad * want.output).sum(-1, keepdim=True)
    for t in blocks.backward(grad, q, k, v, want.lse[..., None], delta, allowed, 1.0):
        assert torch.isfinite(t).all()


def test_the_limit_is_about_the_rows_log_sum_exp():
    assert blocks.safe(torch.tensor([-39.0, 39.0]))
    assert blocks.unsafe(torch.tensor([-39.0, 39.0])) is None
    for bad in (40.5, -40.5, math.inf, -math.inf, math.nan):
        assert not blocks.safe(torch.tensor([0.0, bad]))
        assert blocks.unsafe(torch.tensor([0.0, bad, 1.0])).tolist() == [False, True, False]


def test_room_is_used_again():
    scratch = blocks.Room(torch.zeros(1))
    first = scratch.take(0, 4, 5)
    assert scratch.take(0, 2, 3).data_ptr() == first.data_ptr()
    assert scratch.take(1, 2, 3).data_ptr() != first.data_ptr()
    assert scratch.take(0, 10, 10).shape == (10, 10)
