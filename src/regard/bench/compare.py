"""How close a result is to the definition's: within a budget, or a :class:`Disagreement`."""

from __future__ import annotations

import torch
from torch import Tensor

from regard.bench.case import Disagreement

__all__ = ["ULPS", "close_to", "within_budget"]

# The error of a weight is about that of its score, some eps times the largest score; measured are 2 to 30 of these.
ULPS = 200


def within_budget(what: str, got: Tensor, peer: Tensor, truth: Tensor, *, times: float = 2) -> float:
    """Require that ``got`` is about as close to the truth as the peer is, in every slice over the last two axes.

    ``max|got - truth| <= times * (max|peer - truth| + eps * max|truth|)``, with eps of got's dtype.

    Args:
        what: how to call it in the error.
        got: the result.
        peer: another implementation's result, of the same dtype.
        truth: the definition's result in float64.
        times: how many of the peer's errors are allowed.

    Returns:
        The largest share of the budget that was used.

    Raises:
        Disagreement: naming the slice that is worst, or what is not finite, or shapes that differ.
    """
    _same_shape(what, got, truth)
    _same_shape(f"the peer's {what}", peer, truth)
    eps = torch.finfo(got.dtype).eps
    error = (got.double() - truth).abs().amax((-2, -1))
    budget = times * ((peer.double() - truth).abs().amax((-2, -1)) + eps * truth.abs().amax((-2, -1)))
    used = torch.where(error == 0, torch.zeros_like(error), error / budget)
    if not bool((used <= 1).all()):
        worst = int(used.flatten().nan_to_num(nan=torch.inf).argmax())
        raise Disagreement(
            f"{what}: off by {error.flatten()[worst]:.3g} in slice {worst}; allowed are {budget.flatten()[worst]:.3g}"
        )
    return float(used.max())


def close_to(what: str, got: Tensor, truth: Tensor, *, ulps: float) -> float:
    """Require ``|got - truth| <= ulps * eps * max|truth|``, the maximum over the last axis, and return the worst error.

    Args:
        what: how to call it in the error.
        got: the result.
        truth: the definition's result in float64.
        ulps: how many eps of got's dtype are allowed; from the length of the computation, not from what comes out.

    Raises:
        Disagreement: with the largest error, or what is not finite, or shapes that differ.
    """
    _same_shape(what, got, truth)
    allowed = ulps * torch.finfo(got.dtype).eps * truth.abs().amax(-1)
    error = (got.double() - truth).abs().amax(-1)
    if not bool((error <= allowed).all()):
        worst = int((error - allowed).argmax())
        raise Disagreement(
            f"{what}: off by {error.flatten()[worst]:.3g} in row {worst}; allowed are {allowed.flatten()[worst]:.3g}"
        )
    return float(error.max())


def _same_shape(what: str, got: Tensor, truth: Tensor) -> None:
    if got.shape != truth.shape:
        raise Disagreement(f"{what}: shape {tuple(got.shape)}; expected {tuple(truth.shape)}")
    if not bool(torch.isfinite(got).all()):
        raise Disagreement(f"{what}: holds NaN or inf")
