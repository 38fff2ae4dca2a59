"""One call over many rectangles of one sequence, with grouped heads, by every kernel, against the definition."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tests.properties import assert_near
from tests.small_tiles import engine_of
from tests.strategies import examples
from torch import Tensor

from regard import reference
from regard.engine import blocks, kernels, many, triangles
from regard.engine.calls import Call, Run
from regard.engine.tiles import Tile
from regard.engine.views import cut

FORM = Tile(slice(0, 8), slice(0, 12), "band", 5)  # 8 rows, each of 5 keys


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with engine_of({}):
        yield


def calls_of(kind: str, count: int, rows: int = 8) -> Call:
    keys = {"band": 12, "full": 5, "triangle": rows}[kind]
    run, read = Run(1, rows, count, rows), Run(2, keys, count, 3)
    return Call(run, read, "flash", FORM if kind == "band" else None, causal=kind == "triangle")


def problem(call: Call, heads: int, kv_heads: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """q (h, L, W), k and v (hkv, S, W) of one sequence."""
    generator = torch.Generator().manual_seed(seed)
    last = [run.start + (run.count - 1) * run.step + run.size for run in (call.rows, call.keys)]
    sizes = (heads, last[0], 4), (kv_heads, last[1], 4), (kv_heads, last[1], 4)
    q, k, v = (torch.randn(s, generator=generator, dtype=torch.float64) for s in sizes)
    return q, k, v


def definition(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Output (h, count, R, W) and lse (h, count, R)."""
    group = q.shape[0] // k.shape[0]
    q, k, v = (cut(t[None], run)[0] for t, run in ((q, call.rows), (k, call.keys), (v, call.keys)))
    k, v = (t.repeat_interleave(group, 0) for t in (k, v))
    allowed = torch.ones(call.rows.size, call.keys.size, dtype=torch.bool)
    allowed = allowed.tril() if call.causal else allowed if call.form is None else call.form.allowed()
    want = reference.attention(q, k, v, allowed, scale=scale)
    return want.output, want.lse


def forward(call: Call, q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    parts = [cut(t[None], run)[0] for t, run in ((q, call.rows), (k, call.keys), (v, call.keys))]
    # Rows before heads in memory, as the engine has them.
    out = parts[0].new_full((call.rows.count, call.rows.size, q.shape[0], v.shape[-1]), torch.nan).permute(2, 0, 1, 3)
    lse = out.new_full((*out.shape[:3], 1), torch.nan)
    many.forward(call, *parts, scale, out, lse)
    return out, lse


KERNELS = [
    ("band", "flash"),
    ("band", "blocks"),
    ("full", "flash"),
    ("full", "blocks"),
    ("triangle", "flash"),
    ("triangle", "triangles"),
]


def test_by_hand():
    # One row that reads keys of scores 0 and log 3, in each of two heads of one key head.
    call = Call(Run(0, 1), Run(0, 2), "blocks")
    k, v = torch.tensor([0.0, 3.0]).exp().log().view(1, 2, 1), torch.tensor([0.0, 4.0]).view(1, 2, 1)
    k[0, 1, 0] = torch.tensor(3.0).log()
    q = torch.tensor([1.0, 2.0]).view(2, 1, 1)
    out, lse = forward(call, q, k, v, 1.0)
    assert out.flatten().tolist() == pytest.approx([3.0, 3.6])
    assert lse.exp().flatten().tolist() == pytest.approx([4.0, 10.0])


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (3, 3), (4, 2), (3, 1)])
@pytest.mark.parametrize("size", [1.0, 3000.0], ids=["scores of 1", "scores that no exponential holds"])
@pytest.mark.parametrize(("kind", "kernel"), KERNELS)
def test_forward_is_the_definition(kind, kernel, heads, kv_heads, size):
    call = calls_of(kind, 3)
    call = Call(call.rows, call.keys, kernel, call.form, call.causal)
    q, k, v = problem(call, heads, kv_heads)
    q[:, 9:] *= size  # of the second and third rectangle
    want, want_lse = definition(call, q, k, v, 0.7)
    with engine_of({(triangles, "SMALLEST"): 2}):
        out, lse = forward(call, q, k, v, 0.7)
    # A score of some thousand is good to 1e-12, and so is the weight it makes.
    assert_near("output", out, want, 1e-13 * size)
    assert_near("lse", lse[..., 0], want_lse, 1e-13 * size)


@examples(40)
@given(
    st.sampled_from(KERNELS),
    st.integers(1, 3),
    st.integers(1, 3),
    st.integers(1, 4),
    st.sampled_from((4, 1 << 20)),
    st.integers(0, 1 << 31),
)
def test_backward_is_that_of_the_definition(kind_and_kernel, kv_heads, group, count, elements, seed):
    kind, kernel = kind_and_kernel
    call = calls_of(kind, count)
    call = Call(call.rows, call.keys, kernel, call.form, call.causal)
    leaves = [t.requires_grad_() for t in problem(call, kv_heads * group, kv_heads, seed)]
    want, want_lse = definition(call, *leaves, 0.7)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    wanted = torch.autograd.grad(want, leaves, grad)
    out, lse = want.detach(), want_lse.detach()[..., None]
    q, k, v = (t.detach() for t in leaves)
    by_row = [grad, out, lse, (grad * out).sum(-1, keepdim=True), cut(q[None], call.rows)[0]]
    with engine_of({(triangles, "SMALLEST"): 2, (blocks, "ELEMENTS_PER_THREAD"): elements}):
        found = many.backward(call, by_row, cut(k[None], call.keys)[0], cut(v[None], call.keys)[0], 0.7)
    for name, part, expected, run in zip("qkv", found, wanted, (call.rows, call.keys, call.keys), strict=True):
        total = torch.zeros_like(expected)
        for i in range(run.count):
            at = run.start + i * run.step
            total[:, at : at + run.size] += part[:, i]
        assert_near(f"d{name}", total, expected, 1e-12)


@pytest.mark.parametrize(("kind", "kernel"), [("band", "blocks"), ("triangle", "triangles")])
def test_the_fused_op_runs_only_where_scores_are_large(kind, kernel, monkeypatch):
    ran = []
    flash = kernels.flash
    monkeypatch.setattr(kernels, "flash", lambda *a, **o: ran.append(1) or flash(*a, **o))
    call = calls_of(kind, 3)
    call = Call(call.rows, call.keys, kernel, call.form, call.causal)
    q, k, v = problem(call, 2, 2)
    forward(call, q, k, v, 1.0)
    assert not ran
    forward(call, q * 100, k, v, 1.0)
    assert ran


@pytest.mark.parametrize(("kind", "kernel"), [("band", "blocks"), ("triangle", "triangles")])
def test_a_row_is_the_same_bits_whatever_others_hold(kind, kernel):
    call = calls_of(kind, 3)
    call = Call(call.rows, call.keys, kernel, call.form, call.causal)
    q, k, v = problem(call, 2, 2)
    calm = forward(call, q, k, v, 1.0)
    q[1, 12] *= 1e4  # row 3 of the second rectangle
    wild = forward(call, q, k, v, 1.0)
    others = torch.ones(2, 3, 8, dtype=torch.bool)
    others[1, 1, 3] = False
    for a, b in zip(calm, wild, strict=True):
        assert torch.equal(a[others], b[others])
        assert not torch.equal(a[~others], b[~others])
