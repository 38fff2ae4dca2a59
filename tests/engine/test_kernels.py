"""One tile on the CPU: the fused op and its backward, given the whole row's out and lse."""

from __future__ import annotations

import pytest
import torch
from tests.properties import problem

from regard import reference
from regard.engine import kernels

NEAR = {"rtol": 0, "atol": 1e-13}
SHAPES = {
    "one head each": (2, 2, 6, 9, 8, 8),
    "grouped": (4, 2, 6, 9, 8, 8),
    "one key head": (3, 1, 6, 9, 8, 8),
    "a wide value": (4, 2, 6, 9, 3, 11),
    "a narrow value": (4, 2, 6, 9, 11, 3),
    "one query": (4, 2, 1, 9, 8, 8),
}
shapes = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
kinds = pytest.mark.parametrize("kind", ["full", "causal", "mask", "mask per head", "mask of keys"])
scales = pytest.mark.parametrize("scale", [0.3, -0.7, 0.0])


def tile(shape, kind):
    """q, k, v, what the op is given as its mask, whether causal, and the mask that this must be equal to."""
    heads, kv_heads, rows, keys, width, value_width = shape
    generator = torch.Generator().manual_seed(1)
    q, k, v = (
        torch.randn(2, *sizes, generator=generator, dtype=torch.float64)
        for sizes in ((heads, rows, width), (kv_heads, keys, width), (kv_heads, keys, value_width))
    )
    if kind == "full":
        return q, k, v, None, False, None
    if kind == "causal":
        return q, k, v, None, True, torch.ones(rows, keys).bool().tril()
    sizes = {"mask": (1, 1, rows, keys), "mask per head": (1, heads, rows, keys), "mask of keys": (2, 1, 1, keys)}[kind]
    allowed = torch.rand(sizes, generator=generator) > 0.3
    allowed[..., 0] = True  # no empty row: that is the caller's to mend
    return q, k, v, torch.zeros(sizes).double().masked_fill(~allowed, -torch.inf), False, allowed


def test_the_fused_op_is_there():
    assert kernels.unavailable(torch.device("cpu")) is None
    assert kernels.unavailable(torch.device("meta")) == "no fused op is used on meta yet"


def test_a_torch_without_the_op_is_named(monkeypatch):
    monkeypatch.setattr(kernels, "_FORWARD", None)
    assert "lacks aten::_scaled_dot_product_flash_attention_for_cpu" in kernels.unavailable(torch.device("cpu"))


@shapes
@kinds
@scales
def test_forward(shape, kind, scale):
    q, k, v, additive, causal, allowed = tile(shape, kind)
    out, lse = kernels.flash(q, k, v, additive, causal=causal, scale=scale)
    want = reference.attention(q, k, v, allowed, scale=scale)
    torch.testing.assert_close(out, want.output, **NEAR)
    torch.testing.assert_close(lse, want.lse, **NEAR)


@shapes
@kinds
@scales
@pytest.mark.parametrize("through_lse", [False, True], ids=["output", "output and lse"])
def test_backward(shape, kind, scale, through_lse):
    q, k, v, additive, causal, allowed = tile(shape, kind)
    leaves = [t.clone().requires_grad_() for t in (q, k, v)]
    want = reference.attention(*leaves, allowed, scale=scale)
    grad = torch.linspace(-1, 1, want.output.numel(), dtype=torch.float64).view_as(want.output)
    grad_lse = torch.linspace(-2, 1, want.lse.numel(), dtype=torch.float64).view_as(want.lse) if through_lse else None
    loss = (want.output * grad).sum() + (0 if grad_lse is None else (want.lse * grad_lse).sum())
    wanted = torch.autograd.grad(loss, leaves)
    out, lse = want.output.detach(), want.lse.detach()
    found = kernels.flash_backward(grad, q, k, v, out, lse, additive, causal=causal, scale=scale, grad_lse=grad_lse)
    for got, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(got, right, **NEAR)


def test_the_backward_of_parts_of_the_keys_sums_to_the_whole():
    q, k, v = problem(2, 2, query_len=6, key_len=10)
    out, lse = kernels.flash(q, k, v, None, causal=False, scale=0.5)
    grad = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    whole = kernels.flash_backward(grad, q, k, v, out, lse, None, causal=False, scale=0.5)
    parts = [
        kernels.flash_backward(grad, q, k[:, :, s], v[:, :, s], out, lse, None, causal=False, scale=0.5)
        for s in (slice(0, 3), slice(3, 10))
    ]
    torch.testing.assert_close(parts[0][0] + parts[1][0], whole[0], **NEAR)
    torch.testing.assert_close(torch.cat([parts[0][1], parts[1][1]], 2), whole[1], **NEAR)
    torch.testing.assert_close(torch.cat([parts[0][2], parts[1][2]], 2), whole[2], **NEAR)


def test_a_last_axis_that_is_strided_is_read_as_it_is():
    q, k, v = problem(1, 2, query_len=5, key_len=7)
    want = kernels.flash(q, k, v, None, causal=False, scale=0.5)
    wide = [torch.stack([t, torch.full_like(t, torch.nan)], -1).flatten(-2)[..., ::2] for t in (q, k, v)]
    got = kernels.flash(*wide, None, causal=False, scale=0.5)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))
