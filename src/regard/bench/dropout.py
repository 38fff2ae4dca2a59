"""A training step with dropout on the weights, beside torch's."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.bench import exact
from regard.bench.case import Bar, Case, Disagreement, Duel
from regard.bench.compare import ULPS, close_to
from regard.bench.timing import Subject

__all__ = ["CASES", "dropout_duel", "dropped_by"]

PROBABILITY = 0.1
# Which weights are dropped does not depend on the values, so a seed drops the same ones for the check.
SEED = 7


def dropout_duel(query_len: int = 2048, *, num_heads: int = 8, width: int = 64) -> Duel:
    """Forward and backward with dropout over (1, num_heads, query_len, width) in float32.

    Args:
        query_len: L, and S.
        num_heads: H.
        width: D.
    """
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, 1, num_heads, query_len, width, generator=generator).unbind()

    def leaves() -> tuple[Tensor, Tensor, Tensor]:
        return q.detach().requires_grad_(), k.detach().requires_grad_(), v.detach().requires_grad_()

    def ours(given: tuple[Tensor, Tensor, Tensor]) -> None:
        regard.attention(*given, dropout=PROBABILITY)[0].backward(grad)

    def torchs(given: tuple[Tensor, Tensor, Tensor]) -> None:
        F.scaled_dot_product_attention(*given, dropout_p=PROBABILITY).backward(grad)

    def check() -> str:
        """The dropped weights are read off first; torch drops others, so its result cannot be compared."""
        given = leaves()
        output = _seeded(*given)
        found = (output.detach(), *torch.autograd.grad(output, given, grad))
        dropped = dropped_by(q, k)
        truth = exact.gradients(q[0], k[0], v[0], grad[0], dropped=dropped)
        names = ("output", "gradient of query", "gradient of key", "gradient of value")
        pairs = zip(names, found, (truth.output, truth.query, truth.key, truth.value), strict=True)
        # Relative to the largest element of the head, as a row of gradients can be as small as its rounding.
        worst = max(close_to(name, got[0].flatten(1), true.flatten(1), ulps=ULPS) for name, got, true in pairs)
        share = 1 - dropped.keep.double().mean().item()
        return f"output and gradients with the {share:.4f} that it dropped, against float64: within {worst:.1e}"

    return Duel(Subject("regard.attention", ours, leaves), Subject("SDPA, dropout_p", torchs, leaves), check)


def dropped_by(q: Tensor, k: Tensor) -> exact.Dropped:
    """What dropout does under :data:`SEED`: with unit vectors as values, the output is the weights that are left.

    Args:
        q: (1, H, L, D).
        k: (1, H, S, D).

    Raises:
        Disagreement: a weight is neither dropped nor scaled by ``1 / (1 - p)``, or too many or too few are dropped.
    """
    _, num_heads, query_len, width = q.shape
    key_len = k.shape[2]
    left = torch.empty(num_heads, query_len, key_len)
    for start in range(0, key_len, width):
        size = min(width, key_len - start)
        # As wide as the values that are timed, so that the same code runs.
        units = torch.zeros(1, num_heads, key_len, width)
        units[..., range(start, start + size), range(size)] = 1
        left[..., start : start + size] = _seeded(q, k, units)[0, ..., :size]
    keep = left != 0
    dropped = exact.Dropped(keep, PROBABILITY)
    for block in exact.blocks(q[0], k[0], k[0]):
        whole = block.weights * dropped.factors(block.rows, block.keys)
        close_to("weights after dropout", left[:, block.rows], whole, ulps=ULPS)
    share, deviation = 1 - keep.double().mean().item(), math.sqrt(PROBABILITY * (1 - PROBABILITY) / keep.numel())
    if abs(share - PROBABILITY) > 5 * deviation:
        raise Disagreement(f"dropped: a share of {share:.5f}; expected {PROBABILITY} within {5 * deviation:.1g}")
    return dropped


def _seeded(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(SEED)
        return regard.attention(q, k, v, dropout=PROBABILITY)[0]


CASES = (
    Case(
        "dropout-training",
        "dropout",
        "attention() with dropout 0.1, L 2048, forward and backward, beside SDPA dropout_p",
        dropout_duel,
        # The weights of all heads would be 134 MB, and a training step needs them and their gradient.
        (Bar("speedup", at_least=1.3), Bar("memory", 67)),
        memory=True,
    ),
)
