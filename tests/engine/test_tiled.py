"""Tiles run forward and backward: parts of a row are merged, rows without keys are empty, gradients add up."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product

import pytest
import torch
from tests.properties import assert_near
from tests.small_tiles import SMALLEST, engine_of
from torch import Tensor

from regard import reference
from regard.engine import tiled
from regard.engine.calls import Call, Run
from regard.engine.one_rectangle import backward as rectangle_backward
from regard.engine.one_rectangle import forward as rectangle_forward
from regard.engine.plan import Plan, Unit
from regard.engine.problem import Options, Problem
from regard.engine.tiles import Tile, compile_tiles

LENGTH, KEYS = 40, 50


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    with engine_of({}):
        yield


def tensors(heads: int = 4, kv_heads: int = 2, batch: int = 2, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    torch.manual_seed(3)
    sizes = (batch, heads, LENGTH, 5), (batch, kv_heads, KEYS, 5), (batch, kv_heads, KEYS, 3)
    return [torch.randn(s, dtype=torch.float64).to(dtype) for s in sizes]


def tile_of(rows: tuple[int, int], keys: tuple[int, int], kind: str, width: int, **more: int) -> Tile:
    return Tile(slice(*rows), slice(*keys), kind, width, **more)


def partial() -> Tile:
    """Rows 5 to 15 over keys 0 to 9, of which row 7 reads nothing."""
    lo = torch.tensor([[r % 4, 6] for r in range(10)])
    hi = torch.tensor([[r % 4 + 2, 6 + r % 3] for r in range(10)])
    lo[2], hi[2] = KEYS, KEYS
    return Tile(slice(5, 15), slice(0, 9), "partial", pieces=(lo, hi))


TILES = {
    "full": [tile_of((5, 20), (3, 33), "full", 30)],
    "causal": [tile_of((3, 40), (2, 42), "causal", 4)],
    "band": [tile_of((0, 40), (0, 46), "band", 7)],
    "anticausal": [tile_of((0, 30), (10, 45), "anticausal", 35)],
    "partial": [partial()],
    "repeated triangles": [tile_of((2, 11), (0, 9), "causal", 1, count=4, row_step=9, key_step=8)],
    "repeated, apart": [tile_of((0, 4), (3, 9), "full", 6, count=3, row_step=10, key_step=0)],
    "parts of the same rows": [
        tile_of((0, 40), (0, 5), "full", 5),
        tile_of((10, 30), (8, 40), "causal", 13),
        tile_of((20, 40), (41, 50), "full", 9),
    ],
    "later parts reach further": [tile_of((10, 20), (0, 5), "full", 5), tile_of((5, 30), (8, 20), "full", 12)],
    "everything, in one call": [tile_of((0, 40), (0, 50), "full", 50)],
    "every row, in one call": [tile_of((0, 40), (3, 33), "full", 30)],
    "every row and key, in one call": [tile_of((0, 40), (0, 50), "anticausal", 50)],
    "nothing": [],
}  # fmt: skip


def allowed_by(tiles: list[Tile]) -> Tensor:
    allowed = torch.zeros(LENGTH, KEYS, dtype=torch.bool)
    for tile in tiles:
        for single in tile.singles():
            assert not (allowed[single.rows, single.keys] & tile.allowed()).any(), "each entry once"
            allowed[single.rows, single.keys] |= tile.allowed()
    return allowed


@pytest.mark.parametrize("scale", [0.5, -0.5, 0.0])
@pytest.mark.parametrize("thresholds", [{}, SMALLEST], ids=["usual", "small"])
@pytest.mark.parametrize("name", TILES)
def test_tiles_are_the_definition_forward_and_backward(name, thresholds, scale):
    q, k, v = (t.requires_grad_() for t in tensors())
    allowed = allowed_by(TILES[name])
    units = (Unit(slice(0, 2), slice(0, 4), tuple(TILES[name])),)
    problem = Problem(q.detach(), k.detach(), options=Options(scale))
    want = reference.attention(q, k, v, allowed, scale=scale)
    grad, grad_lse = torch.randn_like(want.output), torch.randn_like(want.lse)
    grad, grad_lse = grad * allowed.any(-1)[:, None], grad_lse * allowed.any(-1)
    finite = torch.where(torch.isfinite(want.lse), want.lse, 0)
    wanted = torch.autograd.grad((want.output * grad).sum() + (finite * grad_lse).sum(), (q, k, v))
    with engine_of(thresholds):
        ran = Plan("fused", "", units=units)
        out, lse = tiled.forward(problem, v.detach(), ran)
        found = tiled.backward(problem, v.detach(), ran, out, lse, grad, grad_lse)
    assert_near("output", out, want.output, 1e-13)
    assert_near("lse", lse, want.lse, 1e-13)
    for name, got, expected in zip(("dq", "dk", "dv"), found, wanted, strict=True):
        assert_near(name, got, expected, 1e-12)


@pytest.mark.parametrize("sizes", [None, (1, 4, 1, KEYS), (2, 1, LENGTH, 1), (2, 4, LENGTH, KEYS)], ids=str)
def test_every_unit_has_its_own_map_key_heads_and_bias(sizes):
    q, k, v = tensors()
    bias = None if sizes is None else torch.randn(sizes, dtype=torch.float64)
    maps = [[TILES["causal"], TILES["causal"], TILES["full"], TILES["band"]], [TILES["nothing"]] + [TILES["band"]] * 3]
    allowed = torch.stack([torch.stack([allowed_by(tiles) for tiles in row]) for row in maps])
    units = [
        Unit(slice(0, 1), slice(0, 2), tuple(TILES["causal"])),
        *(
            Unit(slice(b, b + 1), slice(h, h + 1), tuple(maps[b][h]))
            for b, h in product((0, 1), range(4))
            if (b, h) > (0, 1)
        ),
    ]
    problem = Problem(q, k, bias, options=Options(0.5))
    with engine_of(SMALLEST):
        out, lse = tiled.forward(problem, v, Plan("fused", "", units=tuple(units)))
    want = reference.attention(q, k, v, allowed, bias=bias, scale=0.5)
    assert_near("output", out, want.output, 1e-13)
    assert_near("lse", lse, want.lse, 1e-13)


@pytest.mark.parametrize("name", TILES)
@pytest.mark.parametrize("sizes", [(1, 1, 1, KEYS), (2, 4, LENGTH, KEYS), (1, 4, LENGTH, 1), (2, 1, 1, 1)], ids=str)
def test_a_bias_is_added_in_its_place(name, sizes):
    q, k, v = tensors()
    bias = torch.randn(sizes, dtype=torch.float64)
    want = reference.attention(q, k, v, allowed_by(TILES[name]), bias=bias, scale=0.5)
    ran = Plan("fused", "", units=(Unit(slice(0, 2), slice(0, 4), tuple(TILES[name])),))
    with engine_of(SMALLEST):
        out, lse = tiled.forward(Problem(q, k, bias, options=Options(0.5)), v, ran)
    assert_near("output", out, want.output, 1e-13)
    assert_near("lse", lse, want.lse, 1e-13)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_parts_are_summed_in_float32_at_least(dtype):
    q, k, v = tensors(dtype=dtype)
    out, lse = tiled.forward(
        Problem(q, k, options=Options(0.5)),
        v,
        Plan("fused", "", units=(Unit(slice(0, 2), slice(0, 4), tuple(TILES["parts of the same rows"])),)),
    )
    assert out.dtype == lse.dtype == torch.float32


def test_rows_come_before_heads_in_memory():
    q, k, v = tensors()
    ran = Plan("fused", "", units=(Unit(slice(0, 2), slice(0, 4), tuple(TILES["parts of the same rows"])),))
    v = torch.cat([v, v], -1)[..., :5]
    assert tiled.forward(Problem(q, k, options=Options(0.5)), v, ran)[0].transpose(1, 2).is_contiguous()


def test_gradients_of_overlapping_blocks_are_added_some_at_a_time(monkeypatch):
    tiles = compile_tiles(torch.arange(640)[:, None], torch.arange(640)[:, None] + 100)
    units = (Unit(slice(0, 1), slice(0, 1), tiles),)
    q, k, v = (torch.randn(1, 1, n, 4) for n in (640, 740, 740))
    problem = Problem(q, k, options=Options(0.5))
    ran = Plan("fused", "", units=units)
    out, lse = tiled.forward(problem, v, ran)
    sizes = []
    add_at = tiled.add_at
    monkeypatch.setattr(
        tiled, "add_at", lambda total, run, part: sizes.append(part.numel()) or add_at(total, run, part)
    )
    whole = tiled.backward(problem, v, ran, out, lse, out, None)
    most = max(sizes)
    sizes.clear()
    with engine_of({(tiled, "GRADIENTS"): most // 4}):
        parts = tiled.backward(problem, v, ran, out, lse, out, None)
    assert max(sizes) <= most // 4
    for a, b in zip(whole, parts, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-4)  # float32 sums in another order


class Operands:
    """What one_rectangle reads."""

    def __init__(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> None:
        self.q, self.k, self.v, self.bias, self.scale = q, k, v, bias, 0.5


@pytest.mark.parametrize("bias", [None, (1, 1, LENGTH, KEYS), (2, 4, 1, KEYS), (1, 1, 1, 1)])
@pytest.mark.parametrize("form", ["all", "causal by the kernel", "band", "partial"])
def test_one_rectangle_is_the_definition(form, bias):
    torch.manual_seed(0)
    sizes = (2, 4, LENGTH, 5), (2, 2, KEYS, 5), (2, 2, KEYS, 5)
    leaves = [torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes]
    given = None if bias is None else torch.randn(bias, dtype=torch.float64)
    if form == "partial":
        tile = partial()
        call, allowed = Call(Run(5, 10), Run(0, 9), "flash", tile), tile.allowed()
    elif form == "band":
        tile = tile_of((3, 13), (4, 20), "band", 7)
        call, allowed = Call(Run(3, 10), Run(4, 16), "flash", tile), tile.allowed()
    else:
        causal = form != "all"
        call, allowed = (
            Call(Run(3, 10), Run(4, 10), "flash", causal=causal),
            torch.ones(10, 10).tril(0 if causal else 9).bool(),
        )
    rows, keys = (slice(run.start, run.start + run.size) for run in (call.rows, call.keys))
    whole = torch.zeros(LENGTH, KEYS, dtype=torch.bool)
    whole[rows, keys] = allowed
    want = reference.attention(*leaves, whole, bias=given, scale=0.5)
    if form == "causal by the kernel" and given is not None:
        given = given.expand(*given.shape[:2], LENGTH, KEYS)
    some = Operands(*(t.detach() for t in leaves), given)
    out, lse = rectangle_forward(some, call)
    assert_near("output", out, want.output[:, :, rows], 1e-13)
    assert_near("lse", lse, want.lse[:, :, rows], 1e-13)
    grad = torch.randn_like(want.output)
    wanted = torch.autograd.grad(want.output, leaves, grad)
    safe = want.lse.detach().masked_fill(want.lse == -torch.inf, 0)[..., None]
    found = rectangle_backward(some, call, grad, want.output.detach(), safe)
    for name, got, expected, at in zip("qkv", found, wanted, (rows, keys, keys), strict=True):
        assert_near(f"d{name}", got, expected[:, :, at], 1e-12)
