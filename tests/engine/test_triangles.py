"""Halved triangles against the definition and autograd through it."""

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
from regard.engine import blocks, triangles


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with engine_of({}):
        yield


def room(q: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Output and lse that hold nonsense."""
    return q.new_full((*q.shape[:3], v.shape[3]), torch.nan), q.new_full((*q.shape[:3], 1), torch.nan)


@pytest.mark.parametrize(
    ("rows", "times", "padded"),
    [(1, 0, 4), (48, 0, 48), (67, 0, 68), (68, 1, 72), (97, 1, 104), (192, 2, 192), (1024, 4, 1024), (1023, 4, 1024)],
)
def test_halvings(rows, times, padded):
    assert triangles.halvings(rows) == (times, padded)


@given(st.integers(1, 5000))
def test_halving_pads_by_little(rows):
    times, padded = triangles.halvings(rows)
    step = triangles.GRAIN << times
    assert padded % step == 0
    assert rows <= padded < rows + step


def test_by_hand():
    # Keys log 1, log 2, log 5 and log 8: row r weighs its first r + 1 keys by 1 : 2 : 5 : 8.
    q = torch.ones(1, 1, 4, 1, dtype=torch.float64)
    k = torch.tensor([1.0, 2.0, 5.0, 8.0], dtype=torch.float64).log().view(1, 1, 4, 1)
    v = torch.tensor([16.0, 8.0, 0.0, 4.0], dtype=torch.float64).view(1, 1, 4, 1)
    out, lse = room(q, v)
    with engine_of({(triangles, "SMALLEST"): 1, (triangles, "GRAIN"): 1}):
        assert triangles.halvings(4) == (2, 4)
        triangles.forward(q, k, v, 1.0, out, lse)
    assert out.flatten().tolist() == pytest.approx([16, 32 / 3, 4, 4])
    assert lse.exp().flatten().tolist() == pytest.approx([1, 3, 8, 16])


@st.composite
def problems(draw: st.DrawFn) -> tuple[list[Tensor], float, dict]:
    """q, k, v (H, T, n, D or Dv) in float64."""
    generator = numbers(draw)
    chosen = {
        (triangles, "SMALLEST"): draw(st.sampled_from((1, 3, 5))),
        (triangles, "GRAIN"): draw(st.sampled_from((1, 4))),
        (blocks, "ELEMENTS_PER_THREAD"): draw(st.sampled_from((1, 300, 1 << 20))),
    }
    heads, count, n, width = (draw(st.integers(1, most)) for most in (4, 4, 40, 5))
    q, k, v = (torch.randn(heads, count, n, width, generator=generator, dtype=torch.float64) for _ in range(3))
    if draw(st.booleans()):  # the keys of one head for all, as grouped heads have them; rows before heads
        k, v = (t[:1].expand(heads, -1, -1, -1) for t in (k, v))
        q = q.transpose(0, 2).contiguous().transpose(0, 2)
    return [q, k, v], draw(st.sampled_from((0.3, 1.0))), chosen


def definition(q: Tensor, k: Tensor, v: Tensor, scale: float) -> reference.Definition:
    return reference.attention(q, k, v, torch.ones(q.shape[2], q.shape[2]).tril().bool(), scale=scale)


@examples(80)
@given(problems())
def test_forward_is_the_definition(problem):
    (q, k, v), scale, chosen = problem
    out, lse = room(q, v)
    with engine_of(chosen):
        triangles.forward(q, k, v, scale, out, lse)
    want = definition(q, k, v, scale)
    assert_near("output", out, want.output, 1e-13)
    assert_near("lse", lse[..., 0], want.lse, 1e-13)


@examples(80)
@given(problems())
def test_backward_is_that_of_the_definition(problem):
    (q, k, v), scale, chosen = problem
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    want = definition(*leaves, scale)
    grad = torch.randn(want.output.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    wanted = torch.autograd.grad(want.output, leaves, grad)
    delta = (grad * want.output.detach()).sum(-1, keepdim=True)
    with engine_of(chosen):
        found = triangles.backward(grad, q, k, v, want.lse.detach()[..., None], delta, scale)
    for name, got, expected in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        assert_near(name, got, expected, 1e-12)


@pytest.mark.parametrize("row", [0, 100, 191])
@pytest.mark.parametrize("size", [100.0, -100.0, math.nan])
def test_rows_whose_exponentials_do_not_hold_are_told_and_spoil_no_other(size, row):
    q, k, v = (torch.randn(1, 2, 192, 3, dtype=torch.float64) for _ in range(3))
    k[:] = 1.0
    calm, calm_lse = room(q, v)
    triangles.forward(q, k, v, 1.0, calm, calm_lse)
    assert blocks.unsafe(calm_lse) is None
    q[0, 1, row] = size
    out, lse = room(q, v)
    triangles.forward(q, k, v, 1.0, out, lse)
    assert blocks.unsafe(lse).nonzero().tolist() == [[0, 1, row, 0]]
    others = torch.ones(2, 192, dtype=torch.bool)
    others[1, row] = False
    assert torch.equal(out[0, others], calm[0, others])


def test_no_row_reads_what_comes_after_it():
    q, k, v = (torch.randn(1, 1, 192, 3, dtype=torch.float64) for _ in range(3))
    results = []
    for filling in (1.0, 1e4):
        moved = v.clone()
        moved[:, :, 100:] *= filling
        results.append(room(q, v))
        triangles.forward(q, k, moved, 1.0, *results[-1])
    assert torch.equal(results[0][0][:, :, :100], results[1][0][:, :, :100])
    assert not torch.equal(results[0][0][:, :, 100:], results[1][0][:, :, 100:])


def test_forbidden_scores_may_be_of_any_size_backward():
    q, k, v = (torch.randn(1, 1, 96, 2, dtype=torch.float64) for _ in range(3))
    k[0, 0, 1] = torch.where(q[0, 0, 0] > 0, 1e5, -1e5)  # row 0 must not read it, and exp(1e5) is inf
    want = definition(q, k, v, 1.0)
    grad = torch.ones_like(want.output)
    delta = (grad * want.output).sum(-1, keepdim=True)
    for t in triangles.backward(grad, q, k, v, want.lse[..., None], delta, 1.0):
        assert torch.isfinite(t).all()
