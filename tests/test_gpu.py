"""On a GPU: the same contract. `pytest -m gpu`; skipped, with the reason, where there is none."""

from __future__ import annotations

import pytest
import torch

import regard
from regard import masks, reference

pytestmark = pytest.mark.gpu

MASKS = {
    "none": None,
    "causal": masks.causal(),
    "window": masks.window(9),
    "documents": masks.causal() & masks.where(lambda b, h, q, kv: q // 40 == kv // 40),
}


@pytest.mark.parametrize("options", [{}, {"softcap": 5.0}, {"scale": 0.3}], ids=str)
@pytest.mark.parametrize("name", MASKS)
def test_output_weights_and_gradients_agree_with_the_definition(name, options):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 4, 100, 32), (2, 2, 100, 32), (2, 2, 100, 32)]
    given = [torch.randn(s, generator=generator, dtype=torch.float64).cuda().requires_grad_() for s in shapes]
    mask = None if MASKS[name] is None else MASKS[name].to_dense(100, device="cuda")
    want = reference.attention(*given, mask, **options)
    output, weights = regard.attention(*given, MASKS[name], **options)
    # float64, sums of 100 terms: 1e-12 is thousands of roundings.
    torch.testing.assert_close(output, want.output, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(weights.to_dense(), want.weights, atol=1e-12, rtol=1e-12)
    torch.testing.assert_close(weights.received(), want.weights.sum(-2), atol=1e-11, rtol=1e-11)
    along = torch.randn(output.shape, generator=generator, dtype=torch.float64).cuda()
    found = torch.autograd.grad((output * along).sum(), given)
    for got, expected in zip(found, torch.autograd.grad((want.output * along).sum(), given), strict=True):
        torch.testing.assert_close(got, expected, atol=1e-11, rtol=1e-11)


def test_no_l_x_s_memory():
    length = 16384
    q, k, v = torch.randn(3, 1, 4, length, 64, device="cuda", dtype=torch.float16)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.max_memory_allocated()
    regard.attention(q, k, v, masks.causal())[1].received()
    # The map would be 4 GB in float32; blocks, outputs and copies in float32 are far below a tenth of it.
    assert torch.cuda.max_memory_allocated() - before < 4 * length * length * 4 / 10
