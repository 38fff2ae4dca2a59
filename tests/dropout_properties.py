"""What must hold of an attention function with dropout; see properties.py."""

from __future__ import annotations

from typing import Any

import torch
from tests.properties import Attention, assert_near, check, problem, seeded

from regard import masks

P = 0.25


def dropout_follows_the_seed(attention: Attention, **options: Any) -> None:
    q, k, v = problem(1, 2, query_len=9, key_len=9)
    first = seeded(attention, q, k, v, dropout=P, **options)[0]
    other = attention(q, k, v, dropout=P, **options)[0]  # the generator has moved on
    check(torch.equal(first, seeded(attention, q, k, v, dropout=P, **options)[0]), "the same seed gives another output")
    check(not torch.equal(first, other), "another seed gives the same output")


def dropout_scales_what_it_keeps(attention: Attention, **options: Any) -> None:
    """With the identity as values the output is the weights, each either 0 or divided by 1 - p."""
    q, k, _ = problem(2, 3, query_len=20, key_len=30)
    v = torch.eye(30, dtype=q.dtype).expand(2, 3, 30, 30)
    output, weights = seeded(attention, q, k, v, masks.causal(), dropout=P, **options)
    dense = weights.to_dense()
    kept = output != 0
    assert_near("kept weights", output, torch.where(kept, dense / (1 - P), 0), 1e-13)
    share = kept[dense > 0].double().mean().item()
    # 2,400 weights: a standard deviation of sqrt(p (1 - p) / 2400) = 0.009.
    check(abs(share - (1 - P)) < 5 * 0.009, f"a share of {share:.3f} is kept, expected {1 - P}")


def dropout_is_unbiased(attention: Attention, **options: Any) -> None:
    q, k, v = problem(1, 1, query_len=4, key_len=6)
    q, k, v = (t.expand(600, -1, -1, -1) for t in (q, k, v))  # 600 draws of the same problem
    output = seeded(attention, q, k, v, dropout=P, **options)[0]
    want = attention(q[:1], k[:1], v[:1])[0]
    error = output.std(0) / 600**0.5
    check(
        ((output.mean(0) - want[0]).abs() <= 5 * error).all(), "the mean over seeds is not the output without dropout"
    )


def dropout_of_zero_is_none(attention: Attention, **options: Any) -> None:
    q, k, v = problem(1, 2, query_len=6, key_len=6)
    want = attention(q, k, v, masks.causal(), **options)[0]
    check(
        torch.equal(attention(q, k, v, masks.causal(), dropout=0.0, **options)[0], want), "dropout=0 changes the output"
    )
    check(torch.equal(attention(q, k, v, masks.causal(), dropout=0.0, **options)[0], want), "two calls differ")


def dropout_gradient_is_that_of_the_forward_pass(attention: Attention, **options: Any) -> None:
    """Central differences with the seed reset at every call: the forward pass itself says what its gradient is."""
    tensors = [t.requires_grad_() for t in problem(1, 2, query_len=5, key_len=6, width=3)]

    def loss(*inputs: torch.Tensor) -> torch.Tensor:
        return seeded(attention, *inputs, masks.causal(), dropout=P, **options)[0].sin().sum()

    found = torch.autograd.grad(loss(*tensors), tensors)
    generator = torch.Generator().manual_seed(2)
    for n, gradient in enumerate(found):
        along = torch.randn(gradient.shape, generator=generator, dtype=gradient.dtype)
        moved = [
            [t.detach() + (sign * 1e-5 * along if m == n else 0) for m, t in enumerate(tensors)] for sign in (1, -1)
        ]
        with torch.no_grad():
            want = (loss(*moved[0]) - loss(*moved[1])) / 2e-5
        # Central differences with a step of 1e-5: an error of 1e-10 from the step, of 1e-11 from rounding.
        assert_near(f"d{'qkv'[n]} along a direction", (gradient * along).sum(), want, 1e-7)
