"""What is measured at every length, and one call of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

import regard
from regard.bench import rules
from regard.bench.timing import Subject

__all__ = ["KINDS", "LENGTHS", "RULE", "Inputs", "Kind", "inputs", "subject"]

WINDOW, NUM_HEADS, WIDTH = 512, 8, 64
RULE = rules.window(WINDOW)
LENGTHS = tuple(2**power for power in range(11, 18))  # 2048 ... 131072
#: The longest of causal attention over all pairs, whose time is quadratic.
LONGEST_CAUSAL = 16384
#: Query, key, value and the gradient of the output, (1, H, L, D) each.
Inputs = tuple[Tensor, Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Kind:
    """What is measured at every length.

    Args:
        words: how the table and the figure call it.
        attend: the attention.
        backward: with the gradients.
        longest: the last length.
        held: whether its slopes are held to the bar.
    """

    words: str
    attend: Callable[[Tensor, Tensor, Tensor], Tensor]
    backward: bool = False
    longest: int = LENGTHS[-1]
    held: bool = True


def _window(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return regard.attention(q, k, v, regard.masks.window(WINDOW))[0]


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, k, v, is_causal=True)


KINDS = {
    "window": Kind(f"window({WINDOW}), forward", _window),
    "window-training": Kind(f"window({WINDOW}), forward and backward", _window, backward=True),
    "causal": Kind("SDPA is_causal, forward", _causal, longest=LONGEST_CAUSAL, held=False),
    "causal-training": Kind(
        "SDPA is_causal, forward and backward", _causal, backward=True, longest=LONGEST_CAUSAL, held=False
    ),
}


def inputs(query_len: int) -> Inputs:
    """Random inputs of this length."""
    generator = torch.Generator().manual_seed(0)
    q, k, v, grad = torch.randn(4, 1, NUM_HEADS, query_len, WIDTH, generator=generator).unbind()
    return q, k, v, grad


def subject(name: str, query_len: int, longest: Inputs) -> Subject:
    """One call of a kind at a length, on the first rows of longer inputs, which are copied off the clock.

    Args:
        name: a key of :data:`KINDS`.
        query_len: L.
        longest: inputs of at least this length.
    """
    kind = KINDS[name]

    def prepare() -> Inputs:
        q, k, v, grad = (x[..., :query_len, :].clone() for x in longest)  # (1, H, longest, D) -> (1, H, L, D)
        if kind.backward:
            q, k, v = q.requires_grad_(), k.requires_grad_(), v.requires_grad_()
        return q, k, v, grad

    def call(given: Inputs) -> Tensor:
        q, k, v, grad = given
        output = kind.attend(q, k, v)
        if kind.backward:
            output.backward(grad)
        return output

    return Subject(f"{name} {query_len}", call, prepare)
