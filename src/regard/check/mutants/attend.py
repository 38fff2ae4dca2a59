"""Attention in pieces, each of which a mutant can replace: without replacements it is the definition."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from regard.check.contract import Contract
from regard.check.definition import allowed_by, causal_mask, grouped, scale_of, window_mask
from regard.check.request import Request

__all__ = ["ALL", "Change", "attend", "behind", "is_causal", "same", "seen", "softmax_over"]

Change = Callable[[Tensor], Tensor]

ALL = torch.ones((), dtype=torch.bool)
"""Everybody may read everybody; broadcasts."""


def same(t: Tensor) -> Tensor:
    """What came."""
    return t


def softmax(scores: Tensor) -> Tensor:
    """Over the keys."""
    return torch.softmax(scores, -1)


def hide(scores: Tensor, allowed: Tensor) -> Tensor:
    """-inf for every key that may not be read."""
    return torch.where(allowed, scores, -math.inf)


def attend(
    r: Request,
    contract: Contract,
    *,
    allowed: Tensor | None = None,
    scores: Change = same,
    order: tuple[str, str, str] = ("cap", "bias", "mask"),
    hide: Callable[[Tensor, Tensor], Tensor] = hide,
    weigh: Change = softmax,
    weights: Change = same,
    clean: bool = True,
    guard: bool = True,
) -> Tensor:
    """The definition, (B, H, L, Dv), with some of its pieces replaced.

    Args:
        r: the question.
        contract: its conventions.
        allowed: who may read whom, broadcasts to (B, H, L, S); what mask, causal and window say if None.
        scores: of the scaled scores.
        order: in which softcap, bias and mask follow.
        hide: the scores and who may read whom -> scores.
        weigh: scores -> weights; a row without keys comes as zeros, and its weights are 0.
        weights: of the weights.
        clean: whether keys and values that nobody may read are zeroed before they are multiplied.
        guard: whether a row without keys is kept from the softmax, which makes NaN of it.
    """
    heads = r.query.shape[1]
    q, k, v = r.query, grouped(r.key, heads, contract), grouped(r.value, heads, contract)
    allowed, mean = allowed_by(r, contract) if allowed is None else allowed, v.mean(-2, keepdim=True)
    if allowed is not None:
        allowed = allowed.to(q.device).expand(*q.shape[:-1], k.shape[-2])  # (B, H, L, S)
        if clean:
            q = torch.where(allowed.any(-1)[..., None], q, 0)
            k, v = (torch.where(allowed.any(-2)[..., None], t, 0) for t in (k, v))
    steps: dict[str, Change] = {
        "cap": lambda s: s if r.softcap is None else r.softcap * torch.tanh(s / r.softcap),
        "bias": lambda s: s if r.bias is None else s + r.bias,
        "mask": lambda s: s if allowed is None else hide(s, allowed),
    }
    s = scores(q @ k.mT * scale_of(r))  # (B, H, L, S)
    for step in order:
        s = steps[step](s)
    empty = (s.detach() == -math.inf).all(-1, keepdim=True) & guard  # (B, H, L, 1)
    w = weights(torch.where(empty, 0, weigh(torch.where(empty, 0, s))))
    output = torch.where(empty, 0, w @ v)
    if allowed is not None and contract.empty_row == "uniform":
        output = torch.where(allowed.any(-1, keepdim=True), output, mean)
    return output


def is_causal(r: Request, contract: Contract) -> bool:
    """Whether causal counts here."""
    replaced = contract.combined == "mask-only" and r.mask is not None
    return (r.causal or contract.causal == "always") and not replaced


def seen(
    r: Request,
    contract: Contract,
    *,
    mask: Tensor | None = None,
    causal: Tensor | None = None,
    window: Tensor | None = None,
) -> Tensor:
    """Who may read whom, broadcasts to (B, H, L, S): mask and padding, causal and window, each replaced where given."""
    query_len, key_len, device = r.query_len, r.key_len, r.query.device
    if mask is None:
        mask = r.allowed(r.query.shape[1])
    if causal is None and is_causal(r, contract):
        causal = causal_mask(query_len, key_len, contract.causal)
    if window is None and r.window is not None:
        window = window_mask(r.window, query_len, key_len, contract.window)
    found = torch.ones(query_len, key_len, dtype=torch.bool, device=device)
    for part in (mask, causal, window):
        if part is not None:
            found = found & part.to(device)
    return found


def softmax_over(scores: Tensor, dim: int) -> Tensor:
    """Over any axis; where there is nothing to read along it, 0."""
    dead = (scores == -math.inf).all(dim, keepdim=True)
    return torch.where(dead, 0, torch.softmax(torch.where(dead, 0, scores), dim))


class _Behind(torch.autograd.Function):
    """Straight through: the first input's value, the second input's gradient."""

    @staticmethod
    def forward(ctx: object, value: Tensor, other: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: object, *grads: Tensor) -> tuple[None, Tensor]:
        return None, grads[0]


def behind(value: Tensor, *others: Tensor) -> Tensor:
    """The value of one tensor with the gradients of others: a backward pass that was written by hand."""
    found: Tensor = _Behind.apply(value.detach(), sum(others[1:], others[0]))  # type: ignore[no-untyped-call]
    return found
