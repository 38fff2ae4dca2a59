from __future__ import annotations

import pytest
import torch

from regard import reference
from regard.bench import exact

KINDS = {
    "everything": exact.everything,
    "causal": lambda q, kv: kv <= q,
    "window": lambda q, kv: (kv <= q) & (kv > q - 3),
    "no key at all for some": lambda q, kv: (kv <= q - 2) & (kv > q - 5),
    "keys alone": lambda q, kv: kv < 4,
}


def tensors(seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    q, k = torch.randn(2, 3, 11, 4, generator=generator, dtype=torch.float64).unbind()
    v, grad = torch.randn(2, 3, 11, 6, generator=generator, dtype=torch.float64).unbind()
    return [q, k, v, grad]


def by_autograd(q, k, v, grad, allowed, **options) -> tuple[torch.Tensor, ...]:
    given = [x.clone().requires_grad_() for x in (q, k, v)]
    mask = allowed(torch.arange(11)[:, None], torch.arange(11)).expand(11, 11)
    output = reference.attention(*given, mask, **options).output
    return output.detach(), *torch.autograd.grad(output, given, grad)


@pytest.mark.parametrize("size", [1, 4, 11, 256])
@pytest.mark.parametrize("name", KINDS)
def test_block_by_block_it_is_what_autograd_gives_for_the_whole(name: str, size: int):
    q, k, v, grad = tensors()
    found = exact.gradients(q, k, v, grad, KINDS[name], size=size)
    want = by_autograd(q, k, v, grad, KINDS[name])
    # Sums of at most 11 numbers of about 1 in float64, in another order.
    for got, true in zip((found.output, found.query, found.key, found.value), want, strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", KINDS)
def test_blocks_are_rows_of_the_definition(name: str):
    q, k, v, _ = tensors(1)
    mask = KINDS[name](torch.arange(11)[:, None], torch.arange(11)).expand(11, 11)
    want = reference.attention(q, k, v, mask)
    seen = []
    for block in exact.blocks(q, k, v, KINDS[name], starts=(0, 7), size=3):
        seen.append((block.rows.start, block.rows.stop))
        torch.testing.assert_close(block.output, want.output[:, block.rows], rtol=0, atol=1e-13)
        torch.testing.assert_close(block.weights, want.weights[:, block.rows, block.keys], rtol=0, atol=1e-13)
        assert block.weights.sum() == pytest.approx(want.weights[:, block.rows].sum().item())
    assert seen == [(0, 3), (7, 10)]


def test_dropped_weights_count_in_the_output_and_every_gradient():
    q, k, v, grad = tensors(2)
    keep = torch.rand(3, 11, 11, generator=torch.Generator().manual_seed(3)) > 0.3
    dropped = exact.Dropped(keep, 0.3)
    found = exact.gradients(q, k, v, grad, KINDS["causal"], dropped=dropped, size=4)
    want = by_autograd(q, k, v, grad, KINDS["causal"], dropout=0.3, keep=keep)
    for got, true in zip((found.output, found.query, found.key, found.value), want, strict=True):
        torch.testing.assert_close(got, true, rtol=0, atol=1e-13)


@pytest.mark.parametrize(("query_len", "starts"), [(1, (0,)), (256, (0,)), (257, (0, 1)), (8192, (0, 3968, 7936))])
def test_sampled_blocks_are_at_both_ends_and_in_the_middle(query_len: int, starts: tuple[int, ...]):
    assert exact.sampled_starts(query_len) == starts
